"""The sweep, with a Redis and a store in memory."""

import logging

import pytest

from app import create_app
from app.config import Config
from app.errors import ApiError, unavailable
from app.ops.sweep import sweep
from app.records import journal
from app.records.journal import Entry, Result


def begun(redis, store, name="n1", extension="png", age=0):
    """An upload that was interrupted after its PUT."""
    Entry("a23456789012", name, None, 40).begin(redis)
    key = f"uploads/{name}.{extension}"
    store.objects[key] = (b"", None)
    store.ages[key] = age
    return key


def later(redis, seconds):
    for kind in ("pending", "sweeping"):
        for name in redis.zrange(f"{kind}:{{a}}", 0, -1):
            redis.zincrby(f"{kind}:{{a}}", -seconds, name)
    if redis.exists("history:{a}"):
        for field in ("seen", "upto", "since"):
            redis.hincrby("history:{a}", field, -seconds)


def restarted(redis):
    redis.server.run = "second"


@pytest.mark.parametrize("extension", ["jpg", "png", "gif", "webp"])
def test_the_object_of_an_upload_interrupted_a_minute_ago_is_deleted(redis, store, extension):
    begun(redis, store, extension=extension)
    assert sweep(redis, store).names == 0
    later(redis, 61)
    assert sweep(redis, store).deleted == 1
    assert store.objects == {}


def test_an_acknowledged_object_stays(redis, store):
    key = begun(redis, store)
    entry = Entry("a23456789012", "n1", None, 40)
    entry.commit(redis, Result(key, "image/png", 1, 1, 1, 1, ""))
    later(redis, 3600)
    assert sweep(redis, store).names == 0
    assert key in store.objects


def test_an_object_that_appears_late_is_deleted_within_five_minutes(redis, store):
    begun(redis, store)
    later(redis, 61)
    sweep(redis, store)
    later(redis, 299)
    store.objects["uploads/n1.png"] = (b"", None)
    assert sweep(redis, store).deleted == 1
    later(redis, 1)
    sweep(redis, store)
    assert not redis.exists("sweeping:{a}")


def test_names_stay_on_the_list_while_the_bucket_is_missing(redis, store):
    begun(redis, store)
    later(redis, 61)
    store.cause = "no such bucket"
    with pytest.raises(ApiError) as refused:
        sweep(redis, store)
    assert (refused.value.code, refused.value.cause) == ("storage_unavailable", "no such bucket")
    store.cause = None
    assert sweep(redis, store).deleted == 1


def test_a_sweep_without_redis_raises_redis_unavailable(redis, store, server):
    server.connected = False
    with pytest.raises(ApiError) as refused:
        sweep(redis, store)
    assert refused.value.code == "redis_unavailable"


def test_after_three_failures_of_the_store_a_sweep_ends(redis, store):
    for number in range(5):
        begun(redis, store, f"n{number}")
    later(redis, 61)
    store.undeletable = unavailable("storage_unavailable", "access denied")
    swept = sweep(redis, store)
    assert (swept.names, swept.failed, swept.deleted) == (3, 3, 0)
    store.undeletable = None
    assert sweep(redis, store).deleted == 5


def test_an_object_whose_200_redis_may_have_forgotten_stays_and_is_logged_once(
    redis, store, caplog
):
    key = begun(redis, store)
    sweep(redis, store)
    restarted(redis)
    later(redis, 61)
    with caplog.at_level(logging.CRITICAL):
        swept = sweep(redis, store)
        again = sweep(redis, store)
    assert (swept.doubtful, swept.deleted) == (1, 0)
    assert (again.names, again.doubtful) == (0, 0)
    assert key in store.objects
    assert [record.getMessage() for record in caplog.records] == [
        f"{key} stays: Redis may have forgotten that it was answered 200"
    ]


def test_an_object_written_long_before_redis_was_last_seen_is_deleted(redis, store):
    begun(redis, store, age=100)
    sweep(redis, store)
    redis.hincrby("history:{a}", "seen", -40)  # 10 s after the last moment of an answer
    restarted(redis)
    redis.zincrby("pending:{a}", -100, "n1")
    swept = sweep(redis, store)
    assert (swept.doubtful, swept.deleted) == (0, 1)


def test_an_object_written_after_the_restart_is_deleted(redis, store):
    key = begun(redis, store)
    sweep(redis, store)
    restarted(redis)
    sweep(redis, store)
    later(redis, 61)
    store.ages[key] = 50
    swept = sweep(redis, store)
    assert (swept.doubtful, swept.deleted) == (0, 1)


def test_a_name_without_an_object_is_not_in_doubt(redis, store):
    begun(redis, store)
    store.objects.clear()
    sweep(redis, store)
    restarted(redis)
    later(redis, 61)
    swept = sweep(redis, store)
    assert (swept.names, swept.doubtful) == (1, 0)
    assert list(journal.in_doubt(redis)) == []


def test_an_object_of_unknown_age_stays_after_a_restart(redis, store):
    key = begun(redis, store, age=float("nan"))
    sweep(redis, store)
    restarted(redis)
    later(redis, 3600)
    assert sweep(redis, store).doubtful == 1
    assert key in store.objects


@pytest.fixture
def command(redis, store):
    """``flask uploads``, on this Redis and this store."""
    runner = create_app(Config(), redis=redis, store=store).test_cli_runner()

    def command(*arguments, typed=None):
        result = runner.invoke(args=["uploads", *arguments], input=typed)
        assert "Traceback" not in result.output
        return result

    return command


@pytest.fixture
def left_in_doubt(redis, store):
    """The key of an object that the sweep has left alone."""
    key = begun(redis, store)
    sweep(redis, store)
    restarted(redis)
    later(redis, 61)
    assert sweep(redis, store).doubtful == 1
    return key


def test_doubtful_objects_are_listed_until_somebody_deletes_them(
    command, store, left_in_doubt, redis
):
    assert command("doubtful").stdout == f"{left_in_doubt}\n"
    assert command("doubtful", "--delete", typed="n\n").exit_code == 1
    assert left_in_doubt in store.objects
    assert command("doubtful", "--delete", "--yes").exit_code == 0
    assert store.objects == {}
    assert command("doubtful").stdout == ""
    assert sweep(redis, store).names == 1, "a store may finish a write late"


def test_an_object_that_the_store_cannot_delete_stays_on_a_list(
    command, redis, store, left_in_doubt
):
    store.undeletable = unavailable("storage_unavailable", "access denied")
    refused = command("doubtful", "--delete", "--yes")
    assert (refused.exit_code, "access denied" in refused.stderr) == (1, True)
    store.undeletable = None
    assert sweep(redis, store).deleted == 1


def test_the_command_prints_the_counts_of_a_sweep(command, redis, store):
    begun(redis, store)
    later(redis, 61)
    said = "1 names looked at, 1 objects deleted, 0 left in doubt, 0 failed\n"
    assert command("sweep").stdout == said
