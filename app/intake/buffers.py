"""Buffers for bodies: reused, and never more than a limit of them in memory."""

import threading

from app.errors import unavailable

SMALLEST = 32 * 1024
"""Bytes of the smallest buffer: what a body begins with."""

_IDLE_BUFFERS = 8
_IDLE_BYTES = 16 * 1024 * 1024
ROOM_SECONDS = 8.0
"""How long a body waits for room before it is answered that the service is full."""


class BufferPool:
    """Buffers for bodies: reused, and never more than ``limit`` bytes of them in memory.

    A body for which there is no room waits up to ``wait`` seconds: most bodies end within these.
    """

    def __init__(self, limit: int, *, wait: float = ROOM_SECONDS) -> None:
        self._limit = limit
        self._wait = wait
        self._lock = threading.Condition()
        self._idle: list[bytearray] = []
        self.in_use = 0

    def take(self, size: int) -> bytearray:
        """A buffer of at least ``size`` bytes; the 503 ``overloaded`` when no room comes free."""
        return self._take(size, instead_of=0)

    def grow(self, buffer: bytearray, size: int) -> bytearray:
        """A larger buffer with the same bytes, in place of one that was taken."""
        larger = self._take(size, instead_of=len(buffer))
        larger[: len(buffer)] = buffer
        with self._lock:
            self._keep(buffer)
        return larger

    def give_back(self, buffer: bytearray) -> None:
        """Return a buffer; a few are kept for the next bodies, 16 MiB at most."""
        with self._lock:
            self.in_use -= len(buffer)
            self._keep(buffer)
            self._lock.notify_all()

    def _take(self, size: int, *, instead_of: int) -> bytearray:
        size = _round_up(size)

        def fits() -> bool:
            return size <= self._limit - self.in_use + instead_of

        with self._lock:
            if size > self._limit or not self._lock.wait_for(fits, self._wait):
                raise unavailable("overloaded", f"{self.in_use} bytes of bodies in memory")
            room = self._limit - self.in_use + instead_of
            buffer = self._from_idle(size, room)
            self.in_use += (size if buffer is None else len(buffer)) - instead_of
            self._trim()
        return bytearray(size) if buffer is None else buffer

    def _from_idle(self, size: int, most: int) -> bytearray | None:
        fitting = [idle for idle in self._idle if size <= len(idle) <= min(2 * size, most)]
        buffer = min(fitting, key=len, default=None)
        self._idle = [idle for idle in self._idle if idle is not buffer]
        return buffer

    def _keep(self, buffer: bytearray) -> None:
        self._idle.append(buffer)
        self._trim()

    def _trim(self) -> None:
        """Idle buffers are few, and none where the bodies in use need the room."""
        room = min(_IDLE_BYTES, self._limit - self.in_use)
        while len(self._idle) > _IDLE_BUFFERS or sum(map(len, self._idle)) > room:
            del self._idle[0]


def _round_up(size: int) -> int:
    """By a 64th at most, so that buffers fit the next body too."""
    step = max(SMALLEST, 1 << max(0, size.bit_length() - 7))
    return -(-size // step) * step
