"""Decoders: each reads the coded data of every frame to its end and keeps none of it.

A decoder gets coded data only, never a profile, a text or a thumbnail, so that a fault in a parser
for these cannot be reached. A JPEG goes to libjpeg-turbo through simplejpeg, which reports
libjpeg's warnings (Pillow drops them). A PNG goes to zlib: its rows are counted and not built. GIF
and WebP go to Pillow, and a WebP too large for Pillow goes to libvips. docs/images.md has the
figures.
"""

import math
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import simplejpeg
from PIL import Image

from app.errors import ApiError, unavailable
from app.image import gif, jpeg, png, webp
from app.image.info import ImageInfo, Truncated, check_pixels, check_time, damaged

_FRAME_PIXELS = 2_000
"""Charged for each frame besides its own pixels: a frame costs as much time as decoding these."""

MOST_MEMORY = 415_000_000
"""The most bytes that a decoder may need for one image: 400 MiB, less 4 MB for everything else.
That is enough for a WebP of 100 megapixels with 1,000 groups of prefix codes, or of 8 megapixels
with 20,000. Programs write up to 2,600 groups."""

BYTES_PER_PIXEL = 6
"""Bytes of a decoder's memory for which one pixel of the decoding budget stands."""


def decode(
    data: bytes | bytearray | memoryview,
    info: ImageInfo,
    deadline: float = math.inf,
    memory: int = MOST_MEMORY,
) -> None:
    """Decode every frame of ``data``, which ``walk()`` found to be ``info``, to its end.

    Raises ApiError: ``corrupt_image`` where a decoder finds anything wrong, ``overloaded`` between
    two frames (or pieces of a PNG) after ``deadline``. ``memory`` is how many bytes libjpeg may
    use for a progressive JPEG. Where the whole image needs more, only the upper part of each scan
    is decoded.
    """
    with memoryview(data) as view:
        try:
            _DECODERS[info.format](view, info, deadline, memory)
        except (ApiError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - decoders raise many kinds
            kind = "WebP" if info.format == "WEBP" else info.format
            reason = "its image data cannot be decoded"
            raise damaged(kind, reason, cause=repr(error)) from None


def cost(
    data: bytes | bytearray | memoryview,
    info: ImageInfo,
    deadline: float = math.inf,
    memory: int = MOST_MEMORY,
) -> int:
    """The pixels of the decoding budget that an image takes.

    These are its own pixels, or the memory of its decoder in ``BYTES_PER_PIXEL``, if that is more.
    Raises ApiError: ``corrupt_image`` where a decoder would need more than ``MOST_MEMORY``,
    ``overloaded`` where it needs more than ``memory`` bytes, or after ``deadline``.
    """
    with memoryview(data) as view:
        pixels = (info.width * info.height + _FRAME_PIXELS) * info.frames
        need = 0  # of PNG, inflated in pieces, and of GIF, one byte for each pixel, nothing more
        if info.format == "JPEG":
            need = _jpeg_memory(view, memory)
        elif info.format == "WEBP":
            need = _webp_memory(view, info, deadline)
        if need > memory:
            raise unavailable("overloaded", f"a decoder needs {need:,} bytes, of {memory:,}")
        return max(pixels, (need + len(view)) // BYTES_PER_PIXEL if need else 0)


def _jpeg_memory(view: memoryview, memory: int) -> int:
    frame, buffered = jpeg.plan(view)
    # libjpeg's JCOEF is a short: two bytes.
    return 2 * min(frame.coefficients, _most_coefficients(memory)) if buffered else 0


def _webp_memory(view: memoryview, info: ImageInfo, deadline: float) -> int:
    """Bytes for the pixels and the prefix codes; ApiError where these are too many."""
    canvas = info.width * info.height
    need = canvas * (_PILLOW_WEBP_BYTES if canvas <= _PILLOW_WEBP_PIXELS else _VIPS_WEBP_BYTES)
    need += webp.table_bytes(view, deadline)
    if need > MOST_MEMORY:
        raise damaged("WebP", "it has more prefix codes than any program writes")
    return need


def fraction(
    data: bytes | bytearray | memoryview, kind: str, max_pixels: int, deadline: float = math.inf
) -> float | None:
    """How much of a cut image is there, 0 to 1; None where that takes too long to find out.

    May raise any exception: the caller only uses the number for a better error sentence.
    """
    with memoryview(data) as view:
        if kind == "JPEG":
            return _jpeg_fraction(view, max_pixels, deadline)
        if kind == "PNG":
            return _png_fraction(view, max_pixels, deadline)
        return None


_MAX_COEFFICIENTS = 150_000_000
"""libjpeg holds all coefficients of an image in several scans: 300 MB for this many. Of an image
with more (over 100 megapixels at 4:2:0, 50 at 4:4:4), only the upper part of each scan is decoded.
"""


def _most_coefficients(memory: int) -> int:
    return min(_MAX_COEFFICIENTS, memory // 2)


# Parts of libjpeg's warnings about headers (jerror.h): no pixel depends on these.
_HEADER_WARNING = re.compile("SOS parameters|JFIF revision|Adobe color transform|ICC marker")
# JWRN_EXTRANEOUS_DATA: how many bytes, and the marker after them.
_STRAY_WARNING = re.compile(r"(\d+) extraneous bytes before marker 0x(..)")
_MAX_REPAIRS = 3
"""How often a JPEG is decoded again without the cause of a warning. simplejpeg reports only the
first warning, so each repair may uncover another one."""


def _decode_jpeg(view: memoryview, deadline: float, memory: int) -> None:
    """Decode a JPEG, or the upper part of each scan where all of it needs too much memory."""
    frame, buffered = jpeg.plan(view)
    most = _most_coefficients(memory)
    stream: memoryview | bytearray = view
    strict = True
    if buffered and frame.coefficients > most:
        # A smaller height in the frame header makes libjpeg allocate less. Each scan then has data
        # left over, of which libjpeg warns: so warnings cannot count here.
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
    repairs: int = _MAX_REPAIRS,
) -> None:
    """Decode all scans with libjpeg; where it warns, look whether any pixel depends on that."""
    check_time(deadline)
    # Grey is the cheapest output, but libjpeg cannot make it from four components.
    colours = "CMYK" if len(frame.components) == 4 else "GRAY"
    try:
        # At an eighth of the size libjpeg reads all data but skips most of the arithmetic.
        simplejpeg.decode_jpeg(
            stream, colours, fastdct=True, min_height=1, min_width=1, min_factor=8, strict=strict
        )
    except ValueError as error:
        message = str(error)
    else:
        return
    if "subsampling level" in message:  # TurboJPEG supports only the common ones (TJSAMP_*)
        _pillow_jpeg(stream, frame)
    elif repairs:
        with memoryview(stream) as view:
            for repaired, part in _repaired_jpeg(view, frame, message):
                _decode_scans(repaired, part, deadline, strict=strict, repairs=repairs - 1)
    else:
        raise damaged("JPEG", jpeg.BAD_DATA, cause=message)


def _repaired_jpeg(
    view: memoryview, frame: jpeg.Frame, message: str
) -> Iterator[tuple[bytes, jpeg.Frame]]:
    """The JPEGs to decode instead, without the cause of libjpeg's warning ``message``.

    Yields nothing where no pixel depends on the warning. Raises ApiError where a pixel does.
    """
    if "premature end" in message:
        raise Truncated("JPEG")
    stray = _STRAY_WARNING.search(message)
    count, before = (int(stray[1]), int(stray[2], 16)) if stray else (0, 0)
    if before in jpeg.RESTARTS or "instead of RST" in message:
        yield from jpeg.intervals(view)
    elif before == jpeg.EOI:
        if shorter := jpeg.without_filler(view, count):
            yield shorter, frame
    elif (before or _HEADER_WARNING.search(message)) and (
        bare := jpeg.without_metadata(view)
    ) != view:
        yield bare, frame
    elif before and frame.marker in jpeg.PROGRESSIVE_MARKERS:
        yield jpeg.without_gaps(view, before, count), frame
    elif before:  # Chromium shows such a progressive image, and not a sequential one
        raise jpeg.strays_between_scans(count)
    else:
        raise damaged("JPEG", jpeg.BAD_DATA, cause=message)


def _pillow_jpeg(data: bytes | bytearray | memoryview, frame: jpeg.Frame) -> Image.Image:
    """Decode at an eighth of the size with Pillow, which reports errors but no warnings."""
    # Adobe's CMYK is inverted ("I"). The last four: raw mode, no conversion, scale 8, no draft.
    mode, raw = ("CMYK", "CMYK;I") if len(frame.components) == 4 else ("L", "L")
    size = (-(-frame.width // 8), -(-frame.height // 8))
    return Image.frombytes(mode, size, data, "jpeg", raw, "", 8, 0)


def _jpeg_fraction(view: memoryview, max_pixels: int, deadline: float) -> float | None:
    """The fraction of a cut JPEG above the flat grey with which libjpeg fills missing rows."""
    frame, buffered = jpeg.plan(view)
    check_pixels(frame.width, frame.height, 1, max_pixels)
    if buffered:
        return None  # each of several scans covers all rows
    ended = bytes(view) + jpeg.END
    with suppress(ApiError):
        _decode_scans(ended, frame, deadline, repairs=0)
        return 1.0  # only the end mark is missing
    image = _pillow_jpeg(ended, frame).convert("L")
    rows = image.height
    last = image.crop((0, rows - 1, image.width, rows)).tobytes()
    if last.strip(last[:1]):
        return None  # the last row is not flat
    flat = image.tobytes()
    return len(flat.rstrip(last[:1])) / len(flat)


_PIECE = 1 << 16
_INFLATED = 1 << 18
"""Bytes given to zlib and taken from it at once: whatever the ratio, memory and the time between
two looks at the clock stay small."""

_FILTERS = bytes(range(5))  # the filter types 0 to 4 (PNG, 9.2)
_SPARE = 1 << 20
"""Bytes that may follow the last row, besides as many as all rows have. They are inflated too: the
checksum of the zlib stream stands after them."""

_MEASURED_BYTES = 100_000_000
"""A cut PNG with more bytes of rows is not inflated only to measure how much of it is there."""

_IHDR_HEAD = png.CHUNK_HEAD.pack(13, b"IHDR")
_IHDR_START = len(png.SIGNATURE) + len(_IHDR_HEAD)
_IHDR_END = _IHDR_START + 13
_AFTER_IHDR = _IHDR_END + 4  # its checksum


class _Rows:
    """Inflates the image data of one frame and counts its rows; no pixel is built.

    Raises ``overloaded`` after ``deadline`` (of ``time.monotonic()``).
    """

    def __init__(self, passes: list[tuple[int, int]], deadline: float) -> None:
        # Bytes of a row and of a whole pass, for the passes that are not complete yet.
        self._passes = [(stride, stride * rows) for stride, rows in passes]
        self._inflater = zlib.decompressobj()
        self._deadline = deadline
        self._done = 0  # bytes of the current pass so far
        self.missing = sum(size for _, size in self._passes)
        self._spare = self.missing + _SPARE

    def feed(self, data: memoryview) -> None:
        """Inflate the next piece of the zlib stream.

        Nothing after the end of the stream reaches the inflater: at each call it would copy all
        such bytes once more (into ``unused_data``), which takes quadratic time.
        """
        for start in range(0, len(data), _PIECE):
            pending: bytes | memoryview = data[start : start + _PIECE]
            full = True  # the inflater may hold more output than one call may give
            while (pending or full) and not self._inflater.eof:
                check_time(self._deadline)
                rows = self._inflater.decompress(pending, _INFLATED)
                pending = self._inflater.unconsumed_tail
                full = len(rows) == _INFLATED
                self._check(rows[: self.missing], len(rows))

    def _check(self, rows: bytes, inflated: int) -> None:
        """Check the filter byte of each row, and how many bytes follow the last row.

        ``rows`` are the inflated bytes that belong to rows, ``inflated`` counts all of them.
        """
        self._spare -= inflated - len(rows)
        if self._spare < 0:
            raise damaged("PNG", "its image data goes on far after the last row")
        self.missing -= len(rows)
        at = 0
        while at < len(rows):
            stride, size = self._passes[0]
            stop = min(len(rows), at + size - self._done)
            first = at + -self._done % stride  # where the next row begins
            # One slice takes the filter bytes of all rows: a loop over rows would be slow.
            if rows[first:stop:stride].translate(None, _FILTERS):
                raise damaged("PNG", "a row has a filter that does not exist")
            self._done += stop - at
            at = stop
            if self._done == size:
                self._passes.pop(0)
                self._done = 0

    def finish(self) -> None:
        """Check that no row is missing, and that zlib has compared the checksum (Adler-32)."""
        if self.missing:
            raise damaged("PNG", "rows of the picture are missing")
        if not self._inflater.eof:
            raise damaged("PNG", "the checksum of its rows is missing")


def _decode_png(view: memoryview, info: ImageInfo, deadline: float) -> None:
    """Inflate every frame and check that all of its rows are there."""
    chunks = png.chunks_of(view)
    _, start, end = next(chunks)  # IHDR, as walk() has seen
    header = png.Header.read(view[start:end])
    rows = _Rows(header.passes(info.width, info.height), deadline)
    animated = fed = False
    for kind, start, end in chunks:
        check_time(deadline)
        if kind == b"acTL" and not fed:  # after IDAT an acTL has no effect (PNG, 11.3.6.1)
            animated = True
        elif kind == b"fcTL" and animated and fed:  # an fcTL before IDAT is that of the IDAT
            rows.finish()
            width, height, _, _ = png.frame_size(view, start, end)
            rows = _Rows(header.passes(width, height), deadline)
        elif kind == b"IDAT":
            rows.feed(view[start:end])
            fed = True
        elif kind == b"fdAT" and animated:
            rows.feed(view[start + 4 : end])  # after the sequence number
    rows.finish()


def _png_fraction(view: memoryview, max_pixels: int, deadline: float) -> float | None:
    """The fraction of its rows that a cut PNG still holds; None where that takes too long.

    Raises ApiError where the header is not one that is accepted.
    """
    start = len(png.SIGNATURE)
    if len(view) < _AFTER_IHDR or bytes(view[start:_IHDR_START]) != _IHDR_HEAD:
        return None
    header = png.Header.read(view[_IHDR_START:_IHDR_END])
    check_pixels(header.width, header.height, 1, max_pixels)
    rows = _Rows(header.passes(header.width, header.height), deadline)
    total = rows.missing
    if total > _MEASURED_BYTES:
        return None
    pos = _AFTER_IHDR
    while pos + 8 < len(view):
        check_time(deadline)
        length, kind = png.CHUNK_HEAD.unpack_from(view, pos)
        if kind == b"acTL":
            return None  # rows of one frame tell little about an animation
        if kind == b"IDAT":
            rows.feed(view[pos + 8 : pos + 8 + length])
        pos += 12 + length
    there = 1 - rows.missing / total
    # A file cut inside a chunk lacks more than IEND, even where all rows are there.
    return there if pos == len(view) else min(there, 0.99)


def _decode_gif(view: memoryview, deadline: float) -> None:
    for frame in gif.frames_of(view):
        check_time(deadline)
        size = (frame.width, frame.height)
        data = view[frame.start : frame.end]
        Image.frombytes("L", size, data, "gif", frame.code_size, int(frame.interlaced))


_PILLOW_WEBP_PIXELS = 8_000_000
"""Pillow decodes a WebP up to this size. A larger one would take it too much memory."""

_PILLOW_WEBP_BYTES = 16
"""Bytes for each pixel: Pillow's decoder keeps two canvases and a copy of one, and libwebp keeps
the pixels of a lossless image once more, all of four bytes."""

_VIPS_WEBP_BYTES = 4
"""libvips shrinks while it decodes; only a lossless image is held in full."""


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
    """Decode with libvips at an eighth of the size, in which it needs little memory."""
    # Imported here, after the fork: libvips starts threads, and threads do not survive a fork.
    os.environ.setdefault("VIPS_CONCURRENCY", "1")  # the slots bound decodes, one thread each
    os.environ.setdefault("VIPS_WARNING", "1")  # despite its name: no warnings to stderr
    import pyvips  # noqa: PLC0415

    pyvips.cache_set_max(0)  # the cache would keep whole uploads in memory
    source = pyvips.Source.new_from_memory(stream)
    image = pyvips.Image.webpload_source(
        source, n=-1, scale=1 / 8, access="sequential", fail_on="warning"
    )
    image.avg()  # pulls every row through the decoder


_DECODERS: dict[str, Callable[[memoryview, ImageInfo, float, int], None]] = {
    "JPEG": lambda view, _, deadline, memory: _decode_jpeg(view, deadline, memory),
    "PNG": lambda view, info, deadline, _: _decode_png(view, info, deadline),
    "GIF": lambda view, _, deadline, __: _decode_gif(view, deadline),
    "WEBP": lambda view, info, deadline, _: _decode_webp(view, info, deadline),
}
