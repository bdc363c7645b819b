"""What the formats share: changes to a file as edits, and a bound on what is read of it."""

import struct
import zlib
from collections.abc import Callable, Iterable
from xml.parsers.expat import ExpatError

from app.image.info import check_time

Piece = memoryview | bytes
Edit = tuple[int, int, bytes]
"""Start, stop, and what stands there instead. Edits come in order and do not overlap."""

BLOCK_COST, FIELD_COST = 64, 40
"""What a block counts for beside its bytes, and a field of EXIF: small ones cost time too."""

_MOST_READ = 8 << 20
"""Bytes of metadata of one file that are looked into; real files have a few MB at most. The rest
goes unread: that bounds the time that a file can cost, to about a second."""

_MOST_PIECES = 1000
"""More pieces than that are joined: a file of a million comments would cost memory for each."""


class UnreadableError(ValueError):
    """A block makes no sense, so that nobody can tell what is in it."""


_UNREADABLE = (ValueError, IndexError, struct.error, zlib.error, ExpatError)


class Effort:
    """Bounds what is done for one file: bytes that are read, and time."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self.left = _MOST_READ

    def another(self) -> "Effort":
        """As much once more, until the same moment."""
        return Effort(self._deadline)

    def take(self, size: int) -> None:
        """Count ``size`` bytes that will be read; UnreadableError when that is too much."""
        self.check_time()
        self.left -= size
        if self.left < 0:
            raise UnreadableError("more metadata than is read of one file")

    def check_time(self) -> None:
        """Raise ``overloaded`` when nobody waits any more."""
        check_time(self._deadline)


Filter = Callable[[bytes, Effort], bytes]
"""What is left of a block: all of it, less, or nothing. UnreadableError where it can't be read."""


def readable(block_filter: Filter, data: bytes, effort: Effort) -> bytes:
    """What the filter leaves of a block, and nothing of one that cannot be read."""
    try:
        return block_filter(data, effort)
    except _UNREADABLE:
        return b""


def applied(view: memoryview, edits: Iterable[Edit], effort: Effort) -> tuple[Piece, ...]:
    """The file with its edits, in pieces; ``(view,)`` when there are none."""
    joined: list[Piece] = []
    pieces: list[Piece] = []
    done = 0
    for start, stop, new in edits:
        effort.check_time()
        if start > done or new:
            pieces += (view[done:start], new)
        done = stop
        if len(pieces) > _MOST_PIECES:
            joined.append(b"".join(pieces))
            pieces.clear()
    if not done:
        return (view,)
    pieces.append(view[done:])
    return tuple(piece for piece in joined + pieces if len(piece))
