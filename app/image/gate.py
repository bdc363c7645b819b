"""The image gate: what a file is, and that every picture in it is whole.

``walk()`` follows the file's own structure (``jpeg``, ``png``, ``gif``, ``webp``) and builds no
pixel; ``decode`` then takes the coded data of every frame to its end. docs/images.md has the
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
from app.image.decode import MOST_MEMORY, cost, decode, share
from app.image.foreign import unsupported
from app.image.info import ImageInfo, Truncated, damaged

__all__ = ["ImageInfo", "ImageInspector", "Run", "decode", "walk"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


_SHARE_PIXELS = 10_000_000
"""What it takes from the budget to say how much of a cut picture is there, rather much."""


class Run(Protocol):
    """Runs ``function(*args)``, in a thread perhaps, and gives its result or raises its error."""

    def __call__(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call it and wait for it."""


class Slots(Protocol):
    """The pixels that may be in decode at once, shared out by API key."""

    def taken(self, key: str, amount: float, until: float) -> AbstractContextManager[None]:
        """Hold so many pixels, for which it waits until then (of ``time.monotonic()``).

        Raises ApiError when there is no room for them in time.
        """


def at_once(function: Callable[[*Ts], T], *args: *Ts) -> T:
    """Run it here and now."""
    return function(*args)


_INLINE_PIXELS = 1_000_000
"""A picture of fewer, in a small file, is decoded in less time than handing it over would cost."""


class ImageInspector:
    """Inspects files. Safe between threads.

    ``slots`` bounds what is decoded at once in this process, in pixels (of ``BYTES_PER_PIXEL``
    each). A picture that takes more than ``memory`` bytes to decode is refused.
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
        """Say what ``data`` is, or raise the ApiError that tells why it is refused.

        ``key`` is the id of the API key whose share of the slots it takes. The caller waits for a
        slot; the work itself, which lets go of the interpreter's lock while a decoder is busy, is
        done by ``run``, where it takes long: by default in the caller's thread.
        ``deadline`` (of ``time.monotonic()``) ends the decoding, and half of the time until then
        the wait for a decoding slot: both with ``overloaded``.
        No reference to ``data`` is left when this returns or raises: its buffer may be reused.
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
        # Tracebacks hold frames, and these hold slices of the buffer.
        refusal.__traceback__ = refusal.__context__ = refusal.__cause__ = None
        del data
        raise refusal

    def _inspect(self, view: memoryview, key: str, deadline: float, run: Run) -> ImageInfo:
        try:
            first: Run = at_once if len(view) <= INLINE_BYTES else run
            info = first(walk, view, self._max_pixels)
            if self._decodes:
                if info.format == "WEBP":  # whose prefix codes may be many even in a small file
                    first = run
                pixels = first(cost, view, info, deadline, self._memory)
                # Half of the time: the other half is for the decoding and for the store.
                now = time.monotonic()
                until = now + max(0.0, deadline - now) / 2
                if pixels > _INLINE_PIXELS:
                    first = run
                with self._slots.taken(key, pixels, until):
                    first(decode, view, info, deadline, self._memory)
        except Truncated as cut:
            part = partial(share, view, cut.kind, self._max_pixels, deadline)
            there = self._share(key, partial(run, part)) if self._decodes else None
            if there is not None:
                raise Truncated(cut.kind, there) from None
            raise
        return info

    def _share(self, key: str, find_out: Callable[[], float | None]) -> float | None:
        """How much of a cut picture is there, 0 to 1, where a slot is free to find out.

        Only a nicer sentence is at stake: nothing waits for it, and nothing fails by it.
        """
        with suppress(Exception), self._slots.taken(key, _SHARE_PIXELS, -math.inf):
            return find_out()
        return None


def walk(data: bytes | bytearray | memoryview, max_pixels: int) -> ImageInfo:
    """Find out what ``data`` is, and that it is whole, without decoding it.

    ``max_pixels`` bounds width x height x frames. Raises ApiError: ``empty_image``,
    ``unsupported_format``, ``corrupt_image`` (``Truncated`` where the end is missing) or
    ``too_many_pixels``.
    """
    with memoryview(data) as view:
        head = bytes(view[:12])
        if not head:
            raise ApiError("empty_image", "The file is empty: zero bytes. Choose it again.")
        if head.startswith(b"\xff\xd8\xff") or head == b"\xff\xd8":
            return jpeg.walk(view, max_pixels)
        if head.startswith(png.SIGNATURE):
            return png.walk(view, max_pixels)
        if head.startswith((b"GIF87a", b"GIF89a")):
            return gif.walk(view, max_pixels)
        if head.startswith(b"RIFF") and head[8:] == b"WEBP":
            return webp.walk(view, max_pixels)
        raise _begun(head) or unsupported(view)


_SIGNATURES = {"JPEG": b"\xff\xd8\xff", "PNG": png.SIGNATURE, "GIF": b"GIF8", "WebP": b"RIFF"}


def _begun(head: bytes) -> ApiError | None:
    """The refusal of a file that is cut off inside its very signature."""
    if len(head) < 12:
        for kind, signature in _SIGNATURES.items():
            if head[: len(signature)] == signature[: len(head)]:
                return Truncated(kind, 0.0)
    return None
