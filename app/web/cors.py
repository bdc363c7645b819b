"""CORS: which other sites' pages may upload, and which headers of the answers they may read."""

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
    # Dropzone, rc-upload and Fine Uploader send these three unless configured otherwise.
    "accept",
    "cache-control",
    "x-requested-with",
)
"""Headers that a page may send. x-api-key is one, so every upload has a preflight request."""

RESPONSE_HEADERS = (
    "X-Request-Id",
    "Retry-After",
    "RateLimit",
    "RateLimit-Policy",
    "Idempotency-Replayed",
    "Preference-Applied",
)
"""Headers of an answer that a page may read."""

_PREFLIGHT_SECONDS = 7200  # Chromium caches a preflight no longer than this


def init_app(app: Flask, origins: Sequence[str]) -> None:
    """Let pages of exactly these origins use ``/upload/``, and read its errors too."""
    if not origins:
        return
    CORS(
        app,
        resources=r"/upload/.*",
        # Escaped and compiled here: Flask-CORS would read the brackets of an IPv6 origin as a
        # regular expression.
        origins=[re.compile(re.escape(origin) + r"\Z") for origin in origins],
        methods=["GET", "POST"],
        allow_headers=list(REQUEST_HEADERS),
        expose_headers=list(RESPONSE_HEADERS),
        max_age=_PREFLIGHT_SECONDS,
        always_send=False,  # no CORS headers for requests without Origin
        vary_header=False,  # _vary does it
    )
    app.after_request(_vary)


def _vary(response: Response) -> Response:
    """Add ``Vary: Origin`` to every answer. Flask-CORS adds it only where it allows an origin.

    Without it a cache could give one site's page the answer for another site.
    """
    response.vary.add("Origin")
    return response
