"""The structure of a PNG and an APNG: chunks and their checksums.

Section numbers are those of the W3C's PNG specification, third edition.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from app.errors import ApiError
from app.image.info import ImageInfo, Truncated, check_frames, check_pixels, damaged

SIGNATURE = b"\x89PNG\r\n\x1a\n"  # section 5.2
_MAX_CHUNKS = 100_000
"""Encoders write at least 8 kB of image data into a chunk: that makes 2,000 in the largest file."""

_IHDR_SIZE, _FCTL_SIZE = 13, 26
_PALETTE_COLOURS = 256
_INDEXED = 3  # the colour type of images with a palette
# By colour type (section 11.2): samples for each pixel, and the allowed bits for each sample.
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
CHUNK_HEAD = struct.Struct(">I4s")  # length of the payload, and type (section 5.3)
_WORD = struct.Struct(">I")
_ACTL = struct.Struct(">II")  # frames, and how often they are played (section 11.3.6.1)
_CICP = struct.Struct(">BBBB")  # primaries, transfer, matrix, full range (section 11.3.2.6)
_LARGEST_INTEGER = (1 << 31) - 1  # section 7.1; browsers show a still image where plays exceed it
_ANCILLARY = 0x20  # bit 5 of the first letter of a type: decoders may skip the chunk (section 5.4)
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
          (0, 1, 1, 2))  # fmt: skip
"""First column and row, and the steps to the next ones, of the seven passes of an interlaced PNG
(section 8)."""


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
        """Read the 13 bytes of IHDR; ApiError where they break the specification."""
        width, height, depth, colour, method, filtering, interlace = struct.unpack(
            ">IIBBBBB", payload
        )
        # Four-byte integers go up to 2**31 - 1 (section 7.1).
        if not 0 < width < 1 << 31 or not 0 < height < 1 << 31:
            raise damaged("PNG", f"its header says that it has {width} x {height} pixels")
        # Only compression method 0, filter method 0, and interlace methods 0 and 1 exist.
        if depth not in _DEPTHS.get(colour, ()) or method or filtering or interlace > 1:
            raise damaged("PNG", "its header is not valid")
        return cls(width, height, depth, colour, interlace == 1)

    def passes(self, width: int, height: int) -> list[tuple[int, int]]:
        """(bytes of a row with its filter byte, rows) of each pass of a frame of that size."""
        bits = self.depth * _CHANNELS[self.colour]
        grid = _ADAM7 if self.interlaced else ((0, 0, 1, 1),)
        sizes = (
            (-(-(width - x) // across), -(-(height - y) // down)) for x, y, across, down in grid
        )
        # A small image leaves some passes empty, and these have no filter bytes either.
        return [(1 + -(-w * bits // 8), h) for w, h in sizes if w > 0 and h > 0]


def chunks_of(view: memoryview) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, start, end) of the payload of each chunk, IEND included and last."""
    pos, size = len(SIGNATURE), len(view)
    for _ in range(_MAX_CHUNKS):
        if pos + 12 > size:  # length, type and checksum of an empty chunk
            raise Truncated("PNG")
        length, kind = CHUNK_HEAD.unpack_from(view, pos)
        end = pos + 8 + length
        if end + 4 > size:
            raise Truncated("PNG")
        yield kind, pos + 8, end
        if kind == b"IEND":
            return
        pos = end + 4
    raise damaged("PNG", f"it has more than {_MAX_CHUNKS:,} chunks; no program writes that many")


def _checked(view: memoryview) -> Iterator[tuple[bytes, int, int]]:
    """Yield the chunks of a PNG, each after its checksum was found right."""
    for kind, start, end in chunks_of(view):
        # The CRC is over type and payload, not over the length (section 5.5).
        if zlib.crc32(view[start - 4 : end]) != _WORD.unpack_from(view, end)[0]:
            raise damaged(
                "PNG", f"the checksum of chunk {_name(kind)} at byte {start - 8} is wrong"
            )
        yield kind, start, end


class _Walk:
    """Checks the order of a PNG's chunks, and the frames of an APNG and their sequence.

    ``frames`` is the number in acTL, 0 without one. An acTL after the image data does not count
    (section 11.3.6.1). Without an acTL, fcTL and fdAT are not allowed: browsers show nothing of
    such a file.
    """

    def __init__(self, view: memoryview, header: Header, max_pixels: int) -> None:
        self._view = view
        self._header = header
        self._max_pixels = max_pixels
        self._palette_seen = False
        self._colours_seen = False  # whether a cICP of the right length came
        self._data_end = 0  # of the last IDAT; 0 before the first one
        self._controls = 0  # how many fcTL so far
        self._sequence = 0  # the next number of fcTL and fdAT, which share one sequence
        self._frame_has_data = True  # whether the last fcTL had data after it
        self._takes_frame_data = False  # whether fdAT may come now
        self.frames = 0

    def take(self, kind: bytes, start: int, end: int) -> None:
        """Check the next chunk, whose payload is from ``start`` to ``end``."""
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
            case b"bKGD" if self._header.colour == _INDEXED and not self._palette_seen:
                self._background(start, end)
            case b"cICP" if not self._palette_seen and not self._data_end:
                self._colours(start, end)
            # No decoder shows an image with a critical chunk that it does not know (section 5.4).
            case _ if kind != b"IEND" and (not kind[0] & _ANCILLARY or not kind.isalpha()):
                raise damaged(
                    "PNG", f"chunk {_name(kind)} at byte {start - 8} is not allowed there"
                )

    def _palette(self, start: int, end: int) -> None:
        size = end - start
        fits = 0 < size <= 3 * _PALETTE_COLOURS and size % 3 == 0
        if self._palette_seen or self._data_end or not fits:
            raise damaged("PNG", "its palette is not valid")
        self._palette_seen = True

    def _background(self, start: int, end: int) -> None:
        """Refuse a background before its palette (section 5.6): Chromium shows nothing then."""
        if start < end:  # it skips an empty one
            raise damaged("PNG", f"chunk 'bKGD' at byte {start - 8} is not allowed there")

    def _colours(self, start: int, end: int) -> None:
        """Refuse a colour space that is not RGB (section 11.3.2.6), as Chromium does.

        It skips a cICP of another length, a second one, and one after the palette.
        """
        if end - start != _CICP.size or self._colours_seen:
            return
        self._colours_seen = True
        _, _, matrix, full_range = _CICP.unpack(self._view[start:end])
        if matrix or full_range > 1:
            raise damaged("PNG", "its colour space (cICP) is not valid")

    def _data(self, start: int, end: int) -> None:
        if self._header.colour == _INDEXED and not self._palette_seen:
            raise damaged("PNG", "its palette is missing")
        # IDATs follow one another: between two payloads are a checksum, a length and a type.
        if self._data_end not in (0, start - 12):
            raise damaged("PNG", f"the image data is interrupted before byte {start}")
        self._data_end = end
        self._frame_has_data = True

    def _animation(self, start: int, end: int) -> None:
        frames, plays = _ACTL.unpack(self._view[start:end]) if end - start == _ACTL.size else (0, 0)
        if not frames or plays > _LARGEST_INTEGER or self.frames:
            raise damaged("PNG", "its animation control (acTL) is not valid")
        self.frames = frames
        check_pixels(self._header.width, self._header.height, self.frames, self._max_pixels)
        check_frames("PNG", frames)

    def _control(self, start: int, end: int) -> None:
        self._in_sequence(start, end)
        width, height, left, top = frame_size(self._view, start, end)
        canvas = self._header.width, self._header.height
        inside = left + width <= canvas[0] and top + height <= canvas[1]
        # Before IDAT an fcTL describes the frame of the IDAT, which fills the canvas.
        fits = bool(self._data_end) or (width, height) == canvas
        dispose, blend = self._view[start + 24], self._view[start + 25]
        known = dispose <= 2 and blend <= 1  # the operations of section 11.3.6.2
        if not (width and height and inside and fits and known and self._frame_has_data):
            raise damaged("PNG", f"frame {self._controls + 1} is not valid")
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
        """Check what must be complete when the IEND was seen."""
        if not self._data_end:
            raise damaged("PNG", "it holds no image data")
        if self._controls != self.frames or not self._frame_has_data:
            whole = self._controls - (not self._frame_has_data)
            raise damaged("PNG", f"it announces {self.frames} frames and has {whole}")


def _name(kind: bytes) -> str:
    return repr(kind.decode("ascii", "replace"))


def frame_size(view: memoryview, start: int, end: int) -> tuple[int, int, int, int]:
    """Width, height, left and top of an APNG frame, from its fcTL chunk."""
    if end - start != _FCTL_SIZE:
        raise damaged("PNG", f"the frame control at byte {start} is not valid")
    # The first four bytes are the sequence number.
    width, height, left, top = struct.unpack_from(">IIII", view, start + 4)
    return width, height, left, top


def walk(view: memoryview, max_pixels: int) -> ImageInfo:
    """Check that a PNG is whole up to its IEND, and the frames of an APNG in sequence."""
    chunks = _checked(view)
    kind, start, end = next(chunks)
    if kind == b"CgBI":  # Xcode's own variant, without zlib headers: only Apple's software shows it
        raise ApiError(
            "unsupported_format",
            "This is a PNG that was changed for iPhone apps (CgBI). Export it as an ordinary PNG.",
        )
    if kind != b"IHDR" or end - start != _IHDR_SIZE:
        raise damaged("PNG", "it does not begin with a header")
    header = Header.read(view[start:end])
    check_pixels(header.width, header.height, 1, max_pixels)
    seen = _Walk(view, header, max_pixels)
    for kind, start, end in chunks:
        seen.take(kind, start, end)
    seen.finish()
    return ImageInfo("PNG", "png", "image/png", header.width, header.height, seen.frames or 1)
