"""Photoshop's image resources (JPEG APP13): IPTC among them, which stays as it is."""

import struct

from app.image.metadata import thumbnail
from app.image.metadata.edits import Effort, UnreadableError, readable

_SIGNATURES = (b"8BIM", b"AgHg", b"DCSR", b"MeSa", b"PHUT")
_PHOTOSHOPS_OWN = range(0x03E8, 0x0BB8)
_WITH_METADATA = frozenset((0x0422, 0x0423, 0x0424))
"""EXIF, EXIF and XMP once more."""

_THUMBNAILS = frozenset((0x0409, 0x040C))
_THUMBNAIL_HEAD = 28


def without_location(data: bytes, effort: Effort) -> bytes:
    """The resources that are known to tell no position, as they are; the rest goes."""
    effort.take(len(data))
    kept = []
    pos = 0
    while pos < len(data):
        try:
            number, start, stop = _resource(data, pos)
        except (UnreadableError, struct.error, IndexError):
            if not data[pos:].strip(b"\0"):
                kept.append(data[pos:])
            break
        end = min(stop + (stop - start & 1), len(data))
        if _stays(number, data[start:stop], effort):
            kept.append(data[pos:end])
        pos = end
    return b"".join(kept)


def _resource(data: bytes, pos: int) -> tuple[int, int, int]:
    """The number of the resource at ``pos``, start and stop of what it holds."""
    if not data.startswith(_SIGNATURES, pos):
        raise UnreadableError("no image resource")
    number = struct.unpack_from(">H", data, pos + 4)[0]
    size_at = pos + 6 + (data[pos + 6] + 2 & ~1)  # the name, of even length with its own
    start = size_at + 4
    stop = start + struct.unpack_from(">I", data, size_at)[0]
    if stop > len(data):
        raise UnreadableError("a resource that sticks out")
    return number, start, stop


def _stays(number: int, payload: bytes, effort: Effort) -> bool:
    if number not in _PHOTOSHOPS_OWN or number in _WITH_METADATA:
        return False
    return number not in _THUMBNAILS or bool(readable(_plain, payload, effort))


def _plain(payload: bytes, effort: Effort) -> bytes:
    return payload if thumbnail.is_plain(payload[_THUMBNAIL_HEAD:], effort) else b""
