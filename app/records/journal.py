"""What is under way: the names being written, and the safe retries, in Redis.

Before an object is written its name stands in ``pending``; the answer 200
takes it out, in the same step that remembers the result for a repeat with the
same ``Idempotency-Key``. What stays longer than a minute belongs to nobody:
the sweep moves it to ``sweeping`` and deletes the object. Whichever of the two
comes first decides, so a swept object is never acknowledged and an
acknowledged one never swept.

A Redis that was started again, or whose replica took over, may have forgotten
the last of what it had answered; a name that it still has as pending may have
been acknowledged. ``history`` says which run of the server swept last, and
when: names from before a change of the run become ``doubtful``, and the sweep
leaves an object alone unless what it knows of the object proves that nothing
was forgotten of it.

All keys of one upload share a hash slot (the tag is the first digit of the
API key's id), so that each step is one atomic script on a Cluster too.
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
"""How long a name may be under way before the sweep takes it."""

WATCH_SECONDS = 300
"""How long the sweep keeps deleting a name: a store may finish a write late."""

COMMIT_SECONDS = 50
"""An object's 200 comes within this time after it was written, or never: ``UPLOAD_TIMEOUT``, which
begins before the PUT, is at most 25 s. Looking at the object takes up to 7 s, waiting for a turn
of Redis 10 s, two tries of Redis 3 s, and 5 s are to spare."""

_ROUNDING_SECONDS = 2  # stores say when an object was written in whole seconds
_KEEP_SECONDS = 7 * 86400
_RESULT_SECONDS = 86400
_SHARDS = "0123456789abcdef"

# KEYS: pending, sweeping, doubtful[, idempotency].
# ARGV: name, lock seconds, keep seconds, what is forgotten.
# Returns '' when the name is under way, else what the idempotency key holds.
# Run again for the same name it renews it.
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

# KEYS as above. ARGV: name, keep seconds, '1' when the sweep shall look at it.
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
# Takes over what has been pending too long: as doubtful, with the time up to which Redis is known
# to have kept everything, when the name is older than the moment since which it is known again.
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
# A doubtful name with a score below zero has been looked at, and is left to people.
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
    """What a 200 said, for a repeat of the request. Sizes in bytes and pixels.

    ``metadata`` is the policy that was applied. ``sha256`` is of what was stored, ``sent_sha256``
    of what was sent: empty where an earlier version of the service wrote the result.
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
        """Whether the file with this SHA-256 was sent for it."""
        return sha256 == (self.sent_sha256 or self.sha256)

    def dump(self) -> str:
        """As the JSON object kept in Redis; the same result gives the same text.

        Without the policy where nothing was taken out: that is most of them, and they are many.
        """
        told = asdict(self)
        if self.metadata == KEEP:
            del told["metadata"], told["sent_sha256"]
        return json.dumps(told, sort_keys=True)


@dataclass(frozen=True, slots=True)
class Entry:
    """One upload under way: its random name and, if sent, its idempotency key.

    ``digest`` is the API key's SHA-256, whole: two keys may have one id.
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
            scoped = f"{self.digest}:{self.idempotency_key}"
            keys.append(f"idempotency:{shard}:{hashlib.sha256(scoped.encode()).hexdigest()}")
        return keys

    def begin(self, pipe: Pipeline | Redis, *, instead_of: bytes = b"") -> Any:
        """Enter the name, or renew it; ``replay`` reads the answer.

        ``instead_of``: an earlier answer whose object is gone, and which is forgotten.
        """
        return self._eval(pipe, _BEGIN, self.name, self.lock_seconds, _KEEP_SECONDS, instead_of)

    def commit(self, pipe: Pipeline | Redis, result: Result) -> Any:
        """Take the name out and remember the result; answers 1, or 0 when too late."""
        return self._eval(pipe, _COMMIT, self.name, result.dump(), _RESULT_SECONDS)

    def abort(self, pipe: Pipeline | Redis, *, sweep: bool = False) -> Any:
        """Take the name out; ``sweep``: there may be an object, of which none must stay."""
        return self._eval(pipe, _ABORT, self.name, _KEEP_SECONDS, int(sweep))

    def _eval(self, pipe: Pipeline | Redis, script: str, *args: str | bytes | int) -> Any:
        return run_script(pipe, script, self._keys, *args)


def replay(answer: bytes) -> Result | None:
    """The first request's result; None when this is the first request.

    Raises the ``conflict`` while the first is still running.
    """
    if not answer:
        return None
    if answer.startswith(b"{"):
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
    """What Redis may have forgotten: its answers after ``upto`` and before ``since``.

    Seconds of the server's clock, which is ``ahead`` of time.monotonic() here.
    """

    upto: float
    since: float
    ahead: float

    def spares(self, age: float, asked: float) -> bool:
        """Whether Redis would know of a 200 for an object.

        It was ``age`` seconds old when the store was ``asked`` (of time.monotonic()). Not a number,
        an age that nobody knows, is not spared.
        """
        written = self.ahead + asked - age
        before = written + COMMIT_SECONDS < self.upto
        return before or written - _ROUNDING_SECONDS > self.since


@dataclass(frozen=True, slots=True)
class Claimed:
    """A name that nobody may acknowledge any more, ``age`` seconds since it was given up.

    With a ``gap`` it may have been acknowledged, and that was forgotten.
    """

    shard: str
    name: str
    age: float
    gap: Gap | None = None


def claim(redis: Redis, most: int = 100) -> Iterator[Claimed]:
    """Take over names whose uploads have died, and give all whose objects must go.

    Asks for ``most`` at a time, so that no step holds Redis up.
    """
    for shard in _SHARDS:
        keys = [f"{kind}:{{{shard}}}" for kind in ("pending", "sweeping", "doubtful", "history")]
        moved = most
        while moved == most:
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
    """Names with a score of ``least`` and above, ``count`` of them, and their scores.

    Reads ``most`` at a time, the highest positions first: the caller takes names off the list
    meanwhile, which moves only the names above them, and these have been read.
    """
    for start in reversed(range(0, count, most)):
        page: Any = redis.zrangebyscore(key, least, "+inf", start, most, withscores=True)
        for name, score in page:
            yield name.decode(), score


def settle(redis: Redis, claimed: Claimed, *, stays: bool) -> None:
    """Say what becomes of a doubtful name: its object ``stays``, or goes like all others."""
    keys = [f"{kind}:{{{claimed.shard}}}" for kind in ("sweeping", "doubtful")]
    run_script(redis, _SETTLE, keys, claimed.name, _KEEP_SECONDS, int(stays))


def in_doubt(redis: Redis) -> Iterator[Claimed]:
    """Names whose objects stay because they may have been acknowledged; kept for a week."""
    for shard in _SHARDS:
        names: Any = redis.zrangebyscore(f"doubtful:{{{shard}}}", "-inf", "(0")
        for name in names:
            yield Claimed(shard, name.decode(), 0)


def forget(redis: Redis, claimed: Claimed) -> None:
    """Take a name off the sweep's list."""
    redis.zrem(f"sweeping:{{{claimed.shard}}}", claimed.name)


def claim_turn(redis: Redis, seconds: int) -> bool:
    """Whether this process sweeps now: one of all does in ``seconds``."""
    return bool(redis.set("sweep:turn", b"1", nx=True, ex=max(1, seconds)))
