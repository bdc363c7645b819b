"""Small HTTP servers in place of a store, which answer as real stores do when they fail."""

import hashlib
import json
import threading
import time
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class StandIn(ThreadingHTTPServer):
    """An HTTP server on a free port of the loopback interface; subclasses define ``answer``.

    ``seen`` has the method and path of every request.
    """

    daemon_threads = True
    request_queue_size = 128  # the default of 5 refuses connections of parallel uploads

    def __init__(self, tls=None):
        """With ``tls``, an SSLContext, it is a server of HTTPS."""
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen, self.scheme = [], "https" if tls else "http"
        if tls:
            # Without a handshake in accept(), where a client that refuses the certificate would
            # raise an error and keep the others waiting.
            self.socket = tls.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def handle_error(self, *_):
        """Print nothing: clients that hang up are part of the tests."""

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.server_port}"

    def settings(self, bucket="assets"):
        """The environment of a service that uses this server as its store."""
        keys = {"S3_ACCESS_KEY": "stand-in", "S3_SECRET_KEY": "stand-in-secret"}
        return {"S3_ENDPOINT": self.url, "S3_BUCKET": bucket, **keys}

    def count(self, method):
        """The number of requests with this method."""
        return sum(seen.startswith(f"{method} ") for seen in self.seen)

    def answer(self, method, path, headers, body):
        """Return status, headers and body.

        The body is bytes, or an iterable of bytes with a Content-Length among the headers.
        """
        raise NotImplementedError

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append(f"{self.command} {self.path}")
        status, headers, said = self.server.answer(self.command, self.path, self.headers, body)
        self.send_response_only(status)
        headers = {"Date": self.date_time_string(), **headers}
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        for piece in [said] if isinstance(said, bytes) else said:
            if self.command != "HEAD":
                self.wfile.write(piece)

    def log_message(self, *_):
        pass


for method in ("GET", "HEAD", "PUT", "DELETE", "POST"):
    setattr(Handler, f"do_{method}", Handler.answer)


class LoginPage(StandIn):
    """Answers every request with 200 and one page: a wrong port, or the login page of a network."""

    def answer(self, method, path, headers, body):
        page = {"Content-Type": "text/html", "ETag": 'W/"1b-abc"'}
        return 200, page, b"<html>Please log in</html>"


class Store(StandIn):
    """A store with one bucket in memory, which checks no signature.

    ``refuse(method, key, headers, body)`` returns the status, headers and body of a refusal, or
    None for the normal answer. ``key`` is empty for the bucket; a query follows it after "?".
    With ``versioned`` a deleted object stays in ``versions``, unless the request names its version.
    """

    def __init__(self, refuse=lambda *_: None, tls=None):
        self.objects, self.versions = {}, {}
        self.versioned = False
        self.refuse = refuse
        self.echoes_checksum = True
        super().__init__(tls)

    def answer(self, method, path, headers, body):
        url = urlsplit(path)
        key = url.path.partition("/")[2].partition("/")[2]
        asked = f"{key}?{url.query}" if url.query else key
        if (refusal := self.refuse(method, asked, headers, body)) is not None:
            return refusal
        if method == "DELETE":
            self.versions.pop(url.query.removeprefix("versionId="), None)
        status, more, said = getattr(self, f"_{method.lower()}")(key, headers, body)
        return status, {"x-amz-request-id": "1", **more}, said

    def _put(self, key, headers, body):
        kept = {name: value for name, value in headers.items() if name.startswith("x-amz-meta-")}
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        self.objects[key] = (body, kept | {"ETag": f'"{etag}"'})
        checksum = b64encode(hashlib.sha256(body).digest()).decode()
        echoed = {"x-amz-checksum-sha256": checksum} if self.echoes_checksum else {}
        if self.versioned:
            echoed["x-amz-version-id"] = str(len(self.versions) + 1)
            self.versions[echoed["x-amz-version-id"]] = body
        return 200, {"ETag": f'"{etag}"', **echoed}, b""

    def _head(self, key, headers, body):
        if not key:
            return 200, {}, b""
        if key not in self.objects:
            return 404, {}, b""
        body, kept = self.objects[key]
        return 200, kept | {"Content-Length": str(len(body))}, b""

    def _get(self, key, headers, body):
        if not key:
            return 200, {"Content-Type": "application/xml"}, b"<ListBucketResult/>"
        if key not in self.objects:
            return s3_error(404, "NoSuchKey")
        body, kept = self.objects[key]
        return 200, kept, body

    def _delete(self, key, headers, body):
        self.objects.pop(key, None)
        return 204, {}, b""


def s3_error(status, code, message="", **headers):
    """A refusal of an S3 store; ``headers`` have _ in place of -."""
    said = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return (
        status,
        {"Content-Type": "application/xml", "x-amz-request-id": "1", **more},
        said.encode(),
    )


class MetadataService(StandIn):
    """EC2's metadata service, version 2, which gives a machine the credentials of its role.

    ``number`` is part of the credentials that it gives now, ``seconds`` their lifetime. With
    ``broken`` it answers 500.
    """

    def __init__(self):
        self.number, self.seconds, self.broken = 1, 3600, False
        super().__init__()

    @property
    def access_key(self):
        return f"role-{self.number}"

    def answer(self, method, path, headers, body):
        if self.broken:
            return 500, {}, b""
        if (method, path) == ("PUT", "/latest/api/token"):
            return 200, {}, b"the-token"
        if headers["X-aws-ec2-metadata-token"] != "the-token":
            return 401, {}, b""
        if not path.endswith("/uploader"):
            return 200, {}, b"uploader"
        end = datetime.now(UTC) + timedelta(seconds=self.seconds)
        said = {
            "Code": "Success",
            "AccessKeyId": self.access_key,
            "SecretAccessKey": f"secret-{self.number}",
            "Token": f"session-{self.number}",
            "Expiration": end.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        return 200, {"Content-Type": "application/json"}, json.dumps(said).encode()


class Slowly:
    """For ``Store.refuse``: delay requests of these methods, and count how many come at once."""

    def __init__(self, seconds, *methods):
        self.most = 0
        self._seconds, self._methods = seconds, methods
        self._now, self._lock = 0, threading.Lock()

    def __call__(self, method, *_):
        if method in self._methods:
            with self._lock:
                self._now += 1
                self.most = max(self.most, self._now)
            time.sleep(self._seconds)
            with self._lock:
                self._now -= 1


def only(*access_keys):
    """For ``Store.refuse``: refuse requests that are signed with another access key."""

    def refuse(method, key, headers, body):
        authorization = headers.get("Authorization", "")
        if any(f"Credential={each}/" in authorization for each in access_keys):
            return None
        status, more, said = s3_error(403, "InvalidAccessKeyId")
        return status, more, b"" if method == "HEAD" else said

    return refuse
