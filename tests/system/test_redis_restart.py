"""What a server of the shipped configuration still knows after it was started again."""

import contextlib
import http.client
import secrets
import shutil
import signal
import threading

import pytest
import urllib3

from tests.pictures import picture
from tests.system.guarded import Guarded
from tests.system.proxy import Proxy
from tests.system.stack import KINDS, flask, listed, record_name, wait_until

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
    """As if all that Redis has seen had been so much longer ago."""
    for pattern in ("pending:*", "sweeping:*"):
        for shard in admin.scan_iter(pattern):
            for name in admin.zrange(shard, 0, -1):
                admin.zincrby(shard, -seconds, name)


@pytest.fixture
def proxy(seaweedfs):
    proxy = Proxy(("127.0.0.1", seaweedfs.port))
    yield proxy
    proxy.close()


class Stage:
    """A service on a guarded Redis, its bucket, and what its clients were answered 200 for."""

    def __init__(self, guarded, key, make_service, seaweedfs, proxy):
        self.guarded, self.key, self.proxy, self.seaweedfs = guarded, key, proxy, seaweedfs
        self.bucket = seaweedfs.make_bucket("restarts")
        self.before = seaweedfs.keys(self.bucket)
        self.settings = seaweedfs.settings(self.bucket)
        through = self.settings | {"S3_ENDPOINT": f"http://127.0.0.1:{proxy.port}"}
        # one process, which has just seen that the store is there
        alone = {"WEB_CONCURRENCY": "1", "SWEEP_INTERVAL": "0"}
        self.service = make_service(guarded.url, through, **alone)
        self.stands, self.by_repeat_key = set(), {}

    @property
    def objects(self):
        return self.seaweedfs.keys(self.bucket) - self.before

    def upload(self, repeat_key=None):
        headers = {"Idempotency-Key": repeat_key} if repeat_key else {}
        answer = self.service.upload(PNG, self.key, **headers)
        if answer.status == 200:
            self.by_repeat_key[repeat_key] = answer.json()["data"]["key"]
            self.stands.add(self.by_repeat_key[repeat_key])
        return answer

    def uploads_under_way(self):
        """Two threads whose objects are written, and whose store has not said so yet."""
        written = self.objects
        self.proxy.late = 30  # longer than the service waits: none of them ends by itself
        self.proxy.mode = "delay"

        def send(repeat_key):
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                assert self.upload(repeat_key).status in (200, 503)

        clients = [threading.Thread(target=send, args=[each]) for each in (None, "under way")]
        for client in clients:
            client.start()
        wait_until(lambda: len(self.objects - written) == 2, 15)
        return clients

    def uploads_command(self, *arguments):
        done = flask("uploads", *arguments, REDIS_URL=self.guarded.url, **self.settings)
        assert done.returncode == 0, done.stderr
        return done.stdout


def kill_service(stage):
    stage.service.kill()


def kill_redis(stage):
    """When its file has all it has answered: a slow disk lets a write wait for two seconds."""
    wait_until(lambda: stage.guarded.admin.info("persistence")["aof_buffer_length"] == 0)
    stage.guarded.kill()


def stop_redis(stage):
    stage.guarded.stop()


@pytest.mark.parametrize(
    "ends",
    [
        (kill_redis,),
        (kill_service,),
        (kill_service, kill_redis),
        (stop_redis, kill_service),
    ],
    ids=lambda ends: "-".join(end.__name__ for end in ends),
)
def test_what_was_answered_200_outlives_all_ends_and_nothing_else_stays(
    guarded, key, ends, make_service, seaweedfs, proxy
):
    stage = Stage(guarded, key, make_service, seaweedfs, proxy)
    slow = [SlowUpload(stage.service, key), SlowUpload(stage.service, key)]
    wait_until(lambda: len(listed(guarded.admin)) == 2)
    rewrite(guarded.admin)
    assert [upload.finish() for upload in slow] == [200, 200]
    stage.stands |= stage.objects
    assert [stage.upload(each).status for each in (None, "a", "b")] == [200, 200, 200]
    assert len(stage.stands) == 5
    # stores say when an object was written in whole seconds
    wait_until(lambda: guarded.admin.info("server")["uptime_in_seconds"] > 4)
    clients = stage.uploads_under_way()

    for end in ends:
        end(stage)
    if guarded.popen.poll() is not None:
        guarded.start()
        wait_until(guarded.admin.ping)
    for client in clients:
        client.join()
    proxy.mode = "pass"
    if kill_service in ends:
        stage.service.start()
    wait_until(lambda: stage.service.get("/readyz").status == 200)

    age(guarded.admin, 100)
    stage.uploads_command("sweep")
    assert stage.stands <= stage.objects
    for repeat_key in ("a", "b"):
        first = stage.by_repeat_key[repeat_key]
        assert stage.upload(repeat_key).status == 200
        assert stage.by_repeat_key[repeat_key] == first
    in_doubt = set(stage.uploads_command("doubtful").split())
    assert stage.objects == stage.stands | in_doubt
    if len(ends) == 1:
        assert in_doubt == set()
    stage.uploads_command("doubtful", "--delete", "--yes")
    assert stage.objects == stage.stands
    stage.service.stop()


def test_an_image_whose_answer_redis_has_lost_is_not_deleted(
    guarded, key, make_service, seaweedfs, proxy, tmp_path
):
    """As after a power failure: the end of what Redis had answered is not on its disk."""
    stage = Stage(guarded, key, make_service, seaweedfs, proxy)
    stage.uploads_command("sweep")
    slow = SlowUpload(stage.service, key)
    wait_until(lambda: listed(guarded.admin))
    (name,) = listed(guarded.admin)
    shutil.copytree(tmp_path / "appendonlydir", tmp_path / "written")
    assert slow.finish() == 200
    assert listed(guarded.admin) == set()
    stage.service.stop()
    guarded.kill()
    shutil.rmtree(tmp_path / "appendonlydir")
    (tmp_path / "written").rename(tmp_path / "appendonlydir")
    guarded.start()
    wait_until(guarded.admin.ping)
    assert listed(guarded.admin) == {name}

    age(guarded.admin, 100)
    said = stage.uploads_command("sweep")
    assert "0 objects deleted, 1 left in doubt" in said
    assert stage.objects == {f"uploads/{name}.png"}
    assert stage.uploads_command("sweep").startswith("0 names looked at")
    assert stage.uploads_command("doubtful") == f"uploads/{name}.png\n"


def test_what_an_upload_left_long_before_redis_lost_its_end_is_deleted(
    guarded, key, make_service, seaweedfs, proxy
):
    stage = Stage(guarded, key, make_service, seaweedfs, proxy)
    stage.uploads_command("sweep")
    assert stage.upload().status == 200
    clients = stage.uploads_under_way()
    stage.service.kill()
    for client in clients:
        client.join()
    for shard in guarded.admin.scan_iter("history:*"):
        guarded.admin.hincrby(shard, "seen", 100)  # the sweep went on for this long
    guarded.restart(signal.SIGKILL)
    stage.uploads_command("sweep")
    age(guarded.admin, 100)
    stage.uploads_command("sweep")
    assert stage.objects == stage.stands


def test_nobody_comes_in_as_the_default_user_after_a_restart(guarded):
    guarded.restart(signal.SIGTERM)
    [default] = [line for line in guarded.admin.acl_list() if line.startswith("user default ")]
    assert " off " in default
    assert "nopass" not in default
    assert "#" not in default
