"""What is under way: the names being written, and the safe retries, in Redis.

Before an object is written its name stands in ``pending``; the answer 200
takes it out, in the same step that remembers the result for a repeat with the
same ``Idempotency-Key``. What stays longer than a minute belongs to nobody:
the sweep moves it to ``sweeping`` and deletes the object. Whichever of the two
comes first decides, so a swept object is never acknowledged and an
acknowledged one never swept.

All keys of one upload share a hash slot (the tag is the first digit of the
API key's id), so that each step is one atomic script on a Cluster too.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from redis import Redis
from redis.client import Pipeline

from app.errors import ApiError
from app.records.client import run_script

PENDING_SECONDS = 60
"""How long a name may be under way before the sweep takes it."""

WATCH_SECONDS = 300
"""How long the sweep keeps deleting a name: a store may finish a write late."""

_KEEP_SECONDS = 7 * 86400
_RESULT_SECONDS = 86400
_SHARDS = "0123456789abcdef"

# KEYS: pending, sweeping[, idempotency]. ARGV: name, lock seconds, keep seconds, what is forgotten.
# Returns '' when the name is under way, else what the idempotency key holds.
# Run again for the same name it renews it.
_BEGIN = """
if KEYS[3] then
  local held = redis.call('GET', KEYS[3])
  if held and held ~= ARGV[1] and held ~= ARGV[4] then return held end
  redis.call('SET', KEYS[3], ARGV[1], 'EX', ARGV[2])
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZADD', KEYS[1], redis.call('TIME')[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return ''
"""

# KEYS as above. ARGV: name, result, result seconds. Returns 1 when the object
# stands, 0 when the sweep or another request with the same key was first.
_COMMIT = """
if redis.call('ZSCORE', KEYS[2], ARGV[1]) then return 0 end
if KEYS[3] then
  local held = redis.call('GET', KEYS[3])
  if held and held ~= ARGV[1] and held ~= ARGV[2] then return 0 end
  redis.call('SET', KEYS[3], ARGV[2], 'EX', ARGV[3])
end
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
"""

# KEYS as above. ARGV: name, keep seconds, '1' when the sweep shall look at it.
_ABORT = """
redis.call('ZREM', KEYS[1], ARGV[1])
if ARGV[3] == '1' then
  redis.call('ZADD', KEYS[2], redis.call('TIME')[1], ARGV[1])
  redis.call('EXPIRE', KEYS[2], ARGV[2])
end
if KEYS[3] and redis.call('GET', KEYS[3]) == ARGV[1] then redis.call('DEL', KEYS[3]) end
return 1
"""

# KEYS: pending, sweeping. ARGV: pending seconds, keep seconds, most names, how many were told.
# Takes over what has been pending too long; returns {age, name, ...}.
_CLAIM = """
local now = tonumber(redis.call('TIME')[1])
local late = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[1], 'LIMIT', 0, ARGV[3])
for _, name in ipairs(late) do
  redis.call('ZREM', KEYS[1], name)
  redis.call('ZADD', KEYS[2], now, name)
end
if #late > 0 then redis.call('EXPIRE', KEYS[2], ARGV[2]) end
local answer = {}
local names = redis.call('ZRANGE', KEYS[2], ARGV[4], ARGV[4] + ARGV[3] - 1, 'WITHSCORES')
for i = 1, #names, 2 do
  answer[#answer + 1] = now - names[i + 1]
  answer[#answer + 1] = names[i]
end
return answer
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What a 200 said, for a repeat of the request. Sizes in bytes and pixels."""

    key: str
    content_type: str
    size: int
    width: int
    height: int
    frames: int
    sha256: str

    def dump(self) -> str:
        """As the JSON object kept in Redis; the same result gives the same text."""
        return json.dumps(asdict(self), sort_keys=True)


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
        keys = [f"pending:{shard}", f"sweeping:{shard}"]
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


def claim(redis: Redis, most: int = 100) -> Iterator[tuple[str, str, int]]:
    """Names whose objects must go: (shard, name, seconds since they were given up).

    Asks for ``most`` at a time, so that no step holds Redis up.
    """
    for shard in _SHARDS:
        keys = (f"pending:{{{shard}}}", f"sweeping:{{{shard}}}")
        told = 0
        while answer := _claim(redis, keys, most, told):
            for age, name in zip(answer[::2], answer[1::2], strict=True):
                yield shard, name.decode(), int(age)
            told += most


def _claim(redis: Redis, keys: tuple[str, str], most: int, told: int) -> Any:
    return run_script(redis, _CLAIM, keys, PENDING_SECONDS, _KEEP_SECONDS, most, told)


def forget(redis: Redis, shard: str, name: str) -> None:
    """Take a name off the sweep's list."""
    redis.zrem(f"sweeping:{{{shard}}}", name)


def claim_turn(redis: Redis, seconds: int) -> bool:
    """Whether this process sweeps now: one of all does in ``seconds``."""
    return bool(redis.set("sweep:turn", b"1", nx=True, ex=max(1, seconds)))
