from base64 import b64encode
from hashlib import sha256

import pytest

from app import digest
from app.errors import ApiError

ACTUAL = sha256(b"picture").hexdigest()
GOOD = f"sha-256=:{b64encode(sha256(b'picture').digest()).decode()}:"
BAD = f"sha-256=:{b64encode(sha256(b'other').digest()).decode()}:"


@pytest.mark.parametrize("field", [None, "", "  ", ACTUAL, ACTUAL.upper(), f" {ACTUAL}\n"])
@pytest.mark.parametrize("header", [None, "", GOOD, f"md5=:abcd:, {GOOD}", "md5=:abcd:"])
def test_what_matches_or_claims_nothing_passes(field, header):
    digest.check(ACTUAL, field=field, header=header)


@pytest.mark.parametrize(
    ("field", "header"),
    [
        ("0" * 64, None),
        ("none", None),
        (None, BAD),
        (ACTUAL, BAD),
        ("0" * 64, GOOD),
        (None, "sha-256=:???:"),
        (None, "SHA-256=::"),
    ],
)
def test_what_does_not_match_is_refused(field, header):
    with pytest.raises(ApiError) as refused:
        digest.check(ACTUAL, field=field, header=header)
    assert (refused.value.status, refused.value.code) == (400, "digest_mismatch")
