"""A limited amount of something in one process, shared out by API key.

Each key has its own queue, and the queues take turns. So a key with many requests delays itself
and not the others, and no key ever holds more than its share. Knows no Flask and no Redis. It waits
with ``threading``, which gevent replaces, so it serves threads and greenlets alike.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from app.errors import too_many_at_once, unavailable


@dataclass(eq=False, slots=True)  # eq=False: the same amount does not make two requests equal
class _Request:
    """One wait for ``amount``, since ``since``; ``granted`` is set when the key holds it."""

    amount: float
    since: float = field(default_factory=time.monotonic)
    granted: threading.Event = field(default_factory=threading.Event)


class Shares:
    """``total`` units of ``what``, of which each key may hold ``share`` at once.

    A request for more than ``share`` counts as ``share``, so that something is always left for
    other keys. A small request overtakes a larger one for which there is no room yet, until the
    larger one has waited for ``patience`` seconds.
    """

    def __init__(self, what: str, *, total: float, share: float, patience: float = 3.0) -> None:
        self._what, self._total, self._share = what, total, min(share, total)
        self._patience = patience
        self._lock = threading.Lock()
        self._held: dict[str, float] = {}
        self._queues: dict[str, deque[_Request]] = {}  # the first key has the next turn
        self.in_use: float = 0

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        with self._lock:
            return sum(map(len, self._queues.values()))

    @contextmanager
    def taken(self, key: str, amount: float = 1, until: float = 0) -> Iterator[None]:
        """Hold ``amount`` for the key, after waiting for it up to ``until`` (``time.monotonic()``).

        Raises the 429 ``too_many_at_once`` when the key itself was in the way, by what it held or
        had asked for before, and the 503 ``overloaded`` when other keys hold the rest.
        """
        request = _Request(min(amount, self._share))
        with self._lock:
            self._queues.setdefault(key, deque()).append(request)
            self._grant()
        try:
            # wait() raises OverflowError above TIMEOUT_MAX, and ``until`` may be infinite.
            left = min(until - time.monotonic(), threading.TIMEOUT_MAX)
            if not request.granted.wait(max(left, 0)):
                self._refuse(key, request)
            yield
        finally:
            self._leave(key, request)

    def _grant(self) -> None:
        """Grant every request for which there is room, one of each key in turn."""
        while (found := next(self._fitting(), None)) is not None:
            key, request = found
            queue = self._queues.pop(key)
            queue.remove(request)
            if queue:
                self._queues[key] = queue  # now last: a dict keeps the order of insertion
            self._held[key] = self._held.get(key, 0) + request.amount
            self.in_use += request.amount
            request.granted.set()

    def _fitting(self) -> Iterator[tuple[str, _Request]]:
        """Yield the waiting requests that fit into what is free and into their key's share.

        Small requests that never end would keep a large one out. So what has waited for long
        holds up its key, or all keys where it is not its own key that is in the way.
        """
        patient_since = time.monotonic() - self._patience
        for key, queue in self._queues.items():
            own, free = self._share - self._held.get(key, 0), self._total - self.in_use
            for request in queue:
                if request.amount <= min(own, free):
                    yield key, request
                elif request.since <= patient_since:
                    if request.amount <= own:
                        return
                    break

    def _refuse(self, key: str, request: _Request) -> None:
        with self._lock:
            if request.granted.is_set():  # between the timeout and the lock
                return
            held = self._held.get(key, 0)
            queue = list(self._queues[key])
            before = sum(each.amount for each in queue[: queue.index(request)])
            own = held + before + request.amount > self._share
            cause = f"{held:.0f} of {self.in_use:.0f} {self._what} are of this key"
        raise too_many_at_once(cause) if own else unavailable("overloaded", cause)

    def _leave(self, key: str, request: _Request) -> None:
        with self._lock:
            if request.granted.is_set():
                self.in_use -= request.amount
                self._held[key] -= request.amount
                # Keys come and go: an empty entry for each would grow without end.
                if not self._held[key]:
                    del self._held[key]
            else:
                self._queues[key].remove(request)
                if not self._queues[key]:
                    del self._queues[key]
            self._grant()
