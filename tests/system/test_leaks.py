"""No API key stands in what is written while the service is used: logs, Redis, object metadata."""

import contextlib
import json
import secrets
import signal
import socket
from urllib.parse import quote

import pytest

from tests.pictures import plain
from tests.system.nginx import Nginx
from tests.system.stack import Valkey, everything_in, record_name, wait_until

pytestmark = pytest.mark.needs_program("nginx", "openssl")

TOO_LARGE = bytes(17 * 1024 * 1024)
# Requests that are not HTTP, or break its rules; {} is the key.
BROKEN = [
    "GET /upload/image?x-api-key={} HTTP/9.9\r\nHost: x\r\n\r\n",
    "GET /upload/image?x-api-key={} NONSENSE\r\n\r\n",
    "x-api-key={} / HTTP/1.1\r\n\r\n",
    "GET /{} " + "a" * 9000 + " HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /?x-api-key={}" + "a" * 9000 + " HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: x\r\nx-api-key {}\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: x\r\nx-api-key: {}\0\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: x\r\nx-api-key: {}" + "a" * 9000 + "\r\n\r\n",
    "POST /upload/image?x-api-key={} HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "POST /upload/image?x-api-key={} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: x\r\n\r\n",
    "POST /?x-api-key={} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n",
    "POST /upload/image?x-api-key={} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
]


class Keys:
    """Makes keys, and remembers all of them."""

    def __init__(self, client):
        self.client = client
        self.used = []

    def make(self, **fields):
        """A key with a record in Redis; its slash must be encoded in a query."""
        key = f"{secrets.token_hex(8)}/{secrets.token_hex(8)}"
        self.client.hset(record_name(key), mapping={"roles": "uploader", **fields})
        return self.remember(key)

    def bad(self):
        """A key without a record."""
        return self.remember(secrets.token_hex(16))

    def remember(self, key):
        self.used.append(key)
        return key

    def found_in(self, text):
        """The keys of which the text has a half or the whole."""
        return [key for key in self.used if any(half in text for half in key.split("/"))]


@pytest.fixture(scope="module")
def png():
    return plain()


@pytest.fixture(scope="module")
def valkey(tmp_path_factory):
    """A server whose log has as much as it can write."""
    server = Valkey(tmp_path_factory.mktemp("valkey"), options=("--loglevel", "debug"))
    yield server
    server.kill()


@pytest.fixture(scope="module")
def keys(valkey):
    return Keys(valkey.client)


@pytest.fixture(scope="module")
def written(make_service, tmp_path_factory, valkey, seaweedfs, png, keys):
    """The texts of all logs, of Redis and of object metadata after requests of every kind."""
    store = seaweedfs.make_bucket("leaks")
    service = make_service(valkey.url, seaweedfs.settings(store), LOG_LEVEL="debug")
    nginx = Nginx(tmp_path_factory.mktemp("nginx"), service.port)
    try:
        for front in (service, nginx):
            use(front, keys, png)
        service.signal(signal.SIGHUP)
        wait_until(lambda: service.upload(png, keys.make()).status == 200)
        records = repr(everything_in(valkey.client))
        valkey.stop()
        for front in (service, nginx):
            try_all(front, keys, png, 503)
        service.stop(120)
        try_all(nginx, keys, png, 503)
    finally:
        nginx.stop()
    return {
        "the service's log": service.log,
        "nginx's logs": nginx.logs,
        "Valkey's log": valkey.log,
        "Valkey's records": records,
        "SeaweedFS's log": seaweedfs.log,
        "the objects' metadata": metadata(seaweedfs.client, store),
    }


def use(front, keys, png):
    """Send requests that get every answer there is, with keys in every place."""
    try_all(front, keys, png, 200)
    try_all(front, keys, png, 401)
    try_all(front, keys, png, 403, roles="editor")
    try_all(front, keys, png, 401, disabled="yes")
    try_all(front, keys, png, 401, rate_limit="lots")
    limited = keys.make(rate_limit="1/day")
    assert [front.upload(png, limited).status for _ in range(2)] == [200, 429]
    for file in (b"nonsense", b"", png[:-20], TOO_LARGE):
        query = f"?x-api-key={quote(keys.make(), safe='')}"
        assert front.upload(file, None, query=query).status in (400, 413)
        assert front.upload(file, keys.make()).status in (400, 413)
        assert front.upload(file, None, query=f"?x-api-key={keys.bad()}").status in (401, 413)
    for path in ("/upload/limits", "/docs", "/", "/nothing", "/healthz", "/upload/image"):
        for key in (keys.make(), keys.bad()):
            front.get(f"{path}?x-api-key={quote(key, safe='')}")
            front.get(path, **{"x-api-key": key, "Referer": f"https://x/?x-api-key={key}"})
    for path in (
        "/upload/image%3Fx-api-key=",
        "/upload/image%253Fx-api-key%253D",
        "/image,key:",
        "/",
    ):
        front.get(path + keys.bad())
    # Werkzeug's merge_slashes, which is off, would redirect this with the key in the Location.
    front.get(f"/upload//image?x-api-key={keys.bad()}")
    for request in BROKEN:
        send(front, request.format(keys.bad()).encode())


def try_all(front, keys, png, expected, **fields):
    """Upload with the key in the header, in the query, and in the query encoded."""
    key = keys.make(**fields) if fields or expected == 200 else keys.bad()
    assert front.upload(png, key).status == expected
    for form in (key, quote(key, safe="")):
        assert front.upload(png, None, query=f"?x-api-key={form}").status == expected


def send(front, request):
    """Send bytes that are not a request, and read what comes back."""
    connect = getattr(front, "connect", None)
    plain = connect or (lambda: socket.create_connection(("127.0.0.1", front.port), timeout=60))
    with plain() as connection, contextlib.suppress(OSError):
        connection.sendall(request)
        if not connect:
            connection.shutdown(socket.SHUT_WR)
        else:
            connection.settimeout(1)  # nginx may wait for the rest of a request
        while connection.recv(65536):
            pass


def metadata(client, bucket):
    found = client.list_objects(bucket_name=bucket, recursive=True)
    names = [each.object_name for each in found]
    stats = [client.stat_object(bucket_name=bucket, object_name=name) for name in names]
    return "".join(f"{stat.object_name} {stat.metadata}\n" for stat in stats)


@pytest.mark.parametrize(
    "place",
    [
        "the service's log",
        "nginx's logs",
        "Valkey's log",
        "Valkey's records",
        "SeaweedFS's log",
        "the objects' metadata",
    ],
)
def test_no_key_is_written_to(written, keys, place):
    assert len(keys.used) > 80
    assert written[place]
    assert keys.found_in(written[place]) == []


@pytest.fixture(scope="module")
def lines(written):
    return [json.loads(line) for line in written["the service's log"].splitlines()]


def test_every_log_line_has_its_time_level_logger_and_message(lines):
    assert len(lines) > 100
    for line in lines:
        assert {"time", "level", "logger", "message"} <= line.keys()


def test_every_answer_has_one_line_with_its_request_id(lines):
    answered = [line for line in lines if line["message"] == "request"]
    for line in answered:
        assert {"request_id", "method", "path", "status", "code", "client", "ms"} <= line.keys()
        assert "total" in line["ms"]
    assert len({line["request_id"] for line in answered}) == len(answered)


def test_every_warning_of_a_request_has_its_request_id(lines):
    answered = {line["request_id"] for line in lines if line["message"] == "request"}
    parts = ("uploader.errors", "uploader.storage", "uploader.upload", "uploader.keys")
    warnings = [line for line in lines if line["logger"] in parts and line["level"] != "debug"]
    assert warnings
    assert {line["request_id"] for line in warnings} <= answered
