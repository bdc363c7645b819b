"""The objects that a killed process leaves behind are deleted by the sweep."""

import os
import signal
import threading

import pytest
import urllib3

from deploy.local import servers
from tests.pictures import padded, picture
from tests.system.stack import Valkey, flask, wait_until

PNG = picture()


@pytest.fixture(scope="module")
def valkey(tmp_path_factory):
    """Not shared with other modules, whose uploads these sweeps would take too."""
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    # The sweep spares objects from before the start of Redis, and 2 s more, because stores give
    # the time of an object in whole seconds.
    wait_until(lambda: server.client.info("server")["uptime_in_seconds"] > 4)
    yield server
    server.kill()


@pytest.fixture
def service(make_service, valkey, seaweedfs, store_proxy):
    """A service that does not sweep, so that only the test does."""
    seaweedfs.make_bucket("swept")
    settings = seaweedfs.settings("swept") | {
        "S3_ENDPOINT": f"http://127.0.0.1:{store_proxy.port}",
        "SWEEP_INTERVAL": "0",
    }
    running = make_service(valkey.url, settings, WEB_CONCURRENCY="1")
    yield running
    running.stop()


def sweep(service):
    """Sweep once, as a cron job does it."""
    return flask("uploads", "sweep", **service.environ)


def names(redis_client, pattern):
    """The names of uploads in the journal's sets, each with the set that has it."""
    return {
        name.decode(): key
        for key in redis_client.scan_iter(pattern)
        for name in redis_client.zrange(key, 0, -1)
    }


def test_the_object_of_a_killed_upload_is_swept(
    service, store_proxy, seaweedfs, redis_client, api_key
):
    key = api_key()
    stored = service.upload(PNG, key).json()["data"]["key"]
    wait_until(lambda: stored in seaweedfs.keys("swept"))
    before = seaweedfs.keys("swept")
    store_proxy.late = 30  # longer than the service waits, so that it never sees the answer
    store_proxy.mode = "delay"

    def send():
        with pytest.raises(urllib3.exceptions.HTTPError):
            service.upload(PNG, key)

    client = threading.Thread(target=send)
    client.start()
    wait_until(lambda: seaweedfs.keys("swept") - before, 10)
    [worker] = service.workers
    os.kill(worker, signal.SIGKILL)
    client.join()
    store_proxy.mode = "pass"

    [orphan] = seaweedfs.keys("swept") - before
    name = orphan.removeprefix("uploads/").removesuffix(".png")
    listed = names(redis_client, "pending:*")
    assert name in listed
    young = sweep(service)
    assert (young.returncode, orphan in seaweedfs.keys("swept")) == (0, True)
    redis_client.zincrby(listed[name], -61, name)  # as if a minute had passed
    done = sweep(service)
    assert "1 objects deleted" in done.stdout
    assert seaweedfs.keys("swept") == before
    assert name in names(redis_client, "sweeping:*"), "a store may finish a write late"
    # After five minutes no store finishes a write any more.
    redis_client.zincrby(names(redis_client, "sweeping:*")[name], -301, name)
    assert sweep(service).returncode == 0
    assert name not in names(redis_client, "sweeping:*")


def test_a_sweep_without_the_store_fails_with_the_cause_and_keeps_its_list(
    service, store_proxy, redis_client, api_key
):
    redis_client.flushall()
    redis_client.zadd("sweeping:{f}", {"00000000-0000-4000-8000-000000000000": 1})
    store_proxy.mode = "refuse"
    without_store = sweep(service)
    store_proxy.mode = "pass"
    bucket, service.environ["S3_BUCKET"] = service.environ["S3_BUCKET"], "mistyped"
    without_bucket = sweep(service)
    service.environ["S3_BUCKET"] = bucket
    for ended, cause in ((without_store, "connection"), (without_bucket, "no such bucket")):
        assert ended.returncode == 1
        assert cause in ended.stderr
    assert redis_client.zcard("sweeping:{f}") == 1
    assert sweep(service).returncode == 0
    assert redis_client.zcard("sweeping:{f}") == 0


def test_a_sweep_without_redis_fails_with_one_line(service):
    service.environ["REDIS_URL"] = f"redis://127.0.0.1:{servers.free_port()}/0"
    ended = sweep(service)
    assert ended.returncode == 1
    assert len(ended.stderr.strip().splitlines()) == 1


def test_bodies_that_find_no_free_memory_are_503(make_service, valkey, seaweedfs, api_key):
    small = {"MEMORY_LIMIT": str(256 * 1024 * 1024), "WEB_CONCURRENCY": "1"}
    settings = seaweedfs.settings(seaweedfs.make_bucket("swept"))
    service = make_service(valkey.url, settings, **small)
    key = api_key()
    file = padded("PNG", 9_000_000)
    answers = []

    def send():
        answers.append(service.upload(file, key))

    clients = [threading.Thread(target=send) for _ in range(8)]
    [client.start() for client in clients]
    [client.join() for client in clients]
    refused = [answer for answer in answers if answer.status != 200]
    assert len(refused) < 8
    for answer in refused:
        assert (answer.status, answer.json()["code"]) == (503, "overloaded")
        assert int(answer.headers["Retry-After"]) >= 1
        assert "RateLimit" in answer.headers
    assert service.upload(file, key).status == 200
    service.stop()
