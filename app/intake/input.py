"""``wsgi.input`` of one request, which can read straight from the socket into a buffer."""

import time
from contextlib import suppress
from typing import Any

from gunicorn.http.body import Body, ChunkedReader
from gunicorn.http.errors import (
    ChunkMissingTerminator,
    InvalidChunkExtension,
    InvalidChunkSize,
    ParseException,
)

from app.errors import ApiError
from app.intake.connection import LINGER_BYTES, LINGER_SECONDS, SCRATCH, Connection

MOST_CHUNKS = 65_536
"""The most chunks of one body, enough for 15 MiB in chunks of 240 bytes. A chunk costs some
microseconds, so without a bound a body of one-byte chunks would keep the process busy."""

CHUNK_ERRORS = (ChunkMissingTerminator, InvalidChunkExtension, InvalidChunkSize, ParseException)


class Input(Body):  # type: ignore[misc]
    """gunicorn's body of a request, which can also be received straight into a buffer.

    Use ``receive_into`` or ``read``, not both. ``length`` is the length in bytes that gunicorn's
    own reader expects; None for chunks. ``refusal`` is the error with which the worker has refused
    the request already.
    """

    def __init__(
        self, request: Any, connection: Connection, refusal: ApiError | None = None
    ) -> None:
        super().__init__(request.body.reader)
        self.length: int | None = getattr(self.reader, "length", None)
        self.refusal = refusal
        self.ended = self.length == 0
        self.awaits_go_ahead = request._expected_100_continue and not self.ended  # noqa: SLF001
        # Else gunicorn sends ``100 Continue`` at once, also to a request that will be refused.
        request._expected_100_continue = False  # noqa: SLF001
        self.force_close = request.force_close
        self._connection = connection
        self._unreader = request.unreader
        self._piece = memoryview(b"")
        self._chunks = 0

    def read(self, size: int | None = None) -> bytes:
        """As every ``wsgi.input``."""
        self._go_ahead()
        return bytes(super().read(size))

    def receive_into(self, view: memoryview, deadline: float) -> int:
        """Receive the bytes that are there into ``view``; 0 at the end of the body.

        Raises TimeoutError at the deadline (of ``time.monotonic()``), OSError or EOFError when
        the connection ends, ValueError for broken chunks and for too many.
        """
        self._go_ahead()
        self._connection.deadline = deadline
        try:
            if isinstance(self.reader, ChunkedReader):
                count = self._chunked(view)
                self.ended = not count
            else:
                count = self._plain(view[: self.reader.length])
                self.ended = not self.reader.length
        except CHUNK_ERRORS as error:
            self.failed = True
            raise ValueError(type(error).__name__) from error
        except BaseException:
            self.failed = True  # where the next request would begin is unknown
            raise
        return count

    @property
    def droppable(self) -> bool:
        """Whether the rest of the body can be dropped, so that the connection can go on.

        A client that waits for ``100 Continue`` is not asked to send a body that nobody wants.
        """
        too_long = (self.length or 0) > LINGER_BYTES
        return self.ended or not (self.failed or self.awaits_go_ahead or too_long)

    def drop(self) -> bool:
        """Receive and drop the rest of the body; False if it did not end within the bounds."""
        deadline, left = time.monotonic() + LINGER_SECONDS, LINGER_BYTES
        with suppress(OSError, EOFError, ValueError):
            while not self.ended and left > 0:
                left -= self.receive_into(SCRATCH, deadline)
        return self.ended

    def _plain(self, view: memoryview) -> int:
        """Receive from a body of known length."""
        if not view:
            return 0
        # gunicorn's parser reads more than the head; these bytes come first.
        if ahead := self._unreader.take_buffered():
            count = min(len(view), len(ahead))
            view[:count] = ahead[:count]
            self._unreader.unread(ahead[count:])
        elif not (count := self._connection.recv_into(view)):
            raise EOFError
        self.reader.length -= count
        return count

    def _chunked(self, view: memoryview) -> int:
        """Receive from a body in chunks."""
        if not self._piece:
            self._piece = memoryview(self._next_piece())
        count = min(len(view), len(self._piece))
        view[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count

    def _next_piece(self) -> bytes:
        """The next bytes of a chunk, from gunicorn's parser; empty at the end of the body."""
        if self.failed:  # the parser, a generator, would now seem to be at the end
            raise EOFError
        self._chunks += 1
        if self._chunks > MOST_CHUNKS:
            raise ValueError("chunks too small")
        self._connection.take_turns()  # chunks that were read ahead do not touch the socket
        return next((piece for piece in self.reader.parser or () if piece), b"")

    def _go_ahead(self) -> None:
        if self.awaits_go_ahead:
            self.awaits_go_ahead = False
            self._connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
