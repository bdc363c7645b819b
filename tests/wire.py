"""Requests for tests of the intake: through plain WSGI, and through gunicorn's parser."""

import contextlib
import io
import socket
import threading
import time

from gunicorn.config import Config
from gunicorn.http.parser import RequestParser

from app.intake.connection import Connection as Server
from app.intake.input import Input

BOUNDARY = "----b0undary"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY}"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4


def part(content=PNG, *, name="image", filename="photo.png", headers=()):
    """One part of a form, boundary line first; without a file name it is text."""
    disposition = f'form-data; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"'
    lines = [f"--{BOUNDARY}", f"Content-Disposition: {disposition}", *headers, "", ""]
    return "\r\n".join(lines).encode() + content + b"\r\n"


def form(*parts):
    """A whole body of these parts."""
    return b"".join(parts or [part()]) + f"--{BOUNDARY}--\r\n".encode()


def plain_environ(body, content_type=CONTENT_TYPE, length=None):
    """The environ of a server that knows nothing but WSGI."""
    return {
        "REQUEST_METHOD": "POST",
        "CONTENT_TYPE": content_type,
        "CONTENT_LENGTH": str(len(body) if length is None else length),
        "wsgi.input": io.BytesIO(body),
    }


def chunked(body, size=1000):
    """The body in chunks (RFC 9112 section 7.1)."""
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
    return b"".join(chunks) + b"0\r\n\r\n"


class Connection:
    """A connection to gunicorn's request parser, without a gunicorn around it."""

    def __init__(self):
        self.client, server = socket.socketpair()
        self.client.settimeout(10)
        self.server = Server(server)
        self.parser = RequestParser(Config(), self.server, ("127.0.0.1", 1))
        self.threads = []

    def send(self, *pieces, end=False):
        """Send in the background: the other side reads in this thread."""

        def run():
            with contextlib.suppress(OSError):
                for piece in pieces:
                    self.client.sendall(piece)
                if end:
                    self.client.shutdown(socket.SHUT_WR)

        self.threads.append(threading.Thread(target=run))
        self.threads[-1].start()

    def request(self, *, lean=True):
        """The environ of the next request, with our input or with gunicorn's own."""
        self.server.expect_head(10)
        request = next(self.parser)
        self.server.head_ended()
        self.server.deadline = time.monotonic() + 10
        if lean:
            request.body = Input(request, self.server)
        environ = {
            "REQUEST_METHOD": request.method,
            "PATH_INFO": request.path,
            "wsgi.input": request.body,
            "gunicorn.socket": self.server,
        }
        for name, value in request.headers:
            plain = name in ("CONTENT-TYPE", "CONTENT-LENGTH")
            environ[("" if plain else "HTTP_") + name.replace("-", "_")] = value
        return environ

    def close(self):
        self.server.end()
        self.client.close()
        for thread in self.threads:
            thread.join()


def head(*lines, path="/upload/image"):
    """The head of a POST, HTTP/1.1."""
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


def known(body, content_type=CONTENT_TYPE):
    """A whole request with a Content-Length."""
    return head(f"Content-Type: {content_type}", f"Content-Length: {len(body)}") + body


def in_chunks(body, content_type=CONTENT_TYPE, size=1000):
    """A whole request with a chunked body."""
    lines = (f"Content-Type: {content_type}", "Transfer-Encoding: chunked")
    return head(*lines) + chunked(body, size)
