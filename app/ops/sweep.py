"""Deleting what no 200 stands for: objects of uploads that died under way."""

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
_MOST_FAILURES = 3


@dataclass(slots=True)
class Swept:
    """What one sweep did: names looked at, objects deleted or left in doubt, names not settled."""

    names: int = 0
    deleted: int = 0
    doubtful: int = 0
    failed: int = 0


def sweep(redis: Redis, store: ImageStore) -> Swept:
    """Delete the objects of all names pending for more than a minute.

    A name stays on the list for five minutes more, because a store may finish
    a write late. An object whose 200 Redis may have forgotten stays. Raises the
    503 ``redis_unavailable`` and, where there are names but no bucket,
    ``storage_unavailable``. A name that the store fails counts as ``failed``
    and is kept; after three the rest waits too.
    """
    swept = Swept()
    with redis_errors():
        for claimed in journal.claim(redis):
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
    if claimed.age >= journal.WATCH_SECONDS:
        journal.forget(redis, claimed)


def keys_of(name: str) -> list[str]:
    """The keys that the object of an upload may have."""
    return [f"uploads/{name}.{extension}" for extension in EXTENSIONS]


def _doubtful(store: ImageStore, name: str, gap: Gap) -> list[str]:
    """Objects of this name that may have been acknowledged while Redis forgot."""
    doubtful = []
    for key in keys_of(name):
        asked = time.monotonic()
        age = store.age(key)
        if age is not None and not gap.spares(age, asked):
            doubtful.append(key)
    return doubtful


def delete(store: ImageStore, name: str) -> int:
    """Delete the objects of an upload; how many there were. Raises ``storage_unavailable``."""
    deleted = [key for key in keys_of(name) if store.delete(key)]
    for key in deleted:
        log.warning("deleted %s, which no answer stood for", key)
    return len(deleted)


class Sweeper(threading.Thread):
    """Sweeps by itself: of all processes one takes its turn every ``interval`` seconds."""

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
        """For as long as the process lives; whatever fails is tried again at the next turn."""
        while True:
            time.sleep(self._interval)
            try:
                with redis_errors():
                    mine = journal.claim_turn(self._redis, int(self._interval) - 1)
                if mine:
                    self._tell(sweep(self._redis, self._store))
            except ApiError as error:
                log.warning("no sweep: %s", error.cause)
            except Exception:
                log.exception("no sweep")
