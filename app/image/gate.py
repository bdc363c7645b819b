"""The image gate: which format a file has, and whether every frame in it is whole.

``walk()`` follows the structure of the file (``jpeg``, ``png``, ``gif``, ``webp``) and builds no
pixel. ``decode()`` then reads the coded data of every frame to its end. docs/images.md has the
figures.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Protocol, TypeVar, TypeVarTuple

from app.config import INLINE_BYTES
from app.errors import ApiError, unavailable
from app.image import gif, jpeg, png, webp
from app.image.decode import MOST_MEMORY, cost, decode, fraction
from app.image.foreign import unsupported
from app.image.info import ImageInfo, Truncated, damaged

__all__ = ["ImageInfo", "ImageInspector", "Run", "decode", "walk"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


_FRACTION_PIXELS = 10_000_000
"""Charged to the decoding budget while measuring how much of a cut image is there. A fixed and
generous amount: how large the image is, is not known at that point."""


class Run(Protocol):
    """Runs ``function(*args)``, perhaps in another thread, and gives its result or its error."""

    def __call__(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call the function and wait for its result."""


class Slots(Protocol):
    """The pixels that may be in decode at once, shared out by API key."""

    def taken(self, key: str, amount: float, until: float) -> AbstractContextManager[None]:
        """Hold ``amount`` pixels, after waiting for them up to ``until`` (``time.monotonic()``).

        Raises ApiError when that many do not become free in time.
        """


def at_once(function: Callable[[*Ts], T], *args: *Ts) -> T:
    """Run the function in the caller's own thread."""
    return function(*args)


_INLINE_PIXELS = 1_000_000
"""A small file with fewer pixels is decoded in the caller's thread: that takes less time than
passing the work to another thread would."""


class ImageInspector:
    """Inspects files. Safe to share between threads.

    ``slots`` bounds how many pixels this process decodes at once (each stands for
    ``BYTES_PER_PIXEL`` bytes). An image whose decoder needs more than ``memory`` bytes is refused.
    """

    def __init__(
        self,
        *,
        max_pixels: int,
        check: str,
        slots: Slots,
        memory: int = MOST_MEMORY,
    ) -> None:
        self._memory = memory
        self._max_pixels = max_pixels
        self._decodes = check == "decode"
        self._slots = slots

    def inspect(
        self,
        data: bytes | bytearray | memoryview,
        *,
        key: str = "",
        deadline: float = math.inf,
        run: Run = at_once,
    ) -> ImageInfo:
        """Return what ``data`` is, or raise the ApiError that says why it is refused.

        ``key`` is the id of the API key whose share of the slots is used. The caller's thread waits
        for the slots. ``run`` does the work that may take long; decoders release the interpreter's
        lock. ``deadline`` (of ``time.monotonic()``) ends the decoding, and half of the time until
        then the wait for slots: both with ``overloaded``. No reference to ``data`` is left
        afterwards: the caller may reuse its buffer.
        """
        try:
            with memoryview(data) as view:
                return self._inspect(view, key, deadline, run)
        except ApiError as error:
            refusal = error
        except MemoryError:
            refusal = unavailable("overloaded", "out of memory while an image was decoded")
        except Exception as error:  # noqa: BLE001 - decoders raise many kinds, whatever the bytes
            refusal = damaged("image", "it cannot be read", cause=repr(error))
        # A traceback holds stack frames, and these hold slices of the buffer.
        refusal.__traceback__ = refusal.__context__ = refusal.__cause__ = None
        del data
        raise refusal

    def _inspect(self, view: memoryview, key: str, deadline: float, run: Run) -> ImageInfo:
        try:
            runner: Run = at_once if len(view) <= INLINE_BYTES else run
            info = runner(walk, view, self._max_pixels)
            if self._decodes:
                # Even a small WebP can have many prefix codes, and counting them takes long.
                if info.format == "WEBP":
                    runner = run
                pixels = runner(cost, view, info, deadline, self._memory)
                # Half of the time: the other half is for the decoding and for the store.
                now = time.monotonic()
                until = now + max(0.0, deadline - now) / 2
                if pixels > _INLINE_PIXELS:
                    runner = run
                with self._slots.taken(key, pixels, until):
                    runner(decode, view, info, deadline, self._memory)
        except Truncated as cut:
            measure = partial(fraction, view, cut.kind, self._max_pixels, deadline)
            there = self._fraction(key, partial(run, measure)) if self._decodes else None
            if there is not None:
                raise Truncated(cut.kind, there) from None
            raise
        return info

    def _fraction(self, key: str, measure: Callable[[], float | None]) -> float | None:
        """How much of a cut image is there, 0 to 1; None where no slot is free to measure it.

        The number only makes the error sentence better, so it must cost neither a wait nor an
        error: the deadline for its slots is in the past, so they must be free at once.
        """
        with suppress(Exception), self._slots.taken(key, _FRACTION_PIXELS, -math.inf):
            return measure()
        return None


_JPEG_SIGNATURE = b"\xff\xd8\xff"
"""SOI, and the first byte of the marker after it (T.81, B.2.1)."""

_SIGNATURES = {"JPEG": _JPEG_SIGNATURE, "PNG": png.SIGNATURE, "GIF": b"GIF8", "WebP": b"RIFF"}
_HEAD = 12
"""Bytes that tell the formats apart: the longest signature is that of WebP."""


def walk(data: bytes | bytearray | memoryview, max_pixels: int) -> ImageInfo:
    """Find out what ``data`` is, and that its structure is whole, without decoding it.

    ``max_pixels`` bounds width x height x frames. Raises ApiError: ``empty_image``,
    ``unsupported_format``, ``corrupt_image`` (``Truncated`` where the end is missing) or
    ``too_many_pixels``.
    """
    with memoryview(data) as view:
        head = bytes(view[:_HEAD])
        if not head:
            raise ApiError("empty_image", "The file is empty (0 bytes). Copy or export it again.")
        # The second case is a JPEG cut after its SOI marker.
        if head.startswith(_JPEG_SIGNATURE) or head == _JPEG_SIGNATURE[:2]:
            return jpeg.walk(view, max_pixels)
        if head.startswith(png.SIGNATURE):
            return png.walk(view, max_pixels)
        if head.startswith(gif.SIGNATURES):
            return gif.walk(view, max_pixels)
        # Bytes 4 to 8 are the length of the container (RFC 9649, 2.4).
        if head.startswith(b"RIFF") and head[8:] == b"WEBP":
            return webp.walk(view, max_pixels)
        raise _cut_signature(head) or unsupported(view)


def _cut_signature(head: bytes) -> ApiError | None:
    """The refusal of a file that is cut off inside its signature; None for any other file."""
    if len(head) < _HEAD:
        for kind, signature in _SIGNATURES.items():
            if head[: len(signature)] == signature[: len(head)]:
                return Truncated(kind, 0.0)
    return None
