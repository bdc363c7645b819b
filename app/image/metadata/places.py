"""Recognizes positions, by the name of a field or in a text."""

import re

_NAME = re.compile(
    r"gps|longt?itude|(?<!speed)latitude|altitude|coordinate|maker_?note|^spatial$|thumbnail"
    r"|geo(?:location|tag|point|hash|data|[^a-z]|$)|shotlocation"
    r"|(?<!authors)(?<!com)(?<!dis)position(?!ing)",
    re.IGNORECASE,
)
"""Names of fields that hold a position, a maker note, or a thumbnail (which may have its own
metadata). Some names only look so: ``ISOSpeedLatitude``, ``YCbCrPositioning``, ``composition`` and
``geometry`` are about the picture, and ``AuthorsPosition`` is a job title."""

_TEXT = re.compile(
    rb"(?:gps[a-z]{0,16}|latitude|longt?itude|(?<![a-z])(?:lat|long?|lng|geo))"
    rb"[\"'\s]{0,9}[:=>][\"'\s]{0,9}[-+]?\d"
    rb"|[-+]\d{1,2}\.\d{3,15}[-+]\d{1,3}\.\d{3}",
    re.IGNORECASE,
)
"""Coordinates as programs write them into comments: ``"lat": 48.1``, ``GPSLatitude=48``, and ISO
6709. A sentence that names a place does not match. The bounds on repeats keep the search linear."""

_LONGEST_TEXT = 1 << 20
"""Bytes. A search holds the interpreter's lock, for up to a tenth of a second at this length."""


def in_name(name: str) -> bool:
    """Whether a field of this name holds a position."""
    return _NAME.search(name) is not None


def in_text(text: bytes) -> bool:
    """Whether a text holds coordinates. A text too long to search counts as one that does.

    Zeros are dropped first, so that text in UTF-16 is found too.
    """
    return len(text) > _LONGEST_TEXT or _TEXT.search(text.replace(b"\0", b"")) is not None
