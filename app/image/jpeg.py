"""The structure of a JPEG (ITU-T T.81): segments and scans, up to EOI.

Of an MPO (CIPA DC-007) the first picture is the image; the others are bytes after its end.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from app.errors import ApiError
from app.image.info import ImageInfo, Truncated, check_pixels, damaged

# Markers (T.81, table B.1). Each is preceded by a byte FF.
SOF_MARKERS = frozenset((0xC0, 0xC1, 0xC2, 0xC9, 0xCA))
"""Frame headers that are decoded, SOF0, 1, 2, 9, 10: baseline, extended and progressive, with
Huffman or arithmetic coding."""

PROGRESSIVE_MARKERS = frozenset((0xC2, 0xCA))  # SOF2 and SOF10
# Lossless (SOF3, 11), hierarchical (SOF5 to 7, 13 to 15), and SOF55 of JPEG-LS (T.87).
_FOREIGN_FRAMES = frozenset((0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7))
SOI, EOI, SOS = 0xD8, 0xD9, 0xDA
DHT, DAC, DQT = 0xC4, 0xCC, 0xDB  # Huffman, arithmetic and quantization tables
DNL, DRI, DHP, EXP = 0xDC, 0xDD, 0xDE, 0xDF
APP0, COM = 0xE0, 0xFE
APPLICATIONS = range(APP0, 0xF0)
RESTARTS = range(0xD0, 0xD8)
_TEM = 0x01
_METADATA = frozenset((*APPLICATIONS, COM, DNL))
"""Segments that decoders skip. libjpeg does not support DNL, which gives the height after the
first scan."""

_WITHOUT_LENGTH = frozenset((_TEM, *RESTARTS))
_KNOWN = SOF_MARKERS | _FOREIGN_FRAMES | _METADATA | {DHT, DAC, DQT, DRI, SOS}

START, END = bytes((0xFF, SOI)), bytes((0xFF, EOI))
BAD_DATA = "its image data is not valid"

# FF 00 is a data byte FF in a scan, and more FFs before a marker are filler (T.81, B.1.1.2).
_MARKER = re.compile(rb"\xff[^\x00\xff]")
# Restart markers belong to the scan. Patterns begin with a literal byte: 20 times as fast.
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
# FFs, and markers without length: every decoder skips these between segments.
_FILL = re.compile(rb"(?:\xff[\x01\xd0-\xd7]?)*")

_SKIPPED = frozenset((1, 2, 6, 7))
"""How far a restart marker must not be from the one that is due, modulo 8. At these distances
libjpeg skips an interval or leaves one grey (``jpeg_resync_to_restart`` in jdmarker.c). At 3 to 5
it takes the marker for the one that is due."""

_MAX_TABLES = 8_000
"""Bytes before the only scan of an image with restart intervals. All tables that can exist at once
have 3,000, and the decoder reads these bytes again for each interval."""

_MAX_SIDE = 65_500  # JPEG_MAX_DIMENSION of libjpeg (jmorecfg.h)
_MAX_SEGMENTS = 10_000  # photos have about 20, and up to 3,000 restart intervals
_MAX_SCANS = 300
_MAX_SCAN_PIXELS = 2_000_000_000
"""Scans times pixels: 20 scans at 100 megapixels, twice what encoders write. Each scan costs a
decoder a pass over the whole image, however few bytes it has."""

_STRAY_BYTES = 16
"""Up to this many bytes before a marker may have any value: cameras leave them there. A longer run
must be filler, that is, equal bytes."""

_FILLER_LEFT = 2
"""Equal bytes that may belong to the coded data, so they stay when filler is removed."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A JPEG's frame header: ``components`` are (id, horizontal, vertical sampling).

    ``height_at`` is the position of the height in the file, two bytes, with the width after it.
    """

    marker: int
    height_at: int
    width: int
    height: int
    components: tuple[tuple[int, int, int], ...]

    @property
    def coefficients(self) -> int:
        """How many coefficients libjpeg holds for the whole image: full blocks of 8 x 8 each."""
        across = max(h for _, h, _ in self.components)
        down = max(v for _, _, v in self.components)
        units = -(-self.width // (8 * across)) * -(-self.height // (8 * down))
        return units * 64 * sum(h * v for _, h, v in self.components)


def segments(view: memoryview) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) of the payload of each segment, EOI included and last.

    Any bytes may stand between two segments: like libjpeg (``next_marker`` in jdmarker.c), this
    goes on to the next marker. So a metadata segment that is longer than its length does no harm.
    The coded data of a scan follows the payload of its SOS. Bytes after EOI (the further pictures
    of an MPO) are not read.
    """
    pos = len(START)
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
            raise damaged(
                "JPEG", f"at byte {pos - 2} there is something that does not belong there"
            )
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
    """Return where the segment ends whose length stands at ``pos``."""
    if pos + 2 > len(view):
        raise Truncated("JPEG")
    length = view[pos] << 8 | view[pos + 1]
    # The length includes its own two bytes. A decoder skips metadata whatever its length says.
    if length < 2 and marker not in _METADATA:
        raise damaged("JPEG", f"the length at byte {pos} is not valid")
    end = pos + max(length, 2)
    if end > len(view):
        raise Truncated("JPEG")
    return end


def frame_header(view: memoryview, marker: int, start: int, end: int) -> Frame:
    """Read the frame header (SOF; T.81, B.2.2) whose payload is ``view[start:end]``.

    Raises ApiError: ``unsupported_format`` for a kind that browsers do not show.
    """
    if marker in _FOREIGN_FRAMES:
        raise _unusual_jpeg("lossless or hierarchical")
    head = bytes(view[start:end])
    if len(head) < 6 or len(head) != 6 + 3 * head[5]:
        raise damaged("JPEG", f"the frame header at byte {start} is not valid")
    precision, height, width, count = struct.unpack(">BHHB", head[:6])
    if precision != 8:
        raise _unusual_jpeg(f"{precision}-bit")
    if count not in (1, 3, 4):
        raise _unusual_jpeg(f"{count}-channel")
    if not width or not height:
        raise damaged("JPEG", f"its header says that it has {width} x {height} pixels")
    parts = tuple((head[i], head[i + 1] >> 4, head[i + 1] & 15) for i in range(6, len(head), 3))
    if any(not 1 <= sampling <= 4 for _, *both in parts for sampling in both):
        raise damaged("JPEG", f"the frame header at byte {start} is not valid")
    return Frame(marker, start + 1, width, height, parts)


def _unusual_jpeg(what: str) -> ApiError:
    return ApiError(
        "unsupported_format",
        f"This is a {what} JPEG, which browsers can't show. Export it as an ordinary JPEG.",
    )


def walk(view: memoryview, max_pixels: int) -> ImageInfo:
    """Check that a JPEG is whole up to its EOI; ``frames`` is 1."""
    frame: Frame | None = None
    missing: set[int] = set()  # components that no scan has had yet
    scans = 0
    seen = []
    for marker, start, end in segments(view):
        seen.append((marker, start, end))
        if marker in SOF_MARKERS or marker in _FOREIGN_FRAMES:
            if frame is not None:
                raise damaged("JPEG", f"it has a second frame header at byte {start}")
            frame = frame_header(view, marker, start, end)
            check_pixels(frame.width, frame.height, 1, max_pixels)
            missing = {part[0] for part in frame.components}
        elif marker == SOS:
            if frame is None:
                raise damaged("JPEG", f"at byte {start} a scan comes before the frame header")
            # The ids of the scan's components, every other byte (T.81, B.2.3).
            missing -= set(view[start + 1 : end - 3 : 2])
            scans += 1
            pixels = frame.width * frame.height
            if scans > _MAX_SCANS or (scans > 1 and scans * pixels > _MAX_SCAN_PIXELS):
                raise damaged("JPEG", f"it has {scans} scans or more; no program writes that many")
    if frame is None or missing:
        raise damaged("JPEG", "it ends before all of its colours are there")
    if scans > 1 and frame.marker not in PROGRESSIVE_MARKERS:
        _check_between_scans(view, seen)
    return ImageInfo("JPEG", "jpg", "image/jpeg", frame.width, frame.height, 1, tuple(seen))


def _check_between_scans(view: memoryview, seen: Sequence[tuple[int, int, int]]) -> None:
    """Refuse stray bytes between the tables of two scans of a sequential image.

    Chromium shows nothing of such an image. Stray bytes before the first scan, directly after coded
    data, and after the last scan do no harm.
    """
    strays = 0
    first = next(at for at, (marker, _, _) in enumerate(seen) if marker == SOS)
    for (marker, _, end), (following, start, _) in pairwise(seen[first:]):
        gap = marker_at(following, start) - end
        if marker != SOS and not _FILL.fullmatch(view, end, end + gap):
            strays = gap
        if following == SOS and strays:
            raise strays_between_scans(strays)


def strays_between_scans(count: int) -> ApiError:
    """The refusal of an image in several scans with bytes between these that belong to nothing."""
    return damaged("JPEG", f"there are {count} unexpected bytes between two of its scans")


def plan(view: memoryview) -> tuple[Frame, bool]:
    """The frame header, and whether libjpeg buffers the whole image.

    It does so for several scans: for a progressive image, or when the first scan lacks components.
    """
    frame: Frame | None = None
    for marker, start, end in segments(view):
        if marker in SOF_MARKERS:
            frame = frame_header(view, marker, start, end)
        elif marker == SOS and frame is not None:
            parts = view[start] < len(frame.components)
            return frame, parts or frame.marker in PROGRESSIVE_MARKERS
    raise Truncated("JPEG", 0.0)


def without_metadata(view: memoryview) -> bytes:
    """The file without everything that changes no pixel, though libjpeg may warn of it.

    That is all metadata, and all bytes between segments. The spectral selection of a sequential
    scan is set right: decoders ignore it, and some Samsung phones leave it empty.
    """
    pieces: list[bytes | memoryview] = [START]
    progressive = False
    for (marker, start, end), (following, next_start, _) in pairwise(segments(view)):
        progressive = progressive or marker in PROGRESSIVE_MARKERS
        if marker == SOS:
            stop = marker_at(following, next_start)
            # Ss, Se, and Ah with Al: all 64 coefficients of a block, in full (T.81, B.2.3).
            selection = view[end - 3 : end] if progressive else b"\x00\x3f\x00"
            pieces += [view[start - 4 : end - 3], selection, view[end:stop]]
        elif marker not in _METADATA:
            pieces.append(view[start - 4 : end])
    return b"".join((*pieces, END))


def marker_at(marker: int, start: int) -> int:
    """Where the segment of this marker begins whose payload begins at ``start``."""
    return start - (2 if marker == EOI else 4)  # EOI has no length


def intervals(view: memoryview) -> Iterator[tuple[bytes, Frame]]:
    """Yield the restart intervals of a sequential image in one scan, each as a separate JPEG.

    Decoded by itself, an interval shows whether it lacks data: simplejpeg reports only the first
    warning of a file. Raises ``damaged`` where a decoder would not show every interval: where
    their number is wrong, or a marker has a number that makes libjpeg skip one (``_SKIPPED``).
    """
    head, frame, every, scan = _one_scan(view)
    unit = _mcu(frame)
    across = -(-frame.width // unit[0])
    total = across * -(-frame.height // unit[1])
    count = -(-total // every)
    marks = [*_RESTART.finditer(view, *scan)]
    if not count - 1 <= len(marks) <= count or count > _MAX_SEGMENTS:
        raise damaged("JPEG", "restart markers are missing, or there are too many")
    start = scan[0]
    for number in range(count):
        stop, after = marks[number].span() if number < len(marks) else (scan[1], scan[1])
        if number < len(marks) and (view[after - 1] - number) & 7 in _SKIPPED:
            raise damaged("JPEG", f"the restart marker at byte {stop} is out of sequence")
        width, height = _sides(min(every, total - number * every), across, unit)
        struct.pack_into(">HH", head, frame.height_at, height, width)
        part = replace(frame, width=width, height=height)
        yield b"".join((head, view[start:stop], END)), part
        start = after


def _one_scan(view: memoryview) -> tuple[bytearray, Frame, int, tuple[int, int]]:
    """The parts of an image in one scan, from which each interval's JPEG is made.

    They are: the bytes before the scan's data, without metadata and DRI; the frame header, whose
    ``height_at`` counts in these bytes; the number of MCUs in an interval (DRI; T.81, B.2.4.4);
    and start and end of the scan's data in ``view``. Raises ``damaged`` for any other image.
    """
    head = bytearray(START)
    frame: Frame | None = None
    every = 0
    for (marker, start, end), (following, next_start, _) in pairwise(segments(view)):
        if marker == DRI and end - start == 2:
            every = view[start] << 8 | view[start + 1]
        elif marker in SOF_MARKERS:
            frame = replace(frame_header(view, marker, start, end), height_at=len(head) + 5)
        if marker not in (DRI, *_METADATA):
            head += view[start - 4 : end]
        if len(head) > _MAX_TABLES:
            break
        if marker == SOS:
            whole = frame is not None and view[start] == len(frame.components)
            if frame is None or not whole or frame.marker in PROGRESSIVE_MARKERS or not every:
                break
            return head, frame, every, (end, marker_at(following, next_start))
    raise damaged("JPEG", BAD_DATA)


def _mcu(frame: Frame) -> tuple[int, int]:
    """Width and height in pixels of a minimum coded unit (MCU; T.81, A.2)."""
    if len(frame.components) == 1:  # not interleaved: one block, whatever its sampling (A.2.2)
        return 8, 8
    return 8 * max(h for _, h, _ in frame.components), 8 * max(v for *_, v in frame.components)


def _sides(units: int, across: int, unit: tuple[int, int]) -> tuple[int, int]:
    """Width and height of an image of this many MCUs: in one row, or in rows of ``across`` each."""
    if units * unit[0] <= _MAX_SIDE:
        return units * unit[0], unit[1]
    if units % across == 0:
        return across * unit[0], units // across * unit[1]
    raise damaged("JPEG", BAD_DATA)


def without_filler(view: memoryview, count: int) -> bytes | None:
    """The file without the filler before its EOI; None where ``count`` bytes there are few.

    ``count`` is how many bytes the decoder left over. Raises ``damaged`` where they are many and
    not all equal. The caller decodes the result again: a scan that was overwritten with zeros
    leaves such bytes too, but then lacks data without them.
    """
    if count <= _STRAY_BYTES:
        return None
    end = next(start for marker, start, _ in segments(view) if marker == EOI) - len(END)
    data = bytes(view[:end])
    filler = data[-1:]
    kept = len(data.rstrip(filler)) + _FILLER_LEFT
    if end - kept < count - _STRAY_BYTES:
        raise damaged("JPEG", f"there are {count} unexpected bytes before its end")
    return data[:kept] + END


def without_gaps(view: memoryview, before: int, count: int) -> bytes:
    """The file without the filler between a scan and the marker ``before``.

    ``count`` is how many bytes the decoder left over. Where these are few, exactly they go, else
    the whole run of equal bytes but two. Raises ``damaged`` where no scan ends in such a run.
    """
    pieces: list[memoryview] = []
    at = 0
    for (marker, _, end), (following, next_start, _) in pairwise(segments(view)):
        if marker == SOS and following == before:
            stop = marker_at(following, next_start)
            data = bytes(view[end:stop])
            run = len(data) - len(data.rstrip(data[-1:]))
            if run >= count:
                gap = count if count <= _STRAY_BYTES else run - _FILLER_LEFT
                pieces.append(view[at : stop - gap])
                at = stop
    if not pieces:
        raise strays_between_scans(count)
    return b"".join((*pieces, view[at:]))
