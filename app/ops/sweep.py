"""The sweep: deletes objects of interrupted uploads, which were never answered 200."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from app.errors import ApiError, unavailable
from app.image.info import EXTENSIONS
from app.records import journal
from app.records.client import Redis, redis_errors
from app.records.journal import Claimed, Gap
from app.store.bucket import ImageStore

log = logging.getLogger("uploader.sweep")
_MOST_FAILURES = 3  # of a store that fails each takes its timeouts: try the rest next time


@dataclass(slots=True)
class Swept:
    """The counts of one sweep: names looked at and failed, objects deleted and left in doubt."""

    names: int = 0
    deleted: int = 0
    doubtful: int = 0
    failed: int = 0


def sweep(redis: Redis, store: ImageStore) -> Swept:
    """Delete the objects of all names that have been pending for more than a minute.

    A name stays on the list for five minutes more, because a store may finish a write late. An
    object stays if Redis may have forgotten that it was answered 200. A name whose object the
    store cannot delete counts as ``failed`` and stays on the list; after three of them the sweep
    ends. Raises the 503 ``redis_unavailable`` and, where there are names but the bucket cannot be
    used, ``storage_unavailable``.
    """
    swept = Swept()
    with redis_errors():
        for claimed in journal.claim(redis):
            # Asked once, and only if there is something to delete.
            if not swept.names and (cause := store.check()):
                raise unavailable("storage_unavailable", cause)
            swept.names += 1
            try:
                _sweep_one(redis, store, claimed, swept)
            except ApiError as error:
                swept.failed += 1
                log.warning("could not sweep %s: %s", claimed.name, error.cause)
                if swept.failed == _MOST_FAILURES:
                    break
    return swept


def _sweep_one(redis: Redis, store: ImageStore, claimed: Claimed, swept: Swept) -> None:
    if claimed.gap:
        doubtful = _doubtful(store, claimed.name, claimed.gap)
        journal.settle(redis, claimed, stays=bool(doubtful))
        for key in doubtful:
            log.critical("%s stays: Redis may have forgotten that it was answered 200", key)
        swept.doubtful += len(doubtful)
        if doubtful:
            return
    swept.deleted += delete(store, claimed.name)
    if claimed.age >= journal.WATCH_SECONDS:  # no store finishes a write later than this
        journal.forget(redis, claimed)


def keys_of(name: str) -> list[str]:
    """The object keys that an upload of this name may have: the journal knows no file format."""
    return [f"uploads/{name}.{extension}" for extension in EXTENSIONS]


def _doubtful(store: ImageStore, name: str, gap: Gap) -> list[str]:
    """The objects of this name that may have been answered 200 in a time that Redis forgot."""
    doubtful = []
    for key in keys_of(name):
        asked = time.monotonic()  # before the store answers: the age is as of then
        age = store.age(key)
        if age is not None and not gap.spares(age, asked):
            doubtful.append(key)
    return doubtful


def delete(store: ImageStore, name: str) -> int:
    """Delete the objects of an upload and return their number; raises ``storage_unavailable``."""
    deleted = [key for key in keys_of(name) if store.delete(key)]
    for key in deleted:
        log.warning("deleted %s: no upload was answered 200 for it", key)
    return len(deleted)


class Sweeper(threading.Thread):
    """Sweeps in the background: one of all processes, every ``interval`` seconds.

    ``tell`` is given the counts of each sweep of this process.
    """

    def __init__(
        self,
        redis: Redis,
        store: ImageStore,
        interval: float,
        tell: Callable[[Swept], None] = lambda _: None,
    ) -> None:
        super().__init__(name="sweeper", daemon=True)
        self._redis = redis
        self._store = store
        self._interval = interval
        self._tell = tell

    def run(self) -> None:
        """Sweep until the process ends; after a failure try again at the next turn."""
        while True:
            time.sleep(self._interval)
            try:
                with redis_errors():
                    # A second less: the turn is free again when the interval is over.
                    mine = journal.claim_turn(self._redis, int(self._interval) - 1)
                if mine:
                    self._tell(sweep(self._redis, self._store))
            except ApiError as error:
                log.warning("no sweep: %s", error.cause)
            except Exception:
                log.exception("no sweep")
