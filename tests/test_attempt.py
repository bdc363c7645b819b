"""Every way in which an upload can end, and what it leaves in Redis and in the store."""

import logging
from datetime import UTC, datetime

import pytest

from app.attempt import RENEW_SECONDS, Attempt
from app.config import Rate
from app.errors import ApiError, unavailable
from app.records.client import CALL_SECONDS, WAIT_SECONDS
from app.records.journal import COMMIT_SECONDS, Result
from app.records.keys import ApiKey
from app.records.usage import Usage
from app.store.bucket import OutcomeUnknown, StoredObject
from app.store.client import CHECK_SECONDS
from tests.fakes import DIGEST, ID, FakeRedis

# The pipelines that an upload sends to Redis, by their numbers: see FakeRedis.lost.
ADMISSION, DECISION = 1, 2
RATE = Rate(60, 60)
SHA256 = "ab" * 32
DOWN = unavailable("storage_unavailable", "down")


@pytest.fixture
def make(redis, store, clock):
    """A factory of attempts of one key."""

    def make(idempotency_key=None, *, rate=RATE, redis=redis):
        api_key = ApiKey.parse(DIGEST, {b"roles": b"uploader"}, rate)
        return Attempt(
            api_key,
            idempotency_key,
            redis=redis,
            store=store,
            usage=Usage(),
            seconds=30,
            clock=clock,
        )

    return make


def result(attempt, size=5):
    return Result(f"uploads/{attempt.name}.png", "image/png", size, 8, 6, 1, SHA256)


def image(attempt):
    return StoredObject(result(attempt).key, (b"bytes",), "image/png", SHA256, {})


def run(attempt, *steps):
    """Run an upload as app/upload.py does: its admission, and then these steps."""
    with attempt:
        attempt.admit()
        for step in steps:
            step(attempt)


def put(attempt):
    attempt.store(image(attempt), deadline=0)


def commit(attempt):
    attempt.commit(result(attempt))


def fail_with(error):
    """A step that raises this error."""

    def step(_):
        raise error

    return step


def upload(attempt):
    """Run a whole upload without a failure; its result."""
    run(attempt, put, commit)
    return result(attempt)


def refused(call, *arguments):
    """The code with which a call is refused."""
    with pytest.raises(ApiError) as error:
        call(*arguments)
    return error.value.code


def kinds(redis):
    """The kinds of records about uploads that Redis has."""
    found = [key.decode().partition(":")[0] for key in redis.keys()]
    return sorted(kind for kind in found if kind in ("pending", "sweeping", "idempotency"))


def usage(redis):
    """The usage of the key today."""
    counts = redis.hgetall(f"usage:{ID}:{datetime.now(UTC):%Y-%m-%d}")
    return {name.decode(): int(count) for name, count in counts.items()}


# Without a failure


def test_an_upload_takes_its_name_out_of_the_journal_and_is_counted(make, redis, store):
    stored = upload(make())
    assert store.objects[stored.key][0] == b"bytes"
    assert kinds(redis) == []
    assert usage(redis) == {"uploads": 1, "bytes": 5}


def test_the_name_of_an_upload_under_way_is_in_the_journal(make, redis):
    attempt = make("k1")
    attempt.admit()
    assert redis.zrange(f"pending:{{{ID[0]}}}", 0, -1) == [attempt.name.encode()]
    assert kinds(redis) == ["idempotency", "pending"]


def test_admission_says_what_is_left_of_the_rate(make):
    attempt = make()
    assert attempt.rate is None
    attempt.admit()
    assert attempt.rate.remaining == 59


def test_a_repeat_gets_the_earlier_result_and_stores_nothing(make, redis, store):
    first = upload(make("k1"))
    with make("k1") as again:
        again.admit()
        assert again.replay(SHA256) == first
    assert list(store.objects) == [first.key]
    assert kinds(redis) == ["idempotency"]
    assert usage(redis) == {"uploads": 2, "bytes": 10}


def test_a_repeat_whose_object_is_gone_is_stored_as_a_first_upload(make, redis, store):
    first = upload(make("k1"))
    store.objects.clear()
    again = make("k1")
    with again:
        again.admit()
        assert again.replay(SHA256) is None
        assert kinds(redis) == ["idempotency", "pending"]
        put(again), commit(again)
    assert list(store.objects) == [result(again).key] != [first.key]
    with make("k1") as third:
        third.admit()
        assert third.replay(SHA256) == result(again)
    assert kinds(redis) == ["idempotency"]


def test_a_repeat_is_not_answered_with_another_object_of_the_same_name(make, store):
    first = upload(make("k1"))
    other = StoredObject(first.key, (b"other",), "image/png", "cd" * 32, {})
    store.put(other, 0)
    with make("k1") as again:
        again.admit()
        assert again.replay(SHA256) is None
        put(again), commit(again)


def test_of_two_repeats_whose_object_is_gone_only_one_stores_it(make, store):
    upload(make("k1"))
    store.objects.clear()
    one, other = make("k1"), make("k1")
    one.admit(), other.admit()
    with one:
        assert one.replay(SHA256) is None
        assert refused(other.replay, SHA256) == "idempotency_conflict"
        put(one), commit(one)
    assert refused(other.replay, SHA256) == "idempotency_conflict"
    assert list(store.objects) == [result(one).key]


def test_a_repeat_that_fails_to_store_again_leaves_its_key_free(make, redis, store):
    upload(make("k1"))
    store.objects.clear()
    store.failure = DOWN
    assert refused(run, make("k1"), lambda it: it.replay(SHA256), put) == "storage_unavailable"
    assert kinds(redis) == []


def test_a_repeat_is_503_while_the_store_cannot_say_whether_the_object_is_there(make, redis, store):
    first = upload(make("k1"))
    store.down = DOWN
    assert refused(run, make("k1"), lambda it: it.replay(SHA256)) == "storage_unavailable"
    store.down = None
    with make("k1") as again:
        again.admit()
        assert again.replay(SHA256) == first
    assert usage(redis) == {"uploads": 2, "bytes": 10}


def test_a_repeat_may_be_as_slow_as_the_first(make, clock):
    first = upload(make("k1"))
    with make("k1") as again:
        again.admit()
        clock.now += RENEW_SECONDS + 1
        again.renew()
        assert again.replay(SHA256) == first


def test_an_upload_that_stands_is_not_taken_back_by_a_later_error(make, store, redis):
    attempt = make("k1")
    with pytest.raises(RuntimeError):
        run(attempt, put, commit, fail_with(RuntimeError))
    assert list(store.objects) == [result(attempt).key]
    with make("k1") as again:
        again.admit()
        assert again.earlier == result(attempt)


def test_an_upload_stands_though_its_usage_could_not_be_counted(make, redis, store, caplog):
    redis.set(f"usage:{ID}:{datetime.now(UTC):%Y-%m-%d}", "no hash")
    stored = upload(make())
    assert list(store.objects) == [stored.key]
    assert kinds(redis) == []
    assert "usage not counted" in caplog.text


def test_a_repeat_is_answered_though_its_usage_could_not_be_counted(make, redis, caplog):
    stored = upload(make("k1"))
    redis.set(f"usage:{ID}:{datetime.now(UTC):%Y-%m-%d}", "no hash")
    repeat = make("k1")
    repeat.admit()
    assert repeat.replay(SHA256) == stored
    assert "usage not counted" in caplog.text


def test_a_refusal_that_could_not_be_counted_leaves_nothing_to_the_sweep(make, redis, caplog):
    redis.set(f"usage:{ID}:{datetime.now(UTC):%Y-%m-%d}", "no hash")
    assert refused(run, make(), fail_with(ApiError("empty_image", "Empty."))) == "empty_image"
    assert kinds(redis) == []
    assert "usage not counted" in caplog.text
    assert "left to the sweep" not in caplog.text


# Refused before it is admitted


def test_an_upload_over_the_rate_leaves_no_name_and_is_counted_as_rate_limited(make, redis):
    upload(make(rate=Rate(1, 60)))
    attempt = make("k1", rate=Rate(1, 60))
    assert refused(attempt.admit) == "rate_limited"
    assert attempt.rate.remaining == 0
    assert kinds(redis) == []
    assert usage(redis)["rate_limited"] == 1


def test_a_known_mistake_is_refused_after_the_request_was_counted(make, redis):
    attempt = make()
    wrong = ApiError("invalid_idempotency_key", "Too long.")
    assert refused(attempt.admit, wrong) == "invalid_idempotency_key"
    assert attempt.rate.remaining == 59
    assert kinds(redis) == []
    assert usage(redis) == {"rejected": 1}
    used_up = make(rate=Rate(1, 60))
    assert refused(used_up.admit, wrong) == "rate_limited"


def test_a_repeat_during_the_first_upload_is_a_conflict_and_does_not_disturb_it(make, redis):
    first = make("k1")
    first.admit()
    assert refused(make("k1").admit) == "idempotency_conflict"
    assert kinds(redis) == ["idempotency", "pending"]
    put(first), commit(first)
    assert usage(redis) == {"uploads": 1, "bytes": 5}


def test_another_file_with_the_same_idempotency_key_is_a_mismatch(make, redis):
    first = upload(make("k1"))
    again = make("k1")
    assert refused(run, again, lambda _: again.replay("cd" * 32)) == "idempotency_mismatch"
    assert usage(redis) == {"uploads": 1, "bytes": 5, "rejected": 1}
    with make("k1") as right:
        right.admit()
        assert right.replay(SHA256) == first


def test_without_redis_no_upload_is_admitted(make, server, caplog):
    server.connected = False
    attempt = make()
    assert refused(attempt.admit) == "redis_unavailable"
    assert attempt.rate is None
    assert f"left to the sweep: {attempt.name}" in caplog.text


def test_the_lock_is_free_again_when_the_answer_to_its_admission_was_lost(make, redis):
    redis.lost = ADMISSION
    assert refused(make("k1").admit) == "redis_unavailable"
    assert kinds(redis) == []
    upload(make("k1"))


# Ended by an error before the store


@pytest.mark.parametrize(
    ("code", "counts"),
    [
        ("corrupt_image", {"rejected": 1}),
        ("file_too_large", {"rejected": 1}),
        ("request_timeout", {}),
        ("overloaded", {}),
    ],
)
def test_a_refusal_takes_the_name_out_and_is_counted_if_the_client_was_wrong(
    make, redis, code, counts
):
    assert refused(run, make("k1"), fail_with(ApiError(code, "What to do."))) == code
    assert kinds(redis) == []
    assert usage(redis) == counts


def test_an_upload_whose_client_has_gone_away_is_not_counted_as_rejected(make, redis):
    error = ApiError("malformed_multipart", "It broke off.")
    error.disconnected = True
    assert refused(run, make(), fail_with(error)) == "malformed_multipart"
    assert kinds(redis) == []
    assert usage(redis) == {}


@pytest.mark.parametrize("kind", [KeyError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_nothing_stays_whatever_ends_an_upload(make, redis, store, kind):
    with pytest.raises(kind):
        run(make("k1"), put, fail_with(kind))
    assert store.objects == {}
    assert kinds(redis) == ["sweeping"]


# While the body arrives


def test_a_name_is_renewed_only_after_some_seconds(make, redis, clock):
    attempt = make("k1")
    attempt.admit()
    redis.flushall()
    clock.now += RENEW_SECONDS - 1
    attempt.renew()
    assert kinds(redis) == []
    clock.now += 1
    attempt.renew()
    assert kinds(redis) == ["idempotency", "pending"]
    redis.flushall()
    attempt.renew()
    assert kinds(redis) == []


def test_a_renewed_upload_is_neither_swept_nor_replaced_by_a_repeat(make, redis, clock):
    attempt = make("k1")
    attempt.admit()
    pending = f"pending:{{{ID[0]}}}"
    redis.zadd(pending, {attempt.name: 1})
    clock.now += RENEW_SECONDS
    attempt.renew()
    assert redis.zscore(pending, attempt.name) > 1
    assert refused(make("k1").admit) == "idempotency_conflict"


def test_a_request_that_a_repeat_has_overtaken_is_refused(make, redis, clock):
    slow = make("k1")
    slow.admit()
    redis.delete(*redis.keys("idempotency:*"))  # its lock has ended
    repeat = upload(make("k1"))
    clock.now += RENEW_SECONDS
    with slow:
        assert refused(slow.renew) == "idempotency_conflict"
    with make("k1") as next_one:
        next_one.admit()
        assert next_one.replay(SHA256) == repeat


def test_a_redis_that_goes_down_while_the_body_arrives_ends_the_upload(make, server, clock):
    attempt = make()
    attempt.admit()
    server.connected = False
    clock.now += RENEW_SECONDS
    assert refused(attempt.renew) == "redis_unavailable"


# In the store


def test_a_put_that_certainly_failed_leaves_nothing_to_the_sweep(make, redis, store):
    store.failure = DOWN
    assert refused(run, make("k1"), put) == "storage_unavailable"
    assert kinds(redis) == []
    assert usage(redis) == {}


def test_an_object_that_may_be_there_is_deleted_and_watched_by_the_sweep(make, redis, store):
    deleted = []
    store.failure = OutcomeUnknown("connection broken")
    store.delete = deleted.append
    attempt = make("k1")
    assert refused(run, attempt, put) == "storage_unavailable"
    assert deleted == [f"uploads/{attempt.name}.png"]
    assert kinds(redis) == ["sweeping"]


def test_an_object_that_cannot_be_deleted_is_left_to_the_sweep(make, redis, store, caplog):
    store.failure, store.undeletable = OutcomeUnknown("connection broken"), DOWN
    assert refused(run, make(), put) == "storage_unavailable"
    assert kinds(redis) == ["sweeping"]
    assert "could not delete" in caplog.text


# At the decision of Redis


def decide(attempt, before=lambda: None):
    """The code of an upload that is refused at its last step."""
    return refused(run, attempt, put, lambda _: before(), commit)


def test_an_upload_whose_name_was_swept_does_not_stand(make, redis, store):
    attempt = make()

    def sweep():
        redis.zadd(f"sweeping:{{{ID[0]}}}", {attempt.name: 1})

    assert decide(attempt, sweep) == "storage_unavailable"
    assert store.objects == {}
    assert kinds(redis) == ["sweeping"]


def test_an_upload_that_a_repeat_has_overtaken_is_taken_back(make, redis, store):
    winner = []

    def overtake():
        redis.delete(*redis.keys("idempotency:*"))
        winner.append(upload(make("k1")))

    assert decide(make("k1"), overtake) == "storage_unavailable"
    assert list(store.objects) == [winner[0].key]


def test_a_decision_that_redis_did_not_confirm_is_taken_back(make, redis, store):
    redis.lost = DECISION
    assert decide(make()) == "redis_unavailable"
    assert store.objects == {}
    assert kinds(redis) == ["sweeping"]


@pytest.mark.parametrize("like_a_cluster", [False, True])
def test_the_object_stays_for_a_repeat_that_may_be_answered_with_it(
    make, redis, store, caplog, like_a_cluster
):
    redis.lost, redis.like_a_cluster = DECISION, like_a_cluster
    attempt = make("k1")
    assert decide(attempt) == "redis_unavailable"
    assert list(store.objects) == [result(attempt).key]
    assert f"left to a repeat or to the sweep: {attempt.name}" in caplog.text
    with make("k1") as again:
        again.admit()
        assert again.replay(SHA256) == result(attempt)


def test_an_error_at_the_decision_does_not_prove_that_nothing_was_remembered(make, redis, store):
    attempt = make("k1")

    def make_unwritable():
        redis.delete(f"pending:{{{ID[0]}}}")
        redis.set(f"pending:{{{ID[0]}}}", "no sorted set")

    assert decide(attempt, make_unwritable) == "redis_unavailable"
    [remembered] = redis.keys("idempotency:*")
    assert redis.get(remembered).decode() == result(attempt).dump()
    assert list(store.objects) == [result(attempt).key]


def test_a_redis_that_dies_before_the_decision_leaves_the_name_to_the_sweep(
    make, redis, store, server, caplog
):
    caplog.set_level(logging.WARNING)
    attempt = make()
    assert decide(attempt, lambda: setattr(server, "connected", False)) == "redis_unavailable"
    assert store.objects == {}
    assert f"left to the sweep: {attempt.name}" in caplog.text
    server.connected = True
    assert kinds(redis) == ["pending"]


def test_a_200_never_comes_later_after_its_put_than_the_sweep_assumes():
    longest_upload = 25  # the upper bound of UPLOAD_TIMEOUT, which begins before the PUT
    # The end of the PUT's answer, and three small requests that wait for a connection each.
    looking = 7 * CHECK_SECONDS
    deciding = WAIT_SECONDS + 2 * (CALL_SECONDS + CALL_SECONDS) + 1  # connect and ask, twice
    assert longest_upload + looking + deciding < COMMIT_SECONDS


def test_two_processes_with_one_idempotency_key_agree_on_one_object(make, server, store):
    first, second = make("k1"), make("k1", redis=FakeRedis(server))
    first.admit()
    assert refused(second.admit) == "idempotency_conflict"
    put(first), commit(first)
    with make("k1", redis=FakeRedis(server)) as third:
        third.admit()
        assert third.replay(SHA256) == result(first)
    assert len(store.objects) == 1
