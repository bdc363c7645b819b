from base64 import b64encode
from hashlib import sha256

import pytest

from app.errors import ApiError
from app.web import headers

ACTUAL = sha256(b"picture").hexdigest()
GOOD = f"sha-256=:{b64encode(sha256(b'picture').digest()).decode()}:"
BAD = f"sha-256=:{b64encode(sha256(b'other').digest()).decode()}:"


def test_without_the_header_there_is_no_key():
    assert headers.idempotency_key(None) is None


@pytest.mark.parametrize("header", ["k", '"k"', ' "k" ', " k ", '"k";p=1', '"k" ; p'])
def test_quoted_and_bare_keys_are_the_same(header):
    assert headers.idempotency_key(header) == "k"


def test_escapes_in_a_quoted_key_are_read():
    assert headers.idempotency_key(r'"a\"b\\c"') == r'a"b\c'


@pytest.mark.parametrize("header", ['"open', '"', "é", 'a"b"'])
def test_a_key_that_is_not_a_quoted_string_is_used_unchanged(header):
    assert headers.idempotency_key(header) == header


@pytest.mark.parametrize("header", ["a" * 255, '"' + "a" * 255 + '"'])
def test_255_characters_are_allowed(header):
    assert headers.idempotency_key(header) == "a" * 255


@pytest.mark.parametrize("header", ["", "  ", '""', "a" * 256, '"' + "a" * 256 + '"'])
def test_an_empty_or_long_key_is_refused(header):
    with pytest.raises(ApiError) as refused:
        headers.idempotency_key(header)
    assert (refused.value.status, refused.value.code) == (400, "invalid_idempotency_key")


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
def test_a_matching_or_empty_checksum_passes(fields, header):
    headers.check_digest(ACTUAL, fields=fields, header=header)


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
def test_a_checksum_that_does_not_match_is_refused(fields, header):
    with pytest.raises(ApiError) as refused:
        headers.check_digest(ACTUAL, fields=fields, header=header)
    assert (refused.value.status, refused.value.code) == (400, "digest_mismatch")


@pytest.mark.parametrize(
    "prefer",
    [
        "return=representation",
        'respond-async, Return="representation"; x=y',
        "return=representation, return=minimal",
    ],
)
def test_the_first_return_preference_asks_for_the_representation(prefer):
    assert headers.wants_representation(prefer)


@pytest.mark.parametrize(
    "prefer",
    ["", "return", "return=minimal", "return=minimal, return=representation", "x=representation"],
)
def test_without_that_preference_the_answer_is_minimal(prefer):
    assert not headers.wants_representation(prefer)


ZEROS = "0" * 64


@pytest.mark.parametrize(
    "claim",
    [
        "sha256:" + "0" * 64,
        "0" * 63,
        "0" * 64 + "  photo.jpg",
        "\ufeff" + "0" * 64,
        "AAAA=",
        "g" * 64,
    ],
)
def test_an_unreadable_checksum_is_not_reported_as_damage(claim):
    with pytest.raises(ApiError) as caught:
        headers.check_digest(ZEROS, fields=[claim], header=None)
    assert caught.value.code == "digest_mismatch"
    assert "64 hexadecimal digits" in caught.value.detail


def test_an_unreadable_content_digest_is_not_reported_as_damage():
    with pytest.raises(ApiError) as caught:
        headers.check_digest(ZEROS, fields=[], header="sha-256=:???:")
    assert "cannot be read" in caught.value.detail
