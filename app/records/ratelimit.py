"""The rate of each key: requests in a sliding window, counted in Redis in constant memory.

The window is cut into 60 sub-windows. Each has a count and the time of its
last request, and counts in full until that last request is older than the
window. So no stretch of the window's length ever holds more requests than the
limit, and a key costs at most 62 small hash fields. The price: the first
requests of a sub-window are released together with its last one, up to a
sixtieth of the window late.
"""

import math
from dataclasses import dataclass

from redis.client import Pipeline

from app.config import Rate
from app.errors import ApiError
from app.records.client import run_script

_SUB_WINDOWS = 60

# KEYS[1] the counter. ARGV: limit, window in ms, sub-window in ms, cost (0 or 1).
# Returns {allowed, remaining, ms until the next is released, ms until one may pass}.
# The clock is the server's, so that all processes and machines share one. A time later than now,
# because that clock was set back, counts as now: else it would block the key until then.
# ``live`` holds {time, count} of the sub-windows that count, ``old`` the fields to delete, and
# ``fresh`` the count that the current sub-window gets: this request, and those with a later time.
_COUNT = """
local limit, window, width = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local cost = tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local fields = redis.call('HGETALL', KEYS[1])
local used, fresh, live, old = 0, 0, {}, {}
for i = 1, #fields, 2 do
  local count, last = string.match(fields[i + 1], '^(%d+) (%d+)$')
  count, last = tonumber(count), tonumber(last)
  if not count or last + window <= now then
    old[#old + 1] = fields[i]
  else
    used = used + count
    if last <= now then
      live[#live + 1] = {last, count}
    else
      old[#old + 1] = fields[i]
      fresh = fresh + count
    end
  end
end
local allowed = used < limit
if cost > 0 and allowed then used, fresh = used + 1, fresh + 1 end
if fresh > 0 then live[#live + 1] = {now, fresh} end
if cost > 0 then
  if #old > 0 then redis.call('HDEL', KEYS[1], unpack(old)) end
  if fresh > 0 then
    local field = string.format('%.0f', math.floor(now / width))
    local count = string.match(redis.call('HGET', KEYS[1], field) or '0', '^%d+')
    redis.call('HSET', KEYS[1], field, string.format('%.0f %.0f', count + fresh, now))
    redis.call('PEXPIRE', KEYS[1], window + width)
  end
end
table.sort(live, function(a, b) return a[1] < b[1] end)
local released, wait, left = 0, 0, used
if live[1] then released = live[1][1] + window - now end
for i = 1, #live do
  if left < limit then break end
  left = left - live[i][2]
  wait = live[i][1] + window - now
end
return {allowed and 1 or 0, math.max(limit - used, 0), released, wait}
"""


@dataclass(frozen=True, slots=True)
class RateState:
    """What is left of a key's rate. Times are in whole seconds, rounded up."""

    rate: Rate
    allowed: bool
    remaining: int
    reset: int
    retry_after: int

    def headers(self) -> dict[str, str]:
        """The fields of draft-ietf-httpapi-ratelimit-headers-11, policy ``requests``.

        ``t`` is the time until more than ``r`` becomes available.
        """
        return {
            "RateLimit-Policy": f'"requests";q={self.rate.limit};w={self.rate.period}',
            "RateLimit": f'"requests";r={self.remaining};t={self.reset}',
        }

    def check(self) -> None:
        """Raise the 429 ``rate_limited`` when the request is over the rate."""
        if self.allowed:
            return
        raise ApiError(
            "rate_limited",
            f"This API key has used up its uploads ({self.rate.limit} per {self.rate.name})."
            f" Try again in {self.retry_after} s.",
            headers={"Retry-After": str(self.retry_after)},
        )


def count(pipe: Pipeline, key_id: str, rate: Rate, *, cost: int = 1) -> None:
    """Queue the count of one request on a pipeline; ``cost=0`` reads without counting."""
    window = rate.period * 1000
    width = max(1, window // _SUB_WINDOWS)
    run_script(pipe, _COUNT, [f"ratelimit:{key_id}"], rate.limit, window, width, cost)


def state(rate: Rate, answer: list[int]) -> RateState:
    """The state that the script's answer says."""
    allowed, remaining, released, wait = answer
    retry_after = max(1, math.ceil(wait / 1000))
    return RateState(
        rate=rate,
        allowed=bool(allowed),
        remaining=remaining,
        reset=math.ceil(released / 1000) if allowed else retry_after,
        retry_after=retry_after,
    )
