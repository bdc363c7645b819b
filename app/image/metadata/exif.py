"""EXIF (CIPA DC-008): a TIFF structure of directories, and how to rewrite it without some fields.

Nothing is overwritten in place: what stays is written again with new offsets. So bytes to which
nothing points, such as a position whose field was deleted, do not stay behind either.
"""

import struct
from dataclasses import dataclass, field
from typing import NamedTuple, Union

from app.image.metadata import places, thumbnail
from app.image.metadata.edits import FIELD_COST, Effort, UnreadableError

_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}  # byte order and magic number (TIFF 6.0, section 2)
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 129: 1}
"""Bytes of a value of each type (TIFF 6.0, section 2); 129 is text in UTF-8 (Exif 3.0)."""

_HEADER = 8  # byte order, magic number, and the offset of the first directory
_ENTRY = 12  # tag, type, number of values, and the value or its offset
_LONG = 4  # the type of offsets
_TEXT_TYPES = frozenset((2, 129))  # ASCII and UTF-8
_MOST_ENTRIES = 1000
"""Entries of a directory that are read; cameras write some 60."""

# Tags (CIPA DC-008, 4.6; TIFF 6.0).
_EXIF, _INTEROP = 0x8769, 0xA005  # pointers to directories
_THUMBNAIL, _THUMBNAIL_SIZE = 0x201, 0x202  # JPEGInterchangeFormat, and its length
_ORIENTATION, _COLOUR_SPACE, _WIDTH, _HEIGHT = 0x0112, 0xA001, 0xA002, 0xA003
_RESOLUTION = frozenset((0x011A, 0x011B, 0x0128))  # XResolution, YResolution, ResolutionUnit
_GAMMA = 0xA500
_INDEX = 0x0001
"""InteroperabilityIndex: ``R03`` is the only sign of Adobe RGB in a photo without a profile (DCF
2.0)."""

_XP_TEXTS = frozenset(range(0x9C9B, 0x9CA0))  # XPTitle to XPSubject, of Windows, in UTF-16
_TEXT_TAGS = _XP_TEXTS | {0x9286}  # and UserComment: text, though their type is bytes


class _Entry(NamedTuple):
    """A field; its value is a list where the field points to a directory."""

    tag: int
    kind: int
    length: int
    value: Union[bytes, "list[_Entry]"]


@dataclass(frozen=True, slots=True)
class _Kept:
    """The tags that stay, by directory, except where the value is one of the ``defaults``."""

    image: frozenset[int]
    exif: frozenset[int]
    interop: frozenset[int]
    thumbnail: frozenset[int] = frozenset()
    defaults: dict[int, int | bytes] = field(default_factory=dict)


_BASELINE = frozenset((
    *(0x00FE, 0x00FF),  # NewSubfileType, SubfileType
    *(0x0100, 0x0101, 0x0102),  # ImageWidth, ImageLength, BitsPerSample
    *(0x0103, 0x0106, 0x0107),  # Compression, PhotometricInterpretation, Threshholding
    *(0x010D, 0x010E, 0x010F, 0x0110),  # DocumentName, ImageDescription, Make, Model
    *(_ORIENTATION, 0x0115),  # SamplesPerPixel
    *_RESOLUTION,
    *(0x011C, 0x011D),  # PlanarConfiguration, PageName
    *(0x011E, 0x011F, 0x0129),  # XPosition and YPosition on the page, PageNumber
    *(0x012D, 0x0131, 0x0132),  # TransferFunction, Software, DateTime
    *(0x013B, 0x013C),  # Artist, HostComputer
    *(0x013E, 0x013F),  # WhitePoint, PrimaryChromaticities
    *range(0x0211, 0x0215),  # YCbCrCoefficients to ReferenceBlackWhite
    *(0x4746, 0x4749),  # Rating, RatingPercent
    *(0x8298, 0x83BB, 0x8773),  # Copyright, IPTC, ICC profile
    *(_EXIF, 0x882A, 0x9211),  # TimeZoneOffset, ImageNumber
    *_XP_TEXTS,
))  # fmt: skip
_CAMERA = frozenset((
    *(0x829A, 0x829D, 0x8822, 0x8824),  # ExposureTime, FNumber, program, SpectralSensitivity
    *(0x8827, 0x8828, 0x882A, 0x882B),  # ISO, OECF, TimeZoneOffset, SelfTimerMode
    *range(0x8830, 0x8836),  # SensitivityType to ISOSpeedLatitudezzz
    *(0x9000, 0x9003, 0x9004),  # ExifVersion, DateTimeOriginal, DateTimeDigitized
    *(0x9010, 0x9011, 0x9012),  # the offsets of these times from UTC
    *(0x9101, 0x9102),  # ComponentsConfiguration, CompressedBitsPerPixel
    *range(0x9201, 0x920B),  # ShutterSpeedValue to FocalLength
    *(0x9211, 0x9214, 0x9286),  # ImageNumber, SubjectArea, UserComment
    *(0x9290, 0x9291, 0x9292),  # the fractions of seconds of the times
    *range(0x9400, 0x9406),  # Temperature to CameraElevationAngle
    *(0xA000, _COLOUR_SPACE, _WIDTH, _HEIGHT, 0xA004, _INTEROP),  # Flashpix version, sound file
    *(0xA20B, 0xA20C, 0xA20E, 0xA20F, 0xA210),  # FlashEnergy to FocalPlaneResolutionUnit
    *(0xA214, 0xA215, 0xA217),  # SubjectLocation in the picture, ExposureIndex, SensingMethod
    *(0xA300, 0xA301, 0xA302),  # FileSource, SceneType, CFAPattern
    *range(0xA401, 0xA40B),  # CustomRendered to Sharpness
    *(0xA40C, 0xA420),  # SubjectDistanceRange, ImageUniqueID
    *range(0xA430, 0xA43D),  # owner, serial numbers, lens, title, photographer, editors
    *(0xA460, 0xA461, 0xA462, _GAMMA),  # composite images
))  # fmt: skip
_WITHOUT_LOCATION = _Kept(
    image=_BASELINE | _CAMERA - {_INTEROP},  # some programs write everything into one directory
    exif=_CAMERA,
    interop=frozenset((_INDEX, 0x0002, 0x1000, 0x1001, 0x1002)),  # version, related image
    thumbnail=_BASELINE - {_EXIF} | {_THUMBNAIL, _THUMBNAIL_SIZE},
)
"""The fields of the standards. Left out are: GPS (0x8825), maker notes (0x927C, 0xC634), XMP
(0x02BC) and Photoshop's blocks (0x8649) inside EXIF, DeviceSettingDescription (0xA40B), and the
fields of single makers, whose meaning nobody can know."""

_DEFAULTS: dict[int, int | bytes] = {_ORIENTATION: 1, _COLOUR_SPACE: 1, _INDEX: b"R98"}
"""Upright, sRGB, and sRGB again: viewers assume these without the field."""

_MINIMAL_IMAGE = _RESOLUTION | {_ORIENTATION, _EXIF}
_MINIMAL_EXIF = frozenset((_COLOUR_SPACE, _WIDTH, _HEIGHT, _INTEROP, _GAMMA))
_MINIMAL_INTEROP = frozenset((_INDEX,))


def without_location(data: bytes, effort: Effort) -> bytes:
    """A TIFF structure without positions, maker notes, and fields that cannot be read."""
    return _Reader(data, _WITHOUT_LOCATION, effort).rewritten()


def minimal(data: bytes, effort: Effort, size: tuple[int, int]) -> bytes:
    """Orientation, resolution and colour space of a picture of ``size`` pixels.

    A size that differs from the image's own stays: browsers show the image in that size where the
    resolution fits it (the HTML standard's density-corrected dimensions).
    """
    defaults = {**_DEFAULTS, _WIDTH: size[0], _HEIGHT: size[1]}
    kept = _Kept(_MINIMAL_IMAGE, _MINIMAL_EXIF, _MINIMAL_INTEROP, defaults=defaults)
    return _Reader(data, kept, effort).rewritten()


class _Reader:
    """Reads the fields that stay, and notices whether anything is left out."""

    def __init__(self, data: bytes, kept: _Kept, effort: Effort) -> None:
        order = _ORDERS.get(data[:4])
        if order is None:
            raise UnreadableError("no TIFF structure")
        self._data = data
        self._kept = kept
        self._effort = effort
        self._order = order
        self._record = struct.Struct(f"{order}HHI4s")
        self._long = struct.Struct(f"{order}I")
        self._directories: set[int] = set()  # offsets: a directory that is read twice is a loop
        self._read = [(0, _HEADER)]  # ranges of ``data`` to which something points
        self._left_out = False

    def rewritten(self) -> bytes:
        """The structure with the fields that stay: ``data`` itself where all of them do."""
        start = self._long.unpack_from(self._data, 4)[0]
        image, following = self._directory(start, self._kept.image)
        second = self._thumbnail(following) if following else []
        if not self._left_out and self._all_was_read():
            return self._data
        return self._written(image, second) if image else b""

    def _directory(self, start: int, kept: frozenset[int]) -> tuple[list[_Entry], int]:
        """The entries of a directory that stay, and the offset of the directory that follows it.

        Where a directory is longer than its block, or than any program writes it, its first entries
        are read, as browsers do: one of them may turn the picture.
        """
        count = struct.unpack_from(f"{self._order}H", self._data, start)[0]
        if start in self._directories:
            raise UnreadableError("a directory that is read already")
        self._directories.add(start)
        end = start + 2 + _ENTRY * count
        table = self._data[start + 2 : min(end, start + 2 + _ENTRY * _MOST_ENTRIES)]
        self._effort.take(FIELD_COST * len(table) // _ENTRY)
        self._left_out |= len(table) < _ENTRY * count
        self._read.append((start, min(end + 4, len(self._data))))
        entries = []
        for at in range(0, len(table) - _ENTRY + 1, _ENTRY):
            tag, kind, length, inline = self._record.unpack_from(table, at)
            entry = self._entry(tag, kind, length, inline) if tag in kept else None
            if entry is None:
                self._left_out = True
            else:
                entries.append(entry)
        following = self._data[end : end + 4]
        return entries, self._long.unpack(following)[0] if len(following) == 4 else 0

    def _entry(self, tag: int, kind: int, length: int, inline: bytes) -> _Entry | None:
        """A field, or None where it holds a position or a default, or cannot be read."""
        if tag in (_EXIF, _INTEROP):
            inner = self._inner(tag, self._long.unpack(inline)[0])
            return _Entry(tag, _LONG, 1, inner) if inner else None
        value = self._value(_SIZES.get(kind, 0) * length, inline)
        if not value or ((kind in _TEXT_TYPES or tag in _TEXT_TAGS) and places.in_text(value)):
            return None
        number = int.from_bytes(value, "little" if self._order == "<" else "big")
        if self._kept.defaults.get(tag) in (number, value.rstrip(b"\0")):
            return None
        return _Entry(tag, kind, length, value)

    def _value(self, size: int, inline: bytes) -> bytes:
        if size <= 4:
            return inline[:size]
        return self._at(self._long.unpack(inline)[0], size)

    def _at(self, start: int, size: int) -> bytes:
        """A value that stands outside of its directory; nothing where it exceeds the block."""
        if start < _HEADER or start + size > len(self._data):
            return b""
        self._effort.take(size)
        self._read.append((start, start + size))
        return self._data[start : start + size]

    def _inner(self, tag: int, start: int) -> list[_Entry]:
        """The directory at ``start``; nothing of a broken one, nor of one that follows it."""
        try:
            kept = self._kept.exif if tag == _EXIF else self._kept.interop
            entries, following = self._directory(start, kept)
        except (UnreadableError, struct.error):
            return []
        self._left_out |= bool(following)
        return entries

    def _thumbnail(self, start: int) -> list[_Entry]:
        """The directory of the thumbnail, with its JPEG; nothing if that has its own metadata."""
        try:
            entries, following = self._directory(start, self._kept.thumbnail)
            whole = {entry.tag: entry for entry in entries}
            offset, size = (self._number(whole[tag]) for tag in (_THUMBNAIL, _THUMBNAIL_SIZE))
            jpeg = self._at(offset, size)
            if not thumbnail.is_plain(jpeg, self._effort):
                raise UnreadableError("a thumbnail with metadata of its own")
        except (UnreadableError, KeyError, struct.error):
            self._left_out = True
            return []
        self._left_out |= bool(following)
        return [_with_thumbnail(entry, jpeg) for entry in entries]

    def _number(self, entry: _Entry) -> int:
        if entry.kind != _LONG or entry.length != 1 or not isinstance(entry.value, bytes):
            raise UnreadableError("no number")
        return int(self._long.unpack(entry.value)[0])

    def _all_was_read(self) -> bool:
        """Whether the bytes to which nothing points are all zero."""
        done = 0
        for start, stop in sorted(self._read):
            if start > done and self._data[done:start].strip(b"\0"):
                return False
            done = max(done, stop)
        return not self._data[done:].strip(b"\0")

    def _written(self, image: list[_Entry], second: list[_Entry]) -> bytes:
        """The header and both directories, with the link from the first to the second."""
        first = self._table(image, _HEADER)
        follows = _HEADER + len(first) if second else 0
        self._long.pack_into(first, 2 + _ENTRY * len(image), follows)
        head = self._data[:4] + self._long.pack(_HEADER)
        return b"".join((head, first, self._table(second, follows) if second else b""))

    def _table(self, entries: list[_Entry], start: int) -> bytearray:
        """A directory that stands at ``start``, with its values and inner directories after it."""
        table = bytearray(struct.pack(f"{self._order}H", len(entries)))
        values = bytearray()
        place = start + 2 + _ENTRY * len(entries) + 4  # the last four: which directory follows
        for tag, kind, length, value in entries:
            at = place + len(values)
            data = self._table(value, at) if isinstance(value, list) else value
            inline = bytes(data) if len(data) <= 4 else self._long.pack(at)  # "4s" pads with zeros
            table += self._record.pack(tag, kind, length, inline)
            if len(data) > 4:
                values += data
                values += b"\0" * (len(data) & 1)  # values begin at even offsets
        return table + bytes(4) + values


def _with_thumbnail(entry: _Entry, jpeg: bytes) -> _Entry:
    """Replace the old offset of the thumbnail by its bytes: ``_table`` writes the new offset."""
    return entry._replace(value=jpeg) if entry.tag == _THUMBNAIL else entry
