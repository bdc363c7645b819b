"""Hundreds of clients that send slowly, stop sending or do not read delay no other client."""

import resource
import socket
from contextlib import ExitStack

import pytest

from tests.pictures import picture
from tests.system.stack import wait_until

CROWD = 500
PNG = picture()
UPLOAD = b"POST /upload/image HTTP/1.1\r\nHost: x\r\n"
UNFINISHED = b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 9000\r\n\r\n--b"
DOCS = b"GET /docs HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def crowded(make_service, valkey, seaweedfs, bucket):
    """A service of one process, which has to serve the whole crowd."""
    # Each connection takes a file descriptor in this process and one in the service.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return make_service(valkey.url, seaweedfs.settings(bucket), WEB_CONCURRENCY="1")


def connect(service, *, reads=True):
    client = socket.socket()
    if not reads:  # a small buffer, so that the service soon cannot send any more
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    client.settimeout(60)
    client.connect(("127.0.0.1", service.port))
    return client


def served(service, key, times=20):
    """The statuses of another client: uploads, health checks and the page."""
    statuses = set()
    for _ in range(times):
        statuses.add(service.upload(PNG, key).status)
        statuses |= {service.get(path).status for path in ("/healthz", "/readyz", "/")}
    return statuses


def pipeline(client):
    """Send requests until the service reads no more of them, and read no answer."""
    client.settimeout(0.2)
    try:
        for _ in range(50):
            client.sendall(DOCS * 200)
    except OSError:
        return


CROWDS = {
    "silent": lambda client: None,
    "a head that stops": lambda client: client.sendall(UPLOAD + b"x-api-"),
    "a body that stops": lambda client: client.sendall(UPLOAD + UNFINISHED),
    "a length of twenty digits": lambda client: client.sendall(
        UPLOAD + b"Content-Length: 99999999999999999999\r\n\r\n"
    ),
    "kept alive": lambda client: client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"),
    "answers that nobody reads": lambda client: client.sendall(DOCS * 20),
    "another spelling of the path": lambda client: client.sendall(
        b"HEAD //%75pload/limits HTTP/1.1\r\nHost: x\r\n\r\n" * 20
    ),
}


@pytest.mark.parametrize("crowd", CROWDS)
def test_a_crowd_does_not_delay_others(crowded, api_key, crowd):
    key = api_key()
    with ExitStack() as stack:
        for _ in range(CROWD):
            CROWDS[crowd](stack.enter_context(connect(crowded, reads=False)))
        assert served(crowded, key) == {200}
    assert served(crowded, key, 1) == {200}


def test_clients_that_pipeline_as_fast_as_they_can_do_not_delay_others(crowded, api_key):
    key = api_key()
    with ExitStack() as stack:
        for _ in range(100):
            pipeline(stack.enter_context(connect(crowded, reads=False)))
        assert served(crowded, key, 7) == {200}


def test_more_silent_connections_than_a_process_takes_do_not_delay_others(crowded, api_key):
    key = api_key()
    with ExitStack() as stack:
        for _ in range(2300):  # worker_connections is 2000
            stack.enter_context(connect(crowded))
        assert served(crowded, key, 5) == {200}


def test_a_stop_does_not_wait_for_silent_connections(make_service, valkey, seaweedfs, bucket):
    service = make_service(valkey.url, seaweedfs.settings(bucket))
    with ExitStack() as stack:
        for number in range(200):
            client = stack.enter_context(connect(service))
            if number % 2:
                CROWDS["kept alive"](client)
                assert client.recv(12) == b"HTTP/1.1 200"
        service.popen.terminate()
        # A stop that waited for them would take gunicorn's keepalive of 95 s.
        assert service.popen.wait(30) == 0


def test_a_stop_with_a_thousand_slow_bodies_ends_within_the_graceful_time(
    make_service, valkey, seaweedfs, bucket, api_key
):
    settings = seaweedfs.settings(bucket) | {"BODY_TIMEOUT": "5", "UPLOAD_TIMEOUT": "3"}
    service = make_service(valkey.url, settings)
    start = UPLOAD + f"x-api-key: {api_key()}\r\n".encode() + UNFINISHED
    with ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(connect(service)).sendall(start)
        wait_until(lambda: service.get("/healthz").status == 200)
        service.popen.terminate()
        assert service.popen.wait(60) == 0
