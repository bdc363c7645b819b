"""Metadata of pictures by policy: what nobody should see goes, and no pixel is touched.

``strip()`` finds the blocks of a file that its policy does not let pass, and gives the file anew
in pieces: the coded data is the same memory as before, never a copy. Each format has a module
that knows where blocks stand (``jpeg``, ``png``, ``gif``, ``webp``), each kind of block one that
knows what stands in it (``exif``, ``xmp``, ``photoshop``). What cannot be read is left out whole:
in doubt nothing stays. docs/privacy.md has the table.
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
    """A file as a policy lets it pass: its bytes in pieces, how many they are, their SHA-256."""

    policy: str
    pieces: tuple[Piece, ...]
    size: int
    sha256: str


def strip(view: memoryview, info: ImageInfo, policy: str, sha256: str, deadline: float) -> Stripped:
    """The file ``view``, which the gate found to be ``info``, as ``policy`` lets it pass.

    ``sha256`` (hex) is its own, which holds for ``view`` itself where nothing has to go. Raises
    the 503 ``overloaded`` after ``deadline`` (of ``time.monotonic()``) or without memory, and
    ``corrupt_image`` for a WebP whose lengths contradict each other, which libwebp may not mind.
    """
    try:
        pieces = pieces_of(view, info, policy, deadline)
    except MemoryError:
        raise unavailable("overloaded", "out of memory while metadata was read") from None
    if pieces[0] is view:
        return Stripped(policy, pieces, len(view), sha256)
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return Stripped(policy, pieces, sum(map(len, pieces)), digest.hexdigest())


def pieces_of(view: memoryview, info: ImageInfo, policy: str, deadline: float) -> tuple[Piece, ...]:
    """The pieces of ``strip``, without their SHA-256."""
    if policy == KEEP:
        return (view,)
    effort = Effort(deadline)
    return applied(view, _FORMATS[info.format](view, info, policy == MINIMAL, effort), effort)
