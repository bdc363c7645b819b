"""Reads the request headers that have a syntax of their own.

``Idempotency-Key`` (draft-ietf-httpapi-idempotency-key-header-07), ``Prefer`` (RFC 7240), and
``Content-Digest`` (RFC 9530), which is a header of the form's part named image.
"""

import re
from base64 import b64decode
from collections.abc import Iterable

from werkzeug.http import parse_dict_header, parse_list_header

from app.errors import ApiError

_LONGEST = 255  # characters; a UUID has 36, and Redis keeps each for 24 hours
_SHA256 = re.compile("[0-9a-f]{64}")
# RFC 9651 section 3.3.3: a string in double quotes, with \" and \\ as escapes; parameters follow.
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"\s*(?:;.*)?')


def idempotency_key(header: str | None) -> str | None:
    """The key without quotes, or None if there is no header; ``"k"`` and ``k`` are the same key.

    The draft asks for quotes, but most clients send none. Raises the 400
    ``invalid_idempotency_key`` for a key that is empty or longer than 255 characters.
    """
    if header is None:
        return None
    key = header.strip()
    if match := _QUOTED.fullmatch(key):
        key = re.sub(r"\\(.)", r"\1", match[1])
    if not 1 <= len(key) <= _LONGEST:
        raise ApiError(
            "invalid_idempotency_key",
            f"The Idempotency-Key must have 1 to {_LONGEST} characters,"
            " for example a new UUID for each image.",
            limit=_LONGEST,
        )
    return key


def wants_representation(prefer: str) -> bool:
    """Whether ``Prefer`` asks for ``return=representation``.

    If there are several ``return`` preferences the first one counts (RFC 7240 section 2).
    """
    for preference in parse_list_header(prefer):
        # A preference may have parameters behind a semicolon: ignore them.
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "return":
            return value.strip().strip('"').lower() == "representation"
    return False


def check_digest(actual: str, *, fields: Iterable[str], header: str | None) -> None:
    """Compare the file's SHA-256 (hex) with the form fields ``sha256`` and with ``Content-Digest``.

    Empty fields, and a header without ``sha-256``, are ignored. Raises the 400
    ``digest_mismatch``, also for a checksum that cannot be read: the client wants a check.
    """
    claims = [*filter(None, (field.strip().lower() for field in fields)), *_sha256_of(header or "")]
    # First, because a checksum that cannot be read does not mean a damaged file.
    if not all(map(_SHA256.fullmatch, claims)):
        raise ApiError(
            "digest_mismatch",
            "The checksum cannot be read. The field “sha256” takes the 64 hexadecimal digits of the"
            " file's SHA-256 and nothing else; Content-Digest takes sha-256=:Base64:.",
        )
    if any(claim != actual for claim in claims):
        raise ApiError(
            "digest_mismatch",
            "The file does not match its checksum: it was probably damaged on the way."
            " Upload it again.",
        )


def _sha256_of(header: str) -> Iterable[str]:
    """The ``sha-256`` of a Content-Digest (RFC 9530) as hex; of several the last (RFC 9651)."""
    members = {name.lower(): value or "" for name, value in parse_dict_header(header).items()}
    if "sha-256" in members:
        try:
            value = members["sha-256"].partition(";")[0]
            yield b64decode(value.strip(" :"), validate=True).hex()
        except ValueError:
            yield "unreadable"  # matches no file, so the client learns of it
