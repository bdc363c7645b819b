"""``flask doctor`` without a server; tests/system/test_doctor.py has real ones."""

import json
import re
from types import SimpleNamespace

import pytest
from redis.exceptions import RedisError

from app import create_app
from app.config import Config
from app.ops.findings import Finding
from app.store.causes import _CODES, Kind, StoreError
from tests.fakes import FakeRedis, MemoryStore


class Bucket(MemoryStore):
    """A store whose answers to each question of the doctor can be set."""

    def __init__(self, *, left="", failure=None, anyone=403, versions=b"", clock=""):
        super().__init__()
        self.left, self.rehearsal = left, failure
        answer = SimpleNamespace(status=anyone, headers={"Date": clock} if clock else {})
        self.deleted = []
        self.client = SimpleNamespace(
            as_anyone=lambda *_: answer,
            ask=lambda *_, **__: SimpleNamespace(body=versions),
            delete=lambda key, version: self.deleted.append(key),
            stat=self.stat,
        )
        self.looking = StoreError("not there", status=404)

    def stat(self, key):
        raise self.looking

    def rehearse(self, key, seconds):
        if self.rehearsal:
            raise self.rehearsal
        return self.left


class Redis(FakeRedis):
    """A Redis that answers INFO; ``about`` has more of its fields."""

    def __init__(self, **about):
        super().__init__()
        self.about = {"maxmemory_policy": "noeviction", "aof_enabled": 1} | about

    def info(self, *_):
        return {"redis_version": "7.4.0"} | self.about


def run(*arguments, redis=None, store=None, **settings):
    config = Config(log_format="json", **settings)
    app = create_app(config, redis=redis or Redis(), store=store or Bucket())
    with app.app_context():
        return app.test_cli_runner().invoke(args=["doctor", *arguments])


def examine(**given):
    """The exit status, and the findings by the name of the check."""
    done = run("--json", **given)
    findings = [Finding(**each) for each in json.loads(done.stdout)]
    return done.exit_code, {each.check: each for each in findings}


def test_when_all_is_well_nothing_fails_and_all_that_is_written_expires():
    redis = Redis()
    status, found = examine(redis=redis)
    assert status == 0
    assert {each.state for each in found.values()} <= {"ok", "warning"}
    assert found["redis rights"].state == "ok"
    assert found["redis version"].found == "redis 7.4.0"
    assert [name for name in redis.keys() if redis.pttl(name) < 0] == []


def test_people_get_a_table_and_a_failure_sets_the_exit_status():
    done = run(store=Bucket(failure=StoreError("disk full")))
    assert done.exit_code == 1
    assert "store rights       failed   disk full" in done.stdout


@pytest.mark.parametrize(
    ("url", "state"),
    [
        ("redis://127.0.0.1:6379/0", "ok"),
        ("unix:///run/redis.sock", "ok"),
        ("rediss://redis.example.org:6379/0", "ok"),
        ("redis://redis.example.org:6379/0", "warning"),
        ("redis+sentinel://127.0.0.1:26379,redis.example.org:26379/m/0", "warning"),
    ],
)
def test_plain_text_to_another_machine_is_a_warning(url, state):
    assert examine(redis_url=url)[1]["redis encryption"].state == state


def test_settings_that_need_too_much_memory_are_a_warning_with_a_hint():
    finding = examine(memory_limit=2**28)[1]["memory"]
    assert finding.state == "warning"
    assert "WEB_CONCURRENCY" in finding.hint


@pytest.mark.parametrize(
    ("policy", "state"),
    [("noeviction", "ok"), ("volatile-lru", "warning"), ("allkeys-lru", "failed")],
)
def test_evicting_keys_is_a_failure_and_evicting_rates_a_warning(policy, state):
    status, found = examine(redis=Redis(maxmemory_policy=policy))
    assert found["redis eviction"].state == state
    assert status == (state == "failed")


def test_a_redis_without_persistence_is_a_warning():
    assert examine(redis=Redis(aof_enabled=0))[1]["redis persistence"].state == "warning"


def test_every_node_of_a_cluster_is_checked():
    redis = Redis()
    redis.info = lambda: {
        "one:1": {"redis_version": "7.4.0", "maxmemory_policy": "noeviction", "aof_enabled": 1},
        "two:1": {"redis_version": "7.2.0", "maxmemory_policy": "allkeys-lru", "aof_enabled": 1},
    }
    found = examine(redis=redis)[1]
    assert found["redis version"].found == "redis 7.2.0, redis 7.4.0"
    assert found["redis eviction"].state == "failed"


def test_when_redis_is_down_the_password_is_hidden_and_the_store_still_checked():
    redis = Redis()
    redis.server.connected = False
    status, found = examine(redis=redis, redis_url="redis://u:secret-word@127.0.0.1:6379/0")
    assert status == 1
    assert found["redis"].state == "failed"
    assert "secret-word" not in str(found)
    assert found["store"].state == "ok"


@pytest.mark.parametrize(
    "repeated", ["se%40cret", "se@cret", "redis://u:se%40cret@h", "?ssl_password=key%2Fword"]
)
def test_a_password_is_hidden_in_both_of_its_forms(repeated):
    redis = Redis()

    def fail():
        raise RedisError(f"cannot use {repeated}, or key/word, here")

    redis.ping = fail
    url = "rediss://u:se%40cret@127.0.0.1:6379/0?ssl_password=key%2Fword"
    found = examine(redis=redis, redis_url=url)[1]["redis"].found
    assert found.endswith(", or ..., here")
    assert not re.search("cret|key.*word", found)


def test_a_missing_right_in_redis_is_found_by_doing_what_uploads_do():
    redis = Redis()
    redis.set("pending:{0}", "no sorted set")
    finding = examine(redis=redis)[1]["redis rights"]
    assert finding.state == "failed"
    assert "uploader.conf" in finding.hint


@pytest.mark.parametrize(
    "cause", sorted({cause for cause, kind in _CODES.values() if kind != Kind.OBJECT})
)
def test_every_cause_that_needs_a_person_has_its_own_hint(cause):
    finding = examine(store=Bucket(failure=StoreError(cause)))[1]["store rights"]
    assert (finding.state, finding.found) == ("failed", cause)
    assert finding.hint
    assert "Is it started" not in finding.hint


def test_an_object_that_could_not_be_deleted_is_named():
    finding = examine(store=Bucket(left="access denied"))[1]["store rights"]
    assert finding.state == "warning"
    assert "Delete uploads/.doctor-" in finding.hint


def test_credentials_without_the_right_to_stat_are_a_failure():
    store = Bucket()
    store.looking = StoreError("access denied", status=403)
    finding = examine(store=store)[1]["store rights"]
    assert (finding.state, finding.found) == ("failed", "put, but not stat: access denied")


def test_a_bucket_that_anyone_may_write_is_found_and_cleaned():
    store = Bucket(anyone=200)
    status, found = examine(store=store)
    assert status == 1
    assert {found[f"public {what}"].state for what in ("listing", "writing")} == {"failed"}
    assert len(store.deleted) == 1


def test_nothing_is_written_when_the_bucket_is_missing():
    store = Bucket(failure=AssertionError("written to"))
    store.cause = "no such bucket"
    status, found = examine(store=store)
    assert status == 1
    assert found["store"].hint == "Make the bucket, or correct S3_BUCKET."
    assert "store rights" not in found


@pytest.mark.parametrize(
    ("versions", "state", "said"),
    [
        (b"<Status>Enabled</Status>", "warning", "on"),
        (b"<Status>Suspended</Status>", "ok", "Suspended"),
        (b"<VersioningConfiguration/>", "ok", "Off"),
    ],
)
def test_versions_that_are_kept_forever_are_a_warning(versions, state, said):
    finding = examine(store=Bucket(versions=versions))[1]["store versioning"]
    assert (finding.state, finding.found) == (state, said)


def test_a_wrong_clock_is_found_by_the_date_of_the_store():
    early = "Thu, 01 Jan 2026 00:00:00 GMT"
    assert examine(store=Bucket(clock=early))[1]["clock"].state == "failed"
    assert examine(store=Bucket())[1]["clock"].state == "warning"
