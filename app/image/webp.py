"""The structure of a WebP (RFC 9649, section 2), as libwebp's demuxer sees it."""

import struct
from collections.abc import Iterator

from PIL import _webp  # not the plugin, which would build an image of each frame

from app.image import vp8l
from app.image.info import ImageInfo, Truncated, check_frames, check_pixels, damaged

_RIFF_CHUNK = struct.Struct("<4sI")  # type (FourCC) and size of the payload (section 2.3)
_WORD = struct.Struct("<I")
FIRST_CHUNK = 12
"""The position after ``RIFF``, the size of the container, and ``WEBP`` (section 2.4)."""

FRAME_HEAD = 16
"""Bytes of an ANMF chunk before its own chunks: place, size, duration, flags (section 2.7.1.1)."""

_MAX_CHUNKS = 100_000
"""Frames' own chunks included. Programs write about five, and two for each frame."""

_CODED = frozenset((b"VP8X", b"ALPH", b"VP8 ", b"VP8L", b"ANIM", b"ANMF"))
ANIMATION_FLAG, XMP_FLAG, EXIF_FLAG, _ALPHA_FLAG = 0x02, 0x04, 0x08, 0x10
"""Flags in the first byte of VP8X (section 2.7)."""

_COMPRESSION, _LOSSLESS = 0x03, 1
"""The compression method in the first byte of ALPH, and its value for VP8L (section 2.7.1.2)."""

_VP8L_SIGNATURE = 0x2F
_VP8L_HEAD = 5
"""Bytes of the signature, width, height, alpha flag and version of VP8L (section 3.4)."""

_VP8_START = b"\x9d\x01\x2a"
"""The start code of a key frame (RFC 6386, section 9.1)."""

_SIDE_BITS = 0x3FFF
"""Both kinds of bitstream write width and height in 14 bits."""


def chunks_of(view: memoryview, pos: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (fourcc, start, end) of the payload of each RIFF chunk in ``view[pos:end]``."""
    while pos + 8 <= end:
        kind, length = _RIFF_CHUNK.unpack_from(view, pos)
        stop = pos + 8 + length
        if stop > end:
            break
        yield kind, pos + 8, stop
        pos = stop + (length & 1)  # chunks begin at even positions


def riff_end(view: memoryview) -> int:
    """Where the file ends, by the size of the RIFF container; ``Truncated`` if it ends earlier."""
    end = 8 + _WORD.unpack_from(view, 4)[0]
    if end > len(view):
        raise Truncated("WebP", len(view) / end)
    return int(end)


def walk(view: memoryview, max_pixels: int) -> ImageInfo:
    """Check that a WebP is whole up to the end of its RIFF container, and count its frames.

    libwebp's demuxer, which browsers use too, applies the rules of RFC 9649. It gets the bytes as
    they were sent, but only after the bounds were checked here: it allocates memory for each chunk.
    """
    end = riff_end(view)
    width, height = _canvas(view, end)
    check_pixels(width, height, 1, max_pixels)
    _check_chunks(view, (width, height), max_pixels)
    # (width, height, loop count, background, frames, mode)
    frames = demuxed(view).get_info()[-2]
    check_pixels(width, height, frames, max_pixels)
    return ImageInfo("WEBP", "webp", "image/webp", width, height, frames)


def _check_chunks(view: memoryview, canvas: tuple[int, int], max_pixels: int) -> None:
    """Refuse too many chunks and too many frames, before the demuxer allocates memory for them."""
    frames = 0
    for number, (kind, _, _) in enumerate(_all_chunks(view)):
        if number == _MAX_CHUNKS:
            raise damaged("WebP", f"it has more than {_MAX_CHUNKS:,} chunks")
        if kind == b"ANMF":
            frames += 1
            check_pixels(*canvas, frames, max_pixels, " (or more)")
            check_frames("WebP", frames)


def _canvas(view: memoryview, end: int) -> tuple[int, int]:
    """Width and height of the canvas, from the first chunk."""
    kind, start, stop = next(chunks_of(view, FIRST_CHUNK, end), (b"", 0, 0))
    if kind == b"VP8X" and stop - start >= 10:
        # After four bytes of flags, each a 24-bit number, less one (section 2.7).
        return 1 + _word24(view, start + 4), 1 + _word24(view, start + 7)
    if kind in (b"VP8 ", b"VP8L"):
        return _bitstream_size(view, kind, start, stop)
    raise damaged("WebP", "it does not begin with a picture")


def demuxed(view: memoryview) -> _webp.WebPAnimDecoder:
    """A decoder for the frames. It does not touch its canvas until the first ``get_next()``."""
    try:
        return _webp.WebPAnimDecoder(bytes(view[: riff_end(view)]))
    except OSError as error:
        raise damaged("WebP", "its chunks do not form a picture", cause=str(error)) from None


def _bitstream_size(view: memoryview, kind: bytes, start: int, stop: int) -> tuple[int, int]:
    """Width and height of a VP8 (lossy) or VP8L (lossless) bitstream, from its first bytes.

    VP8L: signature, then width and height, each less one (section 3.4). VP8: three bytes of which
    bit 0 is unset in a key frame, the start code, then width and height, each with two bits of
    scaling (RFC 6386, section 9.1).
    """
    size = stop - start
    if kind == b"VP8L" and size >= _VP8L_HEAD and view[start] == _VP8L_SIGNATURE:
        bits = _WORD.unpack_from(view, start + 1)[0]
        return (bits & _SIDE_BITS) + 1, (bits >> 14 & _SIDE_BITS) + 1
    if kind == b"VP8 " and size >= 10 and not view[start] & 1:
        code, width, height = struct.unpack_from("<3sHH", view, start + 3)
        width, height = width & _SIDE_BITS, height & _SIDE_BITS
        if code == _VP8_START and width and height:
            return width, height
    raise damaged("WebP", f"the picture at byte {start} is not valid")


def _word24(view: memoryview, pos: int) -> int:
    return view[pos] | view[pos + 1] << 8 | view[pos + 2] << 16


def table_bytes(view: memoryview, deadline: float) -> int:
    """The memory in bytes that libwebp needs for prefix codes, of the frame that needs most.

    Frames are decoded one after another. Raises ApiError where the data is broken or longer than
    any program writes it, or after ``deadline``.
    """
    largest, reads = 0, vp8l.MAX_READS
    for stream, size in lossless_streams(view):
        needed = vp8l.most_table_bytes(*size)
        if needed > vp8l.SMALL:
            bits = vp8l.Bits(stream, reads, deadline)
            needed = vp8l.table_bytes(bits, *size)
            reads = bits.left
        largest = max(largest, needed)
    return largest


def _all_chunks(view: memoryview) -> Iterator[tuple[bytes, int, int]]:
    """Yield the chunks of a WebP, those of each frame after it."""
    for kind, start, stop in chunks_of(view, FIRST_CHUNK, riff_end(view)):
        yield kind, start, stop
        if kind == b"ANMF":
            yield from chunks_of(view, start + FRAME_HEAD, stop)


def lossless_streams(view: memoryview) -> Iterator[tuple[memoryview, tuple[int, int]]]:
    """Yield the VP8L streams without their headers, of pictures and alpha channels, and sizes."""
    alpha = None
    for kind, start, stop in _all_chunks(view):
        if kind == b"VP8L":
            yield view[start + _VP8L_HEAD : stop], _bitstream_size(view, kind, start, stop)
        elif kind == b"ALPH" and _is_lossless(view, start, stop):
            alpha = view[start + 1 : stop]  # it has no header: the size is that of the picture
        elif kind == b"VP8 " and alpha is not None:
            yield alpha, _bitstream_size(view, kind, start, stop)
            alpha = None


def _is_lossless(view: memoryview, start: int, stop: int) -> bool:
    """Whether the alpha channel in this payload of an ALPH chunk is a VP8L stream."""
    return stop > start and view[start] & _COMPRESSION == _LOSSLESS


def bare(view: memoryview) -> Iterator[bytes]:
    """Yield the file again without metadata, which libvips would read.

    A lossless alpha channel of a still image comes as a second file: decoded together, both would
    be held in memory.
    """
    chunks = [each for each in chunks_of(view, FIRST_CHUNK, riff_end(view)) if each[0] in _CODED]
    alpha = None
    if chunks[0][0] == b"VP8X" and not view[chunks[0][1]] & ANIMATION_FLAG:
        alpha = next(
            (
                view[start + 1 : stop]
                for kind, start, stop in chunks
                if kind == b"ALPH" and _is_lossless(view, start, stop)
            ),
            None,
        )
    flags = ANIMATION_FLAG | (_ALPHA_FLAG if alpha is None else 0)
    pieces: list[bytes | memoryview] = []
    for kind, start, stop in chunks:
        if kind == b"VP8X":  # without the flags of the chunks that are left out
            pieces += [view[start - 8 : start], bytes((view[start] & flags,))]
            pieces.append(view[start + 1 : stop])
        elif alpha is None or kind != b"ALPH":
            pieces.append(view[start - 8 : stop])
        else:
            continue
        pieces.append(b"\0" * (stop - start & 1))
    yield _riff(pieces)
    if alpha is not None:
        width, height = _canvas(view, riff_end(view))
        head = bytes((_VP8L_SIGNATURE,)) + _WORD.pack(width - 1 | height - 1 << 14)
        size = len(head) + len(alpha)
        yield _riff([b"VP8L", _WORD.pack(size), head, alpha, b"\0" * (size & 1)])


def _riff(pieces: list[bytes | memoryview]) -> bytes:
    """A WebP file of these chunks."""
    return b"".join((b"RIFF", _WORD.pack(4 + sum(map(len, pieces))), b"WEBP", *pieces))
