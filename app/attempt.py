"""One upload from its admission to its end: it is stored and acknowledged, or leaves nothing.

Knows no Flask. The rules that must hold at each moment and for each failure are all here:

- Before a byte is stored, the upload's name is in the journal. One step takes the name out and
  makes the upload stand. A process that dies before it leaves the name for the sweep.
- A result is answered to a repeat only while its object is there.
- Any error takes everything back: the object, the name, the lock of the idempotency key.
- One exception: while Redis may have remembered the result for a repeat, but has not confirmed it,
  the object stays for that repeat. If Redis did not remember, the sweep deletes the object.
"""

import logging
import time
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from app.errors import ApiError, perhaps_stored, unavailable
from app.records import journal, ratelimit
from app.records.client import Pipeline, Redis, redis_errors
from app.records.journal import Entry, Result
from app.records.keys import ApiKey
from app.records.ratelimit import RateState
from app.records.usage import Usage
from app.store.bucket import ImageStore, OutcomeUnknown, StoredObject

RENEW_SECONDS = 15
"""A name is renewed after this time, while the body arrives: well below the minute after which
the sweep takes names."""

log = logging.getLogger("uploader.upload")


class Attempt:
    """One upload of one API key; as a context manager it undoes itself on any error.

    ``rate`` is the state of the key's rate, None until Redis has answered. ``earlier`` is the
    result of an earlier request with the same idempotency key, which answers this one too.
    ``seconds`` is the time for everything after the body.
    """

    def __init__(
        self,
        api_key: ApiKey,
        idempotency_key: str | None,
        *,
        redis: Redis,
        store: ImageStore,
        usage: Usage,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = str(uuid.uuid4())
        self.rate: RateState | None = None
        self.earlier: Result | None = None
        self._earlier_as_held = b""
        self._api_key = api_key
        self._redis, self._store, self._usage = redis, store, usage
        # The last renewal may be RENEW_SECONDS before the end of the body.
        lock_seconds = int(seconds) + RENEW_SECONDS + 5
        self._entry = Entry(api_key.digest, self.name, idempotency_key, lock_seconds)
        self._clock = clock
        self._renew_at = 0.0
        self._object_key: str | None = None  # set as soon as the store may have an object
        self._may_be_remembered = False  # Redis may have the result, but has not said so
        self._stands = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and not self._stands:
            self._undo(error)

    def admit(self, refusal: ApiError | None = None) -> None:
        """Count the request and enter its name, in one round trip.

        Raises, in this order: the 429 over the rate; ``refusal``, an error that the caller has
        found already; the 409 while an earlier request with the same idempotency key runs.
        """
        with self:  # a refused request must not leave its name and its lock behind
            with redis_errors(), self._redis.pipeline(transaction=False) as pipe:
                ratelimit.count(pipe, self._api_key.id, self._api_key.rate)
                self._entry.begin(pipe)
                counted, held = pipe.execute()
            self.rate = ratelimit.state(self._api_key.rate, counted)
            self.rate.check()
            if refusal is not None:
                raise refusal
            self.earlier, self._earlier_as_held = journal.replay(held), held
            self._renew_at = self._clock() + RENEW_SECONDS

    def renew(self) -> None:
        """Renew the name and the lock if it is time: both would end during a slow body.

        The caller calls this after each piece of the body. Raises the 409 when a repeat with the
        same idempotency key has overtaken this request. A request that will be answered with an
        earlier result has no name to renew.
        """
        if self.earlier is not None or self._clock() < self._renew_at:
            return
        self._enter()

    def _enter(self, *, instead_of: bytes = b"") -> None:
        self._renew_at = self._clock() + RENEW_SECONDS
        with redis_errors():
            held = self._entry.begin(self._redis, instead_of=instead_of)
        if journal.replay(held) is not None:
            raise journal.conflict()

    def replay(self, sha256: str) -> Result | None:
        """The result of the earlier request; raises the 422 when that was another file.

        None when there was none, or when its object is gone: then this request replaces it.
        Raises the 503 when the store cannot say whether the object is there: a 200 would be a
        guess, and a new object might be a second one.
        """
        if self.earlier is None:
            return None
        if not self.earlier.is_of(sha256):
            raise ApiError(
                "idempotency_mismatch",
                "This Idempotency-Key was used with another file. Use a new key for each image.",
            )
        if not self._store.holds(self.earlier.key, self.earlier.size, self.earlier.sha256):
            log.warning(
                "an acknowledged object is gone, a repeat stores it again: %s", self.earlier.key
            )
            self._enter(instead_of=self._earlier_as_held)
            self.earlier = None
            return None
        with redis_errors(), self._redis.pipeline(transaction=False) as pipe:
            self._usage.record(pipe, self._api_key.digest, uploads=1, size=self.earlier.size)
            _warn_of_failed(pipe.execute(raise_on_error=False))
        return self.earlier

    def store(self, image: StoredObject, deadline: float) -> None:
        """Put the object into the store before ``deadline`` (of ``time.monotonic()``).

        Raises the 503 ``storage_unavailable`` or ``overloaded``.
        """
        self._object_key = image.key
        try:
            self._store.put(image, deadline)
        except OutcomeUnknown as error:
            raise unavailable("storage_unavailable", str(error)) from error
        except ApiError:
            self._object_key = None  # the store has certainly no such object
            raise

    def commit(self, result: Result) -> None:
        """Make the upload stand: from now on ``result`` is the answer, to repeats too.

        Raises a 503 when it does not stand: Redis did not answer, the sweep was first, or a
        repeat has overtaken this request.
        """
        try:
            counted = self._commit(result)
        except ApiError as error:
            if self._may_be_remembered:
                raise perhaps_stored(error.cause or "") from error
            raise
        _warn_of_failed(counted)
        if not self._stands:
            cause = "it took too long: it was swept, or a repeat has overtaken it"
            raise unavailable("storage_unavailable", cause)

    def _commit(self, result: Result) -> list[Any]:
        """Ask Redis whether the upload stands; what became of its usage counts."""
        with redis_errors(), self._redis.pipeline(transaction=False) as pipe:
            self._entry.commit(pipe, result)
            self._usage.record(pipe, self._api_key.digest, uploads=1, size=result.size)
            self._may_be_remembered = self._entry.idempotency_key is not None
            stands, *counted = pipe.execute(raise_on_error=False)
            # An error leaves the doubt: redis-py sends the script again when an answer is lost, so
            # the first run may have succeeded. On a Cluster it returns lost answers as errors too.
            if isinstance(stands, Exception):
                raise stands
            self._may_be_remembered = False
        self._stands = bool(stands)
        return counted

    def _undo(self, error: BaseException) -> None:
        """Take back the object, the name and the lock, as far as the servers can be reached."""
        if self._may_be_remembered:
            log.warning("left to a repeat or to the sweep: %s", self.name)
            return
        if self._object_key is not None:
            self._delete(self._object_key)
        try:
            with redis_errors(), self._redis.pipeline(transaction=False) as pipe:
                # The sweep goes on looking, because the store may finish the write late.
                self._entry.abort(pipe, sweep=self._object_key is not None)
                self._count_refusal(pipe, error)
                aborted, *counted = pipe.execute(raise_on_error=False)
                if isinstance(aborted, Exception):
                    raise aborted
                _warn_of_failed(counted)
        except ApiError as failure:
            log.warning("left to the sweep: %s (%s)", self.name, failure.cause)

    def _delete(self, object_key: str) -> None:
        try:
            self._store.delete(object_key)
        except ApiError as error:
            log.warning("could not delete %s, left to the sweep: %s", object_key, error.cause)

    def _count_refusal(self, pipe: Pipeline, error: BaseException) -> None:
        """Count the mistakes of a client. One that has disconnected made none."""
        status = error.status if isinstance(error, ApiError) and not error.disconnected else 0
        rejected, rate_limited = int(status in (400, 413, 422)), int(status == 429)
        if rejected or rate_limited:
            self._usage.record(
                pipe, self._api_key.digest, rejected=rejected, rate_limited=rate_limited
            )


def _warn_of_failed(counts: list[Any]) -> None:
    """Log the counts that Redis refused: an upload stands without them."""
    for failure in counts:
        if isinstance(failure, Exception):
            log.warning("usage not counted: %s", failure)
