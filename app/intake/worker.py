"""gunicorn's gevent worker as uploads need it: the one place that knows gunicorn's insides.

Each connection is a greenlet, which costs kilobytes while its client is slow. These things are
different from the worker that it is made of (gunicorn 27):

- A client that is still sending sees its answer: what it sends is dropped, and a connection that
  is closed lingers until its client has closed too. gunicorn resets such a connection.
- A head has a bound in bytes and in time (``app.intake.connection``), and a body can be received
  straight into a buffer, within a deadline (``app.intake.input``).
- Connections have a bound. Near it the oldest one on which nothing happens is closed; above it
  only health checks are served, and everything else is answered 503.
- A stop serves what has connected, lets nobody else connect, and is heeded from the fork on.
  Connections on which nothing comes do not hold it.
- The answer to broken HTTP comes from the application, like every other one, and repeats nothing
  of the request: gunicorn's own page repeats the request line, and with it a key.
"""

import errno
import io
import logging
import os
import re
import resource
import signal
import time
from contextlib import nullcontext, suppress
from functools import partial
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import gevent
from gevent import socket
from gevent.lock import BoundedSemaphore
from gevent.pool import Pool
from gunicorn import glogging
from gunicorn.http.errors import (
    ExpectationFailed,
    LimitRequestHeaders,
    LimitRequestLine,
)
from gunicorn.util import http_date
from gunicorn.workers import ggevent
from gunicorn.workers.base_async import AsyncWorker

from app.errors import ApiError, failed, too_slow, unavailable
from app.intake.connection import HEAD_SECONDS, Connection, HeadTooSlow
from app.intake.input import CHUNK_ERRORS, Input

HEALTH_CHECKS = frozenset(("/healthz", "/readyz"))
"""Paths that are served however full the process is."""

_RESERVE = 32
"""Connections above ``worker_connections``: health checks, and those that are answered 503."""

_OWN_FILES = 64
"""Files that a process keeps for calls to Redis and the store, and for what it has open anyway."""

_BEAT_SECONDS = 0.25
_NO_ROOM_SECONDS = 0.05
"""The time that a connection which makes room has to end, before the next one is accepted."""

_STOP_SECONDS = 2.0
"""On a stop a kept-alive connection has this long to bring a request that is on its way."""

_STOP_SIGNALS = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGQUIT))
_NO_ROOM = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_STATUSES: tuple[tuple[Any, int], ...] = (
    (LimitRequestLine, 414),
    (LimitRequestHeaders, 431),
    (ExpectationFailed, 417),
    (CHUNK_ERRORS, 400),
)
# What can be read of a broken head, for the log line and the answer's headers.
_REQUEST_LINE = re.compile(rb"([A-Z]{1,20}) (/[^ ?#\r\n]*)")
_HEADERS = re.compile(rb"\n(X-Request-Id|Origin):[ \t]*([^\r\n]*)(?=\r?\n)", re.IGNORECASE)

log = logging.getLogger("uploader.worker")


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


class Worker(ggevent.GeventWorker):  # type: ignore[misc]
    """The worker class of ``deploy/gunicorn.conf.py``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connections = Pool()
        self._waiting: dict[Connection, None] = {}  # for a head, longest first
        self._closing: set[Connection] = set()  # which make room, but have not ended yet
        self._pipelined = BoundedSemaphore(1)

    def patch(self) -> None:
        """Make gevent's sockets of the listeners; the configuration file has patched the rest."""
        self.sockets: list[Any] = [
            socket.socket(each.FAMILY, socket.SOCK_STREAM, fileno=each.sock.detach())
            for each in self.sockets
        ]

    def init_signals(self) -> None:
        """From here on signals can be heeded; those that came since the fork have waited."""
        super().init_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM and a reload: finish what is in flight, and say so in /readyz."""
        if self.booted:
            self.wsgi.extensions["readiness"].draining = True
        super().handle_exit(sig, frame)

    def run(self) -> None:
        """Accept until the stop, take what has connected by then, and finish it."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        room = max(1, files - _OWN_FILES - _RESERVE)
        self.worker_connections: int = min(self.cfg.worker_connections, room)
        self._connections = Pool(self.worker_connections + _RESERVE)
        accepting = [gevent.spawn(self._accept, listener) for listener in self.sockets]
        while self.alive:
            self.notify()
            gevent.sleep(_BEAT_SECONDS)
        gevent.killall(accepting)
        for listener in self.sockets:
            self._take_what_has_connected(listener)
        self._finish()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection, from its first request to its client's end."""
        connection = Connection(client, self._waiting)
        connection.expect_head(HEAD_SECONDS)
        try:
            AsyncWorker.handle(self, listener, connection, addr)
            if not connection.ended:
                connection.linger()
        finally:
            self._closing.discard(connection)
            connection.end()

    def timeout_ctx(self) -> Any:
        """No bound of gunicorn's on the wait for a head: the connection has its own."""
        return nullcontext()

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        """Serve one request whose head has been read; StopIteration ends the connection."""
        sock.head_ended()
        body = req.body = Input(req, sock, self._refusal(req))
        try:
            with self._pipelined if sock.pipelines else nullcontext():
                AsyncWorker.handle_request(self, listener_name, req, sock, addr)
        except TimeoutError as error:
            raise BrokenPipeError(errno.EPIPE, "the client takes no answer") from error
        if not body.ended and not body.drop():
            sock.ended = True  # it has had its time
            raise StopIteration
        # Bytes behind this request came before its answer: requests of a client that does not
        # wait are served one after the other, whatever the number of such clients.
        sock.pipelines = bool(req.unreader.buf.getbuffer().nbytes)
        sock.expect_head(self.cfg.keepalive)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:  # noqa: ARG002
        """Have the application answer what is no request: broken, too long or too slow."""
        if isinstance(exc, gevent.GreenletExit | SystemExit):
            raise exc
        refusal = _refusal_of(exc)
        if refusal.status == 500:
            log.error("unexpected error", exc_info=exc)
        with suppress(OSError):
            client.sendall(_answer(self.wsgi, _environ(bytes(client.head), addr, refusal)))

    def _refusal(self, req: Any) -> ApiError | None:
        """The answer that a whole request gets without being looked at."""
        room = self._make_room(self.worker_connections)
        if not room and req.path not in HEALTH_CHECKS:
            return unavailable("overloaded", "too many connections")
        if req.version >= (1, 1) and not any(name == "HOST" for name, _ in req.headers):
            return _broken("no Host", 400)  # RFC 9112 section 3.2
        return None

    def _accept(self, listener: Any) -> None:
        """Give each connection a greenlet, for as long as there is room."""
        while True:
            self._connections.wait_available()
            try:
                client, addr = listener.accept()
            except OSError as error:
                if error.errno in _NO_ROOM:
                    log.warning("cannot accept: %s", error.strerror)
                    self._make_room(self._open() - 1)
                    gevent.sleep(_NO_ROOM_SECONDS)
                continue
            self._make_room(self.worker_connections - 1)
            self._spawn(listener, client, addr)
            gevent.sleep(0)

    def _spawn(self, listener: Any, client: Any, addr: Any) -> None:
        # gunicorn asks the listener for its name later, when a stop may have closed it.
        name = listener.getsockname()
        named = SimpleNamespace(getsockname=lambda: name)
        self._connections.spawn(self.handle, named, client, addr)

    def _open(self) -> int:
        return len(self._connections) - len(self._closing)

    def _make_room(self, most: int) -> bool:
        """Close connections that wait for a head, longest first, until ``most`` are open."""
        while self._open() > most and self._waiting:
            connection = next(iter(self._waiting))
            del self._waiting[connection]
            self._closing.add(connection)
            connection.give_up_waiting()
        return self._open() <= most

    def _take_what_has_connected(self, listener: Any) -> None:
        """Serve the listener's backlog, and then let nobody else connect.

        A client that connects to a server which is about to end is better refused than reset.
        """
        listener.settimeout(0)
        with suppress(OSError):
            while not self._connections.full():
                self._spawn(listener, *listener.accept())
        listener.close()

    def _finish(self) -> None:
        """Wait for the connections, within the graceful time-out; not for silent ones."""
        begun = time.monotonic()
        while self._connections and time.monotonic() - begun < self.cfg.graceful_timeout:
            self.notify()
            if time.monotonic() - begun > _STOP_SECONDS:
                for connection in list(self._waiting):
                    connection.give_up_waiting()
            self._connections.join(timeout=_BEAT_SECONDS)
        self._connections.kill(timeout=1)


def _refusal_of(error: BaseException) -> ApiError:
    kind = type(error).__name__
    if isinstance(error, HeadTooSlow):
        return too_slow(kind)
    for kinds, status in _STATUSES:
        if isinstance(error, kinds):
            return _broken(kind, status)
    return failed(kind)


def _broken(cause: str, status: int) -> ApiError:
    error = ApiError(
        "bad_request", "The request is not valid HTTP for this service. See /docs.", cause=cause
    )
    if status != error.status:
        error.status, error.title = status, HTTPStatus(status).phrase
    return error


def _environ(head: bytes, addr: Any, refusal: ApiError) -> dict[str, Any]:
    """The WSGI environ of what can be read of a broken head; the application refuses it."""
    line = _REQUEST_LINE.match(head)
    method, path = (part.decode("latin-1") for part in (line.groups() if line else (b"-", b"/")))
    headers = {
        f"HTTP_{name.decode().upper().replace('-', '_')}": value.decode("latin-1").strip()
        for name, value in _HEADERS.findall(head)
    }
    return headers | {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote(path, "latin-1"),
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": addr[0] if isinstance(addr, tuple) else "",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "uploader.refusal": refusal,
    }


def _answer(application: Any, environ: dict[str, Any]) -> bytes:
    """The application's whole answer, as it goes to the socket."""
    begun: list[Any] = []
    body = b"".join(application(environ, lambda *begin: begun.extend(begin)))
    status, headers = begun[:2]
    lines = [f"{name}: {value}" for name, value in headers]
    lines = [f"HTTP/1.1 {status}", f"Date: {http_date()}", "Connection: close", *lines, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body
