"""The shipped Redis users: the rights of ``uploader`` suffice for the service, and end there."""

import re
import secrets
import signal

import pytest
import redis

from tests.pictures import plain
from tests.system.guarded import Guarded
from tests.system.stack import KINDS, doctor, key_id, record_name, wait_until


@pytest.fixture(scope="module", params=KINDS)
def guarded(request, tmp_path_factory):
    server = Guarded(request.param, tmp_path_factory.mktemp("guarded"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def photo():
    return plain()


@pytest.fixture(scope="module")
def key(guarded):
    key = secrets.token_hex(32)
    guarded.admin.hset(record_name(key), mapping={"roles": "uploader", "rate_limit": "9/minute"})
    return key


def test_the_service_works_and_redis_denies_it_no_command_that_it_needs(
    guarded, make_service, seaweedfs, bucket, key, photo
):
    service = make_service(guarded.url, seaweedfs.settings(bucket), SWEEP_INTERVAL="1")
    left_over = secrets.token_hex(8)  # a name that the sweep takes over
    guarded.admin.zadd("pending:{0}", {left_over: 1})
    assert service.get("/readyz").status == 200
    assert service.get("/upload/limits", x_api_key=key).status == 401
    assert service.get("/upload/limits", **{"x-api-key": key}).status == 200
    repeats = [service.upload(photo, key, Idempotency_Key="k").status for _ in range(2)]
    outcomes = [service.upload(file, key).status for file in (photo, b"nonsense", b"")]
    assert (repeats, outcomes) == ([200, 200], [200, 400, 400])
    assert 429 in [service.upload(photo, key).status for _ in range(6)]
    wait_until(lambda: guarded.admin.zscore("sweeping:{0}", left_over))
    wait_until(lambda: list(guarded.admin.scan_iter(f"usage:{key_id(key)}:*")))
    wait_until(lambda: guarded.admin.get(f"lastused:{key_id(key)}"))
    service.signal(signal.SIGTERM)
    assert service.popen.wait(60) == 0
    # redis-py sends CLIENT SETINFO at each connection, and goes on when it is denied.
    denied = {entry["object"] for entry in guarded.admin.acl_log()}
    assert denied <= {"client|setinfo"}


@pytest.mark.parametrize(
    "command",
    [
        "KEYS *",
        "SCAN 0",
        "DBSIZE",
        "FLUSHALL",
        "FLUSHDB",
        "CONFIG GET *",
        "ACL LIST",
        "MONITOR",
        "CLIENT LIST",
        "SCRIPT FLUSH",
        "FUNCTION LIST",
        "SAVE",
        "SHUTDOWN",
        "SUBSCRIBE news",
        "GET other",
        "SET other 1",
        "HGETALL session:1",
        *("DEL apikey:a", "HSET apikey:a roles uploader", "HDEL apikey:a disabled"),
        *("EXPIRE apikey:a 1", "PERSIST apikey:a", "COPY apikey:a apikey:b", "SET apikey:a 1"),
        *("GET lastused:a", "DEL lastused:a", "HSET lastused:a roles uploader"),
        "EVAL redis.call('HSET','apikey:a','roles','uploader') 0",
        "EVAL redis.call('HSET',KEYS[1],'roles','uploader') 1 apikey:a",
        "EVAL redis.call('HSET','apikey:a','roles','uploader') 1 ratelimit:a",
        "RENAME apikey:a apikey:b",
        "GET ready:check",
        "RESTORE apikey:a 0 x",
        "EVAL redis.call('GET','other') 0",
        "EVAL redis.call('FLUSHALL') 0",
    ],
)
def test_the_services_user_can_do_nothing_else(guarded, command):
    name, *arguments = command.split(" ")
    with pytest.raises(redis.exceptions.ResponseError) as refused:
        guarded.service.execute_command(name, *arguments)
    assert re.search("permission|can't", str(refused.value).lower())


def test_a_client_without_a_password_is_refused(guarded):
    with redis.Redis(port=guarded.port) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


@pytest.mark.needs_program("redis-server")
def test_the_doctor_finds_a_redis_that_would_lose_scripts_writes_at_its_next_start(
    tmp_path, seaweedfs, bucket
):
    server = Guarded("redis", tmp_path)
    settings = seaweedfs.settings(bucket)
    assert doctor(server.admin_url, settings)[1]["redis replay"]["state"] == "ok"
    server.admin.execute_command("ACL SETUSER default reset off")
    status, found = doctor(server.admin_url, settings)
    assert (status, found["redis replay"]["state"]) == (1, "failed")
    assert "user default off resetpass ~* &* +@all" in found["redis replay"]["hint"]
    server.close()


def test_the_doctor_finds_no_missing_right(guarded, seaweedfs, bucket):
    status, found = doctor(guarded.url, seaweedfs.settings(bucket))
    assert (status, found["redis rights"]["state"]) == (0, "ok")
    assert found["redis persistence"]["state"] == "ok"
