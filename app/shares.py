"""A bounded amount of something in this process, shared out by API key.

Who takes much waits behind itself and not in front of others: each key has a queue of its own,
queues take turns, and no key ever holds more than its share. Knows no Flask and no Redis, and
waits as ``threading`` does, so that it holds for threads and for greenlets alike.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from app.errors import too_many_at_once, unavailable


@dataclass(eq=False, slots=True)
class _Request:
    amount: float
    granted: threading.Event = field(default_factory=threading.Event)


class Shares:
    """``total`` of ``what``, of which each key may hold ``share`` at once.

    What is larger than ``share`` counts as ``share``, so that something is always left for
    others. A small request passes a larger one for which there is no room yet.
    """

    def __init__(self, what: str, *, total: float, share: float) -> None:
        self._what, self._total, self._share = what, total, min(share, total)
        self._lock = threading.Lock()
        self._held: dict[str, float] = {}
        self._queues: dict[str, deque[_Request]] = {}  # whose turn it is first
        self.in_use: float = 0

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        with self._lock:
            return sum(map(len, self._queues.values()))

    @contextmanager
    def taken(self, key: str, amount: float = 1, until: float = 0) -> Iterator[None]:
        """Hold ``amount`` for the key; wait for it until then (of ``time.monotonic()``) at most.

        Raises the 429 ``too_many_at_once`` when it was the key's own share that did not suffice,
        and the 503 ``overloaded`` when others have the rest.
        """
        request = _Request(min(amount, self._share))
        with self._lock:
            self._queues.setdefault(key, deque()).append(request)
            self._grant()
        try:
            left = min(until - time.monotonic(), threading.TIMEOUT_MAX)
            if not request.granted.wait(max(left, 0)):
                self._refuse(key, request)
            yield
        finally:
            self._leave(key, request)

    def _grant(self) -> None:
        """Let in whoever fits, one of each key in turn."""
        while (found := next(self._fitting(), None)) is not None:
            key, request = found
            queue = self._queues.pop(key)
            queue.remove(request)
            if queue:
                self._queues[key] = queue  # behind all others
            self._held[key] = self._held.get(key, 0) + request.amount
            self.in_use += request.amount
            request.granted.set()

    def _fitting(self) -> Iterator[tuple[str, _Request]]:
        for key, queue in self._queues.items():
            room = min(self._share - self._held.get(key, 0), self._total - self.in_use)
            yield from ((key, request) for request in queue if request.amount <= room)

    def _refuse(self, key: str, request: _Request) -> None:
        with self._lock:
            if request.granted.is_set():  # just as the time was over
                return
            held = self._held.get(key, 0)
            own = held + request.amount > self._share
            cause = f"{held:.0f} of {self.in_use:.0f} {self._what} are of this key"
        raise too_many_at_once(cause) if own else unavailable("overloaded", cause)

    def _leave(self, key: str, request: _Request) -> None:
        with self._lock:
            if request.granted.is_set():
                self.in_use -= request.amount
                self._held[key] -= request.amount
                if not self._held[key]:
                    del self._held[key]
            else:
                self._queues[key].remove(request)
                if not self._queues[key]:
                    del self._queues[key]
            self._grant()
