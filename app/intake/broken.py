"""Broken HTTP: the application answers it like any other request, as far as it can be read.

gunicorn's own page for a broken request repeats the request line, and with it an API key.
"""

import io
import re
from typing import Any
from urllib.parse import unquote

from gunicorn.http.errors import ExpectationFailed, LimitRequestHeaders, LimitRequestLine
from gunicorn.util import http_date

from app.errors import ApiError, failed, too_slow
from app.intake.connection import HeadTooSlow
from app.intake.input import CHUNK_ERRORS

# gunicorn's exceptions, and the status where another one than 400 is closer.
_STATUSES: tuple[tuple[Any, int | None], ...] = (
    (LimitRequestLine, 414),
    (LimitRequestHeaders, 431),
    (ExpectationFailed, 417),
    (CHUNK_ERRORS, None),
)
# The parts of a broken head that the log line and the answer's headers need. Never the query,
# which may hold a key.
_REQUEST_LINE = re.compile(rb"([A-Z]{1,20}) (/[^ ?#\r\n]*)")
_HEADERS = re.compile(rb"\n(X-Request-Id|Origin):[ \t]*([^\r\n]*)(?=\r?\n)", re.IGNORECASE)


def error_of(error: BaseException) -> ApiError:
    """The answer to a request that gunicorn's parser could not read; 500 for any other error."""
    kind = type(error).__name__
    if isinstance(error, HeadTooSlow):
        return too_slow(kind)
    for kinds, status in _STATUSES:
        if isinstance(error, kinds):
            return bad_request(kind, status)
    return failed(kind)


def bad_request(cause: str, status: int | None = None) -> ApiError:
    """The 400 ``bad_request``, or a closer ``status``; ``cause`` goes to the log."""
    return ApiError(
        "bad_request",
        "The request is not valid HTTP for this service. See /docs.",
        cause=cause,
        status=status,
    )


def environ_of(head: bytes, addr: Any, refusal: ApiError) -> dict[str, Any]:
    """The WSGI environ of a broken head, as far as it can be read; the application refuses it."""
    line = _REQUEST_LINE.match(head)
    method, path = (part.decode("latin-1") for part in (line.groups() if line else (b"-", b"/")))
    headers = {
        f"HTTP_{name.decode().upper().replace('-', '_')}": value.decode("latin-1").strip()
        for name, value in _HEADERS.findall(head)
    }
    return headers | {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote(path, "latin-1"),  # bytes as Latin-1, which WSGI asks for (PEP 3333)
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": addr[0] if isinstance(addr, tuple) else "",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "uploader.refusal": refusal,
    }


def answer(application: Any, environ: dict[str, Any]) -> bytes:
    """The application's answer as the bytes that go to the socket."""
    begun: list[Any] = []  # what the application passes to ``start_response``
    body = b"".join(application(environ, lambda *begin: begun.extend(begin)))
    status, headers = begun[:2]
    lines = [f"{name}: {value}" for name, value in headers]
    lines = [f"HTTP/1.1 {status}", f"Date: {http_date()}", "Connection: close", *lines, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body
