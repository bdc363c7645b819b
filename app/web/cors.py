"""Which browsers' pages of other origins may upload, and what they may read of the answers."""

import re
from collections.abc import Sequence

from flask import Flask, Response
from flask_cors import CORS

REQUEST_HEADERS = (
    "x-api-key",
    "idempotency-key",
    "prefer",
    "content-type",
    "x-request-id",
    # Dropzone, rc-upload and Fine Uploader send these three unless their page forbids it.
    "accept",
    "cache-control",
    "x-requested-with",
)
"""What a page may send; the key is one, so every cross-origin upload has a preflight."""

RESPONSE_HEADERS = (
    "X-Request-Id",
    "Retry-After",
    "RateLimit",
    "RateLimit-Policy",
    "Idempotency-Replayed",
    "Preference-Applied",
)
"""What a page may read of an answer, besides its body."""

_PREFLIGHT_SECONDS = 7200  # the longest that Chromium remembers one


def init_app(app: Flask, origins: Sequence[str]) -> None:
    """Let pages of exactly these origins use ``/upload/``; error answers included."""
    if not origins:
        return
    CORS(
        app,
        resources=r"/upload/.*",
        # Compiled here, or Flask-CORS takes the brackets of an IPv6 origin for a pattern.
        origins=[re.compile(re.escape(origin) + r"\Z") for origin in origins],
        methods=["GET", "POST"],
        allow_headers=list(REQUEST_HEADERS),
        expose_headers=list(RESPONSE_HEADERS),
        max_age=_PREFLIGHT_SECONDS,
        always_send=False,
        vary_header=False,
    )
    app.after_request(_vary)


def _vary(response: Response) -> Response:
    """Say ``Vary: Origin`` on every answer: Flask-CORS does so only where it allows one."""
    response.vary.add("Origin")
    return response
