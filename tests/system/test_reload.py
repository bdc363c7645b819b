"""Reloads (HUP) and stops (TERM) under load: no upload that has begun fails or is lost."""

import json
import os
import re
import secrets
import signal
import socket
import threading

import pytest
import urllib3

from tests.pictures import picture
from tests.system.nginx import Nginx
from tests.system.raw import UnfinishedUpload
from tests.system.stack import add_to_gunicorn_conf, wait_until

TIMES = 10
CLIENTS = 4


@pytest.fixture(scope="module")
def photo():
    return picture(size=(300, 300))


@pytest.fixture
def own_bucket(seaweedfs):
    """A bucket that only this test uses."""
    return seaweedfs.make_bucket(f"reload-{secrets.token_hex(4)}")


@pytest.fixture
def reloaded(make_service, valkey, seaweedfs, own_bucket):
    return make_service(valkey.url, seaweedfs.settings(own_bucket))


class Load:
    """Clients that upload one image after the other, each over a new connection."""

    def __init__(self, url, key, photo, certificate=None):
        self.url = f"{url}/upload/image"
        self.headers = {"x-api-key": key, "Connection": "close"}
        self.body, self.headers["Content-Type"] = urllib3.encode_multipart_formdata(
            {"image": ("photo.png", photo)}
        )
        self.http = urllib3.PoolManager(
            ca_certs=certificate, retries=False, timeout=60, maxsize=CLIENTS
        )
        self.stored, self.failures = [], []
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self._upload) for _ in range(CLIENTS)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        for thread in self.threads:
            thread.join()
        self.http.clear()

    def go_on(self, uploads=2 * CLIENTS):
        """Wait until this many more uploads have been stored."""
        wanted = len(self.stored) + uploads
        wait_until(lambda: len(self.stored) >= wanted)

    def _upload(self):
        while not self.ended.is_set():
            try:
                answer = self.http.request("POST", self.url, body=self.body, headers=self.headers)
            except urllib3.exceptions.HTTPError as error:
                self.failures.append(repr(error))
            else:
                if answer.status == 200:
                    self.stored.append(json.loads(answer.data)["data"]["key"])
                else:
                    self.failures.append(answer.data)


def finished(upload):
    """The key of the object of an upload that is sent to its end now."""
    status, answer = upload.finish()
    assert status == 200
    return answer["data"]["key"]


def under_way(redis_client):
    """The number of uploads that were admitted and have no answer yet."""
    return sum(redis_client.zcard(name) for name in redis_client.scan_iter("pending:*"))


def reload(service):
    """Reload, wait for the new workers, and return the old ones, which may be at work still."""
    old = service.workers
    service.signal(signal.SIGHUP)
    wait_until(lambda: len(service.workers - old) == len(old))
    return old


def test_a_reload_under_load_fails_no_upload_and_loses_none(
    reloaded, seaweedfs, own_bucket, redis_client, api_key, photo
):
    key = api_key()
    with Load(reloaded.url, key, photo) as load:
        for _ in range(TIMES):
            load.go_on()
            slow = UnfinishedUpload(reloaded.port, key, photo)
            wait_until(lambda: under_way(redis_client))
            old = reload(reloaded)
            load.go_on()
            load.stored.append(finished(slow))
            wait_until(lambda old=old: not reloaded.workers & old)
    assert load.failures == []
    assert seaweedfs.keys(own_bucket) == set(load.stored)


@pytest.mark.needs_program("nginx", "openssl")
def test_a_reload_under_load_fails_no_upload_behind_nginx(
    reloaded, seaweedfs, own_bucket, api_key, photo, tmp_path
):
    nginx = Nginx(tmp_path, reloaded.port, [("rate=50r/s", "rate=9000r/s")])
    try:
        with Load(nginx.url, api_key(), photo, str(tmp_path / "certificate.pem")) as load:
            for _ in range(TIMES):
                load.go_on()
                old = reload(reloaded)
                wait_until(lambda old=old: not reloaded.workers & old)
    finally:
        nginx.stop()
    assert load.failures == []
    assert seaweedfs.keys(own_bucket) == set(load.stored)


def test_a_stop_under_load_finishes_all_uploads_that_have_begun(
    reloaded, seaweedfs, own_bucket, api_key, photo
):
    stored, key = [], api_key()
    for _ in range(TIMES):
        with Load(reloaded.url, key, photo) as load:
            load.go_on()
            slow = UnfinishedUpload(reloaded.port, key, photo)
            reloaded.signal(signal.SIGTERM)  # perhaps before a worker has accepted the connection
            stored.append(finished(slow))
            assert reloaded.popen.wait(60) == 0
        stored += load.stored
        reloaded.start()
        wait_until(lambda: reloaded.get("/healthz").status == 200)
    assert seaweedfs.keys(own_bucket) == set(stored)


def test_a_stop_refuses_new_connections_while_it_waits_for_an_upload(
    reloaded, redis_client, api_key, photo
):
    slow = UnfinishedUpload(reloaded.port, api_key(), photo)
    wait_until(lambda: under_way(redis_client))
    reloaded.signal(signal.SIGTERM)

    def refused():
        try:
            socket.create_connection(("127.0.0.1", reloaded.port), 5).close()
        except ConnectionRefusedError:
            return True

    wait_until(refused)
    assert reloaded.popen.poll() is None
    assert finished(slow)
    assert reloaded.popen.wait(60) == 0


# The next three are added to gunicorn's configuration. This one makes a worker start slowly.
SLOWLY_FORKED = """
import time
set_up = post_fork
def post_fork(server, worker):
    set_up(server, worker)
    time.sleep(1)
"""

# The first worker stops itself at the end of its start.
STOPPED_WHILE_IT_BOOTS = """
import os, signal
set_up_worker = post_worker_init
def post_worker_init(worker):
    set_up_worker(worker)
    if not os.path.exists("stopped"):
        open("stopped", "w").close()
        os.kill(os.getpid(), signal.SIGTERM)
"""

# The master stops the first worker right after the fork. It is bound to one processor, where a
# child does nothing before its parent waits.
STOPPED_BEFORE_ITS_FIRST_STEP = """
import os, signal
from pathlib import Path
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
def stop_the_first():
    first, *more = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    if not more and "FIRST" not in os.environ:
        os.environ["FIRST"] = first
        os.kill(int(first), signal.SIGTERM)
        print("stopped", first, flush=True)
os.register_at_fork(after_in_parent=stop_the_first)
"""


def test_a_worker_that_is_stopped_right_after_the_fork_ends(
    make_service, valkey, seaweedfs, own_bucket, copy
):
    add_to_gunicorn_conf(copy, SLOWLY_FORKED)
    service = make_service(valkey.url, seaweedfs.settings(own_bucket), directory=copy)
    old = service.workers
    os.kill(min(old), signal.SIGKILL)
    wait_until(lambda: service.workers - old)
    service.signal(signal.SIGTERM)
    assert service.popen.wait(20) == 0


def test_a_worker_that_is_stopped_while_it_starts_ends(
    make_service, valkey, seaweedfs, own_bucket, copy
):
    add_to_gunicorn_conf(copy, STOPPED_WHILE_IT_BOOTS)
    service = make_service(valkey.url, seaweedfs.settings(own_bucket), directory=copy)
    wait_until(lambda: "Worker exiting" in service.log)
    wait_until(lambda: len(service.workers) == 2)
    assert "Traceback" not in service.log
    assert service.get("/healthz").status == 200


def test_a_worker_that_is_stopped_before_its_first_instruction_ends(
    make_service, valkey, seaweedfs, own_bucket, copy
):
    add_to_gunicorn_conf(copy, STOPPED_BEFORE_ITS_FIRST_STEP)
    service = make_service(valkey.url, seaweedfs.settings(own_bucket), directory=copy)
    stopped = re.search(r"^stopped (\d+)$", service.log, re.MULTILINE)[1]
    wait_until(lambda: int(stopped) not in service.workers)


def test_a_reload_runs_the_new_version_of_the_code(
    make_service, valkey, seaweedfs, own_bucket, copy
):
    service = make_service(valkey.url, seaweedfs.settings(own_bucket), directory=copy)
    assert service.get("/robots.txt").data.startswith(b"User-agent: *")
    pages = copy / "app" / "web" / "pages.py"
    pages.write_text(pages.read_text().replace('"User-agent: *', '"# new\\nUser-agent: *'))
    old = reload(service)
    wait_until(lambda: not service.workers & old)
    assert service.get("/robots.txt").data.startswith(b"# new")
