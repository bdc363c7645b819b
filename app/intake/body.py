"""The body of a request: received into reused buffers, in time, or dropped.

Works on any WSGI server through ``wsgi.input``. Under ``app.intake.worker`` that
input also has ``receive_into``, which takes the shortest way from the socket
and holds a total deadline however slowly the bytes trickle in.
"""

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from app.errors import ApiError, too_slow, unavailable

Environ = dict[str, Any]

DROP_BYTES = 48 * 1024 * 1024
"""Bytes of a body that are received and dropped for the sake of an early answer."""

DROP_SECONDS = 2.0
"""Seconds that an early answer waits for the end of the body that is dropped."""

_DROP_SECONDS_BUSY = 0.25
_DROP_SILENCE = 0.5
_PIECE = 64 * 1024
_SMALLEST = 64 * 1024
_IDLE_BUFFERS = 8
_IDLE_BYTES = 16 * 1024 * 1024

# Written by all threads at once and read by none.
_SCRATCH = bytearray(256 * 1024)


class ClientDisconnected(ApiError):
    """The connection ended before the body; the answer is for who closed only one half."""

    def __init__(self) -> None:
        super().__init__(
            "malformed_multipart",
            "The upload broke off before its end. Check the connection and upload it again.",
        )
        self.disconnected = True


class BufferPool:
    """Buffers for bodies: reused, and never more than ``limit`` bytes of them in memory."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._idle: list[bytearray] = []
        self.in_use = 0

    def take(self, size: int) -> bytearray:
        """A buffer of at least ``size`` bytes; the 503 ``overloaded`` when there is no room."""
        return self._take(size, instead_of=0)

    def grow(self, buffer: bytearray, size: int) -> bytearray:
        """A larger buffer with the same bytes, in place of one that was taken."""
        larger = self._take(size, instead_of=len(buffer))
        larger[: len(buffer)] = buffer
        with self._lock:
            self._keep(buffer)
        return larger

    def give_back(self, buffer: bytearray) -> None:
        """Return a buffer; a few are kept for the next bodies, 16 MiB at most."""
        with self._lock:
            self.in_use -= len(buffer)
            self._keep(buffer)

    def _take(self, size: int, *, instead_of: int) -> bytearray:
        size = _round_up(size)
        with self._lock:
            room = self._limit - self.in_use + instead_of
            if size > room:
                raise unavailable("overloaded", f"{self.in_use} bytes of bodies in memory")
            buffer = self._from_idle(size, room)
            self.in_use += (size if buffer is None else len(buffer)) - instead_of
            self._trim()
        return bytearray(size) if buffer is None else buffer

    def _from_idle(self, size: int, most: int) -> bytearray | None:
        fitting = [idle for idle in self._idle if size <= len(idle) <= min(2 * size, most)]
        buffer = min(fitting, key=len, default=None)
        self._idle = [idle for idle in self._idle if idle is not buffer]
        return buffer

    def _keep(self, buffer: bytearray) -> None:
        self._idle.append(buffer)
        self._trim()

    def _trim(self) -> None:
        """Idle buffers are few, and none where the bodies in use need the room."""
        room = min(_IDLE_BYTES, self._limit - self.in_use)
        while len(self._idle) > _IDLE_BUFFERS or sum(map(len, self._idle)) > room:
            del self._idle[0]


def _round_up(size: int) -> int:
    """By a 64th at most, so that buffers fit the next body too."""
    step = max(_SMALLEST, 1 << max(0, size.bit_length() - 7))
    return -(-size // step) * step


class Body:
    """The body of one request, received piece by piece into memory of the caller's."""

    def __init__(self, environ: Environ) -> None:
        self.length = content_length(environ)
        self.ended = not has_body(environ)
        self._left = self.length
        self._input = environ["wsgi.input"]
        self._socket = environ.get("gunicorn.socket")

    @classmethod
    def of(cls, environ: Environ) -> "Body":
        """The body of this request, the same object each time."""
        body: Body | None = environ.get("uploader.body")
        if body is None:
            body = environ["uploader.body"] = cls(environ)
        return body

    def read_into(self, view: memoryview, deadline: float) -> int:
        """Receive what is there, at most ``len(view)`` bytes; 0 at the end of the body.

        ``deadline`` is of ``time.monotonic()``. Raises ClientDisconnected, the
        408 ``request_timeout``, and ``malformed_multipart`` for broken chunks.
        """
        if self.ended:
            return 0
        try:
            count = self._receive(view[: self._left], deadline)
        except TimeoutError as error:
            raise too_slow() from error
        except (OSError, EOFError) as error:
            raise ClientDisconnected from error
        except Exception as error:  # each server has its own kinds for broken chunks
            raise _broken(error) from error
        if self._left is not None:
            if count == 0:
                raise ClientDisconnected
            self._left -= count
        self.ended = count == 0 or self._left == 0
        return count

    def drop(self, seconds: float) -> None:
        """Receive the rest and forget it, when that can be done within DROP_BYTES.

        Ends early when nothing comes for half a second: that client may be
        waiting for the answer. One that waits for ``100 Continue`` is not made
        to send what nobody wants.
        """
        if (self._left or 0) > DROP_BYTES or getattr(self._input, "awaits_go_ahead", False):
            return
        scratch, most, end = memoryview(_SCRATCH), DROP_BYTES, time.monotonic() + seconds
        with suppress(ApiError):
            while most > 0 and not self.ended:
                most -= self.read_into(scratch, min(end, time.monotonic() + _DROP_SILENCE))

    def force_close(self) -> None:
        """Have the server say ``Connection: close`` and do it: a rest of the body is there."""
        if (force_close := getattr(self._input, "force_close", None)) is not None:
            force_close()

    def _receive(self, view: memoryview, deadline: float) -> int:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        receive_into = getattr(self._input, "receive_into", None)
        if receive_into is not None:
            return int(receive_into(view, deadline))
        if self._socket is not None:
            self._socket.settimeout(left)
        data = self._input.read(min(len(view), _PIECE))
        view[: len(data)] = data
        return len(data)


class DrainBody:
    """WSGI middleware: an answer given before the body was read reaches its client.

    A server that closes a connection on which bytes still arrive resets it,
    and the client may never see the answer. So what is left of the body is
    received and dropped before the answer goes out, for DROP_SECONDS; for a
    quarter of a second while more than ``many`` requests do so at once. When
    that was not all of it, the answer says ``Connection: close``, and the
    worker goes on dropping until the client closes (``app.intake.worker``).
    """

    def __init__(self, app: Callable[..., Iterable[bytes]], *, many: int = 4) -> None:
        self._app = app
        self._many = many
        self._lock = threading.Lock()
        self._dropping = 0

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        """Serve one request."""
        answer = self._app(environ, start_response)
        body = Body.of(environ)
        if not body.ended:
            self._drop(body)
        if not body.ended:
            body.force_close()
        return answer

    def _drop(self, body: Body) -> None:
        with self._lock:
            self._dropping += 1
            seconds = DROP_SECONDS if self._dropping <= self._many else _DROP_SECONDS_BUSY
        try:
            body.drop(seconds)
        finally:
            with self._lock:
                self._dropping -= 1


def content_length(environ: Environ) -> int | None:
    """The length that the client announced; None for a chunked body and for nonsense."""
    value = environ.get("CONTENT_LENGTH") or ""
    return int(value) if value.isascii() and value.isdigit() and len(value) < 20 else None


def has_body(environ: Environ) -> bool:
    """Whether the request has a body (RFC 9112 section 6)."""
    return bool(content_length(environ)) or bool(environ.get("HTTP_TRANSFER_ENCODING"))


def _broken(error: Exception) -> ApiError:
    return ApiError(
        "malformed_multipart",
        "The chunks of the upload cannot be read. Upload it again, or check the program"
        " that sent it.",
        cause=type(error).__name__,
    )
