"""The structure of a GIF: blocks up to the trailer.

Section numbers are those of CompuServe's GIF89a specification.
"""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from app.errors import ApiError
from app.image.info import ImageInfo, Truncated, check_frames, check_pixels, damaged

SIGNATURES = (b"GIF87a", b"GIF89a")
EXTENSION, IMAGE, TRAILER = 0x21, 0x2C, 0x3B
"""The first byte of a block (sections 20, 23 to 27)."""

CONTROL = 0xF9
"""The label, or second byte, of a graphic control extension (section 23)."""

FLAGS_AT = 10
"""The position of the canvas's flags: after the signature, width and height (section 18)."""

_FIRST_PALETTE = 13
"""The position after the signature and the logical screen descriptor."""

DESCRIPTOR_SIZE = 10
"""Bytes of an image descriptor, its flags last (section 20)."""


class Frame(NamedTuple):
    """One frame of a GIF; its LZW data is ``view[start:end]``, in sub-blocks."""

    left: int
    top: int
    width: int
    height: int
    interlaced: bool
    code_size: int
    start: int
    end: int


_MAX_BLOCKS = 100_000
"""Programs write two for each frame, and there are at most ``MAX_FRAMES``."""

_MAX_SUB_BLOCKS = 1_000_000
"""In one block. Encoders fill each with 255 bytes: that makes 60,000 in the largest file."""

_LOOPS = (b"\xff\x0bNETSCAPE2.0", b"\xff\x0bANIMEXTS1.0")
"""The starts, after the first byte, of the application extensions of animations."""

_DESCRIPTOR = struct.Struct("<HHHHB")  # left, top, width, height, flags
_INTERLACED = 0x40
_HAS_PALETTE, _PALETTE_SIZE = 0x80, 0x07
_ZEROS = re.compile(rb"\0+")


def first_block(view: memoryview) -> int:
    """The position of the first block: after the canvas and its palette."""
    return _FIRST_PALETTE + palette_size(view[FLAGS_AT])


def frames_of(view: memoryview) -> Iterator[Frame]:
    """Yield each frame of a GIF; raise ApiError where the GIF does not go on to its trailer."""
    frames = pos = 0
    try:
        pos = first_block(view)
        for _ in range(_MAX_BLOCKS):
            kind = view[pos]
            if kind == TRAILER:
                return
            if kind == EXTENSION:
                pos = _end_of_extension(view, pos)
            elif kind == IMAGE:
                frame = _frame_at(view, pos)
                pos = frame.end
                frames += 1
                yield frame
            elif kind == 0:
                pos = _end_of_zeros(view, pos)
            else:
                raise _out_of_place(pos)
    except (IndexError, struct.error):
        # A file that ends between two blocks lacks only its trailer, as far as anyone can know.
        raise Truncated("GIF", 1.0 if frames and pos == len(view) else None) from None
    raise damaged("GIF", f"it has more than {_MAX_BLOCKS:,} blocks")


def _end_of_extension(view: memoryview, pos: int) -> int:
    """The position after an extension.

    A graphic control must have four bytes, since decoders read four whatever its length says.
    """
    if view[pos + 1] == CONTROL and (view[pos + 2] != 4 or view[pos + 7]):
        raise damaged("GIF", f"the graphic control at byte {pos} is not valid")
    end = end_of_blocks(view, pos + 2)
    # Chromium reads a sub-block here even where there is none, and shows no frame after it.
    if bytes(view[pos + 1 : end - 1]) in _LOOPS and view[end] != TRAILER:
        raise damaged("GIF", f"the loop count at byte {pos} is missing")
    return end


def _frame_at(view: memoryview, pos: int) -> Frame:
    left, top, width, height, flags = _DESCRIPTOR.unpack_from(view, pos + 1)
    start = pos + DESCRIPTOR_SIZE + palette_size(flags)
    code_size = view[start]
    end = end_of_blocks(view, start + 1)
    # A colour index has at most 8 bits, and counts as two where it has one (section 22): browsers
    # refuse all else.
    if not width or not height or not 2 <= code_size <= 8:
        raise damaged("GIF", f"the picture before byte {end} is not valid")
    return Frame(left, top, width, height, bool(flags & _INTERLACED), code_size, start + 1, end)


def _end_of_zeros(view: memoryview, pos: int) -> int:
    """The position after extra block terminators, which some encoders write before the trailer.

    Anywhere else they are refused: browsers show no frame after them.
    """
    zeros = _ZEROS.match(view, pos)
    end = zeros.end() if zeros else pos
    if view[end] != TRAILER:
        raise _out_of_place(pos)
    return end


def _out_of_place(pos: int) -> ApiError:
    return damaged("GIF", f"at byte {pos} there is something that does not belong there")


def palette_size(flags: int) -> int:
    """Bytes of the colour table that ``flags`` announce (section 18): 3 for each colour."""
    return 3 << ((flags & _PALETTE_SIZE) + 1) if flags & _HAS_PALETTE else 0


def end_of_blocks(view: memoryview, pos: int) -> int:
    """The position after the chain of sub-blocks that begins at ``pos``.

    Each sub-block begins with its length; one of length 0 ends the chain (sections 15 and 16).
    """
    for _ in range(_MAX_SUB_BLOCKS):
        if not (length := view[pos]):
            return pos + 1
        pos += length + 1
    raise damaged("GIF", "its data is in more pieces than any program writes")


def walk(view: memoryview, max_pixels: int) -> ImageInfo:
    """Check that a GIF is whole up to its trailer, and count its frames."""
    if len(view) < _FIRST_PALETTE:
        raise Truncated("GIF", 0.0)
    width, height = struct.unpack_from("<HH", view, len(SIGNATURES[0]))
    frames = 0
    for frame in frames_of(view):
        frames += 1
        check_frames("GIF", frames)
        if frames == 1:  # browsers enlarge the canvas for the first frame, and crop the others
            width = max(width, frame.left + frame.width)
            height = max(height, frame.top + frame.height)
        # Decoders build all of a frame, even what lies outside the canvas.
        across, down = max(width, frame.width), max(height, frame.height)
        check_pixels(across, down, frames, max_pixels, " (or more)")
    if not frames:
        raise damaged("GIF", "there is no picture in it")
    return ImageInfo("GIF", "gif", "image/gif", width, height, frames)
