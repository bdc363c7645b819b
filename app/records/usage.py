"""What each key did each day, and when it was last used."""

import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from redis import Redis
from redis.client import Pipeline

from app.records.client import run_script

KEEP_SECONDS = 90 * 86400
_TOUCH_SECONDS = 60
_MOST_REMEMBERED = 10_000

# Only where the record still is: a deleted key must not come back. The times
# are text of one form, so that they compare as text.
_TOUCH = """
local last = redis.call('HGET', KEYS[1], 'last_used_at')
if redis.call('EXISTS', KEYS[1]) == 1 and not (last and last > ARGV[2]) then
  redis.call('HSET', KEYS[1], 'last_used_at', ARGV[1])
end
return 1
"""


class Usage:
    """Queues counts on a pipeline that is sent anyway; no request of its own."""

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
        key = name_of(digest[:12], now)
        for field, count in counts.items():
            if count:
                pipe.hincrby(key, field, count)
        pipe.expire(key, KEEP_SECONDS)
        if self._due(digest):
            earlier = now - timedelta(seconds=_TOUCH_SECONDS)
            times = (f"{each:%Y-%m-%dT%H:%M:%SZ}" for each in (now, earlier))
            run_script(pipe, _TOUCH, [f"apikey:{digest}"], *times)

    def _due(self, digest: str) -> bool:
        """At most once a minute and key in this process."""
        now = time.monotonic()
        with self._lock:
            if now < self._touched.get(digest, 0.0):
                return False
            if len(self._touched) >= _MOST_REMEMBERED:
                self._touched.clear()
            self._touched[digest] = now + _TOUCH_SECONDS
            return True


def name_of(key_id: str, day: datetime) -> str:
    """The counter's name in Redis."""
    return f"usage:{key_id}:{day:%Y-%m-%d}"


def read(redis: Redis, key_id: str, day: datetime) -> dict[str, int]:
    """The counts of one day; what did not happen is absent."""
    return read_many(redis, [key_id], day)[0]


def read_many(redis: Redis, key_ids: Sequence[str], day: datetime) -> list[dict[str, int]]:
    """As ``read`` for each key, in one round trip (of a Cluster: one a node)."""
    with redis.pipeline(transaction=False) as pipe:
        for key_id in key_ids:
            pipe.hgetall(name_of(key_id, day))
        return [_counts(answer) for answer in pipe.execute(raise_on_error=False)]


def _counts(answer: Any) -> dict[str, int]:
    """What is no count, because someone wrote it by hand, does not count."""
    if isinstance(answer, Exception):
        if str(answer).startswith("WRONGTYPE"):
            return {}
        raise answer
    return {field.decode(): int(count) for field, count in answer.items() if count.isdigit()}
