"""Turns every error into a problem document, and adds the common headers to every answer."""

import json
import logging
import re
import uuid

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from app.errors import ApiError, failed

log = logging.getLogger("uploader.errors")

# Of a client's id any other text could forge lines of the log, or headers of the stored object.
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def init_app(app: Flask) -> None:
    """Give every request an id, and answer every error of every path with a problem document."""
    app.before_request(_begin)
    app.after_request(_finish)
    app.register_error_handler(ApiError, refused)
    app.register_error_handler(HTTPException, http_error)
    app.register_error_handler(Exception, _failed)


def refused(error: ApiError) -> Response:
    """The answer to a refused request. Its code and cause go to the log and the metrics."""
    g.error_code = error.code
    g.error_cause = error.cause
    g.disconnected = error.disconnected
    if error.cause:
        log.warning("%s: %s", error.code, error.cause)
    return Response(
        json.dumps(error.problem(g.request_id)),
        error.status,
        _common_headers() | error.headers,
        content_type="application/problem+json",
    )


def http_error(error: HTTPException) -> Response | HTTPException:
    """The answer to an error that Flask itself raises: 404, 405, or any other as a 400."""
    if error.code is None or error.code < 400:
        return error  # Flask raises redirects as exceptions too
    match error.code:
        case 404:
            return refused(ApiError("not_found", "There is nothing at this address. See /docs."))
        case 405:
            allow = ", ".join(sorted(getattr(error, "valid_methods", None) or ()))
            detail = f"This address takes {allow}." if allow else "Not with this method."
            return refused(ApiError("method_not_allowed", detail, headers={"Allow": allow}))
        case _:  # such as 416, for a Range of a static file
            return refused(ApiError("bad_request", "The request is not valid. See /docs."))


def _begin() -> None:
    sent = request.headers.get("X-Request-Id", "")
    g.request_id = sent if _SANE_ID.fullmatch(sent) else str(uuid.uuid4())


def _common_headers() -> dict[str, str]:
    return {
        "X-Request-Id": g.request_id,
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }


def _finish(response: Response) -> Response:
    for name, value in _common_headers().items():
        response.headers.setdefault(name, value)  # a view may have set its own
    if (rate := g.get("rate")) is not None:
        response.headers.update(rate.headers())
    return response


def _failed(error: Exception) -> Response:
    log.error("unexpected error", exc_info=error)
    return refused(failed())
