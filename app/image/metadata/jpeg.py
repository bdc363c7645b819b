"""Metadata of a JPEG: application segments (APPn) and comments (COM)."""

import hashlib
import re
import struct
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from app.image.info import ImageInfo
from app.image.jpeg import (
    APP0,
    COM,
    DAC,
    DHP,
    DHT,
    DNL,
    DQT,
    DRI,
    EOI,
    EXP,
    SOF_MARKERS,
    SOS,
    START,
    marker_at,
)
from app.image.metadata import places, xmp
from app.image.metadata.blocks import EXIF, PHOTOSHOP, XMP, Blocks
from app.image.metadata.edits import Edit, Effort, readable

_OF_THE_PICTURE = SOF_MARKERS | {DHT, DAC, SOS, DQT, DNL, DRI, DHP, EXP}
_JFIF, _PROFILE, _DUCKY, _ADOBE = b"JFIF\0", b"ICC_PROFILE\0", b"Ducky", b"Adobe"
# Extended XMP (XMP specification, part 3): the first packet names the MD5 of a second one, which
# comes in parts. A part has a name, that MD5, the length of the whole packet, and an offset in it.
_EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/\0"
_GUID = re.compile(rb"HasExtendedXMP\s*(?:=\s*[\"']|>)\s*([0-9A-Fa-f]{32})")
_PART_HEAD = struct.Struct(">32sII")
_LONGEST = 0xFFFF - 2  # a segment's length is 16 bits and includes itself
_JFIF_SIZE = 14  # JFIF 1.02 without its thumbnail
_ADOBE_SIZE = 12  # with the colour transform last (Adobe TN 5116)


class _Segment(NamedTuple):
    """A segment that may go: ``name`` is how its payload begins, empty where that is unknown."""

    start: int
    marker: int
    name: bytes
    payload: bytes


_APP1, _APP13 = APP0 + 1, APP0 + 13
_NAMES = {
    APP0: (_JFIF,),
    _APP1: (EXIF, XMP, _EXTENDED_XMP),
    APP0 + 2: (_PROFILE,),
    APP0 + 12: (_DUCKY,),  # the quality setting of Photoshop's "Save for Web"
    _APP13: (PHOTOSHOP,),
    APP0 + 14: (_ADOBE,),
}
"""The only application segments that are read. All others are removed: indexes of further pictures
(MPF, gain maps), makers' own segments, and Content Credentials (JUMBF), whose signature is over the
file as it was."""


def edits(view: memoryview, info: ImageInfo, minimal: bool, effort: Effort) -> Iterator[Edit]:
    """Yield the edits that apply the policy to a JPEG, and remove all bytes after its EOI.

    Viewers read the first of several blocks of EXIF. If that one goes, a later one must not turn
    the picture, so all later ones are removed.
    """
    blocks = Blocks(info, effort, minimal=minimal)
    found = [
        _segment(view, *segment)
        for segment in info.segments
        if segment[0] not in _OF_THE_PICTURE and segment[0] != EOI
    ]
    left = {segment.start: _written(segment.marker, _left(segment, blocks)) for segment in found}
    exifs = [segment.start for segment in found if segment.name == EXIF]
    left |= dict.fromkeys(exifs[1:], b"")
    if not minimal:
        left |= _photoshop(found, blocks)
        left |= _xmp(found, effort)
    yield from _between(view, info.segments, left)


def _segment(view: memoryview, marker: int, start: int, stop: int) -> _Segment:
    payload = bytes(view[start:stop])
    names = (name for name in _NAMES.get(marker, ()) if payload.startswith(name))
    return _Segment(start, marker, next(names, b""), payload)


def _left(segment: _Segment, blocks: Blocks) -> bytes:
    """What is left of the payload of a segment that is a block by itself.

    Photoshop's resources and XMP may be in several segments: ``_photoshop`` and ``_xmp`` do these.
    """
    payload = segment.payload
    if segment.marker == COM or segment.name == _DUCKY:
        return b"" if blocks.is_minimal or places.in_text(payload) else payload
    if segment.name == _PROFILE:
        return payload
    if segment.name == _JFIF:
        return _jfif(payload, thumbnail=not blocks.is_minimal)
    if segment.name == _ADOBE:
        return payload[:_ADOBE_SIZE]
    return blocks.exif(payload) if segment.name == EXIF else b""


def _written(marker: int, *payloads: bytes) -> bytes:
    """The segments with these payloads, but none for one that is empty or has become too long."""
    return b"".join(
        bytes((0xFF, marker)) + struct.pack(">H", len(payload) + 2) + payload
        for payload in payloads
        if 0 < len(payload) <= _LONGEST
    )


def _jfif(payload: bytes, *, thumbnail: bool) -> bytes:
    """JFIF with or without its thumbnail, but without bytes after it.

    The last two bytes before the thumbnail are its width and height; a pixel has three bytes.
    """
    if len(payload) < _JFIF_SIZE:
        return b""
    if not thumbnail:
        return payload[: _JFIF_SIZE - 2] + b"\0\0"
    width, height = payload[_JFIF_SIZE - 2 : _JFIF_SIZE]
    return payload[: _JFIF_SIZE + 3 * width * height]


def _photoshop(found: Sequence[_Segment], blocks: Blocks) -> dict[int, bytes]:
    """What is left of Photoshop's segments. Consecutive ones hold one long list of resources."""
    left: dict[int, bytes] = {}
    for name, run in groupby(found, key=lambda segment: segment.name):
        if name == PHOTOSHOP:
            segments = list(run)
            whole = b"".join(segment.payload[len(name) :] for segment in segments)
            resources = blocks.photoshop(whole)
            if resources == whole:
                left |= {
                    segment.start: _written(segment.marker, segment.payload) for segment in segments
                }
            else:
                left[segments[0].start] = _written(_APP13, *_split(name, resources))
    return left


def _split(head: bytes, data: bytes) -> Iterator[bytes]:
    """The data in payloads that fit into a segment, each after ``head``."""
    step = _LONGEST - len(head)
    return (head + data[at : at + step] for at in range(0, len(data), step))


def _xmp(found: Sequence[_Segment], effort: Effort) -> dict[int, bytes]:
    """What is left of the XMP packets, and of the extended packet that one of them names.

    Parts of any other extended packet are removed.
    """
    packets = [segment for segment in found if segment.name == XMP]
    naming = next((segment for segment in packets if _GUID.search(segment.payload)), None)
    left = {
        segment.start: _packet(readable(xmp.without_location, segment.payload[len(XMP) :], effort))
        for segment in packets
    }
    if naming is not None:
        parts = [segment for segment in found if segment.name == _EXTENDED_XMP]
        left |= _extended(naming, parts, effort)
    return left


def _packet(packet: bytes) -> bytes:
    return _written(_APP1, XMP + packet) if packet else b""


def _extended(first: _Segment, parts: Sequence[_Segment], effort: Effort) -> dict[int, bytes]:
    """What is left of a packet and of the extended one that it names.

    Nothing, where the extended packet goes: then the first one must not name it.
    """
    guid = _GUID.findall(first.payload)[0]
    own = [part for part in parts if part.payload.startswith(guid, len(_EXTENDED_XMP))]
    whole = _joined(own)
    rest = readable(xmp.without_location, whole, effort)
    packet = readable(xmp.announcing, first.payload[len(XMP) :], effort) if rest else b""
    if guid not in packet:
        return {}
    if rest == whole:
        stay = {segment.start: _written(_APP1, segment.payload) for segment in own}
        return stay | {first.start: _packet(packet)}
    new = hashlib.md5(rest, usedforsecurity=False).hexdigest().upper().encode()
    return {
        own[0].start: _written(_APP1, *_parts(new, rest)),
        first.start: _packet(packet.replace(guid, new)),
    }


def _joined(parts: Sequence[_Segment]) -> bytes:
    """The extended packet from its parts; nothing where one is missing."""
    at = len(_EXTENDED_XMP)
    ordered = sorted((_PART_HEAD.unpack_from(part.payload, at)[2], part.start, part.payload)
                     for part in parts if len(part.payload) > at + _PART_HEAD.size)  # fmt: skip
    whole = b""
    for offset, _, payload in ordered:
        if offset != len(whole):
            return b""
        whole += payload[at + _PART_HEAD.size :]
    return whole


def _parts(guid: bytes, packet: bytes) -> Iterator[bytes]:
    """The payloads of the segments of an extended packet."""
    step = _LONGEST - len(_EXTENDED_XMP) - _PART_HEAD.size
    for at in range(0, len(packet), step):
        head = _PART_HEAD.pack(guid, len(packet), at)
        yield _EXTENDED_XMP + head + packet[at : at + step]


def _between(
    view: memoryview, segments: Sequence[tuple[int, int, int]], left: dict[int, bytes]
) -> Iterator[Edit]:
    """Yield the edits to segments, to stray bytes between them, and to bytes after EOI.

    Stray bytes may be the rest of a comment. Filler stays: it is FF (T.81, B.1.1.2), or zeros from
    webcams.
    """
    done: int | None = len(START)
    begun = False  # whether a segment before this one stays
    for marker, start, stop in segments:
        begin = marker_at(marker, start)
        gap = b"" if done is None else bytes(view[done:begin])
        # Zeros directly after SOI would hide the format: programs know a JPEG by FF D8 FF.
        if gap.strip(b"\xff\0") or (not begun and gap.startswith(b"\0")):
            yield begin - len(gap), begin, b""
        new = left.get(start)
        if new is not None and new != view[begin:stop]:
            yield begin, stop, new
        begun = begun or new != b""
        done = None if marker == SOS else stop  # coded data follows an SOS
    if stop < len(view):
        yield stop, len(view), b""
