import io
import socket
import threading
import time
import tracemalloc

import pytest

from app.errors import ApiError
from app.intake.body import DROP_BYTES, Body, BufferPool, ClientDisconnected, DrainBody
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
def test_a_body_arrives_whole_in_whatever_pieces_it_comes(connection, lean, request_of, step):
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


def test_what_the_application_left_is_skipped_by_gunicorn(connection):
    connection.send(known(BODY[:5000]), known(b"next"))
    environ = connection.request()
    Body.of(environ).read_into(memoryview(bytearray(10)), soon())
    assert read(connection.request()) == b"next"


@pytest.mark.parametrize("request_of", [known, in_chunks])
def test_a_connection_that_ends_early_is_told_apart_from_a_slow_one(connection, request_of):
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


def answered(application, environ):
    """What a server would do: call the application, take its answer."""
    return b"".join(application(environ, lambda *_: None))


def refuse(environ, start_response):
    start_response("401 Unauthorized", [])
    return [b"no"]


def test_an_early_answer_waits_until_the_body_is_dropped(connection):
    connection.send(known(BODY), known(b"next"))
    environ = connection.request()
    assert answered(DrainBody(refuse), environ) == b"no"
    assert Body.of(environ).ended
    assert not environ["wsgi.input"].failed
    assert read(connection.request()) == b"next"


def closes(connection):
    return connection.parser.mesg.should_close()


def test_a_body_that_stops_coming_does_not_hold_the_answer_and_closes(connection):
    connection.send(known(BODY)[:-1])
    environ = connection.request()
    assert not closes(connection)
    assert answered(DrainBody(refuse), environ) == b"no"
    assert closes(connection)


def test_a_client_that_waits_for_100_continue_gets_the_answer_instead(connection):
    connection.client.sendall(head("Expect: 100-continue", f"Content-Length: {len(BODY)}"))
    environ = connection.request()
    assert answered(DrainBody(refuse), environ) == b"no"
    assert closes(connection)
    connection.server.close()
    assert connection.client.recv(100) == b""


def test_a_body_beyond_the_bound_is_not_even_begun(connection):
    connection.client.sendall(head(f"Content-Length: {DROP_BYTES + 1}") + b"x")
    environ = connection.request()
    assert answered(DrainBody(refuse), environ) == b"no"
    assert closes(connection)
    assert environ["wsgi.input"].reader.length == DROP_BYTES + 1


def test_an_endless_chunked_body_is_dropped_up_to_the_bound():
    class Endless:
        given = 0

        def read(self, size):
            self.given += size
            return bytes(size)

    endless = Endless()
    environ = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input": endless}
    Body.of(environ).drop(seconds=60)
    assert DROP_BYTES <= endless.given < DROP_BYTES + 1024 * 1024


@pytest.mark.parametrize(("many", "seconds"), [(4, 0.5), (0, 0.25)])
def test_while_many_drop_at_once_each_has_less_time(many, seconds):
    class Silent:
        def receive_into(self, view, deadline):
            self.deadline, self.patience = deadline, deadline - time.monotonic()
            raise TimeoutError

    silent, before = Silent(), time.monotonic()
    answered(DrainBody(refuse, many=many), plain_environ(BODY) | {"wsgi.input": silent})
    assert silent.deadline - before >= seconds
    assert silent.patience <= seconds


def test_a_request_without_a_body_is_left_alone(connection):
    connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answered(DrainBody(refuse), connection.request()) == b"no"
    assert not closes(connection)


def test_a_plain_server_can_drop_too():
    environ = plain_environ(BODY)
    assert answered(DrainBody(refuse), environ) == b"no"
    assert environ["wsgi.input"].read() == b""


def test_buffers_are_reused():
    pool = BufferPool(100_000_000)
    first = pool.take(5_000_000)
    assert len(first) >= 5_000_000
    pool.give_back(first)
    assert pool.take(4_900_000) is first
    assert pool.take(4_900_000) is not first


def test_a_buffer_is_not_much_larger_than_what_it_is_for():
    pool = BufferPool(2**30)
    for size in (1, 70_000, 1_000_000, 5_000_001, 15_730_000):
        assert size <= len(pool.take(size)) <= size * 1.07 + 65536


def test_a_large_buffer_is_not_given_to_a_small_body():
    pool = BufferPool(2**30)
    pool.give_back(pool.take(15_000_000))
    assert len(pool.take(100_000)) < 200_000


def test_the_pool_counts_what_is_in_use_and_refuses_beyond_its_limit():
    pool = BufferPool(33 * 1024 * 1024)
    held = [pool.take(15 * 1024 * 1024) for _ in range(2)]
    assert pool.in_use == sum(map(len, held))
    with pytest.raises(ApiError) as raised:
        pool.take(15 * 1024 * 1024)
    assert (raised.value.status, raised.value.code) == (503, "overloaded")
    assert raised.value.headers["Retry-After"]
    assert pool.in_use == sum(map(len, held))
    pool.give_back(held.pop())
    pool.take(15 * 1024 * 1024)


def test_kept_buffers_and_those_in_use_are_together_within_the_limit():
    limit = 32 * 1024 * 1024
    pool = BufferPool(limit)
    tracemalloc.start()
    held = [pool.take(15_000_000) for _ in range(2)]
    pool.give_back(held.pop())
    held.append(pool.take(16_500_000))  # the one that was kept is too small
    assert tracemalloc.get_traced_memory()[0] <= limit
    tracemalloc.stop()


def test_a_buffer_grows_keeps_its_bytes_and_counts_once():
    pool = BufferPool(10_000_000)
    buffer = pool.take(65536)
    buffer[:5] = b"hello"
    buffer = pool.grow(buffer, 9_000_000)
    assert len(buffer) >= 9_000_000
    assert buffer[:5] == b"hello"
    assert pool.in_use == len(buffer)
    with pytest.raises(ApiError):
        pool.grow(buffer, 20_000_000)
    assert pool.in_use == len(buffer)
    pool.give_back(buffer)
    assert pool.in_use == 0


def test_an_idle_pool_holds_one_large_buffer():
    pool = BufferPool(2**30)
    for buffer in [pool.take(15 * 1024 * 1024) for _ in range(8)]:
        pool.give_back(buffer)
    assert pool.in_use == 0
    pool.take(15 * 1024 * 1024)
    assert sum(map(len, pool._idle)) <= 16 * 1024 * 1024


def test_threads_that_take_and_give_back_leave_nothing_in_use():
    pool = BufferPool(2**30)

    def work():
        for size in (100_000, 1_000_000, 300_000) * 20:
            buffer = pool.take(size)
            buffer[0] = 1
            pool.give_back(buffer)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pool.in_use == 0


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
