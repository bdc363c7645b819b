"""POST /upload/image, its whole story on one screen, and GET /upload/limits."""

import hashlib
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from flask import Blueprint, Response, current_app, g, jsonify, request
from werkzeug.http import parse_list_header

from app.config import MAX_FILE_SIZE
from app.errors import ApiError, unavailable
from app.image.info import EXTENSIONS, ImageInfo
from app.intake import multipart
from app.intake.multipart import Form
from app.ops import tracing
from app.records import journal, ratelimit
from app.records.client import redis_errors
from app.records.journal import Entry, Result
from app.records.keys import ApiKey
from app.service import Service
from app.store.bucket import OutcomeUnknown, StoredObject, encode_filename
from app.web import digest, idempotency

ROLE = "uploader"
"""The role that an API key needs to upload."""

RENEW_SECONDS = 15
"""While a body comes, its name under way is entered anew after each so many."""

blueprint = Blueprint("upload", __name__, url_prefix="/upload")
log = logging.getLogger("uploader.upload")


@blueprint.post("/image")
def upload_image() -> Response:
    """Check the key, take the file in, look at it, store it, answer with its key."""
    service = _service()
    with _stage("auth"):
        api_key = _authenticate(service)
        api_key.require(ROLE)
        entry, earlier = _admit(service, api_key)
    with _settled(service, api_key, entry):
        multipart.check_content_length(request.environ, MAX_FILE_SIZE)
        service.store.ensure_open()
        with _receive(service, entry) as form:
            deadline = time.monotonic() + service.config.upload_timeout
            sha256 = hashlib.sha256(form.image).hexdigest()
            digest.check(sha256, fields=form.sha256, header=form.content_digest)
            if earlier is not None:
                return _replay(service, api_key, earlier, sha256)
            with _stage("inspect"):
                image = service.inspector.inspect(form.image, deadline=deadline)
            result = _result(entry, form, image, sha256)
            with _stage("store"):
                _store(service, api_key, entry, form, result, deadline)
                _commit(service, api_key, entry, result)
    return _answer(result)


@blueprint.get("/limits")
def limits() -> Response:
    """What the owner of a key may do; costs no rate and needs no role."""
    service = _service()
    api_key = _authenticate(service)
    with redis_errors(), service.redis.pipeline(transaction=False) as pipe:
        ratelimit.count(pipe, api_key.id, api_key.rate, cost=0)
        g.rate = ratelimit.state(api_key.rate, pipe.execute()[0])
    expires_at = api_key.expires_at
    return jsonify(
        data={
            "id": api_key.id,
            "name": api_key.name,
            "roles": sorted(api_key.roles),
            "expires_at": expires_at.isoformat() if expires_at else None,
            "rate_limit": str(api_key.rate),
            "remaining": g.rate.remaining,
            "reset": g.rate.reset,
            "formats": EXTENSIONS,
            "max_file_size": MAX_FILE_SIZE,
            "max_image_pixels": service.config.max_image_pixels,
        }
    )


def _service() -> Service:
    return cast(Service, current_app.extensions["uploader"])


@contextmanager
def _stage(name: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        with tracing.span(name):
            yield
    finally:
        g.stages[name] = time.perf_counter() - start


def _authenticate(service: Service) -> ApiKey:
    header = request.headers.get("x-api-key", "").encode("latin-1")  # as WSGI has it
    api_key = service.keys.authenticate(header or request.args.get("x-api-key"))
    g.key_id = api_key.id
    return api_key


def _admit(service: Service, api_key: ApiKey) -> tuple[Entry, Result | None]:
    """Count the request and enter its name, in one round trip.

    Also gives the result that an earlier request with this idempotency key had.
    """
    invalid: ApiError | None = None
    repeat_key: str | None = None
    try:
        repeat_key = idempotency.parse(request.headers.get("Idempotency-Key"))
    except ApiError as error:
        invalid = error  # it is told only after the rate
    lock_seconds = int(service.config.upload_timeout) + 20
    entry = Entry(api_key.id, str(uuid.uuid4()), repeat_key, lock_seconds)
    with _settled(service, api_key, entry):
        with redis_errors(), service.redis.pipeline(transaction=False) as pipe:
            ratelimit.count(pipe, api_key.id, api_key.rate)
            entry.begin(pipe)
            counted, held = pipe.execute()
        g.rate = ratelimit.state(api_key.rate, counted)
        g.rate.check()
        if invalid is not None:
            raise invalid
        return entry, journal.replay(held)


@contextmanager
def _settled(service: Service, api_key: ApiKey, entry: Entry) -> Iterator[None]:
    """Leave nothing behind when the upload fails: no object, no name, no lock.

    Where Redis may have remembered the result for a repeat, and did not say so, the object stays
    for that repeat; if Redis has not, the sweep takes it.
    """
    try:
        yield
    except BaseException as error:
        if entry.may_be_remembered:
            log.warning("left to a repeat or to the sweep: %s", entry.name)
            raise
        if entry.object_key is not None:
            _delete(service, entry.object_key)
        status = error.status if isinstance(error, ApiError) and not error.disconnected else 0
        try:
            with redis_errors(), service.redis.pipeline(transaction=False) as pipe:
                entry.abort(pipe)
                _count_refusal(service, pipe, api_key, status)
                pipe.execute()
        except ApiError as failure:
            log.warning("left to the sweep: %s (%s)", entry.name, failure.cause)
        raise


def _count_refusal(service: Service, pipe: Any, api_key: ApiKey, status: int) -> None:
    rejected = int(status in (400, 413, 422))
    rate_limited = int(status == 429)
    if rejected or rate_limited:
        service.usage.record(pipe, api_key.digest, rejected=rejected, rate_limited=rate_limited)


def _delete(service: Service, object_key: str) -> None:
    try:
        service.store.delete(object_key)
    except ApiError as error:
        log.warning("could not delete %s, left to the sweep: %s", object_key, error.cause)


@contextmanager
def _receive(service: Service, entry: Entry) -> Iterator[Form]:
    with _stage("receive"):
        form = multipart.receive(
            request.environ,
            pool=service.pool,
            max_file_size=MAX_FILE_SIZE,
            timeout=service.config.body_timeout,
            meanwhile=_renewal(service, entry),
        )
    with form:
        g.image_size = len(form.image)
        yield form


def _renewal(service: Service, entry: Entry) -> Callable[[], None]:
    """Enters the name anew from time to time: its lock ends, and the sweep takes old ones."""
    due = time.monotonic() + RENEW_SECONDS

    def renew() -> None:
        nonlocal due
        if time.monotonic() < due:
            return
        due = time.monotonic() + RENEW_SECONDS
        with redis_errors():
            held = entry.begin(service.redis)
        if journal.replay(held) is not None:
            raise journal.conflict()  # a repeat has overtaken it, and answers the next one

    return renew


def _replay(service: Service, api_key: ApiKey, earlier: Result, sha256: str) -> Response:
    if earlier.sha256 != sha256:
        raise ApiError(
            "idempotency_mismatch",
            "This Idempotency-Key was used with another file. Use a new key for each image.",
        )
    with redis_errors(), service.redis.pipeline(transaction=False) as pipe:
        service.usage.record(pipe, api_key.digest, uploads=1, size=earlier.size)
        pipe.execute()
    answer = _answer(earlier)
    answer.headers["Idempotency-Replayed"] = "true"
    return answer


def _result(entry: Entry, form: Form, image: ImageInfo, sha256: str) -> Result:
    g.image = image
    return Result(
        key=f"uploads/{entry.name}.{image.extension}",
        content_type=image.content_type,
        size=len(form.image),
        width=image.width,
        height=image.height,
        frames=image.frames,
        sha256=sha256,
    )


def _store(
    service: Service, api_key: ApiKey, entry: Entry, form: Form, result: Result, deadline: float
) -> None:
    metadata = {
        "uploaded-by": api_key.id,
        "request-id": g.request_id,
        "sha256": result.sha256,
        "width": str(result.width),
        "height": str(result.height),
    }
    if form.filename and (filename := encode_filename(form.filename)):
        metadata["original-filename"] = filename
    entry.object_key = result.key
    try:
        service.store.put(
            StoredObject(result.key, form.image, result.content_type, result.sha256, metadata),
            deadline,
        )
    except OutcomeUnknown as error:
        raise unavailable("storage_unavailable", str(error)) from error
    except ApiError:
        entry.object_key = None  # the store has certainly no such object
        raise


def _commit(service: Service, api_key: ApiKey, entry: Entry, result: Result) -> None:
    with redis_errors(), service.redis.pipeline(transaction=False) as pipe:
        entry.commit(pipe, result)
        service.usage.record(pipe, api_key.digest, uploads=1, size=result.size)
        entry.may_be_remembered = entry.idempotency_key is not None
        stands, *counted = pipe.execute(raise_on_error=False)
        entry.may_be_remembered = False
        if isinstance(stands, Exception):
            raise stands
    for failure in counted:
        if isinstance(failure, Exception):  # no reason to take the upload back
            log.warning("usage not counted: %s", failure)
    if not stands:
        cause = "it took too long: it was swept, or a repeat has overtaken it"
        raise unavailable("storage_unavailable", cause)


def _answer(result: Result) -> Response:
    g.object_key = result.key
    data: dict[str, Any] = {"key": result.key}
    representation = _wants_representation(request.headers.get("Prefer", ""))
    if representation:
        data |= {
            "content_type": result.content_type,
            "size": result.size,
            "width": result.width,
            "height": result.height,
            "frames": result.frames,
            "sha256": result.sha256,
        }
        if public_url := _service().config.public_url:
            data["url"] = f"{public_url}/{result.key}"
    answer = jsonify(data=data)
    if representation:
        answer.headers["Preference-Applied"] = "return=representation"
    return answer


def _wants_representation(prefer: str) -> bool:
    """Whether ``Prefer`` (RFC 7240) asks for ``return=representation``; the first return counts."""
    for preference in parse_list_header(prefer):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "return":
            return value.strip().strip('"').lower() == "representation"
    return False
