"""The sliding window, by the clock of the server."""

import random
import threading
import time

import pytest

from app.config import Rate
from app.errors import ApiError
from app.records import ratelimit
from tests.fakes import FakeRedis

KEY = "0123456789ab"


class Clock:
    """The clock of a fake server: it stands still until a test moves it. Milliseconds."""

    def __init__(self, redis):
        self.redis = redis
        self.now = 1_800_000_000_000

    def time(self):
        return self.now / 1000

    def request(self, rate, cost=1):
        return request(self.redis, rate, cost)


@pytest.fixture
def clock(redis, monkeypatch):
    clock = Clock(redis)
    monkeypatch.setattr("fakeredis.commands_mixins.server_mixin.time", clock)
    return clock


def request(redis, rate, cost=1):
    with redis.pipeline(transaction=False) as pipe:
        ratelimit.count(pipe, KEY, rate, cost=cost)
        return ratelimit.state(rate, pipe.execute()[0])


def test_exactly_the_limit_passes(redis):
    answers = [request(redis, Rate(5, 60)).allowed for _ in range(8)]
    assert answers == [True] * 5 + [False] * 3


def test_remaining_counts_down_to_zero(redis):
    assert [request(redis, Rate(3, 60)).remaining for _ in range(4)] == [2, 1, 0, 0]


def test_a_refused_request_costs_nothing(clock):
    rate = Rate(2, 60)
    clock.request(rate), clock.request(rate)
    for _ in range(50):
        clock.now += 1000
        assert not clock.request(rate).allowed
    clock.now += 10_001
    assert clock.request(rate).allowed


def test_looking_costs_nothing_and_writes_nothing(redis):
    assert request(redis, Rate(3, 60), cost=0).remaining == 3
    assert redis.keys() == []


def test_waiting_for_retry_after_is_enough_and_never_longer_than_the_window(clock):
    for rate in (Rate(1, 1), Rate(5, 1), Rate(60, 60), Rate(7, 3600), Rate(2, 86400)):
        while clock.request(rate).allowed:
            clock.now += 3
        refused = clock.request(rate)
        assert 1 <= refused.retry_after <= rate.period
        clock.now += refused.retry_after * 1000
        assert clock.request(rate).allowed
        clock.redis.flushall()


@pytest.mark.parametrize("seed", range(8))
def test_no_stretch_of_the_window_ever_holds_more_than_the_limit(clock, seed):
    chance = random.Random(seed)
    rate = Rate(chance.choice([1, 3, 10, 25]), chance.choice([1, 60, 3600]))
    window = rate.period * 1000
    passed = []
    for _ in range(600):
        clock.now += chance.choice([0, 0, 1, window // 70, window // 7, window])
        if clock.request(rate).allowed:
            passed.append(clock.now)
    assert len(passed) > rate.limit
    for earlier, later in zip(passed, passed[rate.limit :], strict=False):
        assert later - earlier >= window


@pytest.mark.thorough
def test_a_key_costs_constant_memory_whatever_the_rate(clock):
    rate = Rate(1_000_000, 60)
    for _ in range(2000):
        clock.now += 61
        clock.request(rate)
    assert clock.redis.hlen(f"ratelimit:{KEY}") <= 62


def test_no_counter_is_without_an_expiry(redis):
    request(redis, Rate(5, 60))
    assert 0 < redis.pttl(f"ratelimit:{KEY}") <= 61_000


def test_a_change_of_the_rate_counts_from_the_next_request(redis):
    for _ in range(3):
        request(redis, Rate(3, 60))
    assert not request(redis, Rate(3, 3600)).allowed
    assert request(redis, Rate(4, 60)).allowed
    assert not request(redis, Rate(1, 60)).allowed


def test_parallel_requests_pass_exactly_the_limit(server):
    passed = []

    def send():
        redis = FakeRedis(server)
        for _ in range(20):
            passed.append(request(redis, Rate(60, 60)).allowed)

    threads = [threading.Thread(target=send) for _ in range(5)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sum(passed) == 60


@pytest.mark.parametrize("back", [1, 999, 3600_000, 400 * 86400_000])
def test_a_clock_that_was_set_back_holds_no_key_longer_than_the_window(clock, back):
    rate = Rate(3, 60)
    assert [clock.request(rate).allowed for _ in range(4)] == [True, True, True, False]
    clock.now -= back
    refused = clock.request(rate)
    assert not refused.allowed
    assert 1 <= refused.retry_after <= 60
    assert clock.request(rate, cost=0).reset <= 60
    clock.now += 60_000
    assert [clock.request(rate).allowed for _ in range(4)] == [True, True, True, False]


def test_requests_from_before_the_clock_was_set_back_count_until_the_window_ends(clock):
    rate = Rate(3, 60)
    clock.request(rate), clock.request(rate)
    clock.now -= 3600_000
    assert [clock.request(rate).remaining for _ in range(2)] == [0, 0]
    clock.now += 59_999
    assert not clock.request(rate).allowed
    clock.now += 1
    assert clock.request(rate).remaining == 2


def test_a_clock_that_jumps_back_and_forth_costs_no_memory(clock):
    rate = Rate(1_000_000, 60)
    for number in range(500):
        clock.now += 61_001 if number % 3 else -120_500
        clock.request(rate)
    assert clock.redis.hlen(f"ratelimit:{KEY}") <= 62


def test_over_the_rate_is_429_with_the_time_to_wait(redis):
    request(redis, Rate(1, 60))
    with pytest.raises(ApiError) as refused:
        request(redis, Rate(1, 60)).check()
    assert refused.value.status == 429
    assert 1 <= int(refused.value.headers["Retry-After"]) <= 60
    assert refused.value.headers["Retry-After"] in refused.value.detail


def test_the_headers_follow_the_draft(redis):
    state = request(redis, Rate(60, 60))
    assert state.headers() == {
        "RateLimit-Policy": '"requests";q=60;w=60',
        "RateLimit": '"requests";r=59;t=60',
    }


@pytest.mark.thorough
def test_the_server_clock_is_used(redis):
    request(redis, Rate(1, 1))
    deadline = time.monotonic() + 5
    while not request(redis, Rate(1, 1)).allowed:
        assert time.monotonic() < deadline
        time.sleep(0.05)
