"""Real threads for work that keeps a processor busy: hash, walk and decode of large files."""

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
    """A pool of threads, made at its first use: threads do not survive a fork.

    It has one thread more than there are cores: one API key can use all cores, and a thread is
    left for the others. gevent's own pool also looks up host names, and queued images must not
    delay a look-up. Where gevent has patched nothing (commands, unit tests) there is no event
    loop to keep free, and the work is done in place.
    """

    def __init__(self) -> None:
        self.threads = _cores() + 1
        self._threads: ThreadPool | None = None

    def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Return or raise what ``function(*args)`` does; other greenlets run meanwhile."""
        if not monkey.is_module_patched("threading"):
            return function(*args)
        if self._threads is None:
            self._threads = ThreadPool(self.threads, hub=gevent.get_hub())
        result, error = self._threads.apply(_outcome, (function, args))
        if error is not None:
            raise error
        return cast(T, result)

    def run_large(self, function: Callable[[memoryview], T], data: memoryview) -> T:
        """As ``run``, but small data in place: passing it to a thread would take longer."""
        return function(data) if len(data) <= INLINE_BYTES else self.run(function, data)


def _outcome(
    function: Callable[[*Ts], T], args: tuple[*Ts]
) -> tuple[T | None, BaseException | None]:
    """What a call returns or raises. gevent prints exceptions that leave a thread, refusals too."""
    try:
        return function(*args), None
    except BaseException as error:  # noqa: BLE001 -- ``run`` raises it in the greenlet
        return None, error


def _cores() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS: all processors of the machine
