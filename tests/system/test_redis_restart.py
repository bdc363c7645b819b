"""What a server of the shipped configuration still knows after it was started again."""

import contextlib
import http.client
import secrets
import signal

import pytest
import urllib3

from tests.pictures import picture
from tests.system.guarded import KINDS, Guarded
from tests.system.stack import flask, listed, record_name, wait_until

PNG = picture()


@pytest.fixture(params=KINDS)
def guarded(request, tmp_path):
    server = Guarded(request.param, tmp_path)
    yield server
    server.close()


@pytest.fixture
def key(guarded):
    key = secrets.token_hex(32)
    record = {"roles": "uploader", "rate_limit": "1000/minute"}
    guarded.admin.hset(record_name(key), mapping=record)
    return key


class SlowUpload:
    """An upload whose body stops in the middle until ``finish``."""

    def __init__(self, service, key, **headers):
        body, content_type = urllib3.encode_multipart_formdata({"image": ("a.png", PNG)})
        self._rest = body[-100:]
        self._connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        self._connection.putrequest("POST", "/upload/image")
        sent = {"x-api-key": key, "Content-Type": content_type, "Content-Length": len(body)}
        for name, value in (sent | headers).items():
            self._connection.putheader(name, str(value))
        self._connection.endheaders(body[:-100])

    def finish(self):
        self._connection.send(self._rest)
        with contextlib.closing(self._connection):
            answer = self._connection.getresponse()
            answer.read()
            return answer.status


def rewrite(admin):
    """Write the append-only file anew, so that it begins with what there is now."""
    admin.bgrewriteaof()
    wait_until(lambda: not admin.info("persistence")["aof_rewrite_in_progress"])


def age(admin, seconds):
    """As if all that is under way or given up had been so for this much longer."""
    for pattern in ("pending:*", "sweeping:*"):
        for shard in admin.scan_iter(pattern):
            for name in admin.zrange(shard, 0, -1):
                admin.zincrby(shard, -seconds, name)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["term", "kill"])
def test_a_restart_forgets_nothing_that_was_answered_200(
    guarded, key, number, make_service, seaweedfs
):
    bucket = seaweedfs.make_bucket("restarts")
    settings = seaweedfs.settings(bucket)
    before = seaweedfs.keys(bucket)
    service = make_service(guarded.url, settings, SWEEP_INTERVAL="0")
    uploads = [SlowUpload(service, key), SlowUpload(service, key, **{"Idempotency-Key": "slow"})]
    wait_until(lambda: len(listed(guarded.admin)) == 2)
    rewrite(guarded.admin)
    assert [upload.finish() for upload in uploads] == [200, 200]
    assert service.upload(PNG, key, Idempotency_Key="k").status == 200
    stored = seaweedfs.keys(bucket) - before
    assert len(stored) == 3

    guarded.restart(number)

    assert listed(guarded.admin) == set()
    for repeated in ("slow", "k"):
        again = wait_until(lambda name=repeated: service.upload(PNG, key, Idempotency_Key=name))
        assert (again.status, again.headers.get("Idempotency-Replayed")) == (200, "true")
    age(guarded.admin, 100)
    swept = flask("uploads", "sweep", REDIS_URL=guarded.url, **settings)
    assert (swept.returncode, swept.stderr) == (0, "")
    assert seaweedfs.keys(bucket) - before == stored
    service.stop()


def test_nobody_comes_in_as_the_default_user_after_a_restart(guarded):
    guarded.restart(signal.SIGTERM)
    [default] = [line for line in guarded.admin.acl_list() if line.startswith("user default ")]
    assert " off " in default
    assert "nopass" not in default
    assert "#" not in default
