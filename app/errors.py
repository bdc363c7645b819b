"""Errors as clients see them: RFC 9457 problem documents with stable codes."""

import json
import logging
import re
import uuid
from collections.abc import Callable
from typing import Any, cast

from flask import Flask, Response, current_app, g, request
from werkzeug.exceptions import HTTPException

log = logging.getLogger("uploader.errors")
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

# code: (status, title). The table of the API reference, in one place.
CODES: dict[str, tuple[int, str]] = {
    "missing_api_key": (401, "API key missing"),
    "invalid_api_key": (401, "API key not accepted"),
    "missing_role": (403, "Not allowed"),
    "rate_limited": (429, "Too many uploads"),
    "file_too_large": (413, "File too large"),
    "not_multipart": (400, "Not a form upload"),
    "malformed_multipart": (400, "Broken form upload"),
    "missing_image": (400, "No image"),
    "multiple_images": (400, "More than one image"),
    "empty_image": (400, "Empty file"),
    "unsupported_format": (400, "Format not supported"),
    "corrupt_image": (400, "Damaged image"),
    "too_many_pixels": (400, "Too many pixels"),
    "digest_mismatch": (400, "Checksum does not match"),
    "invalid_idempotency_key": (400, "Idempotency key not valid"),
    "bad_request": (400, "Bad request"),
    "idempotency_conflict": (409, "Still in progress"),
    "idempotency_mismatch": (422, "Idempotency key used before"),
    "request_timeout": (408, "Upload too slow"),
    "redis_unavailable": (503, "Temporarily unavailable"),
    "storage_unavailable": (503, "Temporarily unavailable"),
    "overloaded": (503, "Busy"),
    "not_found": (404, "Not found"),
    "method_not_allowed": (405, "Method not allowed"),
    "internal_error": (500, "Internal error"),
}


class ApiError(Exception):
    """A refusal with a stable ``code`` for programs and a ``detail`` for people.

    ``detail`` says what is wrong and what to do; ``extra`` holds further
    members of the problem document (``limit``, ``actual``); ``headers`` are
    added to the answer. ``cause`` is for the log only and never sent.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        headers: dict[str, str] | None = None,
        cause: str | None = None,
        **extra: int | str,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.status, self.title = CODES[code]
        self.detail = detail
        self.headers = headers or {}
        self.cause = cause
        self.extra = extra
        self.disconnected = False

    def problem(self, request_id: str) -> dict[str, Any]:
        """The problem document (RFC 9457) of this error for one request."""
        return {
            "type": f"/docs#{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "request_id": request_id,
            **self.extra,
        }


def unavailable(code: str, cause: str, *, retry_after: int = 5) -> ApiError:
    """A 503 that a retry may cure; ``cause`` goes to the log, not to the client."""
    details = {
        "redis_unavailable": "The service cannot check API keys right now. Nothing was stored.",
        "storage_unavailable": "The service cannot store images right now. Nothing was stored.",
        "overloaded": "The service is handling as many uploads as it can. Nothing was stored.",
    }
    return ApiError(
        code,
        f"{details[code]} Try again in {retry_after} seconds.",
        headers={"Retry-After": str(retry_after)},
        cause=cause,
    )


def init_app(app: Flask, *, not_found: Callable[[], Response | None] = lambda: None) -> None:
    """Give every request an id, and every error of every path a problem document.

    ``not_found`` gives people the page that says so; None for programs.
    """
    app.extensions["not_found"] = not_found
    app.before_request(_begin)
    app.after_request(_finish)
    app.register_error_handler(ApiError, _refused)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _failed)


def _begin() -> None:
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if _SANE_ID.fullmatch(given) else str(uuid.uuid4())
    g.stages = {}


def _finish(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.request_id
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cache-Control", "no-store")
    if (rate := g.get("rate")) is not None:
        response.headers.update(rate.headers())
    return response


def _refused(error: ApiError) -> Response:
    g.error_code = error.code
    g.error_cause = error.cause
    g.disconnected = error.disconnected
    if error.cause:
        log.warning("%s: %s", error.code, error.cause)
    response = Response(
        json.dumps(error.problem(g.request_id)),
        status=error.status,
        content_type="application/problem+json",
    )
    response.headers.update(error.headers)
    return response


def _http_error(error: HTTPException) -> Response | HTTPException:
    """404, 405 and whatever else Flask refuses by itself."""
    if error.code is None or error.code < 400:
        return error  # a redirect
    allow = ", ".join(sorted(getattr(error, "valid_methods", None) or ()))
    match error.code:
        case 404 if (page := current_app.extensions["not_found"]()) is not None:
            g.error_code = "not_found"
            return cast(Response, page)
        case 404:
            refusal = ApiError("not_found", "There is nothing at this address. See /docs.")
        case 405:
            detail = f"This address takes {allow}." if allow else "Not with this method."
            refusal = ApiError("method_not_allowed", detail, headers={"Allow": allow})
        case _:
            refusal = ApiError("bad_request", "The request is not valid. See /docs.")
    return _refused(refusal)


def _failed(error: Exception) -> Response:
    log.error("unexpected error", exc_info=error)
    detail = "Something went wrong on our side. Try again, and tell us the request_id if it stays."
    return _refused(ApiError("internal_error", detail))
