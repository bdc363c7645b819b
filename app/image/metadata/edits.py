"""What the formats share: changes to a file as edits, and a limit on how much of it is read."""

import struct
import zlib
from collections.abc import Callable, Iterable
from xml.parsers.expat import ExpatError

from app.image.info import check_time

Piece = memoryview | bytes
Edit = tuple[int, int, bytes]
"""Start and stop of a range of the file, and its replacement. Edits come in order and do not
overlap."""

BLOCK_COST, FIELD_COST = 64, 40
"""Bytes charged for each block, and each field of EXIF, besides its own: even an empty one takes
time."""

_MOST_READ = 8 << 20
"""Bytes of metadata that are read in one file; real files have a few MB at most. The rest is
removed unread. This limits the time that a file can cost to about a second."""

_MOST_PIECES = 1000
"""More pieces are joined: each takes memory, and a file may have a million comments."""


class UnreadableError(ValueError):
    """A block breaks the rules of its kind, so nobody can tell what is in it."""


# What the filters raise for damaged blocks; any other error is a fault of this program.
_UNREADABLE = (ValueError, IndexError, struct.error, zlib.error, ExpatError)


class Effort:
    """Limits the work on one file: the bytes that are read, and the time."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self.left = _MOST_READ

    def another(self) -> "Effort":
        """A second limit of the same size, with the same deadline."""
        return Effort(self._deadline)

    def take(self, size: int) -> None:
        """Charge ``size`` bytes before they are read; UnreadableError beyond the limit."""
        self.check_time()
        self.left -= size
        if self.left < 0:
            raise UnreadableError("more metadata than is read of one file")

    def check_time(self) -> None:
        """Raise ``overloaded`` after the deadline."""
        check_time(self._deadline)


Filter = Callable[[bytes, Effort], bytes]
"""Returns what is left of a block: all, a part, or nothing. May raise what ``readable`` catches."""


def readable(block_filter: Filter, data: bytes, effort: Effort) -> bytes:
    """Apply the filter to a block; a block that cannot be read leaves nothing."""
    try:
        return block_filter(data, effort)
    except _UNREADABLE:
        return b""


def applied(view: memoryview, edits: Iterable[Edit], effort: Effort) -> tuple[Piece, ...]:
    """Apply the edits to the file; return its pieces, or ``(view,)`` where there are no edits."""
    joined: list[Piece] = []
    pieces: list[Piece] = []
    done = 0
    for start, stop, new in edits:
        effort.check_time()
        if start > done or new:  # not for edits side by side that only remove
            pieces += (view[done:start], new)
        done = stop
        if len(pieces) > _MOST_PIECES:
            joined.append(b"".join(pieces))
            pieces.clear()
    if not done:  # no edit: none stops at byte 0
        return (view,)
    pieces.append(view[done:])
    return tuple(piece for piece in joined + pieces if len(piece))
