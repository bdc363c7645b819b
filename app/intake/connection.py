"""A client's connection: every wait for the client has an end, and a head has a bound."""

import time
from contextlib import suppress
from typing import Any

import gevent
from gevent import socket
from gunicorn.http.errors import LimitRequestHeaders

HEAD_BYTES = 32 * 1024
"""The longest head of a request: nginx takes no longer one either."""

HEAD_SECONDS = 15.0
"""Within this time from its first byte a head must be there."""

SEND_SECONDS = 30.0
"""A client that has not taken an answer, or a piece of one, within this time is given up."""

LINGER_SECONDS = 10.0
LINGER_BYTES = 48 * 1024 * 1024
"""How long, and how much, is received and dropped of a client that still sends after its answer."""

_TURN_SECONDS = 0.005
"""The longest time that a connection on which bytes are always there keeps others waiting."""

SCRATCH = memoryview(bytearray(256 * 1024))
"""What is dropped: written by all connections and read by none."""


class HeadTooSlow(Exception):
    """A head that has begun was not whole within HEAD_SECONDS."""


class Connection(socket.socket):  # type: ignore[misc]
    """A gevent socket whose reading ends at ``deadline`` (of ``time.monotonic()``).

    gunicorn's parser reads heads from it, and ``app.intake.input`` reads bodies. ``head`` holds
    what has come of the head that is being read, ``pipelines`` says that a request came before
    the answer to the one before it. While a connection waits for a head it stands in
    ``waiting``, in the order in which the waits began.
    """

    def __init__(
        self, client: socket.socket, waiting: "dict[Connection, None] | None" = None
    ) -> None:
        super().__init__(client.family, client.type, client.proto, fileno=client.detach())
        self.settimeout(SEND_SECONDS)
        self.head = bytearray()
        self.ended = False
        self.pipelines = False
        self.deadline = 0.0
        self._in_head = False
        self._turn_ends = 0.0
        self._waiting = {} if waiting is None else waiting

    def expect_head(self, seconds: float) -> None:
        """The next bytes are a head, whose first byte has ``seconds`` to come."""
        self.head.clear()
        self._in_head = True
        self.deadline = time.monotonic() + seconds

    def head_ended(self) -> None:
        """What comes now is a body."""
        self._in_head = False

    def recv(self, size: int, *flags: int) -> bytes:
        """Receive what is there; nothing at the client's end, or when no head begins in time.

        Raises HeadTooSlow, LimitRequestHeaders, TimeoutError in a body, and OSError.
        """
        if not self._in_head:
            return bytes(self._by_deadline(super().recv, size, *flags))
        if len(self.head) >= HEAD_BYTES:
            raise LimitRequestHeaders("head too long")
        data = self._head_piece(size)
        if not self.head:
            self.deadline = time.monotonic() + HEAD_SECONDS
        self.head += data
        self.ended = not data
        return data

    def recv_into(self, *args: Any) -> int:
        """Receive what is there into a buffer; 0 at the client's end. Raises TimeoutError."""
        return int(self._by_deadline(super().recv_into, *args))

    def give_up_waiting(self) -> None:
        """End the wait for a head: what has come is still read, and then the end is."""
        with suppress(OSError):
            self.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Do nothing: gunicorn closes at once, but the worker lingers first (``end``)."""

    def end(self) -> None:
        """Close, at once."""
        super().close()

    def linger(self) -> None:
        """Close the sending side, and wait until the client has closed its own.

        A server that closes a connection on which bytes still arrive resets it, and the client
        may never see the answer (RFC 9112 section 9.6). So what comes is dropped.
        """
        self.head_ended()
        self.deadline = time.monotonic() + LINGER_SECONDS
        left = LINGER_BYTES
        with suppress(OSError):
            self.shutdown(socket.SHUT_WR)
            while left > 0 and (count := self.recv_into(SCRATCH)):
                left -= count

    def take_turns(self) -> None:
        """Let others have the event loop: reading what is there already does not."""
        now = time.monotonic()
        if now > self._turn_ends:
            gevent.sleep(0)
            self._turn_ends = time.monotonic() + _TURN_SECONDS

    def _head_piece(self, size: int) -> bytes:
        self._waiting[self] = None
        try:
            return bytes(self._by_deadline(super().recv, size))
        except TimeoutError:
            if self.head:
                raise HeadTooSlow from None
            return b""
        except socket.cancel_wait_ex:
            return b""  # as gevent says it where this side was closed meanwhile
        finally:
            self._waiting.pop(self, None)

    def _by_deadline(self, receive: Any, *args: Any) -> Any:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.take_turns()
        self.settimeout(left)
        try:
            return receive(*args)
        finally:
            self.settimeout(SEND_SECONDS)
