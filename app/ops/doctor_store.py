"""What ``flask doctor`` looks at in the store: bucket, rights, clock, and what strangers may do."""

import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from app.errors import ApiError
from app.ops.findings import FAILED, OK, WARNING, Finding, tls_hint
from app.service import Service
from app.store.bucket import ImageStore
from app.store.causes import StoreError, seconds_behind

_REHEARSAL_SECONDS = 10
_SKEW_SECONDS = 30, 300  # from here a warning, a failure; S3 refuses at 900 s
_ANSWERED = ("wrong ", "expired credentials", "clock skew", "no such bucket")
"""Beginnings of causes that an S3 store itself gave: its answers have a date."""

_CREDENTIALS = "S3_ACCESS_KEY and S3_SECRET_KEY, or the role of this machine."
_HINTS = {
    "wrong credentials": _CREDENTIALS,
    "expired credentials": _CREDENTIALS,
    "no credentials": _CREDENTIALS,
    "access denied": "deploy/s3/policy.json has the rights it needs.",
    "no such bucket": "Make the bucket, or correct S3_BUCKET.",
    "wrong region": "Correct S3_REGION.",
    "clock skew": "Set this machine's clock (timedatectl).",
    "account suspended": "Ask whoever runs the store.",
    "quota used up": "Raise the bucket's quota, or delete what is not needed.",
    "disk full": "Give the store more room.",
    "encryption key not usable": "The key of the bucket's encryption, and the right to use it.",
    "not an answer of an S3 store": "S3_ENDPOINT leads to something else: a web page, a proxy.",
    "plain HTTP on a TLS port": "S3_ENDPOINT must begin with https://.",
}
"""What to do, by the beginning of the cause."""


def examine(service: Service) -> Iterator[Finding]:
    """Look at the store; write only where the bucket is there or may be."""
    store = service.store
    cause = store.check()
    if cause is None:
        yield Finding("store", OK, f"bucket {service.config.s3_bucket} is there")
    else:
        yield Finding("store", FAILED, cause, _hint(cause))
    # Credentials that may not look at a bucket may still be allowed to write to it.
    if cause not in (None, "access denied"):
        if cause.startswith(_ANSWERED):
            yield _clock(store)
        return
    yield _write(store)
    yield _clock(store)
    yield from _public(store)
    yield _versions(store)


def _hint(cause: str) -> str:
    if cause.startswith("TLS "):
        return tls_hint(cause, "S3")
    hints = (hint for beginning, hint in _HINTS.items() if cause.startswith(beginning))
    return next(hints, "Is it started, and is S3_ENDPOINT right?")


def _write(store: ImageStore) -> Finding:
    """Put an object as an upload does, see that it is there, and delete it."""
    key = _probe_key()
    try:
        left = store.rehearse(key, _REHEARSAL_SECONDS)
    except StoreError as error:
        # A PUT that failed may have written its object: delete it, or name it.
        gone = error.never_written or _try(lambda: store.delete(key)) is not None
        hint = _hint(error.cause) + ("" if gone else f" Delete {key} by hand.")
        return Finding("store rights", FAILED, error.cause, hint)
    if left:
        hint = f"Delete {key} by hand; is the bucket locked, or s3:DeleteObjectVersion missing?"
        return Finding("store rights", WARNING, f"put and stat, but not delete: {left}", hint)
    if cause := _cannot_look(store, key):
        hint = f"{_hint(cause)} Without it nothing is swept."
        return Finding("store rights", FAILED, f"put, but not stat: {cause}", hint)
    return Finding("store rights", OK, "put, stat and delete")


def _probe_key() -> str:
    """A new name under ``uploads/``, where the rights are, that no upload's object has."""
    return f"uploads/.doctor-{uuid.uuid4()}"


def _cannot_look(store: ImageStore, gone: str) -> str | None:
    """Why a missing object looks like a forbidden one; None when a HEAD says 404.

    Without s3:ListBucket a store answers 403 for a missing object, and the sweep cannot tell
    whether there is one to delete.
    """
    try:
        store.client.stat(gone)
    except StoreError as error:
        return None if error.missing else error.cause
    return "what was deleted is there"


def _try(action: Callable[[], Any]) -> Any:
    try:
        return action()
    except (ApiError, StoreError):
        return None


def _clock(store: ImageStore) -> Finding:
    answer = store.client.as_anyone("HEAD")  # a refusal has a Date as well
    behind = seconds_behind(answer.headers) if answer is not None else None
    if behind is None:
        return Finding("clock", WARNING, "the store does not tell the time")
    seconds = abs(behind)
    found, hint = f"{seconds:.0f} s from the store's", _HINTS["clock skew"]
    warn, fail = _SKEW_SECONDS
    if seconds > warn:
        return Finding("clock", FAILED if seconds > fail else WARNING, found, hint)
    return Finding("clock", OK, found)


def _public(store: ImageStore) -> Iterator[Finding]:
    """What somebody without credentials may do."""
    listing = store.client.as_anyone("GET")  # a GET of the bucket lists its objects
    if listing is not None and listing.status == 200:
        hint = "Forbid it in the bucket's policy: names of unpublished pictures can be read."
        yield Finding("public listing", FAILED, "anyone may list the bucket", hint)
    else:
        yield Finding("public listing", OK, "refused")
    key = _probe_key()
    written = store.client.as_anyone("PUT", key, b"doctor")
    if written is not None and written.status == 200:
        # By its version, or a bucket with versions would keep the bytes behind a delete marker.
        _try(lambda: store.client.delete(key, written.headers.get("x-amz-version-id", "")))
        hint = "Forbid it in the bucket's policy."
        yield Finding("public writing", FAILED, "anyone may write to the bucket", hint)
    else:
        yield Finding("public writing", OK, "refused")


def _versions(store: ImageStore) -> Finding:
    state = _versioning(store)
    if state == "Enabled":
        hint = "Deleted objects stay as versions: let a lifecycle rule end them (docs/store.md)."
        return Finding("store versioning", WARNING, "on", hint)
    return Finding("store versioning", OK, state or "cannot be asked")


def _versioning(store: ImageStore) -> str | None:
    """``Enabled``, ``Suspended`` or ``Off``; None when the store does not say."""
    try:
        answer = store.client.ask("GET", query="versioning=")
    except StoreError:
        return None
    # S3 sends no Status for a bucket that never had versions.
    found = re.search(rb"<Status>(Enabled|Suspended)</Status>", answer.body)
    return found[1].decode() if found else "Off"
