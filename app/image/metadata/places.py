"""Where a text or the name of a field tells a position."""

import re

_NAME = re.compile(
    r"gps|longt?itude|(?<!speed)latitude|altitude|coordinate|maker_?note|^spatial$|thumbnail"
    r"|geo(?:location|tag|point|hash|data|[^a-z]|$)|shotlocation"
    r"|(?<!authors)(?<!com)(?<!dis)position(?!ing)",
    re.IGNORECASE,
)
"""Of fields that programs fill in, of maker notes and of pictures within the metadata, which have
metadata of their own. A film's latitude, ``YCbCrPositioning``, ``composition`` and ``geometry``
are about the picture, and ``AuthorsPosition`` is a post in an office."""

_TEXT = re.compile(
    rb"(?:gps[a-z]{0,16}|latitude|longt?itude|(?<![a-z])(?:lat|long?|lng|geo))"
    rb"[\"'\s]{0,9}[:=>][\"'\s]{0,9}[-+]?\d"
    rb"|[-+]\d{1,2}\.\d{3,15}[-+]\d{1,3}\.\d{3}",
    re.IGNORECASE,
)
"""Coordinates as programs write them into comments (``"lat": 48.1``, ``GPSLatitude=48``,
ISO 6709). A person's sentence that names a place is no such text."""

_LONGEST_TEXT = 1 << 20
"""Bytes; a search holds the interpreter's lock, up to a tenth of a second for that many."""


def in_name(name: str) -> bool:
    """Whether a field of this name holds a position."""
    return _NAME.search(name) is not None


def in_text(text: bytes) -> bool:
    """Whether a text tells coordinates; in UTF-16 too. So does one too long to look at."""
    return len(text) > _LONGEST_TEXT or _TEXT.search(text.replace(b"\0", b"")) is not None
