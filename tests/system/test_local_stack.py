"""`make run` in a copy of the checkout, used as a newcomer uses it and ended with Ctrl-C."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import sys
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
import urllib3
from minio import Minio

from deploy.local import servers
from tests.pictures import padded, picture
from tests.system.stack import HTTP, ROOT, Process, copy_code, run, upload, wait_until

PNG = picture()
READY = "Ctrl-C ends everything"
SETTINGS = ("REDIS_URL", "S3_ENDPOINT", "S3_ACCESS_KEY", "S3_SECRET_KEY", "S3_BUCKET", "PORT")


class Stack(Process):
    """A running `make run`."""

    def __init__(self, directory, log):
        self.directory = directory
        super().__init__([sys.executable, "deploy/local/run.py"], log)
        wait_until(lambda: self.popen.poll() is not None or READY in self.log, 60)
        assert READY in self.log, self.log
        self.url = re.search(r"ready at (http://\S+)", self.log)[1]
        self.key = re.search(r"API key: (\S+)", self.log)[1]

    def settings(self):
        lines = (self.directory / "var" / "env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def read(self, key):
        settings = self.settings()
        store = Minio(
            endpoint=urlsplit(settings["S3_ENDPOINT"]).netloc,
            access_key=settings["S3_ACCESS_KEY"],
            secret_key=settings["S3_SECRET_KEY"],
            secure=False,
            region="us-east-1",
        )
        with store.get_object(bucket_name=settings["S3_BUCKET"], object_name=key) as answer:
            return answer.read()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    directory = copy_code(tmp_path_factory.mktemp("checkout"))
    shutil.copy(ROOT / "Procfile", directory)
    return directory


@pytest.fixture(scope="module")
def start(checkout, tmp_path_factory):
    """A factory of running stacks, which end with the module."""
    running = []

    def start():
        running.append(Stack(checkout, tmp_path_factory.mktemp("run") / "log"))
        return running[-1]

    yield start
    for stack in running:
        if stack.popen.poll() is None:
            stack.signal(signal.SIGINT)
            stack.popen.wait(30)
        stack.kill()


def stored(stack, file):
    """The key of the object of a new upload."""
    answer = upload(HTTP, stack.url, file, stack.key)
    assert answer.status == 200, answer.data
    return answer.json()["data"]["key"]


@contextmanager
def half_an_upload(stack, file):
    """Half an upload; the block gets a function that sends the rest and returns the object key."""
    body, content_type = urllib3.encode_multipart_formdata({"image": ("photo.png", file)})
    address = urlsplit(stack.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        head = (
            f"POST /upload/image HTTP/1.1\r\nHost: localhost\r\nx-api-key: {stack.key}\r\n"
            f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
            "Expect: 100-continue\r\n\r\n"
        )
        connection.sendall(head.encode())
        # The service asks for the body only once it has admitted the upload.
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        half = len(body) // 2
        connection.sendall(body[:half])

        def rest():
            connection.sendall(body[half:])
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert answer.status == 200
            return json.loads(answer.read())["data"]["key"]

        yield rest


def flask(checkout, *arguments, **environ):
    """Run a command in the checkout, as somebody who has set no variable."""
    bare = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    command = ["env", "-i", *(f"{name}={value}" for name, value in (bare | environ).items())]
    return run([*command, str(servers.SCRIPTS / "flask"), *arguments], directory=checkout)


def test_commands_find_the_servers_of_a_running_stack_by_themselves(start, checkout):
    stack = start()
    try:
        listed = flask(checkout, "keys", "list")
        assert (listed.returncode, "Demonstration" in listed.stdout) == (0, True)
        done = flask(checkout, "doctor", "--json")
        states = {each["check"]: each["state"] for each in json.loads(done.stdout)}
        assert (done.returncode, states["store rights"]) == (0, "ok")
        elsewhere = flask(checkout, "keys", "list", REDIS_URL="redis://127.0.0.1:1/0")
        assert elsewhere.returncode != 0, "a variable of the environment comes first"
    finally:
        stack.signal(signal.SIGINT)
        stack.popen.wait(30)
    assert not (checkout / "var" / "env").exists()
    assert "no credentials" in flask(checkout, "doctor").stdout


def test_commands_ignore_the_files_that_a_killed_stack_has_left(checkout):
    (checkout / "var").mkdir(exist_ok=True)
    (checkout / "var" / "lock").touch()
    (checkout / "var" / "env").write_text("S3_ACCESS_KEY=left\nS3_SECRET_KEY=left\n")
    assert "no credentials" in flask(checkout, "doctor").stdout


def test_ctrl_c_finishes_uploads_and_ends_the_web_process_first_and_keeps_all_data(start):
    stack, photo = start(), padded("PNG", 1_000_000)
    first = stored(stack, PNG)
    with half_an_upload(stack, photo) as rest:
        stack.signal(signal.SIGINT)
        wait_until(lambda: "SIGINT received" in stack.log)
        second = rest()
    stack.popen.wait(30)
    stops = re.findall(r"(\w+) stopped \(rc=(-?\d+)\)", stack.log)
    assert stops[0] == ("web", "0")
    assert ("valkey", "0") in stops
    again = start()
    assert again.key == stack.key
    assert (again.read(first), again.read(second)) == (PNG, photo)
    stored(again, PNG)
