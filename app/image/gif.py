"""The structure of a GIF (CompuServe GIF89a): blocks up to the trailer."""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from app.image.info import ImageInfo, Truncated, check_pixels, damaged


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


_TRAILER = 0x3B
_IMAGE = struct.Struct("<HHHHB")
_ZEROS = re.compile(rb"\0+")


def frames_of(view: memoryview) -> Iterator[Frame]:
    """Yield each picture of a GIF, and see its trailer at the end."""
    frames = 0
    pos = 0
    try:
        pos = 13 + palette_size(view[10])
        while (kind := view[pos]) != _TRAILER:
            if kind == 0x21:  # an extension
                if view[pos + 1] == 0xF9 and (view[pos + 2] != 4 or view[pos + 7]):
                    raise damaged("GIF", f"the graphic control at byte {pos} is impossible")
                pos = end_of_blocks(view, pos + 2)
            elif kind == 0x2C:  # an image
                left, top, width, height, flags = _IMAGE.unpack_from(view, pos + 1)
                start = pos + 10 + palette_size(flags)
                code_size = view[start]
                pos = end_of_blocks(view, start + 1)
                if not width or not height or not 1 <= code_size <= 8:
                    raise damaged("GIF", f"the picture before byte {pos} is impossible")
                interlaced = bool(flags & 0x40)
                frames += 1
                yield Frame(left, top, width, height, interlaced, code_size, start + 1, pos)
            elif kind == 0:  # ends of blocks too many: some encoders write them before the trailer
                pos = _ZEROS.match(view, pos).end()  # type: ignore[union-attr]
                if view[pos] != _TRAILER:
                    raise damaged(
                        "GIF", f"before byte {pos} there are zeros that have no place there"
                    )
            else:
                raise damaged("GIF", f"at byte {pos} there is something that has no place there")
    except (IndexError, struct.error):
        raise Truncated("GIF", 1.0 if frames and pos == len(view) else None) from None


def palette_size(flags: int) -> int:
    """Bytes of the colour table that ``flags`` announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def end_of_blocks(view: memoryview, pos: int) -> int:
    """The position after the chain of sub-blocks that begins at ``pos``."""
    while length := view[pos]:
        pos += length + 1
    return pos + 1


def walk(view: memoryview, max_pixels: int) -> ImageInfo:
    """See that a GIF is whole up to its trailer, and count its frames."""
    if len(view) < 13:
        raise Truncated("GIF", 0.0)
    width, height = struct.unpack_from("<HH", view, 6)
    frames = 0
    for frame in frames_of(view):
        frames += 1
        if frames == 1:  # browsers enlarge the canvas for the first frame, and cut off the others
            width, height = (
                max(width, frame.left + frame.width),
                max(height, frame.top + frame.height),
            )
        check_pixels(
            max(width, frame.width), max(height, frame.height), frames, max_pixels, " (or more)"
        )
    if not frames:
        raise damaged("GIF", "there is no picture in it")
    return ImageInfo("GIF", "gif", "image/gif", width, height, frames)
