"""The header ``Idempotency-Key`` (draft-ietf-httpapi-idempotency-key-header-07)."""

import re

from app.errors import ApiError

_LONGEST = 255
# RFC 9651 section 3.3.3: a string in double quotes, with \" and \\ as escapes; parameters follow.
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"\s*(?:;.*)?')


def parse(header: str | None) -> str | None:
    """The key without its quotes; ``"k"`` and ``k`` are the same. None without the header.

    Raises the 400 ``invalid_idempotency_key``: empty, or over 255 characters.
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
