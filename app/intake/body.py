"""The body of a request, received piece by piece and in time.

Works on any WSGI server through ``wsgi.input``. Under ``app.intake.worker`` that input also has
``receive_into``, which takes the shortest way from the socket and holds a total deadline however
slowly the bytes trickle in.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, cast

from app.errors import ApiError, too_slow

Environ = dict[str, Any]

_PIECE = 64 * 1024
# A member of Via whose protocol is HTTP/2 or HTTP/3.
_VIA_STREAMS = re.compile(r"(?:^|,)\s*(?:HTTP/)?[23](?:\.\d)?\s", re.ASCII | re.IGNORECASE)


class ClientDisconnected(ApiError):
    """The connection ended before the body; the answer is for who closed only one half."""

    def __init__(self) -> None:
        super().__init__(
            "malformed_multipart",
            "The upload broke off before its end. Check the connection and upload it again.",
        )
        self.disconnected = True


class Body:
    """The body of one request, received piece by piece into memory of the caller's."""

    def __init__(self, environ: Environ) -> None:
        self.length = content_length(environ)
        self.ended = not has_body(environ)
        self._left = self.length
        self._input = environ["wsgi.input"]

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

    def _receive(self, view: memoryview, deadline: float) -> int:
        receive_into = getattr(self._input, "receive_into", None)
        if receive_into is not None:
            return int(receive_into(view, deadline))
        data = self._input.read(min(len(view), _PIECE))
        view[: len(data)] = data
        return len(data)


class CloseUnread:
    """WSGI middleware: a connection on which the next request cannot be found is closed.

    An answer goes out at once, also before the end of the body. The worker then drops what is
    left of the body, so that its client sees the answer; where that cannot be done within its
    bounds the answer says ``Connection: close``.

    Behind a proxy that took the request over HTTP/2 (it says so in ``Via``, RFC 9110 section
    7.6.3) the rest is dropped first: the proxy resets the stream behind an early answer, and many
    clients (httpx, got, java.net.http, reqwest) then wait for an answer that they have had.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        """Serve one request."""
        answer = self._app(environ, start_response)
        stream = environ["wsgi.input"]
        droppable = getattr(stream, "droppable", None)
        if droppable and _VIA_STREAMS.search(environ.get("HTTP_VIA", "")):
            stream.drop()
        if droppable is not None and not stream.droppable:
            stream.force_close()
        return answer


def refusal_of(environ: Environ) -> ApiError | None:
    """The answer that the worker has for this request already, if it has one."""
    refusal: ApiError | None = environ.get("uploader.refusal")
    return refusal or getattr(environ["wsgi.input"], "refusal", None)


def content_length(environ: Environ) -> int | None:
    """The length that the client announced, in bytes; None for a chunked body and for nonsense.

    gunicorn's own reading of the header goes first: two readers may differ, and a request that
    has a body for one of them and none for the other waits for what never comes.
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
