"""Real threads for what keeps a processor busy: hash, walk and decode of large files."""

import os
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple, cast

import gevent
from gevent import monkey
from gevent.threadpool import ThreadPool

from app.config import INLINE_BYTES

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Processors:
    """One thread more than there are cores; made at the first use, so after the fork.

    They are not the threads of gevent's own pool: that one also looks up names, and a queue of
    pictures must not keep a name from being found. Where nothing is patched (commands, unit
    tests) there is no event loop to keep free, and work is done in place.
    """

    def __init__(self) -> None:
        self.threads = _cores() + 1
        self._threads: ThreadPool | None = None

    def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """What ``function(*args)`` returns or raises; other greenlets go on meanwhile."""
        if not monkey.is_module_patched("threading"):
            return function(*args)
        if self._threads is None:
            self._threads = ThreadPool(self.threads, hub=gevent.get_hub())
        result, error = self._threads.apply(_outcome, (function, args))
        if error is not None:
            raise error
        return cast(T, result)

    def run_large(self, function: Callable[[memoryview], T], data: memoryview) -> T:
        """As ``run``, but small data in place."""
        return function(data) if len(data) <= INLINE_BYTES else self.run(function, data)


def _outcome(
    function: Callable[[*Ts], T], args: tuple[*Ts]
) -> tuple[T | None, BaseException | None]:
    """What a call returns or raises: gevent prints what a thread raises, refusals too."""
    try:
        return function(*args), None
    except BaseException as error:  # noqa: BLE001 - raised anew by the caller
        return None, error


def _cores() -> int:
    """The processors that this process may use; macOS cannot say, and gives all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
