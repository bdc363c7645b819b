"""The structure of a WebP (RFC 9649): RIFF chunks, and the file anew without its metadata."""

import struct
from collections.abc import Iterator
from itertools import chain, islice

from app.image import vp8l
from app.image.info import ImageInfo, Truncated, check_pixels, damaged

_RIFF_CHUNK = struct.Struct("<4sI")
_WORD = struct.Struct("<I")
_PICTURE = frozenset((b"ALPH", b"VP8 ", b"VP8L"))
_Piece = bytes | memoryview
_BATCH = 256
"""Frames of an animation that are decoded together: libwebp looks each up from the first one."""


def chunks_of(view: memoryview, pos: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (fourcc, start, end) of the payload of each RIFF chunk in ``view[pos:end]``."""
    while pos + 8 <= end:
        kind, length = _RIFF_CHUNK.unpack_from(view, pos)
        stop = pos + 8 + length
        if stop > end:
            break
        yield kind, pos + 8, stop
        pos = stop + (length & 1)
    if pos < end:
        raise damaged("WebP", f"the chunk at byte {pos} is longer than the room it has")


def riff_end(view: memoryview) -> int:
    """Where the RIFF container says that the file ends; ``Truncated`` when that is not there."""
    end = 8 + _WORD.unpack_from(view, 4)[0]
    if end > len(view):
        raise Truncated("WebP", len(view) / end)
    return int(end)


def walk(view: memoryview, max_pixels: int) -> ImageInfo:
    """See that a WebP is whole up to the end of its RIFF container, and count its frames."""
    end = riff_end(view)
    chunks = chunks_of(view, 12, end)
    kind, start, stop = next(chunks, (b"", 0, 0))
    if kind == b"VP8X" and stop - start >= 10:
        width, height = 1 + _word24(view, start + 4), 1 + _word24(view, start + 7)
        check_pixels(width, height, 1, max_pixels)
        frames = _frames(view, chunks, bool(view[start] & 2), (width, height), max_pixels)
    elif kind in (b"VP8 ", b"VP8L"):
        width, height = _bitstream_size(view, kind, start, stop)
        check_pixels(width, height, 1, max_pixels)
        frames = 1
        for _ in chunks:  # metadata, to the end
            pass
    else:
        raise damaged("WebP", "it does not begin with a picture")
    return ImageInfo("WEBP", "webp", "image/webp", width, height, frames)


def _frames(
    view: memoryview,
    chunks: Iterator[tuple[bytes, int, int]],
    animated: bool,
    canvas: tuple[int, int],
    max_pixels: int,
) -> int:
    frames = 0
    begun = False
    for kind, start, stop in chunks:
        begun = begun or kind == b"ANIM"
        if animated and kind == b"ANMF":
            if not begun:
                raise damaged("WebP", "its animation has no beginning")
            frames += 1
            check_pixels(*canvas, frames, max_pixels, " (or more)")
            _check_frame(view, start, stop, canvas)
        elif not animated and kind in (b"VP8 ", b"VP8L"):
            frames += 1
            if _bitstream_size(view, kind, start, stop) != canvas or frames > 1:
                raise damaged("WebP", f"the picture at byte {start} does not fit its canvas")
    if not frames:
        raise damaged("WebP", "there is no picture in it")
    return frames


def _check_frame(view: memoryview, start: int, stop: int, canvas: tuple[int, int]) -> None:
    """See that an ANMF chunk holds a picture of the size it says, inside the canvas."""
    if stop - start < 16:
        raise damaged("WebP", f"the frame at byte {start} is impossible")
    left, top = 2 * _word24(view, start), 2 * _word24(view, start + 3)
    size = 1 + _word24(view, start + 6), 1 + _word24(view, start + 9)
    inside = left + size[0] <= canvas[0] and top + size[1] <= canvas[1]
    for kind, begin, end in chunks_of(view, start + 16, stop):
        if kind in (b"VP8 ", b"VP8L"):
            if inside and _bitstream_size(view, kind, begin, end) == size:
                return
            break
    raise damaged("WebP", f"the frame at byte {start} does not fit its canvas")


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


def _lossless(view: memoryview, pos: int, end: int) -> Iterator[tuple[memoryview, tuple[int, int]]]:
    """Yield what is coded losslessly, pictures and alpha channels, each with its size."""
    alpha = None
    for kind, start, stop in chunks_of(view, pos, end):
        if kind == b"ANMF":
            yield from _lossless(view, start + 16, stop)
        elif kind == b"VP8L":
            yield view[start + 5 : stop], _bitstream_size(view, kind, start, stop)
        elif kind == b"ALPH" and stop > start and view[start] & 3 == 1:
            alpha = view[start + 1 : stop]
        elif kind == b"VP8 " and alpha is not None:
            yield alpha, _bitstream_size(view, kind, start, stop)
            alpha = None


def streams(view: memoryview) -> Iterator[tuple[bytes, int]]:
    """The file anew without metadata, in batches of frames, each with their number."""
    chunks = chunks_of(view, 12, riff_end(view))
    kind, start, stop = next(chunks)
    if kind != b"VP8X":
        yield _riff([_chunk(view, start, stop)]), 1
        return
    flags = view[start] & 0x12  # animation, alpha
    header: list[_Piece] = [b"VP8X", struct.pack("<IB", 10, flags), view[start + 1 : start + 10]]
    if not flags & 2:
        parts = [_chunk(view, a, b) for name, a, b in chunks if name in _PICTURE]
        yield _riff([header, *parts]), 1
        return
    header += [b"ANIM", struct.pack("<IIH", 6, 0, 0)]
    frames = (_chunk(view, a, b) for name, a, b in chunks if name == b"ANMF")
    while batch := list(islice(frames, _BATCH)):
        yield _riff([header, *batch]), len(batch)


def _chunk(view: memoryview, start: int, stop: int) -> list[_Piece]:
    """A RIFF chunk with its head, padded to even length."""
    return [view[start - 8 : stop], b"\0" * (stop - start & 1)]


def _riff(parts: list[list[_Piece]]) -> bytes:
    size = 4 + sum(len(piece) for part in parts for piece in part)
    return b"".join((b"RIFF", struct.pack("<I", size), b"WEBP", *chain.from_iterable(parts)))
