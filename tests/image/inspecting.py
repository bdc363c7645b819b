"""The image gate as tests look through it."""

import pytest

from app.errors import ApiError
from app.image.gate import ImageInspector


def inspector(check="decode", max_pixels=100_000_000, decode_pixels=50_000_000, decode_wait=5.0):
    return ImageInspector(
        max_pixels=max_pixels, check=check, decode_pixels=decode_pixels, decode_wait=decode_wait
    )


def refusal(data, **settings) -> ApiError:
    with pytest.raises(ApiError) as caught:
        inspector(**settings).inspect(data)
    return caught.value
