"""gunicorn's gevent worker, changed for uploads. This package relies on gunicorn's internals.

Each connection is a greenlet, which costs kilobytes while its client is slow. This worker differs
from its base class (gunicorn 27) in these points:

- A client that is still sending sees its answer: the rest of its body is received and dropped,
  and a connection lingers until its client has closed too. gunicorn resets such a connection.
- A head is bounded in bytes and in time (``app.intake.connection``), and a body can be received
  straight into a buffer, within a deadline (``app.intake.input``).
- The number of connections is bounded. At the bound the connection that has been idle for longest
  is closed; above it only health checks are served, and all other requests are answered 503.
- A stop serves the clients that have connected and accepts no others. It is obeyed from the fork
  on, and silent connections do not delay it.
- The answer to broken HTTP comes from the application, like every other answer, and repeats
  nothing of the request. gunicorn's own page repeats the request line, and with it an API key.
"""

import errno
import logging
import os
import resource
import signal
import time
from contextlib import nullcontext, suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import gevent
from gevent import socket
from gevent.lock import BoundedSemaphore
from gevent.pool import Pool
from gunicorn import glogging
from gunicorn.workers import ggevent
from gunicorn.workers.base_async import AsyncWorker

from app.errors import ApiError, unavailable
from app.intake.broken import answer, bad_request, environ_of, error_of
from app.intake.connection import HEAD_SECONDS, Connection
from app.intake.input import Input

HEALTH_CHECKS = frozenset(("/healthz", "/readyz"))
"""Paths that are served even when the process is full."""

_RESERVE = 32
"""Connections above ``worker_connections``, for health checks and for answers 503."""

_OWN_FILES = 64
"""File descriptors that clients never get: for Redis (16), the store (16), listeners and logs."""

_BEAT_SECONDS = 0.25  # gunicorn kills a worker that does not call ``notify`` within its timeout
_NO_ROOM_SECONDS = 0.05
"""How long a connection that was closed to make room may take to end before the next accept."""

_STOP_SECONDS = 2.0
"""On a stop, how long a kept-alive connection may take to bring a request that is on its way."""

_STOP_SIGNALS = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGQUIT))
# Errors of ``accept`` that say that the process or the machine has no room for a connection.
_NO_ROOM = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
log = logging.getLogger("uploader.worker")


def hold_signals_at_forks() -> None:
    """Block the signals that stop a worker from its fork to ``init_signals``; for the master.

    gunicorn would lose them: in a child Python drops signals that arrive before
    ``PyOS_AfterFork_Child``, and after that the handlers are still those of the master.
    """
    os.register_at_fork(
        before=partial(signal.pthread_sigmask, signal.SIG_BLOCK, _STOP_SIGNALS),
        after_in_parent=partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, _STOP_SIGNALS),
    )


class Logger(glogging.Logger):  # type: ignore[misc]
    """gunicorn's own, without its access log: the application logs each request itself."""

    def access(self, *_: Any) -> None:
        """Do nothing. gunicorn's own method collects the fields even if it writes no line."""


class Worker(ggevent.GeventWorker):  # type: ignore[misc]
    """The worker class of ``deploy/gunicorn.conf.py``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connections = Pool()
        self._waiting: dict[Connection, None] = {}  # wait for a head, the longest wait first
        self._closing: set[Connection] = set()  # closed to make room, but not ended yet
        self._pipelined = BoundedSemaphore(1)  # one pipelined request at a time in this process

    def patch(self) -> None:
        """Make the listeners gevent sockets; ``deploy/gunicorn.conf.py`` has patched the rest."""
        self.sockets: list[Any] = [
            socket.socket(each.FAMILY, socket.SOCK_STREAM, fileno=each.sock.detach())
            for each in self.sockets
        ]

    def init_signals(self) -> None:
        """Set the handlers, and then let in the signals that have waited since the fork."""
        super().init_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """On SIGTERM and on a reload: finish the requests under way, and say so in /readyz."""
        if self.booted:  # else there is no application yet
            self.wsgi.extensions["readiness"].draining = True
        super().handle_exit(sig, frame)

    def run(self) -> None:
        """Accept connections until the stop, and then finish those that are there."""
        # A connection is a file, and running out of files would break calls to Redis as well.
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
        """Serve one connection, from its first request until the client has closed it."""
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
        """No timeout of gunicorn's for the wait for a head: the connection has a deadline."""
        return nullcontext()

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        """Serve one request whose head has been read; StopIteration ends the connection."""
        sock.head_ended()
        body = req.body = Input(req, sock, self._refusal(req))
        try:
            with self._pipelined if sock.pipelines else nullcontext():
                AsyncWorker.handle_request(self, listener_name, req, sock, addr)
        except TimeoutError as error:
            # gunicorn ignores EPIPE, but logs a stack trace for other errors of a socket.
            raise BrokenPipeError(errno.EPIPE, "the client takes no answer") from error
        if not body.ended and not body.drop():
            sock.ended = True  # the client has had its time to read the answer
            raise StopIteration
        # Bytes behind this request arrived before its answer: the client pipelines. One such
        # request at a time runs, because they follow each other without a pause for others.
        sock.pipelines = bool(req.unreader.buf.getbuffer().nbytes)
        sock.expect_head(self.cfg.keepalive)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:  # noqa: ARG002
        """Have the application answer a head that is broken, too long or too slow."""
        if isinstance(exc, gevent.GreenletExit | SystemExit):
            raise exc
        refusal = error_of(exc)
        if refusal.status == 500:
            log.error("unexpected error", exc_info=exc)
        with suppress(OSError):
            client.sendall(answer(self.wsgi, environ_of(bytes(client.head), addr, refusal)))

    def _refusal(self, req: Any) -> ApiError | None:
        """The error for a request that the application need not look at; None for the others."""
        room = self._make_room(self.worker_connections)
        if not room and req.path not in HEALTH_CHECKS:
            return unavailable("overloaded", "too many connections")
        if req.version >= (1, 1) and not any(name == "HOST" for name, _ in req.headers):
            return bad_request("no Host")  # RFC 9112 section 3.2
        return None

    def _accept(self, listener: Any) -> None:
        """Give each new connection a greenlet, while there is room."""
        while True:
            self._connections.wait_available()
            try:
                client, addr = listener.accept()
            except OSError as error:
                full = error.errno in _NO_ROOM
                if full:
                    log.warning("cannot accept: %s", error.strerror)
                    self._make_room(self._open() - 1)
                gevent.sleep(_NO_ROOM_SECONDS if full else 0)  # others run even if each try fails
                continue
            self._make_room(self.worker_connections - 1)
            self._spawn(listener, client, addr)
            gevent.sleep(0)  # a full backlog must not keep the open connections waiting

    def _spawn(self, listener: Any, client: Any, addr: Any) -> None:
        # gunicorn asks the listener for its name later, when a stop may have closed it.
        name = listener.getsockname()
        named = SimpleNamespace(getsockname=lambda: name)
        self._connections.spawn(self.handle, named, client, addr)

    def _open(self) -> int:
        return len(self._connections) - len(self._closing)

    def _make_room(self, most: int) -> bool:
        """Close idle connections, longest first, down to ``most``; whether that succeeded."""
        while self._open() > most and self._waiting:
            connection = next(iter(self._waiting))
            del self._waiting[connection]
            self._closing.add(connection)
            connection.give_up_waiting()
        return self._open() <= most

    def _take_what_has_connected(self, listener: Any) -> None:
        """Serve the connections in the listener's backlog, and then close the listener.

        Closing it resets connections that nobody has accepted. A client that connects after that
        is refused at once, and nothing of its request is lost.
        """
        listener.settimeout(0)  # ``accept`` raises when the backlog is empty
        with suppress(OSError):
            while not self._connections.full():
                self._spawn(listener, *listener.accept())
        listener.close()

    def _finish(self) -> None:
        """Wait for the connections up to the graceful timeout; for silent ones not so long."""
        begun = time.monotonic()
        while self._connections and time.monotonic() - begun < self.cfg.graceful_timeout:
            self.notify()
            if time.monotonic() - begun > _STOP_SECONDS:
                for connection in list(self._waiting):
                    connection.give_up_waiting()
            self._connections.join(timeout=_BEAT_SECONDS)
        self._connections.kill(timeout=1)
