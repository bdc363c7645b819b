"""A client's connection: every wait for the client ends, and a request's head is bounded."""

import time
from contextlib import suppress
from typing import Any

import gevent
from gevent import socket
from gunicorn.http.errors import LimitRequestHeaders

HEAD_BYTES = 32 * 1024
"""The longest head of a request, which is also nginx's default (large_client_header_buffers)."""

HEAD_SECONDS = 15.0
"""A head must be whole within this time from its first byte."""

SEND_SECONDS = 30.0
"""A client that does not take the next bytes of an answer within this time is given up."""

LINGER_SECONDS = 10.0
LINGER_BYTES = 48 * 1024 * 1024
"""How long, and how many bytes, a client may go on sending after its answer: three large files.
They are received and dropped, so that the client gets to read the answer."""

_TURN_SECONDS = 0.005
"""The longest time for which a connection whose bytes never run out keeps others waiting."""

SCRATCH = memoryview(bytearray(256 * 1024))
"""Where dropped bytes are written, by all connections: nobody reads them."""


class HeadTooSlow(Exception):
    """A head began, but was not whole within HEAD_SECONDS."""


class Connection(socket.socket):  # type: ignore[misc]
    """A gevent socket whose reads end at ``deadline`` (of ``time.monotonic()``).

    gunicorn's parser reads heads from it, and ``app.intake.input`` reads bodies. ``head`` holds
    the bytes of the current head that have arrived. ``ended`` says that lingering is of no use.
    ``pipelines`` says that a request arrived before the answer to the previous one. While a
    connection waits for a head it is in ``waiting``, longest wait first.
    """

    def __init__(
        self, client: socket.socket, waiting: "dict[Connection, None] | None" = None
    ) -> None:
        # The same descriptor, in an object of this class.
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
        """Expect a head; its first byte must arrive within ``seconds``."""
        self.head.clear()
        self._in_head = True
        self.deadline = time.monotonic() + seconds

    def head_ended(self) -> None:
        """Expect a body: its bytes are not kept in ``head``."""
        self._in_head = False

    def recv(self, size: int, *flags: int) -> bytes:
        """Receive the bytes that are there; none at the end, or when no head begins in time.

        Raises HeadTooSlow, LimitRequestHeaders, TimeoutError in a body, and OSError.
        """
        if not self._in_head:
            return bytes(self._by_deadline(super().recv, size, *flags))
        if len(self.head) >= HEAD_BYTES:
            raise LimitRequestHeaders("head too long")
        data = self._head_piece(size)
        if not self.head:  # this was the first byte
            self.deadline = time.monotonic() + HEAD_SECONDS
        self.head += data
        self.ended = not data
        return data

    def recv_into(self, *args: Any) -> int:
        """Receive the bytes that are there into a buffer; 0 at the end. Raises TimeoutError."""
        return int(self._by_deadline(super().recv_into, *args))

    def give_up_waiting(self) -> None:
        """End the wait for a head. A head that has arrived already is still read and served."""
        with suppress(OSError):
            self.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Do nothing: gunicorn calls this before the worker has lingered. See ``end``."""

    def end(self) -> None:
        """Close at once."""
        super().close()

    def linger(self) -> None:
        """Close the sending side, and receive until the client has closed its own.

        A server that closes a connection on which bytes still arrive resets it, and the client
        may never see the answer (RFC 9112 section 9.6).
        """
        self.head_ended()
        self.deadline = time.monotonic() + LINGER_SECONDS
        left = LINGER_BYTES
        with suppress(OSError):
            self.shutdown(socket.SHUT_WR)
            while left > 0 and (count := self.recv_into(SCRATCH)):
                left -= count

    def take_turns(self) -> None:
        """Let other greenlets run now and then: a read whose bytes are there already does not."""
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
            return b""  # gevent raises it where this side was closed during the wait
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
            self.settimeout(SEND_SECONDS)  # the socket's own timeout is for sending
