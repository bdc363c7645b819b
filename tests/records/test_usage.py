import hashlib
import re
from datetime import UTC, datetime, timedelta

import pytest

from app.records import usage
from app.records.usage import Usage
from tests.fakes import DIGEST, ID, RECORD


@pytest.fixture
def redis(redis):
    redis.hset(RECORD, mapping={"roles": "uploader"})
    return redis


def record(redis, counter, digest=DIGEST, **counts):
    with redis.pipeline(transaction=False) as pipe:
        counter.record(pipe, digest, **counts)
        return pipe.execute()


def today():
    return datetime.now(UTC)


def stamp(ago):
    return f"{datetime.now(UTC) - timedelta(seconds=ago):%Y-%m-%dT%H:%M:%SZ}"


def test_counts_of_a_day_add_up(redis):
    counter = Usage()
    record(redis, counter, uploads=1, size=1000)
    record(redis, counter, uploads=1, size=24)
    record(redis, counter, rejected=1)
    record(redis, counter, rate_limited=1)
    expected = {"uploads": 2, "bytes": 1024, "rejected": 1, "rate_limited": 1}
    assert usage.read(redis, ID, today()) == expected


def test_processes_count_together_and_keys_apart(redis):
    other = hashlib.sha256(b"other").hexdigest()
    record(redis, Usage(), uploads=1, size=5)
    record(redis, Usage(), uploads=1, size=5)
    record(redis, Usage(), other, rejected=1)
    counts = usage.read_many(redis, [ID, "0" * 12, other[:12]], today())
    assert counts == [{"uploads": 2, "bytes": 10}, {}, {"rejected": 1}]


def test_days_are_counted_apart(redis):
    record(redis, Usage(), uploads=1)
    assert usage.read(redis, ID, today() - timedelta(days=2)) == {}


def test_a_day_is_kept_for_90_days_after_its_last_count(redis):
    record(redis, Usage(), uploads=1)
    (name,) = redis.keys("usage:*")
    assert re.fullmatch(rf"usage:{ID}:\d{{4}}-\d\d-\d\d", name.decode())
    assert 90 * 86400 - 5 <= redis.ttl(name) <= 90 * 86400


def test_what_did_not_happen_makes_no_field(redis):
    record(redis, Usage(), uploads=1)
    assert usage.read(redis, ID, today()) == {"uploads": 1}


def test_nothing_to_count_leaves_nothing(redis):
    record(redis, Usage())
    assert redis.keys("usage:*") == []


def test_last_use_is_noted_on_the_record(redis):
    record(redis, Usage(), uploads=1)
    assert stamp(5) <= redis.hget(RECORD, "last_used_at").decode() <= stamp(0)


def test_last_use_never_brings_a_deleted_record_back(redis):
    counter = Usage()
    redis.delete(RECORD)
    record(redis, counter, uploads=1)
    assert redis.keys("apikey:*") == []


def test_one_process_asks_for_a_keys_last_use_once_a_minute(redis):
    counter = Usage()
    first = len(record(redis, counter, uploads=1))
    assert [len(record(redis, counter, uploads=1)) for _ in range(5)] == [first - 1] * 5
    redis.hset(RECORD, "last_used_at", "")
    record(redis, counter, uploads=1)
    assert redis.hget(RECORD, "last_used_at") == b""


@pytest.mark.parametrize(("ago", "written"), [(0, False), (50, False), (61, True), (86400, True)])
def test_many_processes_together_write_it_once_a_minute(redis, ago, written):
    before = stamp(ago)
    redis.hset(RECORD, "last_used_at", before)
    record(redis, Usage(), uploads=1)
    assert (redis.hget(RECORD, "last_used_at").decode() > before) is written


def test_a_process_remembers_only_so_many_keys(redis):
    counter = Usage()
    for number in range(usage._MOST_REMEMBERED + 1):
        counter._due(str(number))
    assert len(counter._touched) <= usage._MOST_REMEMBERED


def test_reading_many_of_none_is_none(redis):
    assert usage.read_many(redis, [], today()) == []
