"""POST /upload/image: all steps of an upload in their order, on one screen."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from flask import Blueprint, Response, g, jsonify, request

from app.access import authenticate
from app.attempt import Attempt
from app.config import MAX_FILE_SIZE, MINIMAL
from app.errors import ApiError
from app.image.info import ImageInfo
from app.image.metadata import Stripped
from app.intake import multipart
from app.intake.multipart import Form
from app.ops.tracing import stage
from app.records.journal import Result
from app.records.keys import ApiKey
from app.service import Service
from app.store.bucket import StoredObject, encode_filename
from app.web import headers

ROLE = "uploader"
"""The role that an API key needs to upload."""

blueprint = Blueprint("upload", __name__, url_prefix="/upload")


@blueprint.post("/image", strict_slashes=False)
def upload_image() -> Response:
    """Check the API key, receive the file, check it, store it, answer with its object key."""
    service = Service.current()
    with stage("auth"):
        api_key = authenticate(service)
        api_key.require(ROLE)
        attempt = _admit(service, api_key)
    with attempt, _receive(service, api_key, attempt) as (form, deadline):
        sha256 = service.processors.run_large(hashlib.sha256, form.image).hexdigest()
        headers.check_digest(sha256, fields=form.sha256, header=form.content_digest)
        if (earlier := attempt.replay(sha256)) is not None:
            return _answer(service, earlier, replayed=True)
        with stage("inspect"):
            g.image, stripped = service.inspect(form.image, sha256, api_key, deadline)
        result = _result(attempt, g.image, stripped, sha256)
        with stage("store"):
            attempt.store(_object(api_key, form, result, stripped), deadline)
            attempt.commit(result)
        return _answer(service, result)


def _admit(service: Service, api_key: ApiKey) -> Attempt:
    """Count the request and enter its name in the journal.

    Raises the 429, then what is wrong with the headers, then the 409.
    """
    invalid: ApiError | None = None
    repeat_key: str | None = None
    try:
        multipart.check_content_length(request.environ, MAX_FILE_SIZE)
        repeat_key = headers.idempotency_key(request.headers.get("Idempotency-Key"))
    except ApiError as error:
        invalid = error  # refused after it was counted: the rate goes before all other checks
    attempt = Attempt(
        api_key,
        repeat_key,
        redis=service.redis,
        store=service.store,
        usage=service.usage,
        seconds=service.config.upload_timeout,
    )
    try:
        attempt.admit(invalid)
    finally:
        g.rate = attempt.rate  # for the RateLimit headers of every answer, refusals too
    return attempt


@contextmanager
def _receive(service: Service, api_key: ApiKey, attempt: Attempt) -> Iterator[tuple[Form, float]]:
    """The form with its file, at the turn of its key, and the deadline for all that follows.

    Raises the 503 before the body is read where the store is known to be down.
    """
    service.store.ensure_open()
    with stage("receive"):
        form = multipart.receive(
            request.environ,
            pool=service.pool,
            max_file_size=MAX_FILE_SIZE,
            timeout=service.config.body_timeout,
            key=api_key.id,
            meanwhile=attempt.renew,
        )
    seconds = service.config.upload_timeout
    deadline = time.monotonic() + seconds
    with form:
        g.image_size = len(form.image)
        # Waits for half of the time at most: the other half is for the work itself.
        with service.upload_turn(api_key.id, len(form.image), until=deadline - seconds / 2):
            yield form, deadline


def _result(attempt: Attempt, image: ImageInfo, stripped: Stripped, sent_sha256: str) -> Result:
    return Result(
        key=f"uploads/{attempt.name}.{image.extension}",
        content_type=image.content_type,
        size=stripped.size,
        width=image.width,
        height=image.height,
        frames=image.frames,
        sha256=stripped.sha256,
        metadata=stripped.policy,
        sent_sha256=sent_sha256,
    )


def _object(api_key: ApiKey, form: Form, result: Result, stripped: Stripped) -> StoredObject:
    metadata = {
        "uploaded-by": api_key.id,
        "request-id": g.request_id,
        "sha256": result.sha256,
        "width": str(result.width),
        "height": str(result.height),
    }
    kept = form.filename if result.metadata != MINIMAL else None
    if kept and (filename := encode_filename(kept)):
        metadata["original-filename"] = filename
    return StoredObject(result.key, stripped.pieces, result.content_type, result.sha256, metadata)


def _answer(service: Service, result: Result, *, replayed: bool = False) -> Response:
    g.object_key, g.metadata = result.key, result.metadata
    data: dict[str, Any] = {"key": result.key}
    representation = headers.wants_representation(request.headers.get("Prefer", ""))
    if representation:
        data = asdict(result)
        del data["sent_sha256"]
        if service.config.public_url:
            data["url"] = f"{service.config.public_url}/{result.key}"
    answer = jsonify(data=data)
    if representation:
        answer.headers["Preference-Applied"] = "return=representation"
    if replayed:
        answer.headers["Idempotency-Replayed"] = "true"
    return answer
