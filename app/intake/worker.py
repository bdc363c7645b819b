"""gunicorn's threaded worker as uploads need it: the one place that knows gunicorn's insides.

Six things are different from the worker it is made of (gunicorn 27):

- A connection gets a thread once the head of a request is all there, so that
  slow or silent clients hold none. Until then it waits in the event loop.
- What has no body and no key has threads of its own, so that slow bodies and a
  slow Redis hold up no health check. Who finds no other thread is told 503.
- ``wsgi.input`` can receive straight into a buffer, within a deadline, and
  sends ``100 Continue`` only when somebody asks for the body.
- A connection to be closed lingers in the event loop until its client has
  closed too, so that the answer is seen by one that is still sending.
  gunicorn waits for it for two seconds, in the thread that accepts.
- A stop serves what has connected, lets nobody else connect, and is heeded
  from the fork on.
- What it answers and logs about broken HTTP repeats nothing of the request,
  where its own page repeats the request line, and with it a key.

What is not found in another gunicorn is left as it is there (``fits``).
"""

import errno
import logging
import os
import select
import signal
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from typing import Any

from gunicorn import glogging
from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.errors import (
    ChunkMissingTerminator,
    ExpectationFailed,
    InvalidChunkExtension,
    InvalidChunkSize,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
)
from gunicorn.http.unreader import IterUnreader
from gunicorn.workers import gthread

from app import errors
from app.errors import ApiError, too_slow, unavailable

HEAD_BYTES = 32 * 1024
"""The longest head of a request: nginx takes no longer one either."""

HEAD_SECONDS = 15.0
"""Within this time from its first byte a head must be there."""

LINGER_SECONDS = 8.0
LINGER_BYTES = 48 * 1024 * 1024
"""So long a closed connection waits for its client's end, dropping so much."""

QUEUE_SECONDS = 8.0
"""So long a request waits for a thread before it is told that the service is full."""

SEND_SECONDS = 30.0
"""A client that takes none of its answer for so long is given up."""

_STOP_SECONDS = 2.0
_LIGHT_THREADS = 4
_STOP_SIGNALS = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGQUIT))
_CHUNK_ERRORS = (ChunkMissingTerminator, InvalidChunkExtension, InvalidChunkSize, ParseException)
_STATUSES: tuple[tuple[Any, int], ...] = (
    (LimitRequestLine, 414),
    (LimitRequestHeaders, 431),
    (ExpectationFailed, 417),
    (_CHUNK_ERRORS, 400),
)
_SCRATCH = bytearray(256 * 1024)

log = logging.getLogger("uploader.worker")


def fits() -> bool:
    """Whether this gunicorn's body readers are the ones that Input was written for."""
    try:
        unreader = IterUnreader([b"ab"])
        known, chunked = LengthReader(unreader, 1), ChunkedReader(None, unreader)
        known_fits = (known.length, known.unreader, known.read(1)) == (1, unreader, b"a")
        unreader_fits = (known.length, unreader.take_buffered()) == (0, b"b")
        unreader.unread(b"2\r\nok\r\n0\r\n\r\n")
        chunked_fits = [piece for piece in chunked.parser if piece] == [b"ok"]
        return known_fits and unreader_fits and chunked_fits and not Body(known).failed
    except (AttributeError, TypeError):
        return False


_FITS = fits()


class Input(Body):  # type: ignore[misc]
    """``wsgi.input`` of one request, with a shorter way from the socket to a buffer.

    ``receive_into`` and ``read`` are not to be mixed; gunicorn itself goes on
    with ``read`` after the application, to find the next request.
    """

    def __init__(self, request: Any, connection: socket.socket) -> None:
        super().__init__(request.body.reader)
        empty = getattr(self.reader, "length", None) == 0
        self.awaits_go_ahead = request._expected_100_continue and not empty  # noqa: SLF001
        request._expected_100_continue = False  # noqa: SLF001 -- else it is sent at once
        self.force_close = request.force_close
        self._socket = connection
        self._unreader = request.unreader
        self._piece = memoryview(b"")

    def read(self, size: int | None = None) -> bytes:
        """As every ``wsgi.input``."""
        self._go_ahead()
        return bytes(super().read(size))

    def receive_into(self, view: memoryview, deadline: float) -> int:
        """Receive what is there into ``view``; 0 at the end of the body.

        Raises TimeoutError at the deadline (of ``time.monotonic()``), OSError
        or EOFError when the connection ends, ValueError for broken chunks.
        """
        self._go_ahead()
        receive = self._chunked if isinstance(self.reader, ChunkedReader) else self._known
        try:
            return receive(view, _Timed(self._socket, deadline))
        except _CHUNK_ERRORS as error:
            self.failed = True
            raise ValueError(type(error).__name__) from error
        except BaseException:
            self.failed = True  # where the next request would begin is unknown
            raise
        finally:
            self._socket.settimeout(SEND_SECONDS)

    def _known(self, view: memoryview, timed: "_Timed") -> int:
        view = view[: self.reader.length]
        if not view:
            return 0
        if ahead := self._unreader.take_buffered():
            count = min(len(view), len(ahead))
            view[:count] = ahead[:count]
            self._unreader.unread(ahead[count:])
        elif not (count := timed.recv_into(view)):
            raise EOFError
        self.reader.length -= count
        return count

    def _chunked(self, view: memoryview, timed: "_Timed") -> int:
        if not self._piece:
            self._piece = memoryview(self._next_piece(timed))
        count = min(len(view), len(self._piece))
        view[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count

    def _next_piece(self, timed: "_Timed") -> bytes:
        """The next bytes of a chunk, as gunicorn's parser finds them; none at the end."""
        if self.failed:
            raise EOFError
        self._unreader.sock = timed
        try:
            return next((piece for piece in self.reader.parser or () if piece), b"")
        finally:
            self._unreader.sock = self._socket

    def _go_ahead(self) -> None:
        if self.awaits_go_ahead:
            self.awaits_go_ahead = False
            self._socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


class _Timed:
    """A socket all of whose reading ends at one deadline."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._socket = connection
        self._deadline = deadline

    def recv(self, size: int) -> bytes:
        self._wait()
        return self._socket.recv(size)

    def recv_into(self, view: memoryview) -> int:
        self._wait()
        return self._socket.recv_into(view)

    def _wait(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)


def hold_signals_at_forks() -> None:
    """Have signals that stop a worker wait from its fork to ``init_signals``; for the master.

    gunicorn would lose them: Python forgets what arrives before its own first step in a child
    (``PyOS_AfterFork_Child``), and after that the handlers are still those of the master.
    """
    os.register_at_fork(
        before=partial(signal.pthread_sigmask, signal.SIG_BLOCK, _STOP_SIGNALS),
        after_in_parent=partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, _STOP_SIGNALS),
    )


class Logger(glogging.Logger):  # type: ignore[misc]
    """gunicorn's own, without its access log: the app writes one line a request itself."""

    def access(self, *_: Any) -> None:
        """Nothing; gunicorn would put its parts together and then not write them."""


class Worker(gthread.ThreadWorker):  # type: ignore[misc]
    """The worker class of ``deploy/gunicorn.conf.py``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._light = ThreadPoolExecutor(_LIGHT_THREADS, thread_name_prefix="light")
        self._queued: dict[Future[Any], float] = {}  # and since when; oldest first
        self._lingering: dict[Any, None] = {}  # oldest first

    def init_signals(self) -> None:
        """From here on signals can be heeded; those that came since the fork have waited."""
        super().init_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM and a reload: finish what is in flight, and say so in /readyz."""
        if self.booted:
            self.wsgi.extensions["readiness"].draining = True
            super().handle_exit(sig, frame)
        else:
            self.alive = False  # its event loop has yet to begin

    def set_accept_enabled(self, enabled: bool) -> None:
        """On a stop, take what has connected already, and then let nobody connect any more.

        Who connects to a server that is about to end is better refused at once than reset.
        """
        super().set_accept_enabled(enabled)
        if enabled or self.alive:
            return
        waiting = select.poll()
        for listener in self.sockets:
            waiting.register(listener, select.POLLIN)
        while self.nr_conns < self.worker_connections and waiting.poll(0):
            for listener in self.sockets:
                self.accept(listener)
        for listener in self.sockets:
            listener.close()

    def enqueue_req(self, conn: Any) -> None:
        """Give a connection to a thread once its next request can be read; in the event loop."""
        if self.cfg.is_ssl or conn.sock.family == socket.AF_UNIX:
            super().enqueue_req(conn)
            return
        try:
            head = self._head(conn)
        except OSError:
            head = b""
        if head is None:
            self._wait(conn)
        elif not head or not _takes_answers(conn.sock):
            self._linger(conn)
        else:
            self._submit(conn, light=_is_light(head))

    def _submit(self, conn: Any, *, light: bool) -> None:
        conn.data_ready = True
        if light:
            future = self._light.submit(self.handle, conn)
        else:
            future = self.tpool.submit(self.handle, conn)
            self._queued[future] = time.monotonic()
        future.add_done_callback(
            lambda done: self.method_queue.defer(self.finish_request, conn, done)
        )

    def handle_request(self, req: Any, conn: Any) -> bool:
        """Serve one request whose head has been read."""
        if not _FITS:
            return bool(super().handle_request(req, conn))
        conn.sock.settimeout(SEND_SECONDS)
        body = req.body = Input(req, conn.sock)
        try:
            keep_alive = super().handle_request(req, conn)
        except TimeoutError as error:
            raise BrokenPipeError(errno.EPIPE, "the client takes no answer") from error
        return keep_alive and not body.awaits_go_ahead

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:  # noqa: ARG002
        """Answer broken HTTP with a problem document, and log what kind it was."""
        kind = type(exc).__name__
        status = next((status for kinds, status in _STATUSES if isinstance(exc, kinds)), 500)
        if status == 500:
            self._refuse(client, errors.failed(kind))
        else:
            self._refuse(client, _broken(kind, status))

    def finish_request(self, conn: Any, fs: Any) -> None:
        """What becomes of a connection after a request; in the event loop."""
        self._queued.pop(fs, None)
        if fs.cancelled():
            self._refuse(conn.sock, unavailable("overloaded", "no thread was free in time"))
            self._linger(conn)
        elif fs.exception() or fs.result():
            super().finish_request(conn, fs)
        else:
            self._linger(conn)

    def murder_pending(self) -> None:
        """Close what has waited too long, refuse what no thread took; called every second."""
        super().murder_pending()
        now = time.monotonic()
        while self._lingering and (conn := next(iter(self._lingering))).timeout < now:
            self._close(conn)
        for future in [each for each, since in self._queued.items() if now - since > QUEUE_SECONDS]:
            del self._queued[future]
            future.cancel()  # unless a thread has it by now

    def _cap_keepalive(self, deadline: float) -> None:
        """On a stop: connections on which nothing has come do not hold the process."""
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)

    def _head(self, conn: Any) -> bytes | None:
        """The next request, whose head is all there; None: wait for it; empty: close."""
        ahead = conn.parser.unreader.buf.getvalue() if conn.parser else b""
        conn.sock.setblocking(False)
        try:
            there = conn.sock.recv(HEAD_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            there = None
        if _is_head(ahead + (there or b"")):
            if getattr(conn, "head", None):
                conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
                conn.head = None
            return bytes(ahead + (there or b""))
        if there == b"" or (ahead and not self.alive):
            return b""
        return None if there is None else self._wait_for_head(conn, len(ahead), len(there))

    def _wait_for_head(self, conn: Any, ahead: int, there: int) -> bytes | None:
        seen, since = getattr(conn, "head", None) or (0, time.monotonic())
        if there <= seen:
            return b""  # woken, and nothing new: the client has closed its side
        if ahead + there >= HEAD_BYTES:
            self._refuse(conn.sock, _broken("head too long", 431))
            return b""
        if time.monotonic() - since > HEAD_SECONDS:
            self._refuse(conn.sock, too_slow("head too slow"))
            return b""
        conn.head = (there, since)
        # Wake up for more than what is there already (Linux 2.6.28, socket(7)).
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, there + 1)
        return None

    def _wait(self, conn: Any) -> None:
        """Have the event loop look again when more has come; on a stop not for long."""
        seconds = self.cfg.keepalive if self.alive else _STOP_SECONDS
        conn.timeout = time.monotonic() + seconds
        self.pending_conns.append(conn)
        wake = partial(self.on_pending_socket_readable, conn)
        self.poller.register(conn.sock, gthread.selectors.EVENT_READ, wake)

    def _linger(self, conn: Any) -> None:
        """Close the sending side, and the rest when the client has closed its own."""
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            conn.sock.setblocking(False)
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            self.poller.register(conn.sock, gthread.selectors.EVENT_READ, partial(self._drop, conn))
        except (OSError, ValueError):  # reset by the client, or closed already
            self.nr_conns -= 1
            conn.close()
            return
        conn.timeout, conn.dropped = time.monotonic() + LINGER_SECONDS, 0
        self._lingering[conn] = None

    def _drop(self, conn: Any, connection: socket.socket) -> None:
        try:
            count = connection.recv_into(_SCRATCH)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        conn.dropped += count
        if not count or conn.dropped > LINGER_BYTES:
            self._close(conn)

    def _close(self, conn: Any) -> None:
        del self._lingering[conn]
        self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()

    def _refuse(self, client: socket.socket, error: ApiError) -> None:
        """Answer without the application, in one piece that a socket takes without waiting."""
        request_id = errors.request_id(None)
        level = {500: logging.ERROR, 503: logging.WARNING}.get(error.status, logging.INFO)
        extra = {"request_id": request_id}
        log.log(level, "%s: %s", error.code, error.cause, extra=extra)
        try:
            client.setblocking(False)
            client.sendall(_answer(error, request_id))
        except OSError:
            log.debug("the client was gone")


def _is_head(data: bytes) -> bool:
    """Whether gunicorn can read a head to its end, or to its first mistake, out of this."""
    return b"\r\n\r\n" in data or b"\n\n" in data


def _takes_answers(client: socket.socket) -> bool:
    """Whether there is room for an answer: who sends requests and reads none gets no thread."""
    room = select.poll()
    room.register(client, select.POLLOUT)
    return bool(room.poll(0))


def _is_light(request: bytes) -> bool:
    """Whether a request waits for no body, as far as its head tells, and for no key."""
    if request.startswith((b"POST ", b"GET /upload/")):
        return False
    head = request.partition(b"\r\n\r\n")[0].lower()
    return not (b"\ncontent-length:" in head or b"\ntransfer-encoding:" in head)


def _broken(kind: str, status: int) -> ApiError:
    detail = "The request is not valid HTTP for this service. See /docs."
    return ApiError("bad_request", detail, cause=kind, status=status)


def _answer(error: ApiError, request_id: str) -> bytes:
    status, headers, body = errors.problem_answer(error, request_id)
    headers |= {"Connection": "close", "Content-Length": str(len(body))}
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {text}" for name, text in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body
