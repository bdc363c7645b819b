"""The image gate: what a file is, and that every picture in it is whole.

``walk()`` follows the file's own structure (``jpeg``, ``png``, ``gif``, ``webp``) and builds no
pixel; ``decode()`` then takes the coded data of every frame to its end and keeps none.
Decoders see coded data and never a profile, a text or a thumbnail. Only these can be reached:
libjpeg-turbo through simplejpeg, which tells libjpeg's warnings; zlib for PNG, whose rows are
counted and not built; Pillow for GIF and WebP; libvips for a WebP too large for Pillow.
docs/images.md has the figures.
"""

import math
import os
import re
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TypeVar

import simplejpeg
from PIL import Image, _webp  # the plugin would build an image of each frame

from app.errors import ApiError, unavailable
from app.image import gif, jpeg, png, webp
from app.image.foreign import unsupported
from app.image.info import Cut, ImageInfo, check_pixels, check_time, damaged

__all__ = ["ImageInfo", "ImageInspector", "decode", "walk"]

T = TypeVar("T")

_BYTES_PER_PIXEL = 6
"""A pixel of the decoding budget stands for so many bytes of a decoder's memory."""


class ImageInspector:
    """Inspects files, and bounds what is decoded at once in this process.

    ``decode_pixels`` is the budget in pixels (times ``_BYTES_PER_PIXEL``, in bytes). A picture
    that is larger than the budget is decoded alone. Small ones pass one that waits; who waits
    longer than ``decode_wait`` seconds is refused with ``overloaded``. Safe between threads.
    """

    def __init__(
        self, *, max_pixels: int, check: str, decode_pixels: int, decode_wait: float
    ) -> None:
        self._max_pixels = max_pixels
        self._decodes = check == "decode"
        self._budget = decode_pixels
        self._wait = decode_wait
        self._slots = threading.Condition()
        self.pixels_in_use = 0
        self.waiting = 0

    def inspect(
        self, data: bytes | bytearray | memoryview, *, deadline: float | None = None
    ) -> ImageInfo:
        """Say what ``data`` is, or raise the ApiError that tells why it is refused.

        ``deadline`` (of ``time.monotonic()``) further bounds the wait for a decoding slot, and ends
        the decoding of an animation: both with ``overloaded``.
        No reference to ``data`` is left when this returns or raises: its buffer may be reused.
        """
        try:
            with memoryview(data) as view:
                return self._inspect(view, deadline)
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

    def _inspect(self, view: memoryview, deadline: float | None) -> ImageInfo:
        try:
            info = walk(view, self._max_pixels)
            if self._decodes:
                with self._slot(_cost(view, info, _or_never(deadline)), deadline):
                    decode(view, info, deadline)
        except Cut as cut:
            if self._decodes and (share := self._share(view, cut.kind, deadline)) is not None:
                raise Cut(cut.kind, share) from None
            raise
        return info

    def _share(self, view: memoryview, kind: str, deadline: float | None) -> float | None:
        """How much of a cut picture is there, 0 to 1, where a slot is free to find out.

        Only a nicer sentence is at stake: nothing waits for it, and nothing fails by it.
        """
        with suppress(Exception), self._slot(_SHARE_PIXELS, -math.inf):
            if kind == "JPEG":
                return _jpeg_share(view, self._max_pixels)
            if kind == "PNG":
                return png.share(view, self._max_pixels, _or_never(deadline))
        return None

    @contextmanager
    def _slot(self, pixels: int, deadline: float | None) -> Iterator[None]:
        wait = self._wait
        if deadline is not None:
            wait = max(0.0, min(wait, deadline - time.monotonic()))
        with self._slots:
            self.waiting += 1
            try:
                if not self._slots.wait_for(lambda: self._fits(pixels), wait):
                    cause = f"{self.pixels_in_use} pixels in decode, {self.waiting} images waiting"
                    raise unavailable("overloaded", cause)
            finally:
                self.waiting -= 1
            self.pixels_in_use += pixels
        try:
            yield
        finally:
            with self._slots:
                self.pixels_in_use -= pixels
                self._slots.notify_all()

    def _fits(self, pixels: int) -> bool:
        return not self.pixels_in_use or self.pixels_in_use + pixels <= self._budget


def walk(data: bytes | bytearray | memoryview, max_pixels: int) -> ImageInfo:
    """Find out what ``data`` is, and that it is whole, without decoding it.

    ``max_pixels`` bounds width x height x frames. Raises ApiError: ``empty_image``,
    ``unsupported_format``, ``corrupt_image`` (``Cut`` where the end is missing) or
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
                return Cut(kind, 0.0)
    return None


def decode(
    data: bytes | bytearray | memoryview, info: ImageInfo, deadline: float | None = None
) -> None:
    """Take every frame of ``data``, which ``walk()`` found to be ``info``, to its end.

    Raises ApiError: ``corrupt_image`` where a decoder finds anything wrong, ``overloaded`` between
    two frames (or pieces of a PNG) after ``deadline``.
    """
    with memoryview(data) as view:
        try:
            _DECODERS[info.format](view, info, _or_never(deadline))
        except (ApiError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - decoders raise many kinds
            kind = "WebP" if info.format == "WEBP" else info.format
            reason = "its coded data cannot be decoded"
            raise damaged(kind, reason, cause=repr(error)) from None


def _or_never(deadline: float | None) -> float:
    return math.inf if deadline is None else deadline


def _cost(view: memoryview, info: ImageInfo, deadline: float) -> int:
    """The pixels of the budget that a picture takes: its own, or more where memory is dear."""
    need = 0
    if info.format == "JPEG":
        frame, whole = jpeg.plan(view)
        need = 2 * min(frame.coefficients, _MAX_COEFFICIENTS) if whole else 0
    elif info.format == "WEBP":
        canvas = info.width * info.height
        need = canvas * (_PILLOW_WEBP_BYTES if canvas <= _PILLOW_WEBP_PIXELS else _VIPS_WEBP_BYTES)
        need += webp.tables(view, deadline)
        if need > _MAX_WEBP_BYTES:
            raise damaged("WebP", "it has more prefix codes than programs write")
    return max(info.width * info.height * info.frames, need // _BYTES_PER_PIXEL)


_MAX_WEBP_BYTES = 415_000_000
"""400 MiB less what else it takes: 100 megapixels with a thousand groups of prefix codes, or eight
with the 2,600 that libwebp's encoder writes at most, five times over."""

_SHARE_PIXELS = 10_000_000
"""What it takes from the budget to say how much of a cut picture is there, rather much."""

_MAX_COEFFICIENTS = 150_000_000
"""Of a picture in several scans libjpeg holds all coefficients, two bytes each. Above this many
(over 100 megapixels at 4:2:0, 50 at 4:4:4) only the upper part of each scan is decoded."""

_OF_HEADERS = re.compile("SOS parameters|JFIF revision|Adobe color transform|ICC marker")
_STRAY_END = re.compile(r"(\d+) extraneous bytes before marker 0xd9")


def _until(deadline: float, frames: Iterable[T]) -> Iterator[T]:
    """The frames, while there is time: a million of them take longer than a client waits."""
    for frame in frames:
        check_time(deadline)
        yield frame


def _decode_jpeg(view: memoryview) -> None:
    frame, whole = jpeg.plan(view)
    stream: memoryview | bytearray = view
    strict = True
    if whole and frame.coefficients > _MAX_COEFFICIENTS:
        # Each scan then has data left over, of which libjpeg warns.
        stream, strict = bytearray(view), False
        height = max(frame.height * _MAX_COEFFICIENTS // frame.coefficients, 1)
        frame = replace(frame, height=height)
        struct.pack_into(">H", stream, frame.height_at, height)
    _decode_scans(stream, frame, strict=strict)


def _decode_scans(
    stream: bytes | bytearray | memoryview, frame: jpeg.Frame, *, strict: bool = True
) -> None:
    """At an eighth of the size libjpeg skips most of the arithmetic and none of the data."""
    colours = "CMYK" if len(frame.components) == 4 else "GRAY"
    try:
        simplejpeg.decode_jpeg(
            stream, colours, fastdct=True, min_height=1, min_width=1, min_factor=8, strict=strict
        )
    except ValueError as error:
        if "subsampling level" in str(error):  # TurboJPEG knows the usual ones only
            _pillow_jpeg(stream, frame)
        else:
            _judge_jpeg(stream, frame, str(error))


def _judge_jpeg(stream: bytes | bytearray | memoryview, frame: jpeg.Frame, message: str) -> None:
    """Decide about libjpeg's complaint, the first that it had: there may be another behind it."""
    with memoryview(stream) as view:
        if "premature end" in message:
            raise Cut("JPEG")
        if _OF_HEADERS.search(message) and (plain := jpeg.plain(view)) != view:
            _decode_scans(plain, frame)
        elif stray := _STRAY_END.search(message):
            if shorter := jpeg.without_filler(view, int(stray[1])):
                _decode_scans(shorter, frame)
        else:
            raise damaged("JPEG", "its coded data does not make sense", cause=message)


def _pillow_jpeg(data: bytes | bytearray | memoryview, frame: jpeg.Frame) -> Image.Image:
    """Decode at an eighth of the size with Pillow's libjpeg, which tells errors only."""
    mode, raw = ("CMYK", "CMYK;I") if len(frame.components) == 4 else ("L", "L")
    size = (-(-frame.width // 8), -(-frame.height // 8))
    return Image.frombytes(mode, size, data, "jpeg", raw, "", 8, 0)


def _jpeg_share(view: memoryview, max_pixels: int) -> float | None:
    """The share of the rows that differ from the flat grey with which libjpeg fills the rest."""
    frame, whole = jpeg.plan(view)
    check_pixels(frame.width, frame.height, 1, max_pixels)
    if whole:
        return None  # every scan covers all rows
    image = _pillow_jpeg(bytes(view) + b"\xff\xd9", frame).convert("L")
    rows = image.height
    last = image.crop((0, rows - 1, image.width, rows)).tobytes()
    if last.strip(last[:1]):
        return None
    flat = image.tobytes()
    return len(flat.rstrip(last[:1])) / len(flat)


def _decode_gif(view: memoryview, deadline: float) -> None:
    for frame in _until(deadline, gif.frames_of(view)):
        size = (frame.width, frame.height)
        data = view[frame.start : frame.end]
        Image.frombytes("L", size, data, "gif", frame.code_size, int(frame.interlaced))


_PILLOW_WEBP_PIXELS = 8_000_000
_PILLOW_WEBP_BYTES = 16
"""Pillow keeps two canvases and a copy of one, and libwebp a lossless picture once more."""

_VIPS_WEBP_BYTES = 4
"""libvips shrinks while it decodes; only a lossless picture is held in full."""


def _decode_webp(view: memoryview, info: ImageInfo, deadline: float) -> None:
    small = info.width * info.height <= _PILLOW_WEBP_PIXELS
    for stream, frames in _until(deadline, webp.streams(view)):
        if small:
            decoder = _webp.WebPAnimDecoder(stream)
            for _ in range(frames):
                decoder.get_next()
        else:
            _vips_webp(stream)


def _vips_webp(stream: bytes) -> None:
    # Imported when first needed: libvips starts its threads in the process that decodes.
    os.environ.setdefault("VIPS_CONCURRENCY", "1")
    os.environ.setdefault("VIPS_WARNING", "1")  # its own name for "no warnings to stderr"
    import pyvips  # noqa: PLC0415

    pyvips.cache_set_max(0)
    source = pyvips.Source.new_from_memory(stream)
    image = pyvips.Image.webpload_source(
        source, n=-1, scale=1 / 8, access="sequential", fail_on="warning"
    )
    image.avg()


_DECODERS: dict[str, Callable[[memoryview, ImageInfo, float], None]] = {
    "JPEG": lambda view, _, __: _decode_jpeg(view),
    "PNG": png.decode,
    "GIF": lambda view, _, deadline: _decode_gif(view, deadline),
    "WEBP": _decode_webp,
}
