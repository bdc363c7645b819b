"""Checksums that a client may send: proof that the file arrived as it left."""

from base64 import b64decode
from binascii import Error as Base64Error

from app.errors import ApiError


def check(actual: str, *, field: str | None, header: str | None) -> None:
    """Compare the file's SHA-256 (hex) with the form field and with ``Content-Digest``.

    An empty field and a header without ``sha-256`` claim nothing. Raises the
    400 ``digest_mismatch``.
    """
    claims = [(field or "").strip().lower() or None, _sha256_of(header or "")]
    if any(claim not in (None, actual) for claim in claims):
        raise ApiError(
            "digest_mismatch",
            "The file is not the one that its checksum was made of: it was probably damaged"
            " on the way. Upload it again.",
        )


def _sha256_of(header: str) -> str | None:
    """The ``sha-256`` of a Content-Digest (RFC 9530) as hex; None when it has none."""
    for member in header.split(","):
        algorithm, _, value = member.strip().partition("=")
        if algorithm.strip().lower() == "sha-256":
            try:
                return b64decode(value.partition(";")[0].strip(" :"), validate=True).hex()
            except Base64Error:
                return "unreadable"
    return None
