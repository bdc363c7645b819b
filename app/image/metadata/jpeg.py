"""Metadata of a JPEG: segments for applications (APPn) and comments (COM)."""

import hashlib
import re
import struct
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from app.image.info import ImageInfo
from app.image.jpeg import EOI, SOF_MARKERS, SOS
from app.image.metadata import places, xmp
from app.image.metadata.blocks import EXIF, PHOTOSHOP, XMP, Blocks
from app.image.metadata.edits import Edit, Effort, readable

_OF_THE_PICTURE = SOF_MARKERS | {0xC4, 0xCC, SOS, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF}
_EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/\0"
_GUID = re.compile(rb"HasExtendedXMP\s*(?:=\s*[\"']|>)\s*([0-9A-Fa-f]{32})")
_PART_HEAD = struct.Struct(">32sII")
_LONGEST = 0xFFFF - 2
_COM = 0xFE
_JFIF_SIZE, _ADOBE_SIZE = 14, 12


class _Segment(NamedTuple):
    """One that may go: ``name`` is how it begins where that is known, and ``start`` its key."""

    start: int
    marker: int
    name: bytes
    payload: bytes


_NAMES = {
    0xE0: (b"JFIF\0",),
    0xE1: (EXIF, XMP, _EXTENDED_XMP),
    0xE2: (b"ICC_PROFILE\0",),
    0xEC: (b"Ducky",),
    0xED: (PHOTOSHOP,),
    0xEE: (b"Adobe",),
}
"""The only segments that are looked at. Left out are all others: further pictures (MPF, and the
announcement of a gain map), makers' segments of their own, Content Credentials (JUMBF), whose
signature is over the file as it was."""


def edits(view: memoryview, info: ImageInfo, minimal: bool, effort: Effort) -> Iterator[Edit]:
    """The edits that leave of a JPEG what the policy lets pass, and nothing after its EOI.

    Of several blocks of EXIF viewers read the first one; without it a later one must not turn the
    picture.
    """
    blocks = Blocks(info, effort, minimal=minimal)
    found = [
        _segment(view, *segment)
        for segment in info.segments
        if segment[0] not in _OF_THE_PICTURE and segment[0] != EOI
    ]
    left = {each.start: _written(each.marker, _left(each, blocks)) for each in found}
    left |= {each.start: b"" for each in [each for each in found if each.name == EXIF][1:]}
    if not minimal:
        left |= _photoshop(found, blocks)
        left |= _xmp(found, effort)
    yield from _between(view, info.segments, left)


def _segment(view: memoryview, marker: int, start: int, stop: int) -> _Segment:
    payload = bytes(view[start:stop])
    names = (name for name in _NAMES.get(marker, ()) if payload.startswith(name))
    return _Segment(start, marker, next(names, b""), payload)


def _left(each: _Segment, blocks: Blocks) -> bytes:
    """What is left of the payload of a segment that is a block by itself."""
    payload = each.payload
    if each.marker == _COM or each.name == b"Ducky":
        return b"" if blocks.is_minimal or places.in_text(payload) else payload
    match each.name:
        case b"ICC_PROFILE\0":
            return payload
        case b"JFIF\0":
            return _jfif(payload, thumbnail=not blocks.is_minimal)
        case b"Adobe":
            return payload[:_ADOBE_SIZE]
        case b"Exif\0":
            return blocks.exif(payload)
    return b""


def _written(marker: int, *payloads: bytes) -> bytes:
    """Segments of these payloads; none for an empty one, nor for one that has grown too long."""
    return b"".join(
        bytes((0xFF, marker)) + struct.pack(">H", len(payload) + 2) + payload
        for payload in payloads
        if 0 < len(payload) <= _LONGEST
    )


def _jfif(payload: bytes, *, thumbnail: bool) -> bytes:
    """JFIF with its thumbnail of so many pixels by so many, or without."""
    if len(payload) < _JFIF_SIZE:
        return b""
    if not thumbnail:
        return payload[:12] + b"\0\0"
    return payload[: _JFIF_SIZE + 3 * payload[12] * payload[13]]


def _photoshop(found: Sequence[_Segment], blocks: Blocks) -> dict[int, bytes]:
    """Photoshop's segments one after another are one list of resources, cut where it was long."""
    left: dict[int, bytes] = {}
    for name, run in groupby(found, key=lambda each: each.name):
        if name == PHOTOSHOP:
            segments = list(run)
            whole = b"".join(each.payload[len(name) :] for each in segments)
            resources = blocks.photoshop(whole)
            if resources == whole:
                left |= {each.start: _written(each.marker, each.payload) for each in segments}
            else:
                left[segments[0].start] = _written(0xED, *_chunks(name, resources))
    return left


def _chunks(head: bytes, data: bytes) -> Iterator[bytes]:
    step = _LONGEST - len(head)
    return (head + data[at : at + step] for at in range(0, len(data), step))


def _xmp(found: Sequence[_Segment], effort: Effort) -> dict[int, bytes]:
    """XMP packets, and the extended one that the first of them names; no parts of any other."""
    packets = [each for each in found if each.name == XMP]
    names_another = next((each for each in packets if _GUID.search(each.payload)), None)
    left = {
        each.start: _packet(readable(xmp.without_location, each.payload[len(XMP) :], effort))
        for each in packets
    }
    if names_another is not None:
        parts = [each for each in found if each.name == _EXTENDED_XMP]
        left |= _extended(names_another, parts, effort)
    return left


def _packet(packet: bytes) -> bytes:
    return _written(0xE1, XMP + packet) if packet else b""


def _extended(first: _Segment, parts: Sequence[_Segment], effort: Effort) -> dict[int, bytes]:
    """What is left of a packet and of the extended one that it names; nothing to add without."""
    guid = _GUID.findall(first.payload)[0]
    own = [part for part in parts if part.payload.startswith(guid, len(_EXTENDED_XMP))]
    whole = _joined(own)
    rest = readable(xmp.without_location, whole, effort)
    packet = readable(xmp.announcing, first.payload[len(XMP) :], effort) if rest else b""
    if guid not in packet:
        return {}
    if rest == whole:
        stay = {each.start: _written(0xE1, each.payload) for each in own}
        return stay | {first.start: _packet(packet)}
    new = hashlib.md5(rest, usedforsecurity=False).hexdigest().upper().encode()
    return {
        own[0].start: _written(0xE1, *_parts(new, rest)),
        first.start: _packet(packet.replace(guid, new)),
    }


def _joined(parts: Sequence[_Segment]) -> bytes:
    """An extended packet from its parts; nothing when one is missing."""
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
    """The edits to segments, to strays between them (the rest of a comment), and to the tail.

    Filler between segments (FF, as T.81 allows it, and the zeros of webcams) hides nothing.
    """
    done: int | None = 2
    for marker, start, stop in segments:
        begin = start - (2 if marker == EOI else 4)
        if done is not None and bytes(view[done:begin]).strip(b"\xff\0"):
            yield done, begin, b""
        if (new := left.get(start)) is not None and new != view[begin:stop]:
            yield begin, stop, new
        done = None if marker == SOS else stop  # after it comes coded data
    if stop < len(view):
        yield stop, len(view), b""
