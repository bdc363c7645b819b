"""Errors as clients see them: RFC 9457 problem documents with stable codes.

Every package raises these, so this module knows no web framework; ``app.web.problems`` answers.
"""

import ssl
from http import HTTPStatus
from typing import Any

# code: (status, title). The API reference is checked against this table.
CODES: dict[str, tuple[int, str]] = {
    "missing_api_key": (401, "API key missing"),
    "invalid_api_key": (401, "API key not accepted"),
    "missing_role": (403, "Not allowed"),
    "rate_limited": (429, "Too many uploads"),
    "too_many_at_once": (429, "Too many uploads at once"),
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

    ``detail`` says what is wrong and what to do. ``extra`` holds further
    members of the problem document (``limit``, ``actual``); ``headers`` are
    added to the answer. ``cause`` goes to the log and is never sent. ``status``
    replaces the code's own where HTTP has a closer one (414, 431).
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        headers: dict[str, str] | None = None,
        cause: str | None = None,
        status: int | None = None,
        **extra: int | str,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.status, self.title = CODES[code]
        if status is not None:
            self.status, self.title = status, HTTPStatus(status).phrase
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


def too_many_at_once(cause: str, *, retry_after: int = 5) -> ApiError:
    """The 429 for a key that has its whole share already; ``cause`` goes to the log."""
    return _later(
        "too_many_at_once",
        "This API key has more uploads under way than its share of the service. Nothing was stored."
        f" Try again in {retry_after} seconds, with fewer at once.",
        cause,
        retry_after,
    )


def unavailable(code: str, cause: str, *, retry_after: int = 5) -> ApiError:
    """A 503 that a retry may cure; ``cause`` goes to the log, not to the client."""
    details = {
        "redis_unavailable": "The service cannot check API keys right now. Nothing was stored.",
        "storage_unavailable": "The service cannot store images right now. Nothing was stored.",
        "overloaded": "The service is handling as many uploads as it can. Nothing was stored.",
    }
    return _later(code, f"{details[code]} Try again in {retry_after} seconds.", cause, retry_after)


def perhaps_stored(cause: str, *, retry_after: int = 5) -> ApiError:
    """The 503 ``redis_unavailable`` for an upload that may stand: only a repeat can tell."""
    return _later(
        "redis_unavailable",
        "The service cannot say whether the picture was stored. Send it again in"
        f" {retry_after} seconds, with the same Idempotency-Key: it is stored once at most.",
        cause,
        retry_after,
    )


def _later(code: str, detail: str, cause: str, retry_after: int) -> ApiError:
    """An error that carries ``Retry-After``, in seconds."""
    headers = {"Retry-After": str(retry_after)}
    return ApiError(code, detail, headers=headers, cause=cause)


# OpenSSL's X509_V_ERR_* codes. All others are about the authority that signed.
_CERTIFICATES = {9: "not valid yet", 10: "expired", 62: "for another host name",
                 64: "for another address"}  # fmt: skip
# OpenSSL's reasons for an answer that is not TLS; they differ between its versions.
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")


def tls_cause(error: BaseException | None) -> str | None:
    """Why TLS to Redis or the store fails, as a cause for the log; None where a retry may help.

    redis-py and urllib3 wrap the error of ssl, so its arguments and its causes are searched.
    """
    while error is not None and not isinstance(error, ssl.SSLError):
        inner = next((each for each in error.args if isinstance(each, ssl.SSLError)), None)
        error = inner or error.__cause__ or error.__context__
    if isinstance(error, ssl.SSLCertVerificationError):
        why = _CERTIFICATES.get(error.verify_code, "of an unknown authority")
        return f"TLS certificate not accepted: {why}"
    if isinstance(error, ssl.SSLError) and error.reason in _NO_TLS:
        return "TLS on a plain port"
    return None


def too_slow(cause: str | None = None) -> ApiError:
    """The 408 ``request_timeout``."""
    return ApiError(
        "request_timeout",
        "The upload arrived too slowly and was stopped. Try again with a better connection.",
        cause=cause,
    )


def failed(cause: str | None = None) -> ApiError:
    """The 500 ``internal_error``. The client is told nothing about ``cause``."""
    return ApiError(
        "internal_error",
        "Something went wrong on our side. Try again, and tell us the request_id if it happens"
        " again.",
        cause=cause,
    )
