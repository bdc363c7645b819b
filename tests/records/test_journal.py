"""The journal's scripts: on a Redis in memory, on Valkey and on Redis."""

import json
import math
import subprocess
from dataclasses import replace

import pytest
import redis as redis_library
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from app.errors import ApiError
from app.records import journal
from app.records.journal import Entry, Result
from deploy.local import servers
from tests.fakes import FakeRedis


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts a real server once, by the name of its kind."""
    started = {}

    def start(kind):
        if kind not in started:
            directory, port = tmp_path_factory.mktemp(kind), servers.free_port()
            program, *options = servers.valkey(directory, port, "--save", "")
            command = ["redis-server" if kind == "redis" else program, *options]
            log = (directory / "log").open("wb")
            started[kind] = port, subprocess.Popen(command, stdout=log), log
        return redis_library.Redis(port=started[kind][0], retry=Retry(ConstantBackoff(0.05), 100))

    yield start
    for _, process, log in started.values():
        process.kill()
        process.wait()
        log.close()


@pytest.fixture(
    params=[
        "memory",
        pytest.param("valkey", marks=pytest.mark.thorough),
        pytest.param(
            "redis", marks=[pytest.mark.thorough, pytest.mark.needs_program("redis-server")]
        ),
    ]
)
def redis(request):
    """The journal's scripts run in Lua, of which each server has its own."""
    if request.param == "memory":
        yield FakeRedis()
        return
    with request.getfixturevalue("start")(request.param) as client:
        client.flushall()
        yield client


RESULT = Result("uploads/n.png", "image/png", 10, 1, 2, 1, "ab" * 32)


EARLIER_FIELDS = ("key", "content_type", "size", "width", "height", "frames", "sha256")


def entry(name="n1", repeat_key="k", digest="a" * 64):
    return Entry(digest, name, repeat_key, 40)


def later(redis, seconds):
    """Make all names older."""
    for key in redis.keys("pending:*") + redis.keys("sweeping:*"):
        for name, score in redis.zrange(key, 0, -1, withscores=True):
            redis.zadd(key, {name: score - seconds})


def claimed(redis):
    return [each.name for each in journal.claim(redis)]


def test_a_result_is_of_the_file_that_was_sent():
    stripped = replace(RESULT, sent_sha256="cd" * 32)
    assert stripped.is_of("cd" * 32)
    assert not stripped.is_of(stripped.sha256)


def test_a_result_of_an_earlier_version_is_of_the_file_that_was_stored():
    earlier = json.dumps({name: getattr(RESULT, name) for name in EARLIER_FIELDS})
    found = journal.replay(earlier.encode())
    assert found == RESULT
    assert found.is_of(RESULT.sha256)


def test_a_committed_name_is_never_swept(redis):
    entry().begin(redis)
    assert entry().commit(redis, RESULT) == 1
    later(redis, 3600)
    assert claimed(redis) == []


def test_a_name_under_way_is_left_alone_for_a_minute(redis):
    entry().begin(redis)
    later(redis, 55)
    assert claimed(redis) == []
    later(redis, 10)
    assert claimed(redis) == ["n1"]


def test_a_swept_name_is_not_acknowledged_any_more(redis):
    entry().begin(redis)
    later(redis, 61)
    assert claimed(redis) == ["n1"]
    assert entry().commit(redis, RESULT) == 0


def test_a_renewed_name_is_not_swept(redis):
    entry().begin(redis)
    later(redis, 61)
    assert claimed(redis) == ["n1"]
    assert entry().begin(redis) == b""
    assert claimed(redis) == []
    assert entry().commit(redis, RESULT) == 1


def test_an_aborted_upload_leaves_nothing(redis):
    entry().begin(redis)
    entry().abort(redis)
    assert redis.keys() == []


def test_an_aborted_upload_that_may_have_an_object_is_swept(redis):
    doubtful = entry()
    doubtful.begin(redis)
    doubtful.abort(redis, sweep=True)
    assert claimed(redis) == ["n1"]
    [name] = journal.claim(redis)
    journal.forget(redis, name)
    assert claimed(redis) == []


def test_every_name_is_claimed_however_many_there_are(redis):
    for number in range(250):
        entry(f"n{number}", None).begin(redis)
    redis.zadd("pending:{a}", {f"n{number}": 1 for number in range(250)})
    assert sorted(claimed(redis)) == sorted(f"n{number}" for number in range(250))


@pytest.mark.parametrize("is_doubtful", [False, True])
def test_every_name_is_claimed_while_the_sweep_takes_names_off_the_list(redis, is_doubtful):
    names = {f"n{number}": 1 for number in range(25)}
    redis.zadd("doubtful:{a}" if is_doubtful else "sweeping:{a}", names)
    seen = []
    for each in journal.claim(redis, most=10):
        seen.append(each.name)
        if is_doubtful:
            journal.settle(redis, each, stays=True)
        else:
            journal.forget(redis, each)
    assert sorted(seen) == sorted(names)


def test_everything_in_redis_expires(redis):
    entry().begin(redis)
    entry("n2", "k2").begin(redis)
    entry("n2", "k2").commit(redis, RESULT)
    later(redis, 61)
    claimed(redis)
    assert redis.keys()
    assert all(redis.ttl(key) > 0 for key in redis.keys())


def test_a_repeat_while_the_first_is_running_is_409(redis):
    entry().begin(redis)
    with pytest.raises(ApiError) as refused:
        journal.replay(entry("n2").begin(redis))
    assert refused.value.code == "idempotency_conflict"
    assert int(refused.value.headers["Retry-After"]) >= 1


def test_a_repeat_after_a_success_gets_its_result(redis):
    entry().begin(redis)
    entry().commit(redis, RESULT)
    assert journal.replay(entry("n2").begin(redis)) == RESULT


def test_a_repeat_after_a_failure_starts_anew(redis):
    entry().begin(redis)
    entry().abort(redis)
    assert journal.replay(entry("n2").begin(redis)) is None


def test_a_failed_repeat_does_not_free_the_first_ones_key(redis):
    entry().begin(redis)
    entry("n2").abort(redis)
    with pytest.raises(ApiError):
        journal.replay(entry("n3").begin(redis))


def test_keys_of_different_api_keys_are_different(redis):
    entry().begin(redis)
    assert journal.replay(entry("n2", digest="a" * 12 + "9" * 52).begin(redis)) is None


def test_a_commit_that_is_sent_twice_succeeds_twice(redis):
    entry().begin(redis)
    assert entry().commit(redis, RESULT) == 1
    assert entry().commit(redis, RESULT) == 1


def test_an_upload_that_lost_its_lock_is_not_acknowledged(redis):
    entry().begin(redis)
    [lock] = redis.keys("idempotency:*")
    redis.delete(lock)
    entry("n2").begin(redis)
    assert entry().commit(redis, RESULT) == 0
    assert entry("n2").commit(redis, RESULT) == 1


def test_no_idempotency_key_is_readable_in_redis(redis):
    entry(repeat_key="secret-order-4711").begin(redis)
    assert b"secret-order-4711" not in b"".join(redis.keys())


def test_all_keys_of_an_upload_share_a_hash_slot():
    for name in entry()._keys:
        assert name.partition("{")[2].partition("}")[0] == "a"


def test_only_one_process_sweeps_in_a_turn(redis):
    assert journal.claim_turn(redis, 20)
    assert not journal.claim_turn(redis, 20)


def test_a_result_dumps_to_the_same_json_each_time():
    assert json.loads(RESULT.dump())["key"] == "uploads/n.png"
    assert RESULT.dump() == RESULT.dump()


def restarted(redis):
    """As if the server had been another one when it was last swept."""
    for shard in redis.keys("history:*"):
        redis.hset(shard, "run", "another")


def doubtful(redis):
    return {each.name for each in journal.claim(redis) if each.gap}


def test_a_name_from_before_a_restart_is_doubtful_and_one_entered_since_is_not(redis):
    entry("before", None).begin(redis)
    claimed(redis)
    restarted(redis)
    claimed(redis)
    entry("since", None).begin(redis)
    later(redis, 61)
    redis.hincrby("history:{a}", "since", -62)
    redis.zincrby("pending:{a}", -2, "before")
    assert doubtful(redis) == {"before"}
    assert sorted(claimed(redis)) == ["before", "since"]


def test_a_name_that_redis_has_kept_since_before_it_was_ever_swept_is_doubtful():
    redis = FakeRedis()
    redis.server.uptime = 30
    entry().begin(redis)
    later(redis, 61)
    assert doubtful(redis) == {"n1"}


def test_a_doubtful_name_is_not_acknowledged_any_more(redis):
    entry().begin(redis)
    claimed(redis)
    restarted(redis)
    later(redis, 61)
    assert doubtful(redis) == {"n1"}
    assert entry().commit(redis, RESULT) == 0


def test_a_doubtful_name_whose_upload_goes_on_is_doubtful_no_longer(redis):
    entry().begin(redis)
    claimed(redis)
    restarted(redis)
    later(redis, 61)
    assert doubtful(redis) == {"n1"}
    entry().begin(redis)
    assert claimed(redis) == []
    assert entry().commit(redis, RESULT) == 1


def test_names_of_two_restarts_keep_the_beginning_of_the_first_gap(redis):
    entry().begin(redis)
    claimed(redis)
    for field in ("since", "seen"):  # else a server that has just started is in doubt itself
        redis.hincrby("history:{a}", field, -1000)
    first = int(redis.hget("history:{a}", "seen"))
    for _ in range(2):
        restarted(redis)
        claimed(redis)
    later(redis, 61)
    [gap] = [each.gap for each in journal.claim(redis)]
    assert gap.upto == first


def test_a_name_that_was_settled_is_listed_and_not_claimed_again(redis):
    entry().begin(redis)
    claimed(redis)
    restarted(redis)
    later(redis, 61)
    [name] = journal.claim(redis)
    journal.settle(redis, name, stays=True)
    assert claimed(redis) == []
    assert [each.name for each in journal.in_doubt(redis)] == ["n1"]
    assert entry().commit(redis, RESULT) == 0
    journal.settle(redis, name, stays=False)
    assert list(journal.in_doubt(redis)) == []
    assert claimed(redis) == ["n1"]


@pytest.mark.parametrize(
    ("written", "spared"),
    [(40, True), (49, True), (51, False), (100, False), (201, False), (203, True)],
)
def test_an_object_is_spared_only_where_redis_would_know_of_its_200(written, spared):
    """It kept everything up to 100, and again since 200; the 200 comes within 50 s."""
    gap = journal.Gap(upto=100, since=200, ahead=250)
    assert gap.spares(300 - written, asked=50) is spared


def test_an_object_of_unknown_age_proves_nothing():
    assert not journal.Gap(upto=100, since=0, ahead=0).spares(math.nan, asked=0)
