"""Counts per key and day, and when each key was last used."""

import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from redis import Redis
from redis.client import Pipeline

from app.records.client import is_wrong_type
from app.records.keys import id_of, timestamp

KEEP_SECONDS = 90 * 86400
"""How long the counts of a day are kept."""

_LAST_USED_SECONDS = 400 * 86400  # for an administrator who looks for unused keys once a year
_TOUCH_SECONDS = 60  # a write for each key and minute, not for each request
_MOST_REMEMBERED = 10_000  # keys, in the memory of a process


class Usage:
    """Queues counts on a pipeline that is sent anyway: they cost no round trip."""

    def __init__(self) -> None:
        self._touched: dict[str, float] = {}
        self._lock = threading.Lock()

    def record(
        self,
        pipe: Pipeline,
        digest: str,
        *,
        uploads: int = 0,
        size: int = 0,
        rejected: int = 0,
        rate_limited: int = 0,
    ) -> None:
        """Count one answer for the key with this SHA-256; ``size`` in bytes."""
        now = datetime.now(UTC)
        counts = {
            "uploads": uploads,
            "bytes": size,
            "rejected": rejected,
            "rate_limited": rate_limited,
        }
        key = name_of(id_of(digest), now)
        for field, count in counts.items():
            if count:
                pipe.hincrby(key, field, count)
        pipe.expire(key, KEEP_SECONDS)
        if self._due(digest):
            pipe.set(last_used_name(id_of(digest)), timestamp(now), ex=_LAST_USED_SECONDS)

    def _due(self, digest: str) -> bool:
        """Whether to note the key as used: at most once a minute in this process."""
        now = time.monotonic()
        with self._lock:
            if now < self._touched.get(digest, 0.0):
                return False
            if len(self._touched) >= _MOST_REMEMBERED:
                self._touched.clear()  # costs some writes too many, and bounds the memory
            self._touched[digest] = now + _TOUCH_SECONDS
            return True


def name_of(key_id: str, day: datetime) -> str:
    """The name in Redis of one day's counts of the key with this id."""
    return f"usage:{key_id}:{day:%Y-%m-%d}"


def last_used_name(key_id: str) -> str:
    """The name in Redis of the time when the key with this id was last used."""
    return f"lastused:{key_id}"


def read(redis: Redis, key_id: str, day: datetime) -> dict[str, int]:
    """The counts of one day; those that are 0 are absent."""
    return read_many(redis, [key_id], day)[0]


def read_many(redis: Redis, key_ids: Sequence[str], day: datetime) -> list[dict[str, int]]:
    """As ``read`` for each key, in one round trip (of a Cluster: one for each node)."""
    with redis.pipeline(transaction=False) as pipe:
        for key_id in key_ids:
            pipe.hgetall(name_of(key_id, day))
        return [_counts(answer) for answer in pipe.execute(raise_on_error=False)]


def last_used(redis: Redis, key_ids: Sequence[str]) -> list[str]:
    """When each key was last used, up to a minute too early; empty when it is not known."""
    with redis.pipeline(transaction=False) as pipe:
        for key_id in key_ids:
            pipe.get(last_used_name(key_id))
        answers = pipe.execute(raise_on_error=False)
    return [
        "" if is_wrong_type(each) else (each or b"").decode(errors="replace") for each in answers
    ]


def _counts(answer: Any) -> dict[str, int]:
    """Ignore values that are not numbers: someone wrote them by hand."""
    if is_wrong_type(answer):
        return {}
    return {field.decode(): int(count) for field, count in answer.items() if count.isdigit()}
