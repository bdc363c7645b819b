import pytest

from app.errors import ApiError
from app.web import idempotency


def test_without_the_header_there_is_no_key():
    assert idempotency.parse(None) is None


@pytest.mark.parametrize("header", ["k", '"k"', ' "k" ', " k ", '"k";p=1', '"k" ; p'])
def test_quoted_and_bare_keys_are_the_same(header):
    assert idempotency.parse(header) == "k"


def test_escapes_in_a_quoted_key_are_read():
    assert idempotency.parse(r'"a\"b\\c"') == r'a"b\c'


@pytest.mark.parametrize("header", ['"open', '"', "é", 'a"b"'])
def test_a_key_that_is_no_quoted_string_is_taken_as_it_is(header):
    assert idempotency.parse(header) == header


@pytest.mark.parametrize("header", ["a" * 255, '"' + "a" * 255 + '"'])
def test_255_characters_are_allowed(header):
    assert idempotency.parse(header) == "a" * 255


@pytest.mark.parametrize("header", ["", "  ", '""', "a" * 256, '"' + "a" * 256 + '"'])
def test_an_empty_or_long_key_is_refused(header):
    with pytest.raises(ApiError) as refused:
        idempotency.parse(header)
    assert (refused.value.status, refused.value.code) == (400, "invalid_idempotency_key")
