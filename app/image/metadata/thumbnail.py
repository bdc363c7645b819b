"""Thumbnails are JPEGs, and have metadata of their own."""

from app.errors import ApiError
from app.image import jpeg
from app.image.metadata.edits import Effort

_COMMENTS = frozenset((*range(0xE0, 0xF0), 0xFE))
_HARMLESS = (b"JFIF\0", b"Adobe", b"ICC_PROFILE\0")


def is_plain(data: bytes, effort: Effort) -> bool:
    """Whether a thumbnail is a JPEG with nothing to tell but its pixels."""
    effort.take(len(data))
    view = memoryview(data)
    try:
        for marker, start, stop in jpeg.segments(view):
            if marker in _COMMENTS and not data.startswith(_HARMLESS, start, stop):
                return False
            end = stop
    except ApiError:
        return False
    return data.startswith(b"\xff\xd8") and not data[end:].strip(b"\0")
