"""Connections over real sockets: each wait for the client ends."""

import socket
import threading
import time

import gevent
import pytest
from gunicorn.http.errors import LimitRequestHeaders

from app.intake.connection import HEAD_BYTES, Connection, HeadTooSlow


@pytest.fixture
def client():
    with socket.socket() as client:
        yield client


@pytest.fixture
def waiting():
    return {}


@pytest.fixture
def connection(client, waiting):
    with socket.create_server(("127.0.0.1", 0)) as server:
        client.settimeout(10)
        client.connect(server.getsockname())
        connection = Connection(server.accept()[0], waiting)
    yield connection
    connection.end()


def test_a_silent_connection_ends_without_an_answer(connection):
    connection.expect_head(0.01)
    assert connection.recv(100) == b""
    assert connection.ended


def test_a_head_that_stops_is_too_slow(connection, client):
    connection.expect_head(10)
    client.sendall(b"POST / HT")
    assert connection.recv(100) == b"POST / HT"
    connection.deadline = time.monotonic() + 0.01
    with pytest.raises(HeadTooSlow):
        connection.recv(100)


def test_a_head_has_its_time_from_its_first_byte(connection, client):
    connection.expect_head(95)
    before = connection.deadline
    client.sendall(b"P")
    connection.recv(100)
    assert connection.deadline < before


def test_a_head_that_does_not_end_is_too_long(connection, client):
    connection.expect_head(10)
    client.sendall(bytes(HEAD_BYTES))
    while len(connection.head) < HEAD_BYTES:
        assert connection.recv(8192)
    with pytest.raises(LimitRequestHeaders):
        connection.recv(8192)


def test_a_wait_for_a_head_can_be_given_up(connection, waiting):
    connection.expect_head(60)
    gevent.spawn_later(0.01, lambda: next(iter(waiting)).give_up_waiting())
    assert connection.recv(100) == b""
    assert not waiting


def test_a_head_that_came_before_its_wait_was_given_up_is_still_read(connection, client):
    connection.expect_head(10)
    client.sendall(b"GET / HTTP/1.1\r\n\r\n")
    connection.give_up_waiting()
    assert connection.recv(100) == b"GET / HTTP/1.1\r\n\r\n"


def test_a_body_that_stops_ends_at_the_deadline(connection):
    connection.deadline = time.monotonic() + 0.01
    with pytest.raises(TimeoutError):
        connection.recv_into(bytearray(10))


def test_closing_is_left_to_the_worker(connection, client):
    connection.close()
    connection.sendall(b"still there")
    assert client.recv(100) == b"still there"


def test_a_client_that_still_sends_sees_its_answer(connection, client):
    seen = []

    def send_all_and_read():
        client.sendall(bytes(20_000_000))
        seen.append(client.recv(100))
        client.close()

    thread = threading.Thread(target=send_all_and_read)
    thread.start()
    connection.sendall(b"no")
    connection.linger()
    connection.end()
    thread.join(10)
    assert seen == [b"no"]


def test_a_connection_whose_bytes_never_run_out_lets_others_run(connection, client):
    turns = []
    other = gevent.spawn(lambda: turns.append("another greenlet"))
    client.sendall(bytes(1000))
    connection.deadline = time.monotonic() + 10
    while not turns:
        connection.recv_into(bytearray(1))
    other.get()
