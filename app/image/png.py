"""The structure of a PNG and an APNG (W3C PNG, third edition): chunks and their checksums."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from app.errors import ApiError
from app.image.info import ImageInfo, Truncated, check_frames, check_pixels, damaged

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNKS = 100_000
"""Encoders write 8 kB of image data or more in each: 2,000 in the largest file."""

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
CHUNK_HEAD = struct.Struct(">I4s")
_WORD = struct.Struct(">I")
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
          (0, 1, 1, 2))  # fmt: skip
"""x, y, and the steps of both, of the seven passes of an interlaced PNG."""


@dataclass(frozen=True, slots=True)
class Header:
    """The IHDR chunk."""

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool

    @classmethod
    def read(cls, payload: memoryview) -> "Header":
        """Read the 13 bytes of IHDR; ApiError where they make no sense."""
        width, height, depth, colour, method, filtering, interlace = struct.unpack(
            ">IIBBBBB", payload
        )
        if not 0 < width < 1 << 31 or not 0 < height < 1 << 31:
            raise damaged("PNG", f"it says that it is {width} x {height} pixels")
        if depth not in _DEPTHS.get(colour, ()) or method or filtering or interlace > 1:
            raise damaged("PNG", "its header is impossible")
        return cls(width, height, depth, colour, interlace == 1)

    def passes(self, width: int, height: int) -> list[tuple[int, int]]:
        """(bytes of a row with its filter byte, rows) of each pass of a frame of that size."""
        bits = self.depth * _CHANNELS[self.colour]
        grid = _ADAM7 if self.interlaced else ((0, 0, 1, 1),)
        sizes = (
            (-(-(width - x) // across), -(-(height - y) // down)) for x, y, across, down in grid
        )
        return [(1 + -(-w * bits // 8), h) for w, h in sizes if w > 0 and h > 0]


def chunks_of(view: memoryview) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, start, end) of the payload of each chunk, IEND included and last."""
    pos, size = len(SIGNATURE), len(view)
    for _ in range(_MAX_CHUNKS):
        if pos + 12 > size:
            raise Truncated("PNG")
        length, kind = CHUNK_HEAD.unpack_from(view, pos)
        end = pos + 8 + length
        if end + 4 > size:
            raise Truncated("PNG")
        yield kind, pos + 8, end
        if kind == b"IEND":
            return
        pos = end + 4
    raise damaged("PNG", f"it has more than {_MAX_CHUNKS:,} chunks, as no program writes them")


def _checked(view: memoryview) -> Iterator[tuple[bytes, int, int]]:
    """The chunks of a PNG, each after its checksum was found right."""
    for kind, start, end in chunks_of(view):
        if zlib.crc32(view[start - 4 : end]) != _WORD.unpack_from(view, end)[0]:
            raise damaged(
                "PNG", f"the checksum of chunk {_name(kind)} at byte {start - 8} is wrong"
            )
        yield kind, start, end


class _Walk:
    """What was seen of a PNG so far: its chunks in order, and an APNG's frames in sequence.

    ``frames`` is what acTL says, 0 without one. An acTL behind the image data is none (section
    11.3.6.1), and without one there is no place for fcTL and fdAT: nothing is shown of such a file.
    """

    def __init__(self, view: memoryview, header: Header, max_pixels: int) -> None:
        self._view = view
        self._header = header
        self._max_pixels = max_pixels
        self._palette_seen = False
        self._data_end = 0
        self._controls = 0
        self._sequence = 0
        self._frame_has_data = True
        self._takes_frame_data = False
        self.frames = 0

    def take(self, kind: bytes, start: int, end: int) -> None:
        match kind:
            case b"IDAT":
                self._data(start, end)
            case b"fdAT":
                self._frame_data(start, end)
            case b"fcTL":
                self._control(start, end)
            case b"acTL" if not self._data_end:
                self._animation(start, end)
            case b"PLTE":
                self._palette(start, end)
            case _ if kind != b"IEND" and (not kind[0] & 0x20 or not kind.isalpha()):
                raise damaged("PNG", f"chunk {_name(kind)} at byte {start - 8} has no place there")

    def _palette(self, start: int, end: int) -> None:
        size = end - start
        if self._palette_seen or self._data_end or not 0 < size <= 768 or size % 3:
            raise damaged("PNG", "its palette is impossible")
        self._palette_seen = True

    def _data(self, start: int, end: int) -> None:
        if self._header.colour == 3 and not self._palette_seen:
            raise damaged("PNG", "its palette is missing")
        if self._data_end not in (0, start - 12):
            raise damaged("PNG", f"the image data is interrupted before byte {start}")
        self._data_end = end
        self._frame_has_data = True

    def _animation(self, start: int, end: int) -> None:
        frames = _WORD.unpack_from(self._view, start)[0] if end - start == 8 else 0
        if not frames or self.frames:
            raise damaged("PNG", "its animation control (acTL) is impossible")
        self.frames = frames
        check_pixels(self._header.width, self._header.height, self.frames, self._max_pixels)
        check_frames("PNG", frames)

    def _control(self, start: int, end: int) -> None:
        self._in_sequence(start, end)
        width, height, left, top = frame_size(self._view, start, end)
        canvas = self._header.width, self._header.height
        inside = left + width <= canvas[0] and top + height <= canvas[1]
        fits = bool(self._data_end) or (width, height) == canvas  # its data is the picture's, IDAT
        dispose, blend = self._view[start + 24], self._view[start + 25]
        known = dispose <= 2 and blend <= 1
        if not (width and height and inside and fits and known and self._frame_has_data):
            raise damaged("PNG", f"frame {self._controls + 1} is impossible")
        self._controls += 1
        self._frame_has_data = False
        self._takes_frame_data = bool(self._data_end)

    def _frame_data(self, start: int, end: int) -> None:
        self._in_sequence(start, end)
        if not self._takes_frame_data:
            raise damaged("PNG", f"the frames are out of sequence at byte {start}")
        self._frame_has_data = True

    def _in_sequence(self, start: int, end: int) -> None:
        if end - start < 4 or _WORD.unpack_from(self._view, start)[0] != self._sequence:
            raise damaged("PNG", f"the frames are out of sequence at byte {start}")
        self._sequence += 1

    def finish(self) -> None:
        if not self._data_end:
            raise damaged("PNG", "it holds no image data")
        if self._controls != self.frames or not self._frame_has_data:
            whole = self._controls - (not self._frame_has_data)
            raise damaged("PNG", f"of {self.frames} frames that it announces it has {whole}")


def _name(kind: bytes) -> str:
    return repr(kind.decode("ascii", "replace"))


def frame_size(view: memoryview, start: int, end: int) -> tuple[int, int, int, int]:
    """Width, height, left and top of an APNG frame, from its fcTL chunk."""
    if end - start != 26:
        raise damaged("PNG", f"the frame control at byte {start} is impossible")
    width, height, left, top = struct.unpack_from(">IIII", view, start + 4)
    return width, height, left, top


def walk(view: memoryview, max_pixels: int) -> ImageInfo:
    """See that a PNG is whole up to its IEND, and the frames of an APNG in sequence."""
    chunks = _checked(view)
    kind, start, end = next(chunks)
    if kind == b"CgBI":
        raise ApiError(
            "unsupported_format",
            "This is a PNG that was changed for iPhone apps (CgBI). Export it as an ordinary PNG.",
        )
    if kind != b"IHDR" or end - start != 13:
        raise damaged("PNG", "it does not begin with a header")
    header = Header.read(view[start:end])
    check_pixels(header.width, header.height, 1, max_pixels)
    seen = _Walk(view, header, max_pixels)
    for kind, start, end in chunks:
        seen.take(kind, start, end)
    seen.finish()
    return ImageInfo("PNG", "png", "image/png", header.width, header.height, seen.frames or 1)
