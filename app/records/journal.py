"""Uploads under way, and the results for repeats with the same ``Idempotency-Key``, in Redis.

Before an object is written, the upload's random name is entered in ``pending``.
One script takes the name out and remembers the result; the answer 200 follows
it. A name that stays for more than a minute belongs to an upload that died: the
sweep's script moves the name to ``sweeping``, and its object is deleted. Redis
runs one script at a time, so one of the two comes first: a swept object is
never acknowledged, and an acknowledged object is never swept.

A Redis that restarted, or whose replica took over, may have forgotten the last
changes that it had answered. A name that is still pending there may belong to an
upload that was answered 200. ``history`` holds the run of the server at the last
sweep, and the time. After a change of the run, older names become ``doubtful``:
their objects are deleted only where the age of the object proves that Redis has
forgotten nothing about it.

All keys of one upload share a hash slot (the tag is the first digit of the API
key's id), so that each step is one atomic script on a Cluster too.
"""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from redis import Redis
from redis.client import Pipeline

from app.config import KEEP
from app.errors import ApiError
from app.records.client import run_script

PENDING_SECONDS = 60
"""How long a name may be pending before the sweep takes it. An upload renews its name while the
body arrives, and what follows takes less time than this."""

WATCH_SECONDS = 300
"""How long the sweep keeps deleting a name's objects: a store may finish a write late."""

COMMIT_SECONDS = 50
"""An object's 200 comes within this time after it was written, or never: ``UPLOAD_TIMEOUT``, which
begins before the PUT, is at most 25 s. Looking at the object takes up to 7 s, waiting for a turn
of Redis 10 s, two tries of Redis 3 s, and 5 s are to spare."""

_ROUNDING_SECONDS = 2  # stores say in whole seconds when an object was written
_KEEP_SECONDS = 7 * 86400  # all keys expire by themselves where no sweep runs any more
_RESULT_SECONDS = 86400  # a repeat within 24 hours, as the API reference says
_SHARDS = "0123456789abcdef"

# KEYS: pending, sweeping, doubtful[, idempotency].
# ARGV: name, lock seconds, keep seconds, an earlier result to be replaced.
# Returns '' when the name is under way, else what the idempotency key holds: another name, or a
# result. Running it again with the same name renews the name and the lock.
_BEGIN = """
if KEYS[4] then
  local held = redis.call('GET', KEYS[4])
  if held and held ~= ARGV[1] and held ~= ARGV[4] then return held end
  redis.call('SET', KEYS[4], ARGV[1], 'EX', ARGV[2])
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZADD', KEYS[1], redis.call('TIME')[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return ''
"""

# KEYS as above. ARGV: name, result, result seconds. Returns 1 when the object
# stands, 0 when the sweep or another request with the same key was first.
# A lock that has expired and that nobody else has taken still counts as this request's. redis-py
# may send the script twice when an answer is lost: the second run finds its own result.
_COMMIT = """
if redis.call('ZSCORE', KEYS[2], ARGV[1]) then return 0 end
if redis.call('ZSCORE', KEYS[3], ARGV[1]) then return 0 end
if KEYS[4] then
  local held = redis.call('GET', KEYS[4])
  if held and held ~= ARGV[1] and held ~= ARGV[2] then return 0 end
  redis.call('SET', KEYS[4], ARGV[2], 'EX', ARGV[3])
end
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
"""

# KEYS as above. ARGV: name, keep seconds, '1' when the sweep shall look for its objects.
# The lock is freed only if it is this request's own.
_ABORT = """
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
if ARGV[3] == '1' then
  redis.call('ZADD', KEYS[2], redis.call('TIME')[1], ARGV[1])
  redis.call('EXPIRE', KEYS[2], ARGV[2])
end
if KEYS[4] and redis.call('GET', KEYS[4]) == ARGV[1] then redis.call('DEL', KEYS[4]) end
return 1
"""

# KEYS: pending, sweeping, doubtful, history.
# ARGV: pending seconds, keep seconds, most names.
# Takes over names that have been pending for too long. Redis is known to have kept everything up
# to ``upto``, and again since ``since``. A name entered later goes to the sweep's list, an older
# one to the doubtful ones, where its score is ``upto``.
# While names from before an earlier restart are pending, ``upto`` stays at that restart's value.
# Returns {{seconds, microseconds}, since, how many names it took over, how many are to be swept,
# how many are doubtful and have not been looked at}.
_CLAIM = """
local time = redis.call('TIME')
local now = tonumber(time[1])
local info = redis.call('INFO', 'server')
local run = string.match(info, 'run_id:(%w+)') or ''
local known = redis.call('HMGET', KEYS[4], 'run', 'seen', 'upto', 'since')
local upto, since = tonumber(known[3] or 0), tonumber(known[4] or 0)
if not known[1] then
  since = now - tonumber(string.match(info, 'uptime_in_seconds:(%d+)') or 0)
elseif known[1] ~= run then
  if redis.call('ZCOUNT', KEYS[1], '-inf', since) == 0 then upto = tonumber(known[2]) end
  since = now
end
redis.call('HSET', KEYS[4], 'run', run, 'seen', now, 'upto', upto, 'since', since)
redis.call('EXPIRE', KEYS[4], ARGV[2])
local late = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[1], 'WITHSCORES',
  'LIMIT', 0, ARGV[3])
for i = 1, #late, 2 do
  redis.call('ZREM', KEYS[1], late[i])
  if tonumber(late[i + 1]) > since then
    redis.call('ZADD', KEYS[2], now, late[i])
    redis.call('EXPIRE', KEYS[2], ARGV[2])
  else
    redis.call('ZADD', KEYS[3], upto, late[i])
    redis.call('EXPIRE', KEYS[3], ARGV[2])
  end
end
local swept, doubtful = redis.call('ZCARD', KEYS[2]), redis.call('ZCOUNT', KEYS[3], 0, '+inf')
return {time, since, #late / 2, swept, doubtful}
"""

# KEYS: sweeping, doubtful. ARGV: name, keep seconds, '1' when its object stays.
# A doubtful name with a score below zero has been looked at: a person decides about its object.
_SETTLE = """
local now = tonumber(redis.call('TIME')[1])
if ARGV[3] == '1' then
  redis.call('ZADD', KEYS[2], 'XX', -now, ARGV[1])
elseif redis.call('ZREM', KEYS[2], ARGV[1]) == 1 then
  redis.call('ZADD', KEYS[1], now, ARGV[1])
  redis.call('EXPIRE', KEYS[1], ARGV[2])
end
return 1
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What a 200 said, for a repeat of the request. Sizes are in bytes and pixels.

    ``metadata`` is the policy that was applied. ``sha256`` is that of the stored file,
    ``sent_sha256`` that of the file as sent. The latter is empty where nothing was taken out, or
    where an earlier version of the service wrote the result.
    """

    key: str
    content_type: str
    size: int
    width: int
    height: int
    frames: int
    sha256: str
    metadata: str = KEEP
    sent_sha256: str = ""

    def is_of(self, sha256: str) -> bool:
        """Whether this result answered an upload of the file with this SHA-256."""
        return sha256 == (self.sent_sha256 or self.sha256)

    def dump(self) -> str:
        """The JSON object that is kept in Redis; the same result gives the same text.

        Without the policy where nothing was taken out, which saves memory in most results.
        """
        fields = asdict(self)
        if self.metadata == KEEP:
            del fields["metadata"], fields["sent_sha256"]
        return json.dumps(fields, sort_keys=True)


@dataclass(frozen=True, slots=True)
class Entry:
    """One upload under way: its random name and, if sent, its idempotency key.

    ``digest`` is the API key's whole SHA-256: two keys may have the same id.
    """

    digest: str
    name: str
    idempotency_key: str | None
    lock_seconds: int

    @property
    def _keys(self) -> list[str]:
        shard = f"{{{self.digest[0]}}}"
        keys = [f"pending:{shard}", f"sweeping:{shard}", f"doubtful:{shard}"]
        if self.idempotency_key is not None:
            # Hashed: a client's key may be long, and may say something about an order or a person.
            scoped = f"{self.digest}:{self.idempotency_key}"
            keys.append(f"idempotency:{shard}:{hashlib.sha256(scoped.encode()).hexdigest()}")
        return keys

    def begin(self, pipe: Pipeline | Redis, *, instead_of: bytes = b"") -> Any:
        """Enter the name, or renew it; ``replay`` reads the answer.

        ``instead_of`` is an earlier answer to be replaced, because its object is gone.
        """
        return self._eval(pipe, _BEGIN, self.name, self.lock_seconds, _KEEP_SECONDS, instead_of)

    def commit(self, pipe: Pipeline | Redis, result: Result) -> Any:
        """Take the name out and remember the result; the answer is 1, or 0 when too late."""
        return self._eval(pipe, _COMMIT, self.name, result.dump(), _RESULT_SECONDS)

    def abort(self, pipe: Pipeline | Redis, *, sweep: bool = False) -> Any:
        """Take the name out; with ``sweep`` for the sweep, because an object may be left."""
        return self._eval(pipe, _ABORT, self.name, _KEEP_SECONDS, int(sweep))

    def _eval(self, pipe: Pipeline | Redis, script: str, *args: str | bytes | int) -> Any:
        return run_script(pipe, script, self._keys, *args)


def replay(answer: bytes) -> Result | None:
    """The first request's result; None when this is the first request.

    Raises the ``conflict`` while the first is still running.
    """
    if not answer:
        return None
    if answer.startswith(b"{"):  # a result in JSON, and not the name of another request
        return Result(**json.loads(answer))
    raise conflict()


def conflict() -> ApiError:
    """The 409 ``idempotency_conflict``."""
    return ApiError(
        "idempotency_conflict",
        "The first upload with this Idempotency-Key is still running. Try again in 2 seconds.",
        headers={"Retry-After": "2"},
    )


@dataclass(frozen=True, slots=True)
class Gap:
    """A time of which Redis may have forgotten its answers: after ``upto``, before ``since``.

    In seconds of the server's clock, which is ``ahead`` of time.monotonic() in this process.
    """

    upto: float
    since: float
    ahead: float

    def spares(self, age: float, asked: float) -> bool:
        """Whether the 200 of an object, if there was one, came outside of the gap.

        The object was ``age`` seconds old when the store was ``asked`` (of time.monotonic()). An
        age that is not known is NaN, for which every comparison is False.
        """
        written = self.ahead + asked - age
        before = written + COMMIT_SECONDS < self.upto
        return before or written - _ROUNDING_SECONDS > self.since


@dataclass(frozen=True, slots=True)
class Claimed:
    """A name that the sweep has taken over, ``age`` seconds ago; it cannot be acknowledged now.

    With a ``gap`` it may have been acknowledged before, and Redis may have forgotten that.
    """

    shard: str
    name: str
    age: float
    gap: Gap | None = None


def claim(redis: Redis, most: int = 100) -> Iterator[Claimed]:
    """Take over the names of uploads that died, and yield all names that the sweep must look at.

    Redis handles ``most`` names at a time, so that no step keeps its other clients waiting.
    """
    for shard in _SHARDS:
        keys = [f"{kind}:{{{shard}}}" for kind in ("pending", "sweeping", "doubtful", "history")]
        moved = most
        while moved == most:  # fewer were the last ones
            (seconds, micro), since, moved, swept, doubtful = run_script(
                redis, _CLAIM, keys, PENDING_SECONDS, _KEEP_SECONDS, most
            )
        now = int(seconds) + int(micro) / 1e6
        ahead = now - time.monotonic()
        for name, score in _names(redis, keys[1], "-inf", swept, most):
            yield Claimed(shard, name, now - score)
        for name, score in _names(redis, keys[2], "0", doubtful, most):
            yield Claimed(shard, name, 0, Gap(score, since, ahead))


def _names(
    redis: Redis, key: str, least: str, count: int, most: int
) -> Iterator[tuple[str, float]]:
    """Names and their scores, of ``least`` and above, of which there are ``count``.

    Reads ``most`` at a time, the highest positions first. The caller takes names off the list
    meanwhile, and that moves only the names above them, which have been read.
    """
    for start in reversed(range(0, count, most)):
        page: Any = redis.zrangebyscore(key, least, "+inf", start, most, withscores=True)
        for name, score in page:
            yield name.decode(), score


def settle(redis: Redis, claimed: Claimed, *, stays: bool) -> None:
    """Decide about a doubtful name: its object ``stays``, or is deleted like all others."""
    keys = [f"{kind}:{{{claimed.shard}}}" for kind in ("sweeping", "doubtful")]
    run_script(redis, _SETTLE, keys, claimed.name, _KEEP_SECONDS, int(stays))


def in_doubt(redis: Redis) -> Iterator[Claimed]:
    """Names whose objects stay because they may have been acknowledged; listed for a week."""
    for shard in _SHARDS:
        names: Any = redis.zrangebyscore(f"doubtful:{{{shard}}}", "-inf", "(0")
        for name in names:
            yield Claimed(shard, name.decode(), 0)


def forget(redis: Redis, claimed: Claimed) -> None:
    """Take a name off the sweep's list."""
    redis.zrem(f"sweeping:{{{claimed.shard}}}", claimed.name)


def claim_turn(redis: Redis, seconds: int) -> bool:
    """Whether this process sweeps now: one of all processes does in ``seconds``."""
    return bool(redis.set("sweep:turn", b"1", nx=True, ex=max(1, seconds)))
