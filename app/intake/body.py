"""The body of a request, received piece by piece and within a deadline.

Works on any WSGI server through ``wsgi.input``. Under ``app.intake.worker`` that input also has
``receive_into``, which reads straight from the socket and keeps one deadline for the whole body,
however slowly the bytes trickle in.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, cast

from app.errors import ApiError, too_slow

Environ = dict[str, Any]

# Bytes per read on a server without ``receive_into``, where each piece is copied twice.
_PIECE = 64 * 1024
# An entry of Via (RFC 9110 section 7.6.3) whose protocol is HTTP/2 or HTTP/3.
_VIA_STREAMS = re.compile(r"(?:^|,)\s*(?:HTTP/)?[23](?:\.\d)?\s", re.ASCII | re.IGNORECASE)


class ClientDisconnected(ApiError):
    """The connection ended before the body did.

    The answer reaches only a client that has closed no more than its sending half.
    """

    def __init__(self) -> None:
        super().__init__(
            "malformed_multipart",
            "The upload broke off before its end. Check the connection and upload it again.",
        )
        self.disconnected = True


class Body:
    """The body of one request, received piece by piece into the caller's memory."""

    def __init__(self, environ: Environ) -> None:
        self.length = content_length(environ)
        self.ended = not has_body(environ)
        self._left = self.length
        self._input = environ["wsgi.input"]

    @classmethod
    def of(cls, environ: Environ) -> "Body":
        """The body of this request: one object, because it counts the bytes that are left."""
        body: Body | None = environ.get("uploader.body")
        if body is None:
            body = environ["uploader.body"] = cls(environ)
        return body

    def read_into(self, view: memoryview, deadline: float) -> int:
        """Receive the bytes that are there, at most ``len(view)``; 0 at the end of the body.

        ``deadline`` is of ``time.monotonic()``. Raises ClientDisconnected, the
        408 ``request_timeout``, and ``malformed_multipart`` for broken chunks.
        """
        if self.ended:
            return 0
        try:
            # Not beyond Content-Length: the bytes behind it belong to the next request.
            count = self._receive(view[: self._left], deadline)
        except TimeoutError as error:
            raise too_slow() from error
        except (OSError, EOFError) as error:
            raise ClientDisconnected from error
        except Exception as error:  # each server has its own exceptions for broken chunks
            raise _broken(error) from error
        if self._left is not None:
            if count == 0:
                raise ClientDisconnected
            self._left -= count
        self.ended = count == 0 or self._left == 0
        return count

    def _receive(self, view: memoryview, deadline: float) -> int:
        receive_into = getattr(self._input, "receive_into", None)
        if receive_into is not None:
            return int(receive_into(view, deadline))
        data = self._input.read(min(len(view), _PIECE))
        view[: len(data)] = data
        return len(data)


class CloseUnread:
    """WSGI middleware: close a connection on which the next request could not be found.

    An answer goes out at once, even before the end of the body. The worker then receives and
    drops the rest of the body, so that the client sees the answer. Where the rest is too long for
    that, the answer says ``Connection: close``.

    Behind a proxy that took the request over HTTP/2, which ``Via`` shows, the rest of the body is
    dropped before the answer. Such a proxy resets the stream behind an early answer, and many
    clients (httpx, got, java.net.http, reqwest) then wait for an answer that they already have.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        """Serve one request."""
        answer = self._app(environ, start_response)
        stream = environ["wsgi.input"]
        droppable = getattr(stream, "droppable", None)  # None on other servers than our worker
        if droppable and _VIA_STREAMS.search(environ.get("HTTP_VIA", "")):
            stream.drop()
        if droppable is not None and not stream.droppable:
            stream.force_close()
        return answer


def refusal_of(environ: Environ) -> ApiError | None:
    """The error with which the worker has refused this request already; None if it has not."""
    # The environ has it for a broken head, the input for a request that was read whole.
    refusal: ApiError | None = environ.get("uploader.refusal")
    return refusal or getattr(environ["wsgi.input"], "refusal", None)


def content_length(environ: Environ) -> int | None:
    """The announced length in bytes; None for a chunked body and for an invalid header.

    gunicorn's reading of the header goes first. If two readers of one header disagreed, one of
    them could wait for a body that the other does not expect.
    """
    stream: Any = environ.get("wsgi.input")
    if hasattr(stream, "receive_into"):
        return cast(int | None, stream.length)
    value = environ.get("CONTENT_LENGTH") or ""
    return int(value) if value.isascii() and value.isdigit() else None


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
