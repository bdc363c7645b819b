"""The object store: one PUT for each image, bounded in time and sure of its result.

Each failure becomes the 503 ``storage_unavailable``, with its cause for the log.
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
"""PUTs of one process at a time. 32 at once on a slow store all ran into their timeout."""

_REHEARSAL_SECONDS = 10.0  # ``/readyz`` is asked often, and must not write each time
_CHECKSUM = "x-amz-checksum-sha256"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An image to be stored.

    Its bytes come in pieces: views of the upload's buffer, between which metadata was left out.
    """

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
        """The SHA-256 in base64, as S3 writes it."""
        return b64encode(bytes.fromhex(self.sha256)).decode()


class OutcomeUnknown(Exception):
    """The store did not say whether the object was written; the text is the cause."""


class ImageStore:
    """Images in one bucket. Safe for threads; must be made after the fork."""

    def __init__(self, config: Config, *, headers: Callable[[], Mapping[str, str]] = dict) -> None:
        """``headers`` returns further headers for each PUT, such as those of its trace."""
        self.client = Client(config, connections=PUTS_AT_ONCE, headers=headers)
        self.breaker = Breaker()
        self._put_timeout = config.s3_put_timeout
        self._slots = threading.BoundedSemaphore(PUTS_AT_ONCE)
        self._looked_at = False  # an object was seen in the store since it last failed
        self._sends_checksum = True
        self._own_key = f"uploads/.ready-{uuid.uuid4()}"  # no other process deletes this one
        self._doubted = False  # a PUT was refused, and none has worked since
        self._rehearsed: str | None = None  # why the last rehearsal failed, until a PUT works
        self._next_rehearsal = 0.0
        self._looking = threading.Lock()

    def put(self, image: StoredObject, deadline: float) -> None:
        """Write the object. When this returns, the store holds exactly these bytes.

        Ends before ``deadline`` (of ``time.monotonic()``), and within
        ``s3_put_timeout`` from the beginning of its turn. Raises the 503
        ``storage_unavailable`` or ``overloaded`` when the store certainly has no
        such object, and OutcomeUnknown when it may have one or get one later.
        """
        with self._turn(deadline):
            whole = time.monotonic() + self._put_timeout
            try:
                self._put(image, min(whole, deadline))
            except StoreError as failure:
                error = self._judged(failure)
                # A PUT that had less than its whole time says nothing about the store.
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
            # S3's DELETE does not say whether there was an object, and where the bucket keeps
            # versions it leaves a marker even for none.
            self.client.stat(key)
            self.client.delete(key)
        except StoreError as error:
            if error.missing:
                return False
            raise unavailable("storage_unavailable", error.cause) from error
        return True

    def holds(self, key: str, size: int, sha256: str) -> bool:
        """Whether an object of this size in bytes and this SHA-256 (hex) is there now.

        Raises the 503 ``storage_unavailable``.
        """
        try:
            return self._holds(key, size, sha256)
        except StoreError as error:
            raise unavailable("storage_unavailable", error.cause) from error

    def age(self, key: str) -> float | None:
        """Seconds since an object was written, by the store's clock; None when there is none.

        NaN when the store does not say. Raises the 503 ``storage_unavailable``.
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
        except (KeyError, TypeError, ValueError):  # TypeError: only one time has a zone
            return math.nan

    def check(self) -> str | None:
        """None when the bucket is there and the credentials are accepted, else the cause."""
        try:
            self.client.find_bucket()
        except StoreError as error:
            return error.cause
        return None

    def ready(self) -> str | None:
        """None when uploads can be stored, else the cause; within two seconds.

        A bucket that is there may still accept no object: the user may only read, the
        disk is full, an encryption key is lost. So after a refused PUT the store is in
        doubt until a PUT works. A rehearsal, at most every ten seconds, finds out
        whether all objects are refused or it was only that one. It does not wait for
        the next upload, because a process that is not ready gets none.
        """
        if self._doubted and time.monotonic() >= self._next_rehearsal:
            self._next_rehearsal = time.monotonic() + _REHEARSAL_SECONDS
            try:
                self.rehearse(self._own_key, CHECK_SECONDS)
            except StoreError as error:
                self._rehearsed = error.cause
        return self._rehearsed or self.check()

    def rehearse(self, key: str, seconds: float) -> str:
        """Write a few bytes as an upload does, and delete them with their version.

        Raises StoreError when they cannot be written within ``seconds``. Returns why
        something is left behind, or an empty text.
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
                    self.client.delete(key)  # a marker hides it at least
            return error.cause
        return ""

    def ensure_open(self) -> None:
        """Raise the 503 ``storage_unavailable`` while the store is known not to work.

        Looks at the bucket when the store has not been used for ten seconds, so that
        most uploads that cannot be stored are refused before their body arrives. After
        failures this is not enough: only a PUT shows that the store can be written.
        """
        if self.breaker.fresh():
            return
        with self._looking:  # one request looks, and all that come meanwhile use its result
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
        """Hold one of PUTS_AT_ONCE; the 503 ``overloaded`` when none is free in time."""
        # A PUT needs some time after its turn has come.
        left = max(0.0, deadline - CHECK_SECONDS - time.monotonic())
        at_once = bool(left) and self._slots.acquire(blocking=False)
        if not left or not (at_once or self._slots.acquire(timeout=left)):
            raise unavailable("overloaded", "no time is left to store it")
        try:
            # The store may have failed during the wait: do not try it once for each waiting PUT.
            if not at_once and self.breaker.open:
                raise unavailable("storage_unavailable", f"known to be down: {self.breaker.cause}")
            yield
        finally:
            self._slots.release()

    def _judged(self, error: StoreError) -> StoreError:
        """Blame a proxy for a 4xx that is not an S3 store's, if the bucket can be reached."""
        if error.cause != NO_STORE or not 400 <= error.status < 500 or self.check() is not None:
            return error
        cause = f"object refused: status {error.status} of a proxy in between"
        return StoreError(cause, Kind.OBJECT, status=error.status, final=True)

    def _put(self, image: StoredObject, deadline: float) -> None:
        """Send the object, and once more if that may help and there is time."""
        try:
            self._put_once(image, deadline)
        except StoreError as first:
            if first.final or deadline - time.monotonic() < CHECK_SECONDS:
                raise
            try:
                self._put_once(image, deadline)
            except StoreError as second:
                second.never_written &= first.never_written  # the first may still be written
                raise

    def _put_once(self, image: StoredObject, deadline: float) -> str:
        """Send the object, and check that an S3 store has it.

        Returns its version, empty where the bucket keeps none.
        """
        answer = self._send(image, deadline)
        proven = _proves_written(answer, image)
        if not (proven and self._looked_at) and not self._seen(image, proven=proven):
            raise StoreError(NO_STORE, Kind.SETUP, status=answer.status, final=True)
        return answer.headers.get("x-amz-version-id", "")

    def _send(self, image: StoredObject, deadline: float) -> Answer:
        headers = {
            "Content-Type": image.content_type,
            "Cache-Control": CACHE_CONTROL,
            "x-amz-meta-sha256": image.sha256,  # by which ``_holds`` recognises the object
            **{f"x-amz-meta-{name}": value for name, value in image.metadata.items()},
        }
        put = partial(self.client.put, image.key, image.pieces, digest=image.sha256)
        if not self._sends_checksum:
            return put(headers=headers, deadline=deadline)
        try:
            # SeaweedFS checks only this hash of the bytes; MinIO and AWS check the signed one too.
            return put(headers=headers | {_CHECKSUM: image.checksum}, deadline=deadline)
        except StoreError as error:
            if not error.about_checksum:
                raise
        answer = put(headers=headers, deadline=deadline)
        self._sends_checksum = False  # only now: it was the header, and nothing else
        log.warning("the store refuses %s: PUTs are sent without it from now on", _CHECKSUM)
        return answer

    def _seen(self, image: StoredObject, *, proven: bool) -> bool:
        """Whether the store shows the object when asked for it.

        Done for the first object of a process, and where the answer to the PUT proves nothing.
        """
        try:
            self._looked_at = self._holds(image.key, image.size, image.sha256)
        except StoreError as error:
            if not proven or error.cause == NO_STORE:
                raise
            log.warning("the object just put could not be looked at: %s", error.cause)
            self._looked_at = error.status > 0  # refused: credentials that may write and not read
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
        """Find out what became of a PUT whose answer was lost; else raise OutcomeUnknown."""
        try:
            held = self._holds(image.key, image.size, image.sha256)
        except StoreError as error:
            raise OutcomeUnknown(cause.cause) from error
        if not held:  # which proves nothing: a store may finish a write late
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
            self._looked_at = False  # another server may answer at this address from now on
            self.breaker.failed(error.cause)


def _proves_written(answer: Answer, image: StoredObject) -> bool:
    """Whether an S3 store says that it has these bytes: by their checksum, else by their MD5.

    The ETag of a PUT is its MD5, but not with every encryption (S3, "Common Response Headers").
    """
    if echoed := answer.headers.get(_CHECKSUM):
        return echoed == image.checksum
    etag = answer.headers.get("ETag", "").strip('"')
    digest = md5(usedforsecurity=False)
    for piece in image.pieces:
        digest.update(piece)
    return etag == digest.hexdigest()


def encode_filename(name: str, longest: int = 255) -> str:
    """The last path component, percent-encoded, cut between characters to ``longest`` bytes.

    Metadata are headers, and S3 takes ASCII in them only.
    """
    last = name.replace("\\", "/").rpartition("/")[2]
    encoded = ""
    for character in last:
        piece = quote(character, safe="", errors="replace")
        if len(encoded) + len(piece) > longest:
            break
        encoded += piece
    return encoded
