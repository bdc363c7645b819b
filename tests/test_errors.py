"""Refusals: their statuses, and their problem documents, which never have the cause."""

import pytest

from app.errors import CODES, ApiError, failed, too_slow, unavailable


@pytest.mark.parametrize("code", CODES)
def test_a_refusal_has_the_status_and_title_of_its_code(code):
    error = ApiError(code, "What to do.")
    document = error.problem("r-1")
    assert (error.status, document["status"], document["title"]) == (
        CODES[code][0],
        *CODES[code],
    )
    assert (document["type"], document["code"], document["detail"]) == (
        f"/docs#{code}",
        code,
        "What to do.",
    )
    assert document["request_id"] == "r-1"


def test_a_document_has_further_members_and_never_the_cause():
    error = ApiError("too_many_pixels", "Export it smaller.", cause="secret", limit=1, actual=2)
    document = error.problem("r-1")
    assert (document["limit"], document["actual"]) == (1, 2)
    assert "secret" not in str(document)


def test_a_refusal_may_have_a_more_exact_status_than_its_code():
    error = ApiError("bad_request", "Too long.", status=431)
    document = error.problem("r-1")
    assert (error.status, document["status"]) == (431, 431)
    assert document["title"] == "Request Header Fields Too Large"
    assert document["code"] == "bad_request"


@pytest.mark.parametrize("code", ["redis_unavailable", "storage_unavailable", "overloaded"])
def test_a_503_says_when_to_try_again(code):
    error = unavailable(code, "down", retry_after=3)
    assert (error.status, error.code, error.cause) == (503, code, "down")
    assert error.headers == {"Retry-After": "3"}
    assert "in 3 seconds" in error.detail
    assert "Nothing was stored" in error.detail


def test_a_slow_body_and_a_failure_keep_their_cause_for_the_log():
    assert (too_slow("head").status, too_slow("head").cause) == (408, "head")
    assert (failed("KeyError").status, failed("KeyError").cause) == (500, "KeyError")
    assert "KeyError" not in failed("KeyError").detail
