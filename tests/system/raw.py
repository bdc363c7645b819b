"""Uploads as bytes, for tests that send what no HTTP library would send, or stop in the middle."""

import contextlib
import http.client
import json

import urllib3

BOUNDARY = "b0undary"


def form(file):
    """The body of an upload: one part named image."""
    disposition = 'Content-Disposition: form-data; name="image"; filename="a.png"'
    start = f"--{BOUNDARY}\r\n{disposition}\r\n\r\n".encode()
    return start + file + f"\r\n--{BOUNDARY}--\r\n".encode()


def head(key, *lines, version="1.1"):
    """The head of an upload with this key; ``lines`` are further headers."""
    first = [
        f"POST /upload/image HTTP/{version}",
        "Host: x",
        f"x-api-key: {key}",
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}",
    ]
    return "\r\n".join([*first, *lines, "", ""]).encode()


def chunked(body, size=65536):
    """The body in chunks of ``size`` bytes (RFC 9112 section 7.1)."""
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


class UnfinishedUpload:
    """An upload whose last 100 bytes are not sent until ``finish``."""

    def __init__(self, port, key, file, **headers):
        body, content_type = urllib3.encode_multipart_formdata({"image": ("a.png", file)})
        self._rest = body[-100:]
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._connection.putrequest("POST", "/upload/image")
        sent = {"x-api-key": key, "Content-Type": content_type, "Content-Length": len(body)}
        for name, value in (sent | headers).items():
            self._connection.putheader(name, str(value))
        self._connection.endheaders(body[:-100])

    def finish(self):
        """Send the last bytes; the status and the JSON of the answer."""
        self._connection.send(self._rest)
        with contextlib.closing(self._connection):
            answer = self._connection.getresponse()
            return answer.status, json.loads(answer.read())
