"""Requests to a store that a stand-in plays: their bounds, retries and connections."""

import hashlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import pytest

from app.config import Config
from app.store.causes import StoreError
from app.store.client import Client
from tests.system.proxy import Proxy
from tests.system.stand_ins import Slowly, Store, s3_error


@pytest.fixture
def server():
    with Store() as server:
        yield server


@pytest.fixture
def client(server):
    return connected(server)


def connected(server, **settings):
    return Client(Config.from_env(server.settings() | settings), connections=2)


def test_finding_a_bucket_costs_one_request(server, client):
    client.find_bucket()
    assert server.seen == ["HEAD /assets"]


def test_a_store_without_s3_headers_is_recognised_by_its_listing(server, client):
    server.refuse = lambda method, *_: (200, {}, b"") if method == "HEAD" else None
    client.find_bucket()
    assert server.seen == ["HEAD /assets", "GET /assets?list-type=2&max-keys=1"]


def test_a_store_without_head_for_buckets_is_accepted(server, client):
    server.refuse = lambda method, *_: (405, {}, b"") if method == "HEAD" else None
    client.find_bucket()


def test_the_reason_of_a_refused_head_is_that_of_a_get(server, client):
    def refuse(method, *_):
        status, headers, body = s3_error(403, "InvalidAccessKeyId")
        return status, headers, b"" if method == "HEAD" else body

    server.refuse = refuse
    for look in (client.find_bucket, lambda: client.stat("uploads/x.png")):
        with pytest.raises(StoreError, match="wrong credentials: the access key is not known"):
            look()


def test_a_missing_object_is_distinguished_from_a_missing_bucket_by_one_request(server, client):
    with pytest.raises(StoreError) as missing:
        client.stat("uploads/x.png")
    assert missing.value.missing
    assert server.seen == ["HEAD /assets/uploads/x.png"]


def test_a_redirect_is_not_followed(server, client):
    elsewhere = {"Location": "http://127.0.0.1:1/", "x-amz-request-id": "1"}
    server.refuse = lambda *_: (307, elsewhere, b"")
    with pytest.raises(StoreError):
        client.ask("GET")
    assert len(server.seen) == 1


def test_a_long_answer_is_cut_off_and_its_connection_is_closed(server, client):
    server.refuse = lambda *_: (200, {}, b"x" * 1_000_000)
    assert len(client.ask("GET").body) == 65_536
    server.refuse = lambda *_: None
    client.find_bucket()


DRIPPING = {
    "head": b"HTTP/1.1 200 OK\r\n" + b"X-Amz-Request-Id: 1\r\n" * 30 + b"\r\n",
    "body": b"HTTP/1.1 200 OK\r\nServer: S3\r\nContent-Length: 600\r\n\r\n" + b" " * 600,
}


@pytest.mark.parametrize("part", DRIPPING)
def test_an_answer_that_drips_in_without_end_is_a_timeout(server, part):
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:

        def drip():
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                for start in range(0, len(DRIPPING[part]), 20):
                    connection.sendall(DRIPPING[part][start : start + 20])
                    time.sleep(0.1)

        pool.submit(drip)
        client = connected(server, S3_ENDPOINT=f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(StoreError) as refused:
            client.ask("GET")
    assert refused.value.cause == "timeout"


def test_a_request_without_credentials_returns_any_answer(server, client):
    server.refuse = lambda *_: s3_error(403, "AccessDenied")
    assert client.as_anyone("GET").status == 403
    nowhere = connected(server, S3_ENDPOINT="http://127.0.0.1:1")
    assert nowhere.as_anyone("GET", "uploads/x.png") is None


def test_small_requests_wait_for_each_other_and_none_is_lost(server, client):
    """Each failed upload sends small requests: a thousand of them need few connections."""
    server.refuse = Slowly(0.02, "HEAD")
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda _: client.find_bucket(), range(20)))
    assert server.refuse.most == 2


@pytest.mark.thorough
def test_a_request_that_gets_no_connection_in_time_is_a_timeout(server, client):
    going = threading.Event()
    server.refuse = lambda *_: going.wait(10) and None
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(client.find_bucket) for _ in range(3)]
        causes = {each.exception().cause for each in waiting}
        going.set()
    assert causes == {"timeout"}
    server.refuse = lambda *_: None
    client.find_bucket()


@pytest.mark.parametrize(
    "mode",
    [
        "refuse",
        "cut",
        "cut_answer",
        "garbage",
        pytest.param("black_hole", marks=pytest.mark.thorough),
    ],
)
def test_requests_that_fail_give_their_connections_back(server, mode):
    proxy = Proxy(("127.0.0.1", server.server_port))
    proxy.cut_after = 10
    client = connected(server, S3_ENDPOINT=f"http://127.0.0.1:{proxy.port}")
    data = memoryview(b"x" * 100_000)
    put = partial(client.put, "uploads/x.png", [data], {}, hashlib.sha256(data).hexdigest())
    try:
        proxy.mode = mode
        for _ in range(3):  # one more than there are connections
            with pytest.raises(StoreError):
                client.find_bucket()
            with pytest.raises(StoreError):
                put(deadline=time.monotonic() + 0.3)
        proxy.mode = "pass"
        client.find_bucket()
        put(deadline=time.monotonic() + 5)
    finally:
        proxy.close()


def test_a_put_without_credentials_has_a_length(server, client):
    assert client.as_anyone("PUT", "uploads/x.png", b"doctor").status == 200
    assert server.objects["uploads/x.png"][0] == b"doctor"


def test_the_bucket_stands_in_the_host_on_aws_and_in_the_path_elsewhere():
    def address(endpoint):
        client = Client(Config.from_env({"S3_ENDPOINT": endpoint}), connections=1)
        request = type("Request", (), {"method": "PUT", "key": "uploads/x", "query": ""})
        return client._url(request).geturl()

    aws = address("https://s3.us-east-1.amazonaws.com")
    assert aws == "https://assets.s3.us-east-1.amazonaws.com/uploads/x"
    assert address("http://127.0.0.1:9000") == "http://127.0.0.1:9000/assets/uploads/x"
    assert address("http://[::1]:9000") == "http://[::1]:9000/assets/uploads/x"
