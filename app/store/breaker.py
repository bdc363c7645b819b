"""What a process remembers about the store, so that uploads are refused before their bodies."""

import math
import threading
import time
from collections.abc import Callable

_OPEN_AFTER = 3  # failures in a row: fewer may be those of single requests
_COOL_DOWN = 2.0  # seconds between two probes: a store that is back is noticed at once
_SEEN_SECONDS = 10.0  # for which a store that worked is trusted without a look
_FORGET_SECONDS = 60.0  # after the last failure: a process without uploads must not stay open


class Breaker:
    """A circuit breaker for the store. While it is open, uploads are refused before their bodies.

    It opens after three failures in a row; then one request every two seconds may probe. A
    success closes it, or a minute without another failure. Each process has its own: a process
    that is wrong about the store pays with one probe.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._next_probe = 0.0
        self._seen = self._failed = -math.inf
        self.cause = ""

    @property
    def open(self) -> bool:
        """Whether the store is taken to be down."""
        return self._failures >= _OPEN_AFTER and self._clock() - self._failed < _FORGET_SECONDS

    def fresh(self) -> bool:
        """Whether the store was seen to work just now."""
        return not self._failures and self._clock() - self._seen < _SEEN_SECONDS

    def may_probe(self) -> bool:
        """Whether this request is the one that finds out if the store is back."""
        with self._lock:
            now = self._clock()
            if now < self._next_probe:
                return False
            self._next_probe = now + _COOL_DOWN
            return True

    def failed(self, cause: str) -> None:
        """Count a failure."""
        with self._lock:
            self._failures += 1
            self._failed = self._clock()
            self._next_probe = self._failed + _COOL_DOWN
            self.cause = cause

    def seen(self) -> None:
        """Note that the store answers, which does not prove that it can be written."""
        self._seen = self._clock()

    def succeeded(self) -> None:
        """Close the breaker."""
        with self._lock:
            self._failures = 0
            self._seen = self._clock()
