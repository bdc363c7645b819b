"""The object store: one PUT an image, bounded in time, sure of its result.

The only importer of minio. Every failure becomes the 503
``storage_unavailable`` with its cause for the log.
"""

import logging
import math
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from urllib.parse import quote, urlsplit

import urllib3
from minio import Minio
from minio.credentials.credentials import Credentials
from minio.credentials.providers import (
    AWSConfigProvider,
    ChainedProvider,
    EnvAWSProvider,
    EnvMinioProvider,
    IamAwsProvider,
    MinioClientConfigProvider,
    Provider,
    StaticProvider,
)
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from minio.time import to_amz_date, utcnow
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

from app.config import Config
from app.errors import unavailable

log = logging.getLogger("uploader.storage")

CACHE_CONTROL = "public, max-age=31536000, immutable"
CHECK_SECONDS = 1.0
"""The bound of a small request (stat, delete, bucket check), tried once."""

_PIECE = 1024 * 1024
_OPEN_AFTER = 3
_COOL_DOWN = 2.0
_SEEN_SECONDS = 10.0
_FORGET_SECONDS = 60.0
# ValueError: no provider has credentials.
_FAILURES = (MinioException, HTTPError, OSError, ValueError)
# Failures that only a person can cure: logged at a level that wakes one up.
_CONFIGURATION = {
    "AccessDenied": "access denied",
    "NoSuchBucket": "no such bucket",
    "InvalidAccessKeyId": "wrong credentials",
    "SignatureDoesNotMatch": "wrong credentials",
    "ExpiredToken": "expired credentials",
    "RequestTimeTooSkewed": "clock skew",
}


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What goes into the bucket: the bytes as sent, and what is known of them."""

    key: str
    data: memoryview
    content_type: str
    sha256: str
    metadata: Mapping[str, str]


class Unknown(Exception):
    """The store did not say whether the object was written; the text is the cause."""


class _Client(Minio):
    """minio's client, signing with a hash of the body that is already known.

    Its own ``put_object`` copies the body and hashes it once more (over TLS
    with MD5). A test puts an object through this class, and so fails when
    minio's internals change.
    """

    def _build_headers(
        self,
        host: str,
        headers: Any = None,
        body: Any = None,
        creds: Credentials | None = None,
    ) -> tuple[Any, datetime]:
        if not headers or "x-amz-content-sha256" not in headers:
            return cast(tuple[Any, datetime], super()._build_headers(host, headers, body, creds))
        date = utcnow()
        headers |= {"Host": host, "User-Agent": self._user_agent, "x-amz-date": to_amz_date(date)}
        if creds and creds.session_token:
            headers["X-Amz-Security-Token"] = creds.session_token
        return headers, date


class ImageStore:
    """Images in one bucket. Safe between threads; made after the fork."""

    def __init__(self, config: Config, *, headers: Callable[[], Mapping[str, str]] = dict) -> None:
        """``headers`` gives what is sent beside each request's own, such as its trace."""
        self._bucket = config.s3_bucket
        self._put_timeout = config.s3_put_timeout
        provider = _provider(config)
        connections = config.web_threads
        self._pool = _Pool(
            connect=config.s3_connect_timeout,
            read=config.s3_read_timeout,
            maxsize=connections,
            more_headers=headers,
        )
        self._client = _client(config, provider, self._pool)
        quick = _Pool(connect=CHECK_SECONDS, read=CHECK_SECONDS, maxsize=connections)
        self._quick = _client(config, provider, quick)
        self._endpoint, self._anyone = config.s3_endpoint.rstrip("/"), quick
        self.breaker = Breaker()

    def put(self, image: StoredObject, deadline: float) -> None:
        """Write the object; when this returns the store holds exactly these bytes.

        Ends before ``deadline`` (time.monotonic()) and within ``s3_put_timeout``.
        Raises the 503 ``storage_unavailable`` when the store certainly has no
        such object, and Unknown when it may have one or get one later.
        """
        deadline = min(deadline, time.monotonic() + self._put_timeout)
        failures: list[Exception] = []
        for _ in range(2):
            try:
                self._put_once(image, deadline)
            except _FAILURES as error:
                failures.append(error)
                if _final(error) or deadline - time.monotonic() < CHECK_SECONDS:
                    break
            else:
                self.breaker.succeeded()
                return
        cause = cause_of(failures[-1])
        self._failed(cause)
        if all(_never_written(error) for error in failures):
            raise unavailable("storage_unavailable", cause) from failures[-1]
        self._settle(image, cause)

    def delete(self, key: str) -> bool:
        """Delete an object; whether there was one. Raises the 503 ``storage_unavailable``."""
        try:
            self._quick.stat_object(self._bucket, key)
            self._quick.remove_object(self._bucket, key)
        except S3Error as error:
            if error.code == "NoSuchKey":
                return False
            raise unavailable("storage_unavailable", cause_of(error)) from error
        except _FAILURES as error:
            raise unavailable("storage_unavailable", cause_of(error)) from error
        return True

    def check(self) -> str | None:
        """None when the bucket is there and the credentials are taken, else the cause."""
        try:
            if not self._quick.bucket_exists(self._bucket):
                return "no such bucket"
        except _FAILURES as error:
            return cause_of(error)
        return None

    def versioning(self) -> str | None:
        """``Enabled``, ``Suspended`` or ``Off``; None when the store does not say."""
        try:
            return self._quick.get_bucket_versioning(self._bucket).status_string
        except _FAILURES:
            return None

    def as_anyone(
        self, method: str, key: str = "", body: bytes | None = None
    ) -> urllib3.BaseHTTPResponse | None:
        """The answer to a request without credentials; None when there is none."""
        url = f"{self._endpoint}/{self._bucket}/{key}"
        try:
            return self._anyone.request(method, url, body=body)
        except HTTPError:
            return None

    def ensure_open(self) -> None:
        """Raise the 503 ``storage_unavailable`` while the store is known not to work.

        Looks at the bucket when nothing was heard of it for ten seconds, so
        that most uploads that cannot be stored are refused before their body.
        After failures only a PUT shows that the store can be written.
        """
        if self.breaker.fresh():
            return
        if self.breaker.open and not self.breaker.may_probe():
            raise unavailable("storage_unavailable", f"known to be down: {self.breaker.cause}")
        cause = self.check()
        if cause is not None:
            self._failed(cause)
            raise unavailable("storage_unavailable", cause)
        self.breaker.seen()

    def _put_once(self, image: StoredObject, deadline: float) -> None:
        headers: Any = {
            "Content-Type": image.content_type,
            "Content-Length": str(len(image.data)),
            "Cache-Control": CACHE_CONTROL,
            "x-amz-content-sha256": image.sha256,
            # SeaweedFS checks only this one, MinIO and AWS check both.
            "x-amz-checksum-sha256": b64encode(bytes.fromhex(image.sha256)).decode(),
            **{f"x-amz-meta-{name}": value for name, value in image.metadata.items()},
        }
        with self._pool.until(deadline):
            self._client._put_object(  # noqa: SLF001 -- see _Client
                self._bucket, image.key, cast(bytes, _pieces(image.data, deadline)), headers
            )

    def _settle(self, image: StoredObject, cause: str) -> None:
        """Find out what became of a PUT whose answer was lost."""
        try:
            found = self._quick.stat_object(self._bucket, image.key)
        except _FAILURES as error:
            raise Unknown(cause) from error
        known = (found.metadata or {}).get("x-amz-meta-sha256")
        if found.size != len(image.data) or known != image.sha256:
            raise Unknown(cause)
        log.warning("the answer to a put was lost, but the object is there: %s", image.key)
        self.breaker.succeeded()

    def _failed(self, cause: str) -> None:
        self.breaker.failed(cause)
        level = logging.CRITICAL if cause in _CONFIGURATION.values() else logging.WARNING
        log.log(level, "the object store cannot be used: %s", cause)


class Breaker:
    """Remembers that the store is down, so that uploads are refused before their bodies.

    Open after three failures in a row; then one request every two seconds may
    probe. Closed by a success, or by a minute without another failure. State of
    one process: the price of a wrong guess is one probe.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._next_probe = 0.0
        self._seen = self._failed = -math.inf
        self.cause = ""

    @property
    def open(self) -> bool:
        """Whether the store is taken to be down."""
        return self._failures >= _OPEN_AFTER and self._clock() - self._failed < _FORGET_SECONDS

    def fresh(self) -> bool:
        """Whether the store was seen to work just now."""
        return not self._failures and self._clock() - self._seen < _SEEN_SECONDS

    def may_probe(self) -> bool:
        """Whether this request shall find out if the store is back."""
        with self._lock:
            now = self._clock()
            if now < self._next_probe:
                return False
            self._next_probe = now + _COOL_DOWN
            return True

    def failed(self, cause: str) -> None:
        """Count a failure."""
        with self._lock:
            self._failures += 1
            self._failed = self._clock()
            self._next_probe = self._failed + _COOL_DOWN
            self.cause = cause

    def seen(self) -> None:
        """The store answers; whether it can be written is another question."""
        self._seen = self._clock()

    def succeeded(self) -> None:
        """Close again."""
        with self._lock:
            self._failures = 0
            self._seen = self._clock()


class _Pool(urllib3.PoolManager):
    """A connection pool whose requests end by the deadline of the thread that sends them."""

    def __init__(
        self,
        *,
        connect: float,
        read: float,
        more_headers: Callable[[], Mapping[str, str]] = dict,
        **options: Any,
    ) -> None:
        super().__init__(retries=False, **options)
        self._more_headers = more_headers
        self._connect = connect
        self._read = read
        self._local = threading.local()

    @contextmanager
    def until(self, deadline: float) -> Iterator[None]:
        self._local.deadline = deadline
        try:
            yield
        finally:
            del self._local.deadline

    def urlopen(self, method: str, url: str, *args: Any, **options: Any) -> Any:
        left = getattr(self._local, "deadline", math.inf) - time.monotonic()
        options["timeout"] = urllib3.Timeout(
            connect=max(0.05, min(self._connect, left)), read=max(0.05, min(self._read, left))
        )
        if more := self._more_headers():  # beside those that minio has signed
            options["headers"] = {**options["headers"], **more}
        return super().urlopen(method, url, *args, **options)


def cause_of(error: BaseException) -> str:  # noqa: PLR0911
    """A few words for the log and for /readyz, without host names."""
    match error:
        case S3Error():
            return _CONFIGURATION.get(error.code or "", f"error {error.code}")
        case ServerError():
            return f"status {error.status_code}"
        case InvalidResponseError():
            return "not an answer of an S3 store"
        case NewConnectionError():
            return "connection refused"
        case TimeoutError() | urllib3.exceptions.TimeoutError():
            return "timeout"
        case urllib3.exceptions.SSLError():
            return "TLS certificate not accepted"
        case urllib3.exceptions.ProtocolError() | OSError():
            return "connection broken"
        case ValueError():
            return "no credentials"
        case _:
            return type(error).__name__


def _final(error: Exception) -> bool:
    """Whether trying again is of no use: the store understood and said no."""
    return isinstance(error, S3Error) and 400 <= error.response.status < 500


def _never_written(error: Exception) -> bool:
    """Whether the store cannot have written the object, now or later."""
    return _final(error) or isinstance(error, NewConnectionError | ConnectTimeoutError | ValueError)


def _pieces(data: memoryview, deadline: float) -> Iterator[memoryview]:
    """The body in pieces, so that a store that reads slowly is noticed in time."""
    for start in range(0, len(data), _PIECE):
        if time.monotonic() > deadline:
            raise TimeoutError("the store takes the body too slowly")
        yield data[start : start + _PIECE]


def encode_filename(name: str, longest: int = 255) -> str:
    """The last path component, percent-encoded UTF-8, cut between characters to ``longest``."""
    last = name.replace("\\", "/").rpartition("/")[2]
    encoded = ""
    for character in last:
        piece = quote(character, safe="", errors="replace")
        if len(encoded) + len(piece) > longest:
            break
        encoded += piece
    return encoded


def _client(config: Config, provider: Provider, pool: _Pool) -> _Client:
    url = urlsplit(config.s3_endpoint)
    return _Client(
        endpoint=url.netloc,
        secure=url.scheme == "https",
        region=config.s3_region,
        credentials=provider,
        http_client=pool,
    )


def _provider(config: Config) -> Provider:
    if config.s3_access_key and config.s3_secret_key:
        return StaticProvider(config.s3_access_key, config.s3_secret_key)
    return ChainedProvider(
        [
            EnvMinioProvider(),
            EnvAWSProvider(),
            MinioClientConfigProvider(),
            AWSConfigProvider(),
            IamAwsProvider(http_client=_Pool(connect=CHECK_SECONDS, read=CHECK_SECONDS)),
        ]
    )
