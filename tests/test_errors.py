"""One refusal, the same for every server: its document, its headers, and what it never says."""

import json
import uuid

import pytest

from app.errors import (
    CODES,
    ApiError,
    common_headers,
    failed,
    problem_answer,
    request_id,
    too_slow,
    unavailable,
)


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


def test_further_members_are_told_and_the_cause_is_not():
    error = ApiError("too_many_pixels", "Export it smaller.", cause="secret", limit=1, actual=2)
    status, _, body = problem_answer(error, "r-1")
    assert status == 400
    assert json.loads(body) == error.problem("r-1")
    assert (json.loads(body)["limit"], json.loads(body)["actual"]) == (1, 2)
    assert b"secret" not in body


def test_an_answer_has_the_common_headers_and_its_own():
    _, headers, _ = problem_answer(unavailable("overloaded", "full", retry_after=7), "r-1")
    assert headers == {
        "X-Request-Id": "r-1",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
        "Content-Type": "application/problem+json",
        "Retry-After": "7",
    }
    assert common_headers("r-1").items() <= headers.items()


def test_a_body_is_ascii_whatever_a_sentence_holds():
    _, _, body = problem_answer(ApiError("bad_request", "Grüße"), "r-1")
    assert body.isascii()
    assert json.loads(body)["detail"] == "Grüße"


def test_http_may_have_a_closer_status_than_the_code():
    status, _, body = problem_answer(ApiError("bad_request", "Too long.", status=431), "r-1")
    document = json.loads(body)
    assert (status, document["status"]) == (431, 431)
    assert document["title"] == "Request Header Fields Too Large"
    assert document["code"] == "bad_request"


@pytest.mark.parametrize("code", ["redis_unavailable", "storage_unavailable", "overloaded"])
def test_what_is_unavailable_says_when_to_come_back(code):
    error = unavailable(code, "down", retry_after=3)
    assert (error.status, error.code, error.cause) == (503, code, "down")
    assert error.headers == {"Retry-After": "3"}
    assert "in 3 seconds" in error.detail
    assert "Nothing was stored" in error.detail


def test_a_slow_body_and_a_failure_keep_their_cause_for_the_log():
    assert (too_slow("head").status, too_slow("head").cause) == (408, "head")
    assert (failed("KeyError").status, failed("KeyError").cause) == (500, "KeyError")
    assert "KeyError" not in failed("KeyError").detail


@pytest.mark.parametrize("given", ["r-1", "A.b_c-9", "x" * 128])
def test_a_sane_request_id_is_kept(given):
    assert request_id(given) == given


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, "r-1\n", "ü", 'a"b'])
def test_any_other_is_replaced_by_a_new_one(given):
    made = request_id(given)
    assert uuid.UUID(made).version == 4
    assert made != request_id(given)
