"""The structure of a WebP (RFC 9649), as libwebp's demuxer sees it."""

import struct
from collections.abc import Iterator

from PIL import _webp  # the plugin would build an image of each frame

from app.image import vp8l
from app.image.info import ImageInfo, Truncated, check_frames, check_pixels, damaged

_RIFF_CHUNK = struct.Struct("<4sI")
_WORD = struct.Struct("<I")
_MAX_CHUNKS = 100_000
"""With those in frames; a file of programs has five, and two for each frame."""

_CODED = frozenset((b"VP8X", b"ALPH", b"VP8 ", b"VP8L", b"ANIM", b"ANMF"))


def chunks_of(view: memoryview, pos: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (fourcc, start, end) of the payload of each RIFF chunk in ``view[pos:end]``."""
    while pos + 8 <= end:
        kind, length = _RIFF_CHUNK.unpack_from(view, pos)
        stop = pos + 8 + length
        if stop > end:
            break
        yield kind, pos + 8, stop
        pos = stop + (length & 1)


def riff_end(view: memoryview) -> int:
    """Where the RIFF container says that the file ends; ``Truncated`` when that is not there."""
    end = 8 + _WORD.unpack_from(view, 4)[0]
    if end > len(view):
        raise Truncated("WebP", len(view) / end)
    return int(end)


def walk(view: memoryview, max_pixels: int) -> ImageInfo:
    """See that a WebP is whole up to the end of its RIFF container, and count its frames.

    libwebp's demuxer, which browsers have too, judges the bytes as they were sent, by every rule
    of RFC 9649 that it knows; it is given only what was found to be within the bounds here.
    """
    end = riff_end(view)
    width, height = _canvas(view, end)
    check_pixels(width, height, 1, max_pixels)
    _check_chunks(view, (width, height), max_pixels)
    frames = demuxed(view).get_info()[-2]
    check_pixels(width, height, frames, max_pixels)
    return ImageInfo("WEBP", "webp", "image/webp", width, height, frames)


def _check_chunks(view: memoryview, canvas: tuple[int, int], max_pixels: int) -> None:
    """Refuse too many chunks, for each of which the demuxer takes memory, and too many frames."""
    frames = 0
    for number, (kind, _, _) in enumerate(_all_chunks(view, 12, riff_end(view))):
        if number == _MAX_CHUNKS:
            raise damaged("WebP", f"it has more than {_MAX_CHUNKS:,} chunks")
        if kind == b"ANMF":
            frames += 1
            check_pixels(*canvas, frames, max_pixels, " (or more)")
            check_frames("WebP", frames)


def _canvas(view: memoryview, end: int) -> tuple[int, int]:
    """Width and height, from the first chunk."""
    kind, start, stop = next(chunks_of(view, 12, end), (b"", 0, 0))
    if kind == b"VP8X" and stop - start >= 10:
        return 1 + _word24(view, start + 4), 1 + _word24(view, start + 7)
    if kind in (b"VP8 ", b"VP8L"):
        return _bitstream_size(view, kind, start, stop)
    raise damaged("WebP", "it does not begin with a picture")


def demuxed(view: memoryview) -> _webp.WebPAnimDecoder:
    """A decoder of its frames; no canvas is touched before the first frame is asked for."""
    try:
        return _webp.WebPAnimDecoder(bytes(view[: riff_end(view)]))
    except OSError as error:
        raise damaged("WebP", "its chunks do not make a picture", cause=str(error)) from None


def _bitstream_size(view: memoryview, kind: bytes, start: int, stop: int) -> tuple[int, int]:
    """Width and height of a VP8 (lossy) or VP8L (lossless) bitstream, from its first bytes."""
    if kind == b"VP8L":
        if stop - start < 5 or view[start] != 0x2F:
            raise damaged("WebP", f"the picture at byte {start} is impossible")
        bits = _WORD.unpack_from(view, start + 1)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if (
        stop - start < 10
        or bytes(view[start + 3 : start + 6]) != b"\x9d\x01\x2a"
        or view[start] & 1
    ):
        raise damaged("WebP", f"the picture at byte {start} is impossible")
    width, height = struct.unpack_from("<HH", view, start + 6)
    if not width & 0x3FFF or not height & 0x3FFF:
        raise damaged("WebP", f"the picture at byte {start} is impossible")
    return width & 0x3FFF, height & 0x3FFF


def _word24(view: memoryview, pos: int) -> int:
    return view[pos] | view[pos + 1] << 8 | view[pos + 2] << 16


def tables(view: memoryview, deadline: float) -> int:
    """The most bytes that libwebp takes for the prefix codes of a frame, of those of a WebP.

    Raises ApiError where the data is broken or longer than any program writes it, or after
    ``deadline``.
    """
    largest, left = 0, vp8l.MAX_READS
    for stream, size in _lossless(view, 12, riff_end(view)):
        asked = vp8l.most(*size)
        if asked > vp8l.SMALL:
            bits = vp8l.Bits(stream, left, deadline)
            asked = vp8l.asked(bits, *size)
            left = bits.left
        largest = max(largest, asked)
    return largest


def _all_chunks(view: memoryview, pos: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The chunks, each frame's own after it."""
    for kind, start, stop in chunks_of(view, pos, end):
        yield kind, start, stop
        if kind == b"ANMF":
            yield from chunks_of(view, start + 16, stop)


def _lossless(view: memoryview, pos: int, end: int) -> Iterator[tuple[memoryview, tuple[int, int]]]:
    """Yield what is coded losslessly, pictures and alpha channels, each with its size."""
    alpha = None
    for kind, start, stop in _all_chunks(view, pos, end):
        if kind == b"VP8L":
            yield view[start + 5 : stop], _bitstream_size(view, kind, start, stop)
        elif kind == b"ALPH" and stop > start and view[start] & 3 == 1:
            alpha = view[start + 1 : stop]
        elif kind == b"VP8 " and alpha is not None:
            yield alpha, _bitstream_size(view, kind, start, stop)
            alpha = None


def bare(view: memoryview) -> Iterator[bytes]:
    """The file anew without metadata, which libvips would read.

    A lossless alpha channel of a still picture comes by itself: together they take more memory.
    """
    chunks = [each for each in chunks_of(view, 12, riff_end(view)) if each[0] in _CODED]
    alpha = None
    if chunks[0][0] == b"VP8X" and not view[chunks[0][1]] & 2:
        packed = (each for each in chunks if each[0] == b"ALPH" and view[each[1]] & 3 == 1)
        alpha = next((view[start + 1 : stop] for _, start, stop in packed), None)
    flags = 0x12 if alpha is None else 2
    pieces: list[bytes | memoryview] = []
    for kind, start, stop in chunks:
        if kind == b"VP8X":
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
        head = b"\x2f" + _WORD.pack(width - 1 | height - 1 << 14)
        size = len(head) + len(alpha)
        yield _riff([b"VP8L", _WORD.pack(size), head, alpha, b"\0" * (size & 1)])


def _riff(pieces: list[bytes | memoryview]) -> bytes:
    return b"".join((b"RIFF", _WORD.pack(4 + sum(map(len, pieces))), b"WEBP", *pieces))
