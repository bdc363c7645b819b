"""Decoders: each takes the coded data of every frame to its end and keeps none of it.

They are given coded data and never a profile, a text or a thumbnail. Only these can be reached:
libjpeg-turbo through simplejpeg, which tells libjpeg's warnings; zlib for PNG, whose rows are
counted and not built; Pillow for GIF and WebP; libvips for a WebP too large for Pillow.
docs/images.md has the figures.
"""

import math
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

import simplejpeg
from PIL import Image

from app.errors import ApiError, unavailable
from app.image import gif, jpeg, png, webp
from app.image.info import ImageInfo, Truncated, check_pixels, check_time, damaged

T = TypeVar("T")

_FRAME_PIXELS = 2_000
"""What a frame takes beside its pixels: so many are decoded in the time that it costs."""

MOST_MEMORY = 415_000_000
"""Bytes that a decoder takes for one picture at most, 400 MiB less what else it takes: a WebP of
100 megapixels with a thousand groups of prefix codes, or of 8 with 20,000; programs write 2,600."""

BYTES_PER_PIXEL = 6
"""A pixel of the decoding budget stands for so many bytes of a decoder's memory."""


def decode(
    data: bytes | bytearray | memoryview,
    info: ImageInfo,
    deadline: float = math.inf,
    memory: int = MOST_MEMORY,
) -> None:
    """Take every frame of ``data``, which ``walk()`` found to be ``info``, to its end.

    Raises ApiError: ``corrupt_image`` where a decoder finds anything wrong, ``overloaded`` between
    two frames (or pieces of a PNG) after ``deadline``. ``memory``, in bytes, is what libjpeg may
    hold of a progressive JPEG: where all of it needs more, only a part of each scan is decoded.
    """
    with memoryview(data) as view:
        try:
            _DECODERS[info.format](view, info, deadline, memory)
        except (ApiError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - decoders raise many kinds
            kind = "WebP" if info.format == "WEBP" else info.format
            reason = "its coded data cannot be decoded"
            raise damaged(kind, reason, cause=repr(error)) from None


def cost(
    data: bytes | bytearray | memoryview,
    info: ImageInfo,
    deadline: float = math.inf,
    memory: int = MOST_MEMORY,
) -> int:
    """The pixels of the budget that a picture takes: its own, or more where memory is dear.

    Raises ApiError: ``corrupt_image`` where a decoder would need more than any picture does,
    ``overloaded`` where it needs more than ``memory`` bytes, or after ``deadline``.
    """
    with memoryview(data) as view:
        pixels = (info.width * info.height + _FRAME_PIXELS) * info.frames
        need = 0
        if info.format == "JPEG":
            need = _jpeg_memory(view, memory)
        elif info.format == "WEBP":
            need = _webp_memory(view, info, deadline)
        if need > memory:
            raise unavailable("overloaded", f"a decoder needs {need:,} bytes, of {memory:,}")
        return max(pixels, (need + len(view)) // BYTES_PER_PIXEL if need else 0)


def _jpeg_memory(view: memoryview, memory: int) -> int:
    frame, whole = jpeg.plan(view)
    return 2 * min(frame.coefficients, _most_coefficients(memory)) if whole else 0


def _webp_memory(view: memoryview, info: ImageInfo, deadline: float) -> int:
    canvas = info.width * info.height
    need = canvas * (_PILLOW_WEBP_BYTES if canvas <= _PILLOW_WEBP_PIXELS else _VIPS_WEBP_BYTES)
    need += webp.tables(view, deadline)
    if need > MOST_MEMORY:
        raise damaged("WebP", "it has more prefix codes than programs write")
    return need


def share(
    data: bytes | bytearray | memoryview, kind: str, max_pixels: int, deadline: float = math.inf
) -> float | None:
    """How much of a cut picture is there, 0 to 1; None where that is costly to say.

    May raise anything: only a nicer sentence is at stake.
    """
    with memoryview(data) as view:
        if kind == "JPEG":
            return _jpeg_share(view, max_pixels, deadline)
        if kind == "PNG":
            return _png_share(view, max_pixels, deadline)
        return None


def _until(deadline: float, frames: Iterable[T]) -> Iterator[T]:
    """The frames, while there is time: a million of them take longer than a client waits."""
    for frame in frames:
        check_time(deadline)
        yield frame


_MAX_COEFFICIENTS = 150_000_000
"""Of a picture in several scans libjpeg holds all coefficients, two bytes each. Above this many
(over 100 megapixels at 4:2:0, 50 at 4:4:4) only the upper part of each scan is decoded."""


def _most_coefficients(memory: int) -> int:
    return min(_MAX_COEFFICIENTS, memory // 2)


_OF_HEADERS = re.compile("SOS parameters|JFIF revision|Adobe color transform|ICC marker")
_STRAY = re.compile(r"(\d+) extraneous bytes before marker 0x(..)")
_MENDS = 3
"""So often a JPEG is decoded anew without something of which libjpeg only warns."""


def _decode_jpeg(view: memoryview, deadline: float, memory: int) -> None:
    frame, whole = jpeg.plan(view)
    most = _most_coefficients(memory)
    stream: memoryview | bytearray = view
    strict = True
    if whole and frame.coefficients > most:
        # Each scan then has data left over, of which libjpeg warns.
        stream, strict = bytearray(view), False
        height = max(frame.height * most // frame.coefficients, 1)
        frame = replace(frame, height=height)
        struct.pack_into(">H", stream, frame.height_at, height)
    _decode_scans(stream, frame, deadline, strict=strict)


def _decode_scans(
    stream: bytes | bytearray | memoryview,
    frame: jpeg.Frame,
    deadline: float,
    *,
    strict: bool = True,
    mends: int = _MENDS,
) -> None:
    """At an eighth of the size libjpeg skips most of the arithmetic and none of the data."""
    check_time(deadline)
    colours = "CMYK" if len(frame.components) == 4 else "GRAY"
    try:
        simplejpeg.decode_jpeg(
            stream, colours, fastdct=True, min_height=1, min_width=1, min_factor=8, strict=strict
        )
    except ValueError as error:
        message = str(error)
    else:
        return
    if "subsampling level" in message:  # TurboJPEG knows the usual ones only
        _pillow_jpeg(stream, frame)
    elif mends:
        with memoryview(stream) as view:
            for mended, size in _mended_jpeg(view, frame, message):
                _decode_scans(mended, size, deadline, strict=strict, mends=mends - 1)
    else:
        raise damaged("JPEG", "its coded data does not make sense", cause=message)


def _mended_jpeg(
    view: memoryview, frame: jpeg.Frame, message: str
) -> Iterator[tuple[bytes, jpeg.Frame]]:
    """What to decode anew after a complaint of libjpeg: its first, and another may be behind it.

    Nothing where it is about no pixel. Raises ApiError where it is.
    """
    if "premature end" in message:
        raise Truncated("JPEG")
    stray = _STRAY.search(message)
    count, before = (int(stray[1]), int(stray[2], 16)) if stray else (0, 0)
    if before in jpeg.RESTARTS or "instead of RST" in message:
        yield from jpeg.intervals(view)
    elif before == jpeg.EOI:
        if shorter := jpeg.without_filler(view, count):
            yield shorter, frame
    elif (before or _OF_HEADERS.search(message)) and (bare := jpeg.without_metadata(view)) != view:
        yield bare, frame
    elif before:
        yield jpeg.without_gaps(view, before, count), frame
    else:
        raise damaged("JPEG", "its coded data does not make sense", cause=message)


def _pillow_jpeg(data: bytes | bytearray | memoryview, frame: jpeg.Frame) -> Image.Image:
    """Decode at an eighth of the size with Pillow's libjpeg, which tells errors only."""
    mode, raw = ("CMYK", "CMYK;I") if len(frame.components) == 4 else ("L", "L")
    size = (-(-frame.width // 8), -(-frame.height // 8))
    return Image.frombytes(mode, size, data, "jpeg", raw, "", 8, 0)


def _jpeg_share(view: memoryview, max_pixels: int, deadline: float) -> float | None:
    """The share of the rows that differ from the flat grey with which libjpeg fills the rest."""
    frame, whole = jpeg.plan(view)
    check_pixels(frame.width, frame.height, 1, max_pixels)
    if whole:
        return None  # every scan covers all rows
    ended = bytes(view) + b"\xff\xd9"
    with suppress(ApiError):
        _decode_scans(ended, frame, deadline, mends=0)
        return 1.0
    image = _pillow_jpeg(ended, frame).convert("L")
    rows = image.height
    last = image.crop((0, rows - 1, image.width, rows)).tobytes()
    if last.strip(last[:1]):
        return None
    flat = image.tobytes()
    return len(flat.rstrip(last[:1])) / len(flat)


_PIECE = 1 << 16
_INFLATED = 1 << 18
_FILTERS = bytes(range(5))
_SPARE = 1 << 20
"""So much behind the last row is inflated, and as much as all rows, to get to the checksum."""
_SHARE_BYTES = 100_000_000
"""Larger pictures are not inflated only to say how much of a cut PNG is there."""

_HEADER_BEGINS = png.CHUNK_HEAD.pack(13, b"IHDR")


class _Rows:
    """Inflates the image data of one frame and counts its rows; no pixel is built.

    Raises ``overloaded`` after ``deadline`` (of ``time.monotonic()``).
    """

    def __init__(self, passes: list[tuple[int, int]], deadline: float) -> None:
        self._passes = [(stride, stride * rows) for stride, rows in passes]
        self._inflater = zlib.decompressobj()
        self._deadline = deadline
        self._done = 0
        self.missing = sum(size for _, size in self._passes)
        self._spare = self.missing + _SPARE

    def feed(self, data: memoryview) -> None:
        """Take a piece of the zlib stream.

        After its end nothing is given to the inflater, which would copy all such bytes each time.
        """
        for start in range(0, len(data), _PIECE):
            pending: bytes | memoryview = data[start : start + _PIECE]
            full = True
            while (pending or full) and not self._inflater.eof:
                check_time(self._deadline)
                rows = self._inflater.decompress(pending, _INFLATED)
                pending = self._inflater.unconsumed_tail
                full = len(rows) == _INFLATED
                self._check(rows[: self.missing], len(rows))

    def _check(self, rows: bytes, inflated: int) -> None:
        """See that each row begins with a filter that exists, and that little follows the last."""
        self._spare -= inflated - len(rows)
        if self._spare < 0:
            raise damaged("PNG", "its image data goes on far behind the last row")
        self.missing -= len(rows)
        at = 0
        while at < len(rows):
            stride, size = self._passes[0]
            stop = min(len(rows), at + size - self._done)
            first = at + -self._done % stride
            if rows[first:stop:stride].translate(None, _FILTERS):
                raise damaged("PNG", "a row is stored in a way that does not exist")
            self._done += stop - at
            at = stop
            if self._done == size:
                self._passes.pop(0)
                self._done = 0

    def finish(self) -> None:
        """See that all rows came, and the checksum of them all."""
        if self.missing:
            raise damaged("PNG", "rows of the picture are missing")
        if not self._inflater.eof:
            raise damaged("PNG", "the checksum of its rows is missing")


def _decode_png(view: memoryview, info: ImageInfo, deadline: float) -> None:
    """Inflate every frame and see that all its rows are there, while there is time."""
    chunks = png.chunks_of(view)
    _, start, end = next(chunks)
    header = png.Header.read(view[start:end])
    rows = _Rows(header.passes(info.width, info.height), deadline)
    animated = fed = False
    for kind, start, end in chunks:
        check_time(deadline)
        if kind == b"acTL" and not fed:
            animated = True
        elif kind == b"fcTL" and animated and fed:
            rows.finish()
            width, height, _, _ = png.frame_size(view, start, end)
            rows = _Rows(header.passes(width, height), deadline)
        elif kind == b"IDAT":
            rows.feed(view[start:end])
            fed = True
        elif kind == b"fdAT" and animated:
            rows.feed(view[start + 4 : end])
    rows.finish()


def _png_share(view: memoryview, max_pixels: int, deadline: float) -> float | None:
    """The share of the image data that a cut PNG still holds; None where that is costly to say.

    Raises ApiError where the header is not one that is accepted.
    """
    if len(view) < 33 or bytes(view[8:16]) != _HEADER_BEGINS:
        return None
    header = png.Header.read(view[16:29])
    check_pixels(header.width, header.height, 1, max_pixels)
    rows = _Rows(header.passes(header.width, header.height), deadline)
    total = rows.missing
    if total > _SHARE_BYTES:
        return None
    pos = 33
    while pos + 8 < len(view):
        check_time(deadline)
        length, kind = png.CHUNK_HEAD.unpack_from(view, pos)
        if kind == b"acTL":
            return None
        if kind == b"IDAT":
            rows.feed(view[pos + 8 : pos + 8 + length])
        pos += 12 + length
    there = 1 - rows.missing / total
    return there if pos == len(view) else min(there, 0.99)  # within a chunk


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
    if info.width * info.height > _PILLOW_WEBP_PIXELS:
        for stream in webp.bare(view):
            _vips_webp(stream)
        return
    decoder = webp.demuxed(view)
    for _ in range(info.frames):
        check_time(deadline)
        decoder.get_next()


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


_DECODERS: dict[str, Callable[[memoryview, ImageInfo, float, int], None]] = {
    "JPEG": lambda view, _, deadline, memory: _decode_jpeg(view, deadline, memory),
    "PNG": lambda view, info, deadline, _: _decode_png(view, info, deadline),
    "GIF": lambda view, _, deadline, __: _decode_gif(view, deadline),
    "WEBP": lambda view, info, deadline, _: _decode_webp(view, info, deadline),
}
