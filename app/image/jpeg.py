"""The structure of a JPEG (ITU-T T.81): segments and scans, up to EOI.

Of an MPO the first picture is the image; the others are bytes after its end.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from app.errors import ApiError
from app.image.info import ImageInfo, Truncated, check_pixels, damaged

SOF_MARKERS = frozenset((0xC0, 0xC1, 0xC2, 0xC9, 0xCA))
"""Frames that are decoded: baseline, extended and progressive, Huffman and arithmetic."""

PROGRESSIVE_MARKERS = frozenset((0xC2, 0xCA))
SOS, EOI = 0xDA, 0xD9
_FOREIGN_FRAMES = frozenset((0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7))
_FOR_APPLICATIONS = frozenset((*range(0xE0, 0xF0), 0xFE))
_NEVER_HERE = frozenset((0x00, 0xD8, *range(0xD0, 0xD8)))
_MARKER = re.compile(rb"\xff+([^\xff])", re.DOTALL)
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # begins with a literal: 20 x faster
_MAX_SEGMENTS = 10_000
_MAX_SCANS = 300
_MAX_SCAN_PIXELS = 2_000_000_000
"""Scans times pixels: 20 scans at 100 megapixels, twice what encoders write. Each scan costs a
decoder a pass over the whole picture, however few bytes it has."""

_STRAY_BYTES = 16
"""So many bytes before EOI may be anything: cameras leave them. More must be filler."""

_LEFT_OF_FILLER = 2


@dataclass(frozen=True, slots=True)
class Frame:
    """A JPEG's frame header: ``components`` are (id, horizontal, vertical sampling)."""

    marker: int
    height_at: int
    width: int
    height: int
    components: tuple[tuple[int, int, int], ...]

    @property
    def coefficients(self) -> int:
        """How many coefficients the whole picture has, edges of blocks included."""
        across = max(h for _, h, _ in self.components)
        down = max(v for _, _, v in self.components)
        units = -(-self.width // (8 * across)) * -(-self.height // (8 * down))
        return units * 64 * sum(h * v for _, h, v in self.components)


def segments(view: memoryview) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) of the payload of each segment, EOI included and last.

    The entropy-coded data of a scan follows the payload of its SOS. Bytes after EOI (the
    further pictures of an MPO) are not looked at.
    """
    pos, size = 2, len(view)
    for _ in range(_MAX_SEGMENTS):
        match = _MARKER.match(view, pos)
        if match is None:
            if all(byte == 0xFF for byte in view[pos : pos + 64]):
                raise Truncated("JPEG")
            raise damaged("JPEG", f"at byte {pos} there is something that has no place there")
        pos = match.end()
        marker = view[pos - 1]
        if marker == EOI:
            yield EOI, pos, pos
            return
        if marker in _NEVER_HERE:
            raise damaged("JPEG", f"at byte {pos} there is something that has no place there")
        length = (view[pos] << 8 | view[pos + 1]) if pos + 2 <= size else 2
        end = pos + length
        if end > size or pos + 2 > size:
            raise Truncated("JPEG")
        if length < 2:  # its own two bytes
            raise damaged("JPEG", f"the length at byte {pos} is impossible")
        yield marker, pos + 2, end
        pos = end
        if marker == SOS:
            match = _END_OF_SCAN.search(view, pos)
            if match is None:
                raise Truncated("JPEG")
            pos = match.start()
    raise damaged("JPEG", f"it has more than {_MAX_SEGMENTS:,} segments")


def frame_header(view: memoryview, marker: int, start: int, end: int) -> Frame:
    """Read the frame header (SOF) whose payload is ``view[start:end]``."""
    if marker in _FOREIGN_FRAMES:
        raise _unusual_jpeg("lossless or hierarchical")
    head = bytes(view[start:end])
    if len(head) < 6 or len(head) != 6 + 3 * head[5]:
        raise damaged("JPEG", f"the frame header at byte {start} is impossible")
    precision, height, width, count = struct.unpack(">BHHB", head[:6])
    if precision != 8:
        raise _unusual_jpeg(f"{precision}-bit")
    if count not in (1, 3, 4):
        raise _unusual_jpeg(f"{count}-channel")
    if not width or not height:
        raise damaged("JPEG", f"it says that it is {width} x {height} pixels")
    parts = tuple((head[i], head[i + 1] >> 4, head[i + 1] & 15) for i in range(6, len(head), 3))
    if any(not 1 <= sampling <= 4 for _, *both in parts for sampling in both):
        raise damaged("JPEG", f"the frame header at byte {start} is impossible")
    return Frame(marker, start + 1, width, height, parts)


def _unusual_jpeg(what: str) -> ApiError:
    return ApiError(
        "unsupported_format",
        f"This is a {what} JPEG, which browsers can't show. Export it as an ordinary JPEG.",
    )


def walk(view: memoryview, max_pixels: int) -> ImageInfo:
    """See that a JPEG is whole up to its EOI; ``frames`` is 1."""
    frame: Frame | None = None
    missing: set[int] = set()
    scans = 0
    seen = []
    for marker, start, end in segments(view):
        seen.append((marker, start, end))
        if marker in SOF_MARKERS or marker in _FOREIGN_FRAMES:
            if frame is not None:
                raise damaged("JPEG", f"a second frame header at byte {start}")
            frame = frame_header(view, marker, start, end)
            check_pixels(frame.width, frame.height, 1, max_pixels)
            missing = {part[0] for part in frame.components}
        elif marker == SOS:
            if frame is None:
                raise damaged("JPEG", f"at byte {start} a scan comes before the frame header")
            missing -= set(view[start + 1 : end - 3 : 2])
            scans += 1
            pixels = frame.width * frame.height
            if scans > _MAX_SCANS or (scans > 1 and scans * pixels > _MAX_SCAN_PIXELS):
                raise damaged("JPEG", f"it has {scans} scans or more, as no program writes them")
    if frame is None or missing:
        raise damaged("JPEG", "it ends before all of its colours came")
    return ImageInfo("JPEG", "jpg", "image/jpeg", frame.width, frame.height, 1, tuple(seen))


def plan(view: memoryview) -> tuple[Frame, bool]:
    """The frame header, and whether libjpeg holds the whole picture (several scans)."""
    frame: Frame | None = None
    for marker, start, end in segments(view):
        if marker in SOF_MARKERS:
            frame = frame_header(view, marker, start, end)
        elif marker == SOS and frame is not None:
            parts = view[start] < len(frame.components)
            return frame, parts or frame.marker in PROGRESSIVE_MARKERS
    raise Truncated("JPEG", 0.0)


def without_metadata(view: memoryview) -> bytes:
    """The file without what a decoder only warns of, and which changes no pixel.

    That is all of the application segments, and the spectral selection of a sequential scan,
    which decoders ignore and some Samsung phones leave empty.
    """
    pieces: list[bytes | memoryview] = [b"\xff\xd8"]
    progressive = False
    for (marker, start, end), (following, next_start, _) in pairwise(segments(view)):
        stop = next_start - (2 if following == EOI else 4)
        progressive = progressive or marker in PROGRESSIVE_MARKERS
        if marker == SOS and not progressive:
            pieces += [view[start - 4 : end - 3], b"\x00\x3f\x00", view[end:stop]]
        elif marker not in _FOR_APPLICATIONS:
            pieces.append(view[start - 4 : stop])
    return b"".join((*pieces, b"\xff\xd9"))


def without_filler(view: memoryview, count: int) -> bytes | None:
    """The file without equal bytes before its EOI; None where ``count`` bytes there are few.

    Raises ``damaged`` where they are many and differ. A scan that was overwritten with zeros
    leaves such bytes too, after a decoder has made a picture of the first of them.
    """
    if count <= _STRAY_BYTES:
        return None
    end = next(start for marker, start, _ in segments(view) if marker == EOI) - 2
    data = bytes(view[:end])
    filler = data[-1:]
    kept = len(data.rstrip(filler)) + _LEFT_OF_FILLER
    if end - kept < count - _STRAY_BYTES:
        raise damaged("JPEG", f"there are {count} bytes too many before its end")
    return data[:kept] + b"\xff\xd9"
