"""Counts per key and day, and the time of last use."""

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


def test_counts_of_zero_make_no_field(redis):
    record(redis, Usage(), uploads=1)
    assert usage.read(redis, ID, today()) == {"uploads": 1}


def test_nothing_to_count_leaves_nothing(redis):
    record(redis, Usage())
    assert redis.keys("usage:*") == []


def test_last_use_is_noted_beside_the_record_and_never_in_it(redis):
    record(redis, Usage(), uploads=1)
    assert stamp(5) <= redis.get(f"lastused:{ID}").decode() <= stamp(0)
    assert redis.hgetall(RECORD) == {b"roles": b"uploader"}


def test_last_use_is_forgotten_after_400_days_without_use(redis):
    record(redis, Usage(), uploads=1)
    assert 400 * 86400 - 5 <= redis.ttl(f"lastused:{ID}") <= 400 * 86400


def test_last_use_never_brings_a_deleted_record_back(redis):
    counter = Usage()
    redis.delete(RECORD)
    record(redis, counter, uploads=1)
    assert redis.keys("apikey:*") == []


def test_one_process_notes_a_keys_last_use_once_a_minute(redis):
    counter = Usage()
    first = len(record(redis, counter, uploads=1))
    assert [len(record(redis, counter, uploads=1)) for _ in range(5)] == [first - 1] * 5
    redis.delete(f"lastused:{ID}")
    record(redis, counter, uploads=1)
    assert redis.exists(f"lastused:{ID}") == 0


def test_last_use_is_read_for_many_keys_and_odd_values_are_ignored(redis):
    redis.set("lastused:a", "2026-07-01T10:00:00Z")
    redis.set("lastused:b", b"\xff")
    redis.hset("lastused:c", "x", "y")
    read = usage.last_used(redis, ["a", "b", "c", "d"])
    assert read == ["2026-07-01T10:00:00Z", "\N{REPLACEMENT CHARACTER}", "", ""]


def test_a_process_remembers_a_bounded_number_of_keys(redis):
    counter = Usage()
    for number in range(usage._MOST_REMEMBERED + 1):
        counter._due(str(number))
    assert len(counter._touched) <= usage._MOST_REMEMBERED


def test_reading_the_counts_of_no_keys_gives_none(redis):
    assert usage.read_many(redis, [], today()) == []
