"""The structure of a GIF (CompuServe GIF89a): blocks up to the trailer."""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from app.errors import ApiError
from app.image.info import ImageInfo, Truncated, check_frames, check_pixels, damaged


class Frame(NamedTuple):
    """One picture of a GIF; its LZW data is ``view[start:end]``, in sub-blocks."""

    left: int
    top: int
    width: int
    height: int
    interlaced: bool
    code_size: int
    start: int
    end: int


_MAX_BLOCKS = 100_000
_MAX_SUB_BLOCKS = 1_000_000
"""The latter in one block; encoders fill each with 255 bytes: 60,000 in the largest file."""

_IMAGE = struct.Struct("<HHHHB")
_ZEROS = re.compile(rb"\0+")


def frames_of(view: memoryview) -> Iterator[Frame]:
    """Yield each picture of a GIF, and see its trailer at the end."""
    frames = pos = 0
    try:
        pos = 13 + palette_size(view[10])
        for _ in range(_MAX_BLOCKS):
            match view[pos]:
                case 0x3B:
                    return
                case 0x21:
                    pos = _end_of_extension(view, pos)
                case 0x2C:
                    frame = _frame_at(view, pos)
                    pos = frame.end
                    frames += 1
                    yield frame
                case 0:
                    pos = _end_of_zeros(view, pos)
                case _:
                    raise _out_of_place(pos)
    except (IndexError, struct.error):
        raise Truncated("GIF", 1.0 if frames and pos == len(view) else None) from None
    raise damaged("GIF", f"it has more than {_MAX_BLOCKS:,} blocks")


def _end_of_extension(view: memoryview, pos: int) -> int:
    """Of a graphic control decoders read four bytes, whatever length it says."""
    if view[pos + 1] == 0xF9 and (view[pos + 2] != 4 or view[pos + 7]):
        raise damaged("GIF", f"the graphic control at byte {pos} is impossible")
    return end_of_blocks(view, pos + 2)


def _frame_at(view: memoryview, pos: int) -> Frame:
    left, top, width, height, flags = _IMAGE.unpack_from(view, pos + 1)
    start = pos + 10 + palette_size(flags)
    code_size = view[start]
    end = end_of_blocks(view, start + 1)
    if not width or not height or not 1 <= code_size <= 8:
        raise damaged("GIF", f"the picture before byte {end} is impossible")
    return Frame(left, top, width, height, bool(flags & 0x40), code_size, start + 1, end)


def _end_of_zeros(view: memoryview, pos: int) -> int:
    """Ends of blocks too many, which some encoders write, do no harm before the trailer only."""
    zeros = _ZEROS.match(view, pos)
    end = zeros.end() if zeros else pos
    if view[end] != 0x3B:
        raise _out_of_place(pos)
    return end


def _out_of_place(pos: int) -> ApiError:
    return damaged("GIF", f"at byte {pos} there is something that has no place there")


def palette_size(flags: int) -> int:
    """Bytes of the colour table that ``flags`` announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def end_of_blocks(view: memoryview, pos: int) -> int:
    """The position after the chain of sub-blocks that begins at ``pos``."""
    for _ in range(_MAX_SUB_BLOCKS):
        if not (length := view[pos]):
            return pos + 1
        pos += length + 1
    raise damaged("GIF", "its data is in more pieces than any program writes")


def walk(view: memoryview, max_pixels: int) -> ImageInfo:
    """See that a GIF is whole up to its trailer, and count its frames."""
    if len(view) < 13:
        raise Truncated("GIF", 0.0)
    width, height = struct.unpack_from("<HH", view, 6)
    frames = 0
    for frame in frames_of(view):
        frames += 1
        check_frames("GIF", frames)
        if frames == 1:  # browsers enlarge the canvas for the first frame, and cut off the others
            width = max(width, frame.left + frame.width)
            height = max(height, frame.top + frame.height)
        across, down = max(width, frame.width), max(height, frame.height)
        check_pixels(across, down, frames, max_pixels, " (or more)")
    if not frames:
        raise damaged("GIF", "there is no picture in it")
    return ImageInfo("GIF", "gif", "image/gif", width, height, frames)
