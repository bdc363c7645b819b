"""The body of a request, from plain WSGI servers and from the socket of our worker."""

import io
import socket
import threading
import time

import pytest

from app.errors import ApiError
from app.intake.body import Body, ClientDisconnected, CloseUnread, content_length
from app.intake.connection import LINGER_BYTES
from app.intake.input import MOST_CHUNKS, Input
from tests.wire import Connection, head, in_chunks, known, plain_environ

BODY = bytes(range(256)) * 300


@pytest.fixture
def connection():
    connection = Connection()
    yield connection
    connection.close()


def soon():
    return time.monotonic() + 10


def read(environ, piece=10_000, deadline=None):
    """The whole body, in pieces of this size."""
    body, whole, buffer = Body.of(environ), bytearray(), bytearray(piece)
    while not body.ended:
        count = body.read_into(memoryview(buffer), deadline or soon())
        whole += buffer[:count]
    return bytes(whole)


@pytest.mark.parametrize("piece", [1, 7, 4096, 1_000_000])
def test_a_plain_wsgi_body_is_read_to_its_length_and_no_further(piece):
    environ = plain_environ(BODY[:5000] + b"next request", length=5000)
    assert read(environ, piece) == BODY[:5000]
    assert environ["wsgi.input"].read() == b"next request"


def test_a_plain_wsgi_body_without_a_length_is_read_to_its_end():
    environ = plain_environ(BODY) | {"HTTP_TRANSFER_ENCODING": "chunked"}
    del environ["CONTENT_LENGTH"]
    assert read(environ) == BODY


@pytest.mark.parametrize("lean", [True, False], ids=["lean", "stock"])
@pytest.mark.parametrize("request_of", [known, in_chunks])
@pytest.mark.parametrize("step", [1, 100, 4096, 10**6])
def test_a_body_arrives_whole_however_it_is_cut_into_pieces(connection, lean, request_of, step):
    wire = request_of(BODY[: 200 * step])
    connection.send(*(wire[i : i + step] for i in range(0, len(wire), step)))
    assert read(connection.request(lean=lean)) == BODY[: 200 * step]


@pytest.mark.parametrize("lean", [True, False], ids=["lean", "stock"])
@pytest.mark.parametrize("request_of", [known, in_chunks])
@pytest.mark.parametrize("piece", [1, 100, 8192, 100_000])
def test_pipelined_requests_follow_each_other(connection, lean, request_of, piece):
    bodies = [BODY[:5000], BODY[:1], BODY[100:20_000]]
    connection.send(b"".join(request_of(body) for body in bodies), known(b"last"))
    for body in [*bodies, b"last"]:
        environ = connection.request(lean=lean)
        assert read(environ, piece) == body
        assert connection.parser.finish_body()


def test_gunicorn_skips_the_rest_of_a_body_that_the_application_left(connection):
    connection.send(known(BODY[:5000]), known(b"next"))
    environ = connection.request()
    Body.of(environ).read_into(memoryview(bytearray(10)), soon())
    assert read(connection.request()) == b"next"


@pytest.mark.parametrize("request_of", [known, in_chunks])
def test_a_connection_that_ends_early_is_distinguished_from_a_slow_one(connection, request_of):
    connection.send(request_of(BODY)[:-1000], end=True)
    environ = connection.request()
    with pytest.raises(ClientDisconnected) as raised:
        read(environ)
    assert (raised.value.status, raised.value.code) == (400, "malformed_multipart")
    assert raised.value.disconnected
    assert not connection.parser.finish_body(deadline=soon())


def test_a_plain_wsgi_body_shorter_than_its_length_ended_early():
    with pytest.raises(ClientDisconnected):
        read(plain_environ(BODY, length=len(BODY) + 1))


def test_a_reset_connection_is_a_client_that_has_gone():
    class Reset(io.BytesIO):
        def read(self, size=-1):
            raise ConnectionResetError

    with pytest.raises(ClientDisconnected):
        read(plain_environ(BODY) | {"wsgi.input": Reset()})


@pytest.mark.parametrize("request_of", [known, in_chunks])
def test_a_body_that_stops_is_a_408_and_the_connection_is_not_used_again(connection, request_of):
    connection.send(request_of(BODY)[:-1000])
    environ = connection.request()
    with pytest.raises(ApiError) as raised:
        read(environ, deadline=time.monotonic() + 0.1)
    assert (raised.value.status, raised.value.code) == (408, "request_timeout")
    assert not connection.parser.finish_body(deadline=soon())


@pytest.mark.parametrize(
    "start",
    [
        head("Content-Length: 100000"),
        head("Transfer-Encoding: chunked") + b"186a0\r\n",
        head("Transfer-Encoding: chunked") + b"1;ext=",
    ],
    ids=["known", "in a chunk", "in a chunk's head"],
)
def test_a_trickle_ends_at_the_deadline_too(connection, start):
    ended = threading.Event()

    def trickle():
        while not ended.wait(0.02):
            yield b"x"

    connection.send(start)
    thread = threading.Thread(target=lambda: [connection.client.send(byte) for byte in trickle()])
    thread.start()
    try:
        environ = connection.request()
        with pytest.raises(ApiError) as raised:
            read(environ, deadline=time.monotonic() + 0.3)
        assert raised.value.code == "request_timeout"
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("lean", [True, False], ids=["lean", "stock"])
@pytest.mark.parametrize(
    "chunks",
    [
        b"z\r\n",
        b"-1\r\n",
        b"5\r\nhelloX",
        b"5 ;\r\nhello\r\n",
        b"1\r\na\r\n0\r\nBad Trailer\r\n\r\n",
    ],
)
def test_broken_chunks_are_a_400(connection, lean, chunks):
    connection.send(head("Transfer-Encoding: chunked") + chunks, end=True)
    with pytest.raises(ApiError) as raised:
        read(connection.request(lean=lean))
    assert raised.value.code == "malformed_multipart"
    assert not connection.parser.finish_body(deadline=soon())


def test_100_continue_is_sent_when_the_body_is_asked_for_and_not_before(connection):
    connection.client.sendall(head("Expect: 100-continue", "Content-Length: 4"))
    environ = connection.request()
    connection.client.setblocking(False)
    with pytest.raises(BlockingIOError):
        connection.client.recv(100)
    connection.client.settimeout(10)
    connection.send(b"body")
    assert read(environ) == b"body"
    assert connection.client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"


def answered(environ):
    """What a server would do: call an application that reads no body, and take its answer."""

    def refuse(environ, start_response):
        start_response("401 Unauthorized", [])
        return [b"no"]

    return b"".join(CloseUnread(refuse)(environ, lambda *_: None))


def closes(connection):
    return connection.parser.mesg.should_close()


@pytest.mark.parametrize("request_of", [known, in_chunks])
def test_the_rest_of_a_body_is_dropped_after_its_answer(connection, request_of):
    connection.send(request_of(BODY), known(b"next"))
    environ = connection.request()
    assert answered(environ) == b"no"
    assert not closes(connection)
    assert environ["wsgi.input"].drop()
    assert read(connection.request()) == b"next"


@pytest.mark.parametrize("via", ["2.0 nginx", "HTTP/2 cdn", "1.1 router, 3 cdn"])
def test_behind_a_proxy_that_resets_streams_a_body_is_dropped_before_its_answer(connection, via):
    connection.send(known(BODY))
    environ = connection.request() | {"HTTP_VIA": via}
    assert answered(environ) == b"no"
    assert environ["wsgi.input"].ended
    assert not closes(connection)


@pytest.mark.parametrize("via", ["", "1.1 nginx", "1.1 vegur 2"])
def test_behind_any_other_proxy_an_answer_does_not_wait_for_the_body(connection, via):
    connection.client.sendall(known(BODY)[:-1])  # the last byte never comes
    environ = connection.request() | {"HTTP_VIA": via}
    assert answered(environ) == b"no"
    assert not environ["wsgi.input"].ended


def test_a_body_that_ends_early_cannot_be_dropped(connection):
    connection.send(known(BODY)[:-1], end=True)
    environ = connection.request()
    assert not environ["wsgi.input"].drop()
    assert answered(environ) == b"no"
    assert closes(connection)


def test_a_body_longer_than_the_bound_is_not_dropped_at_all(connection):
    connection.client.sendall(head(f"Content-Length: {LINGER_BYTES + 1}") + b"x")
    environ = connection.request()
    assert answered(environ) == b"no"
    assert closes(connection)
    assert environ["wsgi.input"].reader.length == LINGER_BYTES + 1


def test_an_endless_body_is_dropped_up_to_the_bound(connection):
    class Endless(Input):
        given = 0

        def receive_into(self, view, deadline):
            self.given += len(view)
            return len(view)

    connection.send(in_chunks(b""))
    connection.request(lean=False)
    endless = Endless(connection.parser.mesg, connection.server)
    assert not endless.drop()
    assert LINGER_BYTES <= endless.given < LINGER_BYTES + 1024 * 1024


def test_a_client_that_waits_for_100_continue_gets_the_answer_instead(connection):
    connection.client.sendall(head("Expect: 100-continue", f"Content-Length: {len(BODY)}"))
    environ = connection.request()
    assert answered(environ) == b"no"
    assert closes(connection)
    connection.server.end()
    assert connection.client.recv(100) == b""


def test_a_request_without_a_body_is_left_alone(connection):
    connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answered(connection.request()) == b"no"
    assert not closes(connection)


def test_a_plain_server_is_left_alone():
    environ = plain_environ(BODY)
    assert answered(environ) == b"no"
    assert environ["wsgi.input"].read() == BODY


@pytest.mark.parametrize("length", ["0000000000000000000000005000", "00"])
def test_a_length_with_leading_zeros_is_the_number_that_it_says(connection, length):
    connection.send(head(f"Content-Length: {length}") + BODY[: int(length)])
    environ = connection.request()
    assert content_length(environ) == int(length)
    assert read(environ) == BODY[: int(length)]


def test_a_length_of_twenty_digits_is_valid(connection):
    connection.send(head(f"Content-Length: {10**19}"))
    assert content_length(connection.request()) == 10**19


def test_chunks_have_no_length_and_a_body_of_tiny_ones_is_refused(connection):
    wire = head("Transfer-Encoding: chunked") + b"1\r\nx\r\n" * (MOST_CHUNKS + 1) + b"0\r\n\r\n"
    connection.send(wire)
    environ = connection.request()
    assert content_length(environ) is None
    with pytest.raises(ApiError) as raised:
        read(environ)
    assert raised.value.code == "malformed_multipart"


def test_gunicorns_own_reading_still_works_on_our_input(connection):
    connection.send(known(b"one\ntwo\n"), known(b"next"))
    stream = connection.request()["wsgi.input"]
    assert stream.readline() == b"one\n"
    assert stream.read() == b"two\n"
    assert connection.request()["wsgi.input"].read() == b"next"


def test_the_socket_keeps_a_time_limit_for_the_answer(connection):
    connection.send(known(b"body"))
    read(connection.request())
    assert connection.server.gettimeout() > 0
    assert connection.server.type == socket.SOCK_STREAM
