"""The image gate, as tests and benchmarks use it."""

import pytest

from app.errors import ApiError
from app.image.gate import ImageInspector
from app.shares import Shares


def inspector(check="decode", max_pixels=100_000_000, decode_pixels=50_000_000) -> ImageInspector:
    """An inspector with the service's defaults, whose slots one key may take alone."""
    slots = Shares("pixels in decode", total=decode_pixels, share=decode_pixels)
    return ImageInspector(max_pixels=max_pixels, check=check, slots=slots)


def refusal(data, **settings) -> ApiError:
    """The error with which an inspector of these settings refuses ``data``."""
    with pytest.raises(ApiError) as caught:
        inspector(**settings).inspect(data)
    return caught.value
