"""The structure of a JPEG (ITU-T T.81): segments and scans, up to EOI.

Of an MPO the first picture is the image; the others are bytes after its end.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from app.errors import ApiError
from app.image.info import ImageInfo, Truncated, check_pixels, damaged

SOF_MARKERS = frozenset((0xC0, 0xC1, 0xC2, 0xC9, 0xCA))
"""Frames that are decoded: baseline, extended and progressive, Huffman and arithmetic."""

PROGRESSIVE_MARKERS = frozenset((0xC2, 0xCA))
SOS, EOI = 0xDA, 0xD9
_DRI = 0xDD
_TABLES = frozenset((0xC4, 0xCC, 0xDB))  # Huffman, arithmetic, quantization
_FOREIGN_FRAMES = frozenset((0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7))
_METADATA = frozenset((*range(0xE0, 0xF0), 0xFE, 0xDC))
"""What decoders skip: application segments, comments, and DNL."""

RESTARTS = range(0xD0, 0xD8)
_WITHOUT_LENGTH = frozenset((0x01, *RESTARTS))
_KNOWN = SOF_MARKERS | _FOREIGN_FRAMES | _TABLES | _METADATA | {_DRI, SOS}
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # begins with a literal: 20 x faster
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_RESYNC = frozenset((1, 2, 6, 7))
"""By so much, of eight, a restart marker may not differ from the one that is due."""

_MAX_TABLES = 8_000  # bytes; all that there can be at once are 3,000
_MAX_SIDE = 65_500  # of libjpeg
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

    Between two segments there may be anything, as in libjpeg (jdmarker.c), which goes on to the
    next marker; so a metadata segment that is longer than it says does no harm. The entropy-coded
    data of a scan follows the payload of its SOS. Bytes after EOI (the further pictures of an MPO)
    are not looked at.
    """
    pos = 2
    for _ in range(_MAX_SEGMENTS):
        match = _MARKER.search(view, pos)
        if match is None:
            raise Truncated("JPEG")
        pos = match.end()
        marker = view[pos - 1]
        if marker == EOI:
            yield EOI, pos, pos
            return
        if marker in _WITHOUT_LENGTH:
            continue
        if marker not in _KNOWN:
            raise damaged("JPEG", f"at byte {pos - 2} there is something that has no place there")
        end = _end_of_segment(view, marker, pos)
        yield marker, pos + 2, end
        pos = end
        if marker == SOS:
            match = _END_OF_SCAN.search(view, pos)
            if match is None:
                raise Truncated("JPEG")
            pos = match.start()
    raise damaged("JPEG", f"it has more than {_MAX_SEGMENTS:,} segments")


def _end_of_segment(view: memoryview, marker: int, pos: int) -> int:
    """Where the segment ends whose length stands at ``pos``."""
    if pos + 2 > len(view):
        raise Truncated("JPEG")
    length = view[pos] << 8 | view[pos + 1]
    if length < 2 and marker not in _METADATA:  # its own two bytes
        raise damaged("JPEG", f"the length at byte {pos} is impossible")
    end = pos + max(length, 2)
    if end > len(view):
        raise Truncated("JPEG")
    return end


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

    That is all metadata, all that stands between segments, and the spectral selection of a
    sequential scan, which decoders ignore and some Samsung phones leave empty.
    """
    pieces: list[bytes | memoryview] = [b"\xff\xd8"]
    progressive = False
    for (marker, start, end), (following, next_start, _) in pairwise(segments(view)):
        progressive = progressive or marker in PROGRESSIVE_MARKERS
        if marker == SOS:
            stop = next_start - (2 if following == EOI else 4)
            selection = view[end - 3 : end] if progressive else b"\x00\x3f\x00"
            pieces += [view[start - 4 : end - 3], selection, view[end:stop]]
        elif marker not in _METADATA:
            pieces.append(view[start - 4 : end])
    return b"".join((*pieces, b"\xff\xd9"))


def intervals(view: memoryview) -> Iterator[tuple[bytes, Frame]]:
    """The restart intervals of a sequential picture in one scan, each as a JPEG of its own.

    Raises ``damaged`` where a decoder would not show what each of them holds: where there are too
    few, or where markers are misnumbered so that libjpeg skips an interval or leaves one out
    (``jpeg_resync_to_restart``).
    """
    head, frame, every, scan = _one_scan(view)
    unit = _unit(frame)
    across = -(-frame.width // unit[0])
    total = across * -(-frame.height // unit[1])
    count = -(-total // every)
    marks = [*_RESTART.finditer(view, *scan)]
    if not count - 1 <= len(marks) <= count or count > _MAX_SEGMENTS:
        raise damaged("JPEG", "restart markers are missing, or there are too many")
    start = scan[0]
    for number in range(count):
        stop, after = marks[number].span() if number < len(marks) else (scan[1], scan[1])
        if number < len(marks) and (view[after - 1] - number) & 7 in _RESYNC:
            raise damaged("JPEG", f"the restart marker at byte {stop} is not the next one")
        width, height = _sides(min(every, total - number * every), across, unit)
        struct.pack_into(">HH", head, frame.height_at, height, width)
        part = replace(frame, width=width, height=height)
        yield b"".join((head, view[start:stop], b"\xff\xd9")), part
        start = after


def _one_scan(view: memoryview) -> tuple[bytearray, Frame, int, tuple[int, int]]:
    """What stands before the only scan's data, without its DRI, and where that data is.

    Also the frame header, its place in what is given, and the units of a restart interval.
    """
    head = bytearray(b"\xff\xd8")
    frame: Frame | None = None
    every = 0
    for (marker, start, end), (following, next_start, _) in pairwise(segments(view)):
        if marker == _DRI and end - start == 2:
            every = view[start] << 8 | view[start + 1]
        elif marker in SOF_MARKERS:
            frame = replace(frame_header(view, marker, start, end), height_at=len(head) + 5)
        if marker not in (_DRI, *_METADATA):
            head += view[start - 4 : end]
        if len(head) > _MAX_TABLES:  # they are read for each interval
            break
        if marker == SOS:
            whole = frame is not None and view[start] == len(frame.components)
            if frame is None or not whole or frame.marker in PROGRESSIVE_MARKERS or not every:
                break
            return head, frame, every, (end, next_start - (2 if following == EOI else 4))
    raise damaged("JPEG", "its coded data does not make sense")


def _unit(frame: Frame) -> tuple[int, int]:
    """Width and height in pixels of what is coded at once (MCU; T.81, A.2)."""
    if len(frame.components) == 1:
        return 8, 8
    return 8 * max(h for _, h, _ in frame.components), 8 * max(v for *_, v in frame.components)


def _sides(units: int, across: int, unit: tuple[int, int]) -> tuple[int, int]:
    """Width and height of a picture of so many units, in one row or in whole rows."""
    if units * unit[0] <= _MAX_SIDE:
        return units * unit[0], unit[1]
    if units % across == 0:
        return across * unit[0], units // across * unit[1]
    raise damaged("JPEG", "its coded data does not make sense")


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


def without_gaps(view: memoryview, before: int, count: int) -> bytes:
    """The file without equal bytes between a scan and the marker ``before``.

    Of up to 16 as many as a decoder left over, of more all but two. Raises ``damaged`` where no
    scan ends with so many.
    """
    pieces: list[memoryview] = []
    at = 0
    for (marker, _, end), (following, next_start, _) in pairwise(segments(view)):
        if marker == SOS and following == before:
            stop = next_start - 4
            data = bytes(view[end:stop])
            run = len(data) - len(data.rstrip(data[-1:]))
            if run >= count:
                gap = count if count <= _STRAY_BYTES else run - _LEFT_OF_FILLER
                pieces.append(view[at : stop - gap])
                at = stop
    if not pieces:
        raise damaged("JPEG", f"there are {count} bytes too many between two of its scans")
    return b"".join((*pieces, view[at:]))
