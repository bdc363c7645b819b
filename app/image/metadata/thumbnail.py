"""Thumbnails inside EXIF and Photoshop's resources: JPEGs that may have their own metadata."""

from app.errors import ApiError
from app.image import jpeg
from app.image.metadata.edits import Effort

_METADATA = frozenset((*jpeg.APPLICATIONS, jpeg.COM))
_HARMLESS = (b"JFIF\0", b"Adobe", b"ICC_PROFILE\0")  # what a decoder needs


def is_plain(data: bytes, effort: Effort) -> bool:
    """Whether a thumbnail is a JPEG that holds nothing but its pixels."""
    effort.take(len(data))
    view = memoryview(data)
    try:
        for marker, start, stop in jpeg.segments(view):
            if marker in _METADATA and not data.startswith(_HARMLESS, start, stop):
                return False
            end = stop
    except ApiError:
        return False
    # Zeros after the end are padding; anything else could be metadata.
    return data.startswith(jpeg.START) and not data[end:].strip(b"\0")
