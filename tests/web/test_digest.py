from base64 import b64encode
from hashlib import sha256

import pytest

from app.errors import ApiError
from app.web import digest

ACTUAL = sha256(b"picture").hexdigest()
GOOD = f"sha-256=:{b64encode(sha256(b'picture').digest()).decode()}:"
BAD = f"sha-256=:{b64encode(sha256(b'other').digest()).decode()}:"


@pytest.mark.parametrize(
    "fields", [[], [""], ["  "], [ACTUAL], [ACTUAL.upper()], [f" {ACTUAL}\n", ACTUAL]]
)
@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        GOOD,
        f"md5=:abcd:, {GOOD}",
        "md5=:abcd:",
        f"{GOOD};by=x",
        f"{BAD}, {GOOD}",
        f'x="a, {BAD}", {GOOD}',
    ],
)
def test_what_matches_or_claims_nothing_passes(fields, header):
    digest.check(ACTUAL, fields=fields, header=header)


@pytest.mark.parametrize(
    ("fields", "header"),
    [
        (["0" * 64], None),
        (["none"], None),
        ([ACTUAL, "0" * 64], None),
        ([], BAD),
        ([], f"{GOOD}, {BAD}"),
        ([ACTUAL], BAD),
        (["0" * 64], GOOD),
        ([], "sha-256=:???:"),
        ([], "sha-256=:é:"),
        ([], "SHA-256=::"),
    ],
)
def test_what_does_not_match_is_refused(fields, header):
    with pytest.raises(ApiError) as refused:
        digest.check(ACTUAL, fields=fields, header=header)
    assert (refused.value.status, refused.value.code) == (400, "digest_mismatch")
