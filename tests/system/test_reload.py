"""Reload (HUP) and stop (TERM) under load: nothing that was taken in fails or is lost."""

import json
import os
import re
import secrets
import signal
import socket
import threading
from pathlib import Path

import pytest
import urllib3

from tests.pictures import picture
from tests.system.nginx import Nginx
from tests.system.stack import wait_until

TIMES = 10
CLIENTS = 4


@pytest.fixture(scope="module")
def photo():
    return picture(size=(300, 300))


@pytest.fixture
def place(seaweedfs):
    """A bucket of the test's own."""
    return seaweedfs.make_bucket(f"reload-{secrets.token_hex(4)}")


@pytest.fixture
def reloaded(make_service, valkey, seaweedfs, place):
    return make_service(valkey.url, seaweedfs.settings(place))


class Load:
    """Clients that upload one image after the other, each over a connection of its own."""

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
        """Wait until so many more have been stored."""
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


class SlowUpload:
    """An upload of which the service has the first half."""

    def __init__(self, port, load):
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        head = f"POST /upload/image HTTP/1.1\r\nHost: x\r\nContent-Length: {len(load.body)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in load.headers.items())
        half = len(load.body) // 2
        self.rest = load.body[half:]
        self.connection.sendall(head.encode() + b"\r\n" + load.body[:half])

    def finish(self):
        """Send the other half; the key under which the image was stored."""
        with self.connection:
            self.connection.sendall(self.rest)
            answer = b"".join(iter(lambda: self.connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200 ")
        return json.loads(answer.partition(b"\r\n\r\n")[2])["data"]["key"]


def workers(service):
    children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text()
    return set(children.split())


def under_way(redis_client):
    """How many uploads have been let in and not answered yet."""
    return sum(redis_client.zcard(name) for name in redis_client.scan_iter("pending:*"))


def reload(service):
    """HUP, and wait for the new workers; the old ones may still be finishing."""
    old = workers(service)
    service.signal(signal.SIGHUP)
    wait_until(lambda: len(workers(service) - old) == len(old))
    return old


def test_a_reload_under_load_fails_no_upload_and_loses_none(
    reloaded, seaweedfs, place, redis_client, api_key, photo
):
    with Load(reloaded.url, api_key(), photo) as load:
        for _ in range(TIMES):
            load.go_on()
            slow = SlowUpload(reloaded.port, load)
            wait_until(lambda: under_way(redis_client))
            old = reload(reloaded)
            load.go_on()
            load.stored.append(slow.finish())
            wait_until(lambda old=old: not workers(reloaded) & old)
    assert load.failures == []
    assert seaweedfs.keys(place) == set(load.stored)


@pytest.mark.needs_program("nginx", "openssl")
def test_a_reload_under_load_is_not_noticed_behind_nginx(
    reloaded, seaweedfs, place, api_key, photo, tmp_path
):
    nginx = Nginx(tmp_path, reloaded.port, [("rate=50r/s", "rate=9000r/s")])
    try:
        with Load(nginx.url, api_key(), photo, str(tmp_path / "certificate.pem")) as load:
            for _ in range(TIMES):
                load.go_on()
                old = reload(reloaded)
                wait_until(lambda old=old: not workers(reloaded) & old)
    finally:
        nginx.stop()
    assert load.failures == []
    assert seaweedfs.keys(place) == set(load.stored)


def test_a_stop_under_load_finishes_what_was_taken_in_and_loses_nothing(
    reloaded, seaweedfs, place, api_key, photo
):
    stored = []
    for _ in range(TIMES):
        with Load(reloaded.url, api_key(), photo) as load:
            load.go_on()
            slow = SlowUpload(reloaded.port, load)
            reloaded.signal(signal.SIGTERM)  # perhaps even before it has been accepted
            stored.append(slow.finish())
            assert reloaded.popen.wait(60) == 0
        stored += load.stored
        reloaded.start()
        wait_until(lambda: reloaded.get("/healthz").status == 200)
    assert seaweedfs.keys(place) == set(stored)


def test_a_stop_lets_nobody_else_connect_while_it_waits_for_an_upload(
    reloaded, redis_client, api_key, photo
):
    slow = SlowUpload(reloaded.port, Load(reloaded.url, api_key(), photo))
    wait_until(lambda: under_way(redis_client))
    reloaded.signal(signal.SIGTERM)

    def refused():
        try:
            socket.create_connection(("127.0.0.1", reloaded.port), 5).close()
        except ConnectionRefusedError:
            return True

    wait_until(refused)
    assert reloaded.popen.poll() is None
    assert slow.finish()
    assert reloaded.popen.wait(60) == 0


SLOWLY_FORKED = """
import time
set_up = post_fork
def post_fork(server, worker):
    set_up(server, worker)
    time.sleep(1)
"""

# On a single processor a child takes no step before its parent waits for something.
STOPPED_WHILE_IT_BOOTS = """
import os, signal
set_up_worker = post_worker_init
def post_worker_init(worker):
    set_up_worker(worker)
    if not os.path.exists("stopped"):
        open("stopped", "w").close()
        os.kill(os.getpid(), signal.SIGTERM)
"""

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


def test_a_stop_is_heeded_by_a_worker_that_has_just_been_forked(
    make_service, valkey, seaweedfs, place, copy
):
    with (copy / "deploy" / "gunicorn.conf.py").open("a") as conf:
        conf.write(SLOWLY_FORKED)
    service = make_service(valkey.url, seaweedfs.settings(place), directory=copy)
    old = workers(service)
    os.kill(int(min(old)), signal.SIGKILL)
    wait_until(lambda: workers(service) - old)
    service.signal(signal.SIGTERM)
    assert service.popen.wait(20) == 0


def test_a_stop_is_heeded_by_a_worker_that_boots(make_service, valkey, seaweedfs, place, copy):
    with (copy / "deploy" / "gunicorn.conf.py").open("a") as conf:
        conf.write(STOPPED_WHILE_IT_BOOTS)
    service = make_service(valkey.url, seaweedfs.settings(place), directory=copy)
    wait_until(lambda: "Worker exiting" in service.log)
    wait_until(lambda: len(workers(service)) == 2)
    assert "Traceback" not in service.log
    assert service.get("/healthz").status == 200


def test_a_stop_is_heeded_by_a_worker_that_has_not_taken_a_step_yet(
    make_service, valkey, seaweedfs, place, copy
):
    with (copy / "deploy" / "gunicorn.conf.py").open("a") as conf:
        conf.write(STOPPED_BEFORE_ITS_FIRST_STEP)
    service = make_service(valkey.url, seaweedfs.settings(place), directory=copy)
    stopped = re.search(r"^stopped (\d+)$", service.log, re.MULTILINE)[1]
    wait_until(lambda: stopped not in workers(service))


def test_a_reload_takes_the_new_version_of_the_code(make_service, valkey, seaweedfs, place, copy):
    service = make_service(valkey.url, seaweedfs.settings(place), directory=copy)
    assert service.get("/robots.txt").data.startswith(b"User-agent: *")
    pages = copy / "app" / "web" / "pages.py"
    pages.write_text(pages.read_text().replace('"User-agent: *', '"# new\\nUser-agent: *'))
    old = reload(service)
    wait_until(lambda: not workers(service) & old)
    assert service.get("/robots.txt").data.startswith(b"# new")
