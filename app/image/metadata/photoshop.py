"""Photoshop's image resources (JPEG APP13). IPTC is one of them, and stays as it is.

Source: Adobe Photoshop File Formats Specification, "Image Resources Section".
"""

import struct

from app.image.metadata import thumbnail
from app.image.metadata.edits import Effort, UnreadableError, readable

# Photoshop's own, and those of other programs (ExifTool's list).
_SIGNATURES = (b"8BIM", b"AgHg", b"DCSR", b"MeSa", b"PHUT")
_PHOTOSHOPS_OWN = range(1000, 3000)  # the image and its paths; above are plug-ins' resources
_WITH_METADATA = frozenset((0x0422, 0x0423, 0x0424))
"""Copies of EXIF (two kinds) and of XMP."""

_THUMBNAILS = frozenset((0x0409, 0x040C))  # of Photoshop 4.0, and of 5.0 and later
_THUMBNAIL_HEAD = 28
"""Bytes before the JPEG of a thumbnail: format, sizes, bits per pixel and planes."""


def without_location(data: bytes, effort: Effort) -> bytes:
    """Keep the resources that are known to hold no position, unchanged, and drop the others."""
    effort.take(len(data))
    kept = []
    pos = 0
    while pos < len(data):
        try:
            number, start, stop = _resource(data, pos)
        except (UnreadableError, struct.error, IndexError):
            if not data[pos:].strip(b"\0"):  # padding
                kept.append(data[pos:])
            break
        end = min(stop + (stop - start & 1), len(data))  # padded to an even length
        if _stays(number, data[start:stop], effort):
            kept.append(data[pos:end])
        pos = end
    return b"".join(kept)


def _resource(data: bytes, pos: int) -> tuple[int, int, int]:
    """The number of the resource at ``pos``, and start and stop of its data.

    A resource is: signature, number (2 bytes), name, size (4 bytes), data. The name is a Pascal
    string, padded to an even length with its length byte.
    """
    if not data.startswith(_SIGNATURES, pos):
        raise UnreadableError("no image resource")
    number = struct.unpack_from(">H", data, pos + 4)[0]
    size_at = pos + 6 + (data[pos + 6] + 2 & ~1)
    start = size_at + 4
    stop = start + struct.unpack_from(">I", data, size_at)[0]
    if stop > len(data):
        raise UnreadableError("a resource that is longer than its block")
    return number, start, stop


def _stays(number: int, payload: bytes, effort: Effort) -> bool:
    if number not in _PHOTOSHOPS_OWN or number in _WITH_METADATA:
        return False
    return number not in _THUMBNAILS or bool(readable(_plain, payload, effort))


def _plain(payload: bytes, effort: Effort) -> bytes:
    return payload if thumbnail.is_plain(payload[_THUMBNAIL_HEAD:], effort) else b""
