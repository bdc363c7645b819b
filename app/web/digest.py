"""Checksums that a client may send: proof that the file arrived as it left."""

from base64 import b64decode
from collections.abc import Iterable

from werkzeug.http import parse_dict_header

from app.errors import ApiError


def check(actual: str, *, fields: Iterable[str], header: str | None) -> None:
    """Compare the file's SHA-256 (hex) with the form fields and with ``Content-Digest``.

    An empty field and a header without ``sha-256`` claim nothing. Raises the
    400 ``digest_mismatch``.
    """
    claims = [*filter(None, (field.strip().lower() for field in fields)), *_sha256_of(header or "")]
    if any(claim != actual for claim in claims):
        raise ApiError(
            "digest_mismatch",
            "The file is not the one that its checksum was made of: it was probably damaged"
            " on the way. Upload it again.",
        )


def _sha256_of(header: str) -> Iterable[str]:
    """The ``sha-256`` of a Content-Digest (RFC 9530) as hex; the last of several (RFC 9651)."""
    members = {name.lower(): value or "" for name, value in parse_dict_header(header).items()}
    if "sha-256" in members:
        try:
            value = members["sha-256"].partition(";")[0]
            yield b64decode(value.strip(" :"), validate=True).hex()
        except ValueError:
            yield "unreadable"
