"""Removes metadata by policy, and touches no pixel.

``strip()`` finds the blocks of a file that its policy does not allow, and returns the rest of the
file in pieces: these are views of the same memory, so the coded data is never copied. Each format
has a module that knows where blocks stand (``jpeg``, ``png``, ``gif``, ``webp``). Each kind of
block has a module that knows its contents (``exif``, ``xmp``, ``photoshop``). A block that cannot
be read is removed whole, since nobody can tell what is in it. docs/privacy.md has the table.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from app.config import KEEP, MINIMAL
from app.errors import unavailable
from app.image.info import ImageInfo
from app.image.metadata import gif, jpeg, png, webp
from app.image.metadata.edits import Edit, Effort, Piece, applied

__all__ = ["Piece", "Stripped", "pieces_of", "strip"]

_FORMATS: dict[str, Callable[[memoryview, ImageInfo, bool, Effort], Iterator[Edit]]] = {
    "JPEG": jpeg.edits,
    "PNG": png.edits,
    "GIF": gif.edits,
    "WEBP": webp.edits,
}


class Stripped(NamedTuple):
    """A file after its policy was applied: its bytes in pieces, their number, their SHA-256."""

    policy: str
    pieces: tuple[Piece, ...]
    size: int
    sha256: str


def strip(view: memoryview, info: ImageInfo, policy: str, sha256: str, deadline: float) -> Stripped:
    """Apply ``policy`` to the file ``view``, which the gate found to be ``info``.

    ``sha256`` (hex) is that of ``view``, and is returned where nothing is removed. Raises the 503
    ``overloaded`` after ``deadline`` (of ``time.monotonic()``) or when memory runs out, and
    ``corrupt_image`` for a WebP whose lengths contradict each other, though libwebp may accept it.
    """
    try:
        pieces = pieces_of(view, info, policy, deadline)
    except MemoryError:
        raise unavailable("overloaded", "out of memory while metadata was read") from None
    if pieces[0] is view:  # nothing was removed
        return Stripped(policy, pieces, len(view), sha256)
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return Stripped(policy, pieces, sum(map(len, pieces)), digest.hexdigest())


def pieces_of(view: memoryview, info: ImageInfo, policy: str, deadline: float) -> tuple[Piece, ...]:
    """The pieces that ``strip`` returns, without their SHA-256."""
    if policy == KEEP:
        return (view,)
    effort = Effort(deadline)
    return applied(view, _FORMATS[info.format](view, info, policy == MINIMAL, effort), effort)
