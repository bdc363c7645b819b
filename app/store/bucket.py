"""The object store: one PUT an image, bounded in time, sure of its result.

Every failure becomes the 503 ``storage_unavailable`` with its cause for the log.
"""

import logging
import math
import threading
import time
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from hashlib import md5, sha256
from urllib.parse import quote

from app.config import Config
from app.errors import unavailable
from app.store.breaker import Breaker
from app.store.causes import NO_STORE, Kind, StoreError
from app.store.client import CHECK_SECONDS, Answer, Client

log = logging.getLogger("uploader.storage")

CACHE_CONTROL = "public, max-age=31536000, immutable"

PUTS_AT_ONCE = 8
"""PUTs of one process at a time: 32 at once on a slow store all ran into their time-out."""

_REHEARSAL_SECONDS = 10.0
_CHECKSUM = "x-amz-checksum-sha256"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What goes into the bucket: its bytes in pieces, and what is known of them."""

    key: str
    pieces: Sequence[memoryview | bytes]
    content_type: str
    sha256: str
    metadata: Mapping[str, str]

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(map(len, self.pieces))

    @property
    def checksum(self) -> str:
        """The SHA-256 as S3 writes it, in base64."""
        return b64encode(bytes.fromhex(self.sha256)).decode()


class OutcomeUnknown(Exception):
    """The store did not say whether the object was written; the text is the cause."""


class ImageStore:
    """Images in one bucket. Safe between threads; made after the fork."""

    def __init__(self, config: Config, *, headers: Callable[[], Mapping[str, str]] = dict) -> None:
        """``headers`` gives what is sent beside each PUT's own, such as its trace."""
        self.client = Client(config, connections=PUTS_AT_ONCE, headers=headers)
        self.breaker = Breaker()
        self._put_timeout = config.s3_put_timeout
        self._slots = threading.BoundedSemaphore(PUTS_AT_ONCE)
        self._looked_at = False
        self._sends_checksum = True
        self._own_key = f"uploads/.ready-{uuid.uuid4()}"  # others delete theirs meanwhile
        self._doubted = False  # a PUT was refused, and none has worked since
        self._rehearsed: str | None = None  # why the last rehearsal failed, until a PUT works
        self._next_rehearsal = 0.0
        self._looking = threading.Lock()

    def put(self, image: StoredObject, deadline: float) -> None:
        """Write the object; when this returns the store holds exactly these bytes.

        Ends before ``deadline`` (time.monotonic()) and within ``s3_put_timeout``
        of its turn. Raises the 503 ``storage_unavailable`` or ``overloaded``
        when the store certainly has no such object, and OutcomeUnknown when it
        may have one or get one later.
        """
        with self._turn(deadline):
            whole = time.monotonic() + self._put_timeout
            try:
                self._put(image, min(whole, deadline))
            except StoreError as failure:
                error = self._judged(failure)
                # What had less than its whole time says nothing about the store.
                counts = deadline >= whole or error.cause != "timeout"
                self._failed(error, counts=counts)
                self._doubted |= error.kind is not Kind.PASSING
                if error.never_written:
                    raise unavailable("storage_unavailable", error.cause) from failure
                self._settle(image, error)
            self._succeeded()

    def delete(self, key: str) -> bool:
        """Delete an object; whether there was one. Raises the 503 ``storage_unavailable``."""
        try:
            self.client.stat(key)
            self.client.delete(key)
        except StoreError as error:
            if error.missing:
                return False
            raise unavailable("storage_unavailable", error.cause) from error
        return True

    def holds(self, key: str, size: int, sha256: str) -> bool:
        """Whether an object with that many bytes and that SHA-256 (hex) is there now.

        Within CHECK_SECONDS for each of two requests. Raises the 503 ``storage_unavailable``.
        """
        try:
            return self._holds(key, size, sha256)
        except StoreError as error:
            raise unavailable("storage_unavailable", error.cause) from error

    def age(self, key: str) -> float | None:
        """Seconds since an object was written, by the store's own clock; None when there is none.

        Not a number when the store does not say. Raises the 503 ``storage_unavailable``.
        """
        try:
            headers = self.client.stat(key).headers
            now, written = (
                parsedate_to_datetime(headers[name]) for name in ("Date", "Last-Modified")
            )
            return (now - written).total_seconds()
        except StoreError as error:
            if error.missing:
                return None
            raise unavailable("storage_unavailable", error.cause) from error
        except (KeyError, TypeError, ValueError):  # TypeError: only one of them has a zone
            return math.nan

    def check(self) -> str | None:
        """None when the bucket is there and the credentials are taken, else the cause."""
        try:
            self.client.find_bucket()
        except StoreError as error:
            return error.cause
        return None

    def ready(self) -> str | None:
        """None when uploads can be stored, else the cause; within two seconds.

        A bucket that is there may take nothing: a user who may only read, a full
        disk, a lost encryption key. So a refused PUT is a reason for doubt until
        one works, and a rehearsal, at most every ten seconds, finds out whether it
        was the one object or is all of them: with no uploads too, because nobody
        sends any to a process that is not ready.
        """
        if self._doubted and time.monotonic() >= self._next_rehearsal:
            self._next_rehearsal = time.monotonic() + _REHEARSAL_SECONDS
            try:
                self.rehearse(self._own_key, CHECK_SECONDS)
            except StoreError as error:
                self._rehearsed = error.cause
        return self._rehearsed or self.check()

    def rehearse(self, key: str, seconds: float) -> str:
        """Write a few bytes as an upload does, and take them away with their version.

        Raises StoreError where they cannot be written within ``seconds``; gives the cause
        for which something stays behind, or nothing.
        """
        data = b"rehearsal"
        probe = StoredObject(key, (data,), "text/plain", sha256(data).hexdigest(), {})
        version = self._put_once(probe, time.monotonic() + seconds)
        self._succeeded()
        try:
            self.client.delete(key, version)
        except StoreError as error:
            if version:
                with suppress(StoreError):
                    self.client.delete(key)  # so that it is hidden at least
            return error.cause
        return ""

    def ensure_open(self) -> None:
        """Raise the 503 ``storage_unavailable`` while the store is known not to work.

        Looks at the bucket when nothing was heard of it for ten seconds, so
        that most uploads that cannot be stored are refused before their body.
        After failures only a PUT shows that the store can be written.
        """
        if self.breaker.fresh():
            return
        with self._looking:  # one request looks for all that come meanwhile
            if self.breaker.fresh():
                return
            if self.breaker.open and not self.breaker.may_probe():
                raise unavailable("storage_unavailable", f"known to be down: {self.breaker.cause}")
            try:
                self.client.find_bucket()
            except StoreError as error:
                self._failed(error)
                raise unavailable("storage_unavailable", error.cause) from error
            self.breaker.seen()

    @contextmanager
    def _turn(self, deadline: float) -> Iterator[None]:
        """One of PUTS_AT_ONCE; the 503 ``overloaded`` where none is left in time to use it."""
        left = max(0.0, deadline - CHECK_SECONDS - time.monotonic())
        at_once = bool(left) and self._slots.acquire(blocking=False)
        if not left or not (at_once or self._slots.acquire(timeout=left)):
            raise unavailable("overloaded", "no time is left to store it")
        try:
            if not at_once and self.breaker.open:
                raise unavailable("storage_unavailable", f"known to be down: {self.breaker.cause}")
            yield
        finally:
            self._slots.release()

    def _judged(self, error: StoreError) -> StoreError:
        """A stranger's 4xx is of a proxy that refuses this object where the bucket is there."""
        if error.cause != NO_STORE or not 400 <= error.status < 500 or self.check() is not None:
            return error
        cause = f"object refused: status {error.status} of a proxy in between"
        return StoreError(cause, Kind.OBJECT, status=error.status, final=True)

    def _put(self, image: StoredObject, deadline: float) -> None:
        """Once, and once more where that may help and there is time."""
        try:
            self._put_once(image, deadline)
        except StoreError as first:
            if first.final or deadline - time.monotonic() < CHECK_SECONDS:
                raise
            try:
                self._put_once(image, deadline)
            except StoreError as second:
                second.never_written &= first.never_written
                raise

    def _put_once(self, image: StoredObject, deadline: float) -> str:
        """Send it, and see that an S3 store has it; its version, empty where there are none."""
        answer = self._send(image, deadline)
        proven = _proves_written(answer, image)
        if not (proven and self._looked_at) and not self._seen(image, proven=proven):
            raise StoreError(NO_STORE, Kind.SETUP, status=answer.status, final=True)
        return answer.headers.get("x-amz-version-id", "")

    def _send(self, image: StoredObject, deadline: float) -> Answer:
        headers = {
            "Content-Type": image.content_type,
            "Cache-Control": CACHE_CONTROL,
            "x-amz-meta-sha256": image.sha256,  # by which an object is known again
            **{f"x-amz-meta-{name}": value for name, value in image.metadata.items()},
        }
        put = partial(self.client.put, image.key, image.pieces, digest=image.sha256)
        if not self._sends_checksum:
            return put(headers=headers, deadline=deadline)
        try:
            # SeaweedFS checks only this one; MinIO and AWS check the signed hash too.
            return put(headers=headers | {_CHECKSUM: image.checksum}, deadline=deadline)
        except StoreError as error:
            if not error.about_checksum:
                raise
        answer = put(headers=headers, deadline=deadline)
        self._sends_checksum = False
        log.warning("the store refuses %s: PUTs are sent without it from now on", _CHECKSUM)
        return answer

    def _seen(self, image: StoredObject, *, proven: bool) -> bool:
        """Whether the store has it when looked at: the first of a process, and the unproven."""
        try:
            self._looked_at = self._holds(image.key, image.size, image.sha256)
        except StoreError as error:
            if not proven or error.cause == NO_STORE:
                raise
            log.warning("the object just put could not be looked at: %s", error.cause)
            self._looked_at = error.status > 0  # it may write and not read: then its word counts
            return True
        return self._looked_at

    def _holds(self, key: str, size: int, sha256: str) -> bool:
        try:
            found = self.client.stat(key).headers
        except StoreError as error:
            if error.missing:
                return False
            raise
        length, known = found.get("Content-Length"), found.get("x-amz-meta-sha256", "")
        return length == str(size) and known == sha256

    def _settle(self, image: StoredObject, cause: StoreError) -> None:
        """Find out what became of a PUT whose answer was lost."""
        try:
            held = self._holds(image.key, image.size, image.sha256)
        except StoreError as error:
            raise OutcomeUnknown(cause.cause) from error
        if not held:
            raise OutcomeUnknown(cause.cause) from cause
        log.warning("the answer to a put was lost, but the object is there: %s", image.key)

    def _succeeded(self) -> None:
        self._doubted, self._rehearsed = False, None
        self.breaker.succeeded()

    def _failed(self, error: StoreError, *, counts: bool = True) -> None:
        level = logging.WARNING if error.kind is Kind.PASSING else logging.CRITICAL
        if error.kind in (Kind.OBJECT, Kind.ROOM):
            log.log(level, "the object store refuses an object: %s", error.cause)
            return
        log.log(level, "the object store cannot be used: %s", error.cause)
        if counts:
            self._looked_at = False  # who knows what answers when it is back
            self.breaker.failed(error.cause)


def _proves_written(answer: Answer, image: StoredObject) -> bool:
    """Whether an S3 store says that it has these bytes: by their checksum, else by their MD5."""
    if echoed := answer.headers.get(_CHECKSUM):
        return echoed == image.checksum
    etag = answer.headers.get("ETag", "").strip('"')
    digest = md5(usedforsecurity=False)
    for piece in image.pieces:
        digest.update(piece)
    return etag == digest.hexdigest()


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
