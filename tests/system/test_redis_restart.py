"""Redis with the shipped configuration is stopped and killed, alone and with the service.

Every object that was answered 200 outlives that. The others are deleted, or listed as doubtful.
"""

import contextlib
import secrets
import shutil
import signal
import threading

import pytest
import urllib3

from tests.pictures import picture
from tests.system.guarded import Guarded
from tests.system.raw import UnfinishedUpload
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


def rewrite(admin):
    """Rewrite the append-only file, so that it begins with the present data."""
    admin.bgrewriteaof()
    wait_until(lambda: not admin.info("persistence")["aof_rewrite_in_progress"])


def age(admin, seconds):
    """Make the names of all uploads older, as if this many seconds had passed."""
    for pattern in ("pending:*", "sweeping:*"):
        for shard in admin.scan_iter(pattern):
            for name in admin.zrange(shard, 0, -1):
                admin.zincrby(shard, -seconds, name)


class Stage:
    """A service with a guarded Redis and its own bucket, and the objects that were answered 200."""

    def __init__(self, guarded, key, make_service, seaweedfs, proxy):
        self.guarded, self.key, self.proxy, self.seaweedfs = guarded, key, proxy, seaweedfs
        self.bucket = seaweedfs.make_bucket("restarts")
        self.before = seaweedfs.keys(self.bucket)
        self.settings = seaweedfs.settings(self.bucket)
        through = self.settings | {"S3_ENDPOINT": f"http://127.0.0.1:{proxy.port}"}
        # One process, and no sweep but the test's own.
        alone = {"WEB_CONCURRENCY": "1", "SWEEP_INTERVAL": "0"}
        self.service = make_service(guarded.url, through, **alone)
        self.acknowledged, self.by_repeat_key = set(), {}

    @property
    def objects(self):
        """The keys of the objects that were written since the beginning."""
        return self.seaweedfs.keys(self.bucket) - self.before

    def upload(self, repeat_key=None):
        """Upload, with this Idempotency-Key if there is one, and note an object of a 200."""
        headers = {"Idempotency-Key": repeat_key} if repeat_key else {}
        answer = self.service.upload(PNG, self.key, **headers)
        if answer.status == 200:
            self.by_repeat_key[repeat_key] = answer.json()["data"]["key"]
            self.acknowledged.add(self.by_repeat_key[repeat_key])
        return answer

    def uploads_under_way(self):
        """Two threads that upload: the store has their objects, and the service waits for it."""
        written = self.objects
        self.proxy.late = 30  # longer than the service waits, so that neither is answered 200
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
        """The output of ``flask uploads``."""
        done = flask("uploads", *arguments, REDIS_URL=self.guarded.url, **self.settings)
        assert done.returncode == 0, done.stderr
        return done.stdout


def kill_service(stage):
    stage.service.kill()


def kill_redis(stage):
    """Kill Redis once its file has all writes: a slow disk may delay one by two seconds."""
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
def test_only_objects_of_200s_outlive_every_end(
    guarded, key, ends, make_service, seaweedfs, store_proxy
):
    stage = Stage(guarded, key, make_service, seaweedfs, store_proxy)
    slow = [UnfinishedUpload(stage.service.port, key, PNG) for _ in range(2)]
    wait_until(lambda: len(listed(guarded.admin)) == 2)
    rewrite(guarded.admin)
    assert [upload.finish()[0] for upload in slow] == [200, 200]
    stage.acknowledged |= stage.objects
    assert [stage.upload(each).status for each in (None, "a", "b")] == [200, 200, 200]
    assert len(stage.acknowledged) == 5
    # The sweep spares objects from before the start of Redis, and 2 s more, because stores give
    # the time of an object in whole seconds.
    wait_until(lambda: guarded.admin.info("server")["uptime_in_seconds"] > 4)
    clients = stage.uploads_under_way()

    for end in ends:
        end(stage)
    if guarded.popen.poll() is not None:
        guarded.start()
        wait_until(guarded.admin.ping)
    for client in clients:
        client.join()
    store_proxy.mode = "pass"
    if kill_service in ends:
        stage.service.start()
    wait_until(lambda: stage.service.get("/readyz").status == 200)

    age(guarded.admin, 100)
    stage.uploads_command("sweep")
    assert stage.acknowledged <= stage.objects
    for repeat_key in ("a", "b"):
        first = stage.by_repeat_key[repeat_key]
        assert stage.upload(repeat_key).status == 200
        assert stage.by_repeat_key[repeat_key] == first
    doubtful = set(stage.uploads_command("doubtful").split())
    assert stage.objects == stage.acknowledged | doubtful
    if len(ends) == 1:
        assert doubtful == set()
    stage.uploads_command("doubtful", "--delete", "--yes")
    assert stage.objects == stage.acknowledged
    stage.service.stop()


def test_an_object_whose_200_redis_has_lost_is_not_deleted(
    guarded, key, make_service, seaweedfs, store_proxy, tmp_path
):
    """As after a power failure, when the last writes of Redis are not on its disk."""
    stage = Stage(guarded, key, make_service, seaweedfs, store_proxy)
    stage.uploads_command("sweep")
    slow = UnfinishedUpload(stage.service.port, key, PNG)
    wait_until(lambda: listed(guarded.admin))
    (name,) = listed(guarded.admin)
    shutil.copytree(tmp_path / "appendonlydir", tmp_path / "written")
    assert slow.finish()[0] == 200
    assert listed(guarded.admin) == set()
    stage.service.stop()
    guarded.kill()
    shutil.rmtree(tmp_path / "appendonlydir")
    (tmp_path / "written").rename(tmp_path / "appendonlydir")
    guarded.start()
    wait_until(guarded.admin.ping)
    assert listed(guarded.admin) == {name}

    age(guarded.admin, 100)
    printed = stage.uploads_command("sweep")
    assert "0 objects deleted, 1 left in doubt" in printed
    assert stage.objects == {f"uploads/{name}.png"}
    assert stage.uploads_command("sweep").startswith("0 names looked at")
    assert stage.uploads_command("doubtful") == f"uploads/{name}.png\n"


def test_objects_of_unfinished_uploads_from_long_before_a_crash_of_redis_are_deleted(
    guarded, key, make_service, seaweedfs, store_proxy
):
    stage = Stage(guarded, key, make_service, seaweedfs, store_proxy)
    stage.uploads_command("sweep")
    assert stage.upload().status == 200
    clients = stage.uploads_under_way()
    stage.service.kill()
    for client in clients:
        client.join()
    for shard in guarded.admin.scan_iter("history:*"):
        guarded.admin.hincrby(shard, "seen", 100)  # as if sweeps had run 100 s longer
    guarded.restart(signal.SIGKILL)
    stage.uploads_command("sweep")
    age(guarded.admin, 100)
    stage.uploads_command("sweep")
    assert stage.objects == stage.acknowledged


def test_the_default_user_stays_off_after_a_restart(guarded):
    guarded.restart(signal.SIGTERM)
    [default] = [line for line in guarded.admin.acl_list() if line.startswith("user default ")]
    assert " off " in default
    assert "nopass" not in default
    assert "#" not in default
