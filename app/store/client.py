"""Requests to the store: signed with minio's signer, bounded in time, with their answers.

minio's own client is not used: it hashes each body once more, hides the headers of
answers, and does not find out why a HEAD was refused.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any
from urllib.parse import SplitResult, urlencode

import urllib3
from minio.helpers import BaseURL
from minio.signer import sign_v4_s3
from minio.time import to_amz_date, utcnow

from app.config import Config
from app.store.causes import NO_STORE, Kind, StoreError, of_answer, of_exception, proves_s3
from app.store.credentials import Credentials, CredentialSource, provider_of
from app.store.pool import pool

CHECK_SECONDS = 1.0
"""The bound of a small request (stat, delete, bucket check), which is tried once."""

_PIECE = 1024 * 1024  # the deadline is looked at after each of these
_LONGEST_ANSWER = 64 * 1024  # errors and a listing of one object take 1 KiB
_LEAST_SECONDS = 0.05  # urllib3 refuses a timeout of 0
_SHA256_OF_NOTHING = sha256(b"").hexdigest()
_CONNECT_SECONDS = 2.0
"""Room for one lost packet: TCP sends its SYN again after one second (RFC 6298). On a new
connection urllib3 2 also waits no longer than this for the store to take more of a body."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The store's answer. ``headers`` ignore case; ``body`` is cut off at 64 KiB."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    key: str = ""
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    pieces: Sequence[memoryview | bytes] = ()
    digest: str = _SHA256_OF_NOTHING


class Client:
    """Signed requests to one bucket. Safe for threads; must be made after the fork."""

    def __init__(
        self, config: Config, *, connections: int, headers: Callable[[], Mapping[str, str]] = dict
    ) -> None:
        """``connections`` bounds the PUTs at once, and so the small requests; others wait a second.

        ``headers`` returns further headers for each PUT, such as those of its trace. They are not
        signed.
        """
        self._bucket = config.s3_bucket
        self._more_headers = headers
        self._base = BaseURL(config.s3_endpoint, config.s3_region)
        self._region = self._base.region or config.s3_region
        options: dict[str, Any] = {"retries": False, "maxsize": connections, "block": True}
        # Small requests have their own pool: a thousand of them must not keep a PUT waiting.
        self._puts, self._small = (pool(**options, ca_certs=config.s3_ca_certs) for _ in range(2))
        self._credentials = CredentialSource(partial(provider_of, config))

    def put(
        self,
        key: str,
        pieces: Sequence[memoryview | bytes],
        headers: Mapping[str, str],
        digest: str,
        deadline: float,
    ) -> Answer:
        """Send an object; ``digest`` is its SHA-256 in hex, which the signature covers."""
        own = {"Content-Length": str(sum(map(len, pieces))), **headers}
        request = _Request("PUT", key, headers=own, pieces=pieces, digest=digest)
        return self._signed(request, deadline)

    def ask(self, method: str, key: str = "", *, query: str = "") -> Answer:
        """Send a small request about an object, or about the bucket; within CHECK_SECONDS.

        ``query`` must be in the form that is signed: ``name=`` even where there is no value.
        """
        return self._signed(_Request(method, key, query), time.monotonic() + CHECK_SECONDS)

    def find_bucket(self) -> None:
        """Check that the bucket is there and that an S3 store says so; raises StoreError.

        A HEAD is cheapest with every store. But the answer to a refused HEAD has no
        body, and so no reason, and an answer without a header of S3's may come from
        anything. Then a GET says more.
        """
        try:
            if proves_s3(self.ask("HEAD").headers):
                return
        except StoreError as error:
            if not 300 <= error.status < 500:
                raise
        listing = self.ask("GET", query="list-type=2&max-keys=1")
        if b"<ListBucketResult" not in listing.body:
            raise StoreError(NO_STORE, Kind.SETUP, status=listing.status, final=True)

    def stat(self, key: str) -> Answer:
        """The answer to a HEAD of an object; raises StoreError, with the reason from a GET."""
        try:
            return self.ask("HEAD", key)
        except StoreError as error:
            if error.missing or not 300 <= error.status < 500:
                raise
        self.ask("GET", key)
        return self.ask("HEAD", key)  # the GET worked: there are new credentials by now

    def delete(self, key: str, version: str = "") -> None:
        """Delete an object, or only its ``version``, where the bucket keeps versions."""
        # "null" is the version of objects that were written while versioning was off.
        query = urlencode({"versionId": version}) if version not in ("", "null") else ""
        self.ask("DELETE", key, query=query)

    def as_anyone(self, method: str, key: str = "", body: bytes = b"") -> Answer | None:
        """Send a request without credentials; any answer to it, or None when there is none."""
        request = _Request(method, key, pieces=(body,) if body else ())
        length = {"Content-Length": str(len(body))} if body else {}  # or it would go in chunks
        try:
            return self._send(request, length, time.monotonic() + CHECK_SECONDS)
        except StoreError:
            return None

    def _signed(self, request: _Request, deadline: float) -> Answer:
        """Send the request, and again if its credentials were refused and there are new ones."""
        credentials = self._credentials.current()
        try:
            return self._signed_once(request, credentials, deadline)
        except StoreError as error:
            mistaken = error.status and "credentials" in error.cause
            if not mistaken or not self._credentials.replaced(credentials):
                raise
        return self._signed_once(request, self._credentials.current(), deadline)

    def _signed_once(self, request: _Request, credentials: Credentials, deadline: float) -> Answer:
        date, url = utcnow(), self._url(request)
        to_sign: dict[str, Any] = {
            **request.headers,
            "Host": url.netloc,
            "x-amz-date": to_amz_date(date),
            "x-amz-content-sha256": request.digest,
        }
        if credentials.session_token:
            to_sign["X-Amz-Security-Token"] = credentials.session_token
        signed: dict[str, Any] = sign_v4_s3(
            method=request.method,
            url=url,
            region=self._region,
            headers=to_sign,
            credentials=credentials,
            content_sha256=request.digest,
            date=date,
        )
        more = self._more_headers() if request.pieces else {}
        answer = self._send(request, {**signed, **more}, deadline)
        if not 200 <= answer.status < 300:
            raise of_answer(answer.status, answer.headers, answer.body)
        return answer

    def _send(self, request: _Request, headers: Mapping[str, str], deadline: float) -> Answer:
        left = max(_LEAST_SECONDS, deadline - time.monotonic())
        # The sending of the body is part of the total, and so is the answer (app/store/pool.py).
        timeout = urllib3.Timeout(total=left, connect=_CONNECT_SECONDS)
        try:
            response = (self._puts if request.pieces else self._small).urlopen(
                request.method,
                self._url(request).geturl(),
                body=_sent(request.pieces, deadline) if request.pieces else None,
                headers=headers,
                timeout=timeout,
                pool_timeout=min(left, CHECK_SECONDS),
                redirect=False,
                preload_content=False,
            )
            return Answer(response.status, response.headers, _read(response))
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise of_exception(error) from error

    def _url(self, request: _Request) -> SplitResult:
        """The address, with the bucket in its host (AWS) or in its path (most others)."""
        url = self._base.build(
            method=request.method,
            region=self._region,
            bucket_name=self._bucket,
            object_name=request.key or None,
        )
        return url._replace(query=request.query)


def _sent(pieces: Sequence[memoryview | bytes], deadline: float) -> Iterator[memoryview | bytes]:
    """The body in small pieces, so that a store that takes them slowly is noticed in time."""
    for piece in pieces:
        for start in range(0, len(piece), _PIECE):
            if time.monotonic() > deadline:
                raise TimeoutError("the store takes the body too slowly")
            yield piece[start : start + _PIECE]


def _read(response: urllib3.BaseHTTPResponse) -> bytes:
    """The body of an answer; closes the connection when it is too long."""
    body = b""
    while piece := response.read1(8192):
        body += piece
        if len(body) > _LONGEST_ANSWER:
            response.close()
            break
    response.release_conn()
    return body[:_LONGEST_ANSWER]
