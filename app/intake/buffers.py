"""Buffers for the bodies of requests: reused, and within a limit of memory."""

import threading
from collections import Counter

from app.errors import ApiError, too_many_at_once, unavailable

SMALLEST = 32 * 1024
"""Bytes of the smallest buffer. Each body starts with one and grows."""

_LARGEST = 15 * 1024 * 1024 + 512 * 1024  # a file of the largest size, and the form around it
# Freed buffers that are kept: enough for the next bodies, and little memory after a burst.
_IDLE_BUFFERS = 8
_IDLE_BYTES = 16 * 1024 * 1024
ROOM_SECONDS = 15.0
"""How long a body waits for room before its request is refused: a store with a busy disk needs
this long for 32 uploads of 15 MiB."""


class BufferPool:
    """Buffers for bodies: reused, and about ``limit`` bytes in memory at most.

    One API key gets at most seven eighths of the limit, so that a client that sends much and then
    falls silent leaves room for others. It always gets enough for one body. A body for which
    there is no room waits up to ``wait`` seconds, because most bodies end within that time.

    Buffers grow while their bodies arrive, and bodies that have half arrived could wait for each
    other. So one buffer at a time may grow without being counted: its body ends, and frees room.
    """

    def __init__(self, limit: int, *, wait: float = ROOM_SECONDS) -> None:
        self._limit = limit
        self._share = max(limit * 7 // 8, min(limit, _LARGEST))
        self._wait = wait
        self._lock = threading.Condition()
        self._idle: list[bytearray] = []
        self._owners: dict[int, str] = {}  # the key of each buffer in use, by its id()
        self._held: Counter[str] = Counter()
        self._uncounted: bytearray | None = None  # the one that may grow beyond the limit
        self.in_use = 0

    def take(self, size: int, key: str = "") -> bytearray:
        """A buffer of at least ``size`` bytes for the API key with this id.

        When no room is freed in time: raises the 429 ``too_many_at_once`` if the pool has room
        but this key has its whole share already, else the 503 ``overloaded``.
        """
        return self._take(size, key)

    def grow(self, buffer: bytearray, size: int) -> bytearray:
        """Replace a taken buffer with a larger one that holds the same bytes."""
        larger = self._take(size, self._owners[id(buffer)], grown=buffer)
        larger[: len(buffer)] = buffer
        with self._lock:
            self._keep(buffer)
        return larger

    def give_back(self, buffer: bytearray) -> None:
        """Return a buffer. The pool keeps a few for the next bodies, 16 MiB at most."""
        with self._lock:
            if buffer is self._uncounted:
                self._uncounted = None
            else:
                self._charge(self._owners[id(buffer)], -len(buffer))
            self._keep(buffer)
            self._lock.notify_all()

    def _take(self, size: int, key: str, *, grown: bytearray | None = None) -> bytearray:
        size = _round_up(size)
        # A buffer that grows is replaced, so its own bytes count as room for the larger one.
        counted = 0 if grown is None or grown is self._uncounted else len(grown)

        def room() -> int:
            return min(self._limit - self.in_use, self._share - self._held[key]) + counted

        def may_go_uncounted() -> bool:
            return grown is not None and (self._uncounted is None or self._uncounted is grown)

        with self._lock:
            possible = size <= self._share  # else no wait can help
            if not possible or not self._lock.wait_for(
                lambda: size <= room() or may_go_uncounted(), self._wait
            ):
                raise self._refusal(key, size - counted)
            uncounted = size > room() or (grown is not None and grown is self._uncounted)
            # A reused buffer may be larger than asked for, but not larger than the room.
            buffer = self._from_idle(size, max(size, room())) or bytearray(size)
            if uncounted:
                self._uncounted = buffer
                self._lock.notify_all()  # the bytes that it was counted with are room for others
            self._charge(key, -counted if uncounted else len(buffer) - counted)
            self._trim()
        self._owners[id(buffer)] = key
        return buffer

    def _charge(self, key: str, size: int) -> None:
        self.in_use += size
        self._held[key] += size
        if not self._held[key]:
            del self._held[key]

    def _refusal(self, key: str, size: int) -> ApiError:
        cause = f"{self._held[key]} of {self.in_use} bytes of bodies in memory are of this key"
        pool_has_room = size <= self._limit - self.in_use
        return too_many_at_once(cause) if pool_has_room else unavailable("overloaded", cause)

    def _from_idle(self, size: int, most: int) -> bytearray | None:
        """The smallest idle buffer that fits; not over twice the size, which would waste memory."""
        fitting = [idle for idle in self._idle if size <= len(idle) <= min(2 * size, most)]
        buffer = min(fitting, key=len, default=None)
        self._idle = [idle for idle in self._idle if idle is not buffer]
        return buffer

    def _keep(self, buffer: bytearray) -> None:
        del self._owners[id(buffer)]
        self._idle.append(buffer)
        self._trim()

    def _trim(self) -> None:
        """Free idle buffers, the oldest first, where there are many or bodies need the room."""
        room = min(_IDLE_BYTES, self._limit - self.in_use)
        while len(self._idle) > _IDLE_BUFFERS or sum(map(len, self._idle)) > room:
            del self._idle[0]


def _round_up(size: int) -> int:
    """Round up, above 2 MiB by at most a 64th: buffers of few sizes fit other bodies too."""
    step = max(SMALLEST, 1 << max(0, size.bit_length() - 7))
    return -(-size // step) * step
