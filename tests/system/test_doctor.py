"""``flask doctor`` against real servers: each fault is reported with a hint."""

import json

import pytest
from minio.commonconfig import ENABLED
from minio.versioningconfig import VersioningConfig

from tests.system.stack import Moto, SeaweedFS, Valkey, doctor, flask, wait_until

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Valkey(tmp_path_factory.mktemp("valkey"), options=("--appendonly", "yes"))
    yield server
    server.kill()


@pytest.fixture(scope="module")
def store(seaweedfs, bucket):
    return seaweedfs.settings(bucket)


def test_without_a_fault_all_checks_are_ok_and_nothing_is_left_behind(
    server, store, seaweedfs, bucket
):
    before = seaweedfs.keys(bucket)
    status, found = doctor(server.url, store, WEB_CONCURRENCY="1")
    assert status == 0
    states = {name: each["state"] for name, each in found.items()}
    assert states.pop("redis") in ("ok", "warning"), "on a busy machine it answers late"
    assert set(states.values()) == {"ok"}
    assert (
        "Valkey" in found["redis version"]["found"] or "valkey" in found["redis version"]["found"]
    )
    assert seaweedfs.keys(bucket) - before == set()
    # The sweep's history stays: the doctor reads the sweep's list as a sweep does.
    wait_until(lambda: server.client.keys("[^h]*") == [])


def test_the_table_fits_a_terminal_and_has_no_colours_in_a_file(server, store):
    done = flask("doctor", REDIS_URL=server.url, **store)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert all(len(line) <= 120 for line in done.stdout.splitlines())
    assert done.stdout.startswith("settings ")


def test_redis_that_is_down_is_reported_and_the_store_is_still_checked(store):
    status, found = doctor("redis://:hush-hush@127.0.0.1:1/0", store)
    assert status == 1
    assert found["redis"]["state"] == "failed"
    assert "REDIS_URL" in found["redis"]["hint"]
    assert found["store rights"]["state"] == "ok"
    assert "hush-hush" not in json.dumps(found)


def test_a_wrong_password_is_reported(server, store):
    server.client.config_set("requirepass", "right")
    try:
        status, found = doctor(server.url.replace("//", "//:wrong@"), store)
    finally:
        server.client.auth("right")
        server.client.config_set("requirepass", "")
    assert (status, found["redis"]["state"]) == (1, "failed")
    assert "wrong" not in found["redis"]["found"]


@pytest.mark.parametrize(
    ("policy", "state", "status"), [("allkeys-lru", "failed", 1), ("volatile-lru", "warning", 0)]
)
def test_a_redis_that_evicts_keys_is_reported(server, store, policy, state, status):
    server.client.config_set("maxmemory-policy", policy)
    try:
        assert (got := doctor(server.url, store))[0] == status
    finally:
        server.client.config_set("maxmemory-policy", "noeviction")
    assert got[1]["redis eviction"]["state"] == state
    assert "noeviction" in got[1]["redis eviction"]["hint"]


def test_a_redis_without_an_append_only_file_is_a_warning(valkey, store):
    status, found = doctor(valkey.url, store)
    assert (status, found["redis persistence"]["state"]) == (0, "warning")


def test_a_full_redis_cannot_do_what_an_upload_does(server, store):
    server.client.config_set("maxmemory", "1")
    try:
        status, found = doctor(server.url, store)
    finally:
        server.client.config_set("maxmemory", "0")
    assert (status, found["redis rights"]["state"]) == (1, "failed")


@pytest.mark.parametrize("command", ["hincrby", "hset", "zadd", "set", "zrangebyscore"])
def test_a_redis_user_without_a_right_is_reported(server, store, command):
    rights = {"enabled": True, "passwords": "+secret", "keys": "*"}
    server.client.acl_setuser("weak", **rights, commands=["+@all", f"-{command}"])
    status, found = doctor(server.url.replace("//", "//weak:secret@"), store)
    assert (status, found["redis rights"]["state"]) == (1, "failed")
    assert "uploader.conf" in found["redis rights"]["hint"]


@pytest.mark.parametrize(
    ("change", "cause", "word"),
    [
        ({"S3_ENDPOINT": NOWHERE}, "connection refused", "S3_ENDPOINT"),
        (
            {"S3_SECRET_KEY": "wrong-secret"},
            "wrong credentials: the secret key does not match",
            "S3_SECRET_KEY",
        ),
        ({"S3_BUCKET": "no-such-bucket"}, "no such bucket", "S3_BUCKET"),
    ],
    ids=["down", "credentials", "bucket"],
)
def test_a_store_that_cannot_be_used_is_reported_with_a_hint(server, store, change, cause, word):
    status, found = doctor(server.url, store | change)
    assert (status, found["store"]["state"], found["store"]["found"]) == (1, "failed", cause)
    assert word in found["store"]["hint"]
    assert "wrong-secret" not in json.dumps(found)


def test_a_bucket_that_anyone_may_list_and_write_is_reported(server, tmp_path):
    public = SeaweedFS(tmp_path)
    try:
        public.make_bucket("assets")
        path = tmp_path / "identities.json"
        identities = json.loads(path.read_text())
        anyone = {"name": "anonymous", "actions": ["Read", "List", "Write"]}
        identities["identities"].append(anyone)
        path.write_text(json.dumps(identities))
        public.kill()
        public.start()
        wait_until(public.takes_objects, 60)
        status, found = doctor(server.url, public.settings("assets"))
        assert status == 1
        assert found["public listing"]["state"] == found["public writing"]["state"] == "failed"
        assert public.keys("assets") == set()
    finally:
        public.kill()


@pytest.mark.parametrize("kind", [SeaweedFS, Moto])
def test_the_doctor_leaves_no_version_in_a_bucket_that_keeps_versions(server, tmp_path, kind):
    versioned = kind(tmp_path)
    try:
        versioned.make_bucket("assets")
        versioned.client.set_bucket_versioning(
            bucket_name="assets", config=VersioningConfig(ENABLED)
        )
        _, found = doctor(server.url, versioned.settings("assets"))
        assert found["store versioning"]["state"] == "warning"
        assert found["store rights"]["state"] == "ok"
        left = versioned.client.list_objects(
            bucket_name="assets", recursive=True, include_version=True
        )
        assert [each.object_name for each in left] == []
    finally:
        versioned.kill()


def test_settings_that_need_too_much_memory_are_a_warning(server, store):
    status, found = doctor(server.url, store, WEB_CONCURRENCY="1000")
    assert (status, found["memory"]["state"]) == (0, "warning")


def test_plain_text_over_a_network_is_a_warning(store):
    _, found = doctor("redis://redis.invalid:6379/0", store)
    assert found["redis encryption"]["state"] == "warning"


def test_settings_that_cannot_be_read_are_named(store):
    done = flask("doctor", RATE_LIMIT="lots", **store)
    assert done.returncode == 1
    assert "RATE_LIMIT" in done.stderr
