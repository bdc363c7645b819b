"""Every error, in a view or before it, becomes a problem document."""

import logging
import uuid
from types import SimpleNamespace

import pytest
from flask import Flask, abort, g, redirect

from app.errors import ApiError
from app.web import problems


@pytest.fixture
def client():
    app = Flask(__name__)
    problems.init_app(app)

    @app.get("/refused")
    def refused():
        error = ApiError("rate_limited", "Wait.", headers={"Retry-After": "9"}, cause="of the log")
        error.extra["limit"] = 1
        raise error

    @app.get("/foreign")
    def foreign():
        raise ApiError("bad_request", "Grüße")

    @app.get("/mistake")
    def mistake():
        raise KeyError("secret")

    @app.get("/moved")
    def moved():
        return redirect("/elsewhere")

    @app.get("/aborted")
    def aborted():
        abort(418)

    @app.get("/fine")
    def fine():
        g.rate = SimpleNamespace(headers=lambda: {"RateLimit": '"requests";r=1;t=2'})
        return "fine", {"Cache-Control": "max-age=5"}

    return app.test_client()


def test_a_refusal_is_a_problem_document(client):
    answer = client.get("/refused", headers={"X-Request-Id": "r-1"})
    assert answer.status_code == 429
    assert answer.content_type == "application/problem+json"
    assert answer.headers["Retry-After"] == "9"
    assert answer.json == {
        "type": "/docs#rate_limited",
        "title": "Too many uploads",
        "status": 429,
        "detail": "Wait.",
        "code": "rate_limited",
        "request_id": "r-1",
        "limit": 1,
    }


def test_a_problem_document_is_always_ascii(client):
    answer = client.get("/foreign")
    assert answer.data.isascii()
    assert answer.json["detail"] == "Grüße"


@pytest.mark.parametrize("sent", ["r-1", "A.b_c-9", "x" * 128])
def test_a_sane_request_id_is_kept(client, sent):
    answer = client.get("/refused", headers={"X-Request-Id": sent})
    assert answer.json["request_id"] == answer.headers["X-Request-Id"] == sent


@pytest.mark.parametrize("sent", [None, "", "a b", "x" * 129, "ü", 'a"b'])
def test_any_other_request_id_is_replaced_by_a_new_one(client, sent):
    headers = {} if sent is None else {"X-Request-Id": sent}
    first, second = (client.get("/refused", headers=headers) for _ in range(2))
    assert uuid.UUID(first.json["request_id"]).version == 4
    assert first.json["request_id"] == first.headers["X-Request-Id"]
    assert first.json["request_id"] != second.json["request_id"]


def test_the_cause_of_a_refusal_goes_to_the_log_alone(client, caplog):
    answer = client.get("/refused")
    assert "of the log" in caplog.text
    assert "of the log" not in answer.text


def test_an_unexpected_error_is_a_500_whose_details_are_only_logged(client, caplog):
    answer = client.get("/mistake")
    assert (answer.status_code, answer.json["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    [record] = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert record.exc_info[0] is KeyError


def test_an_unknown_address_and_a_wrong_method_have_codes(client):
    assert client.get("/nothing").json["code"] == "not_found"
    answer = client.post("/refused")
    assert (answer.status_code, answer.json["code"]) == (405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"
    assert "GET, HEAD, OPTIONS" in answer.json["detail"]


def test_what_flask_refuses_by_itself_is_a_bad_request(client):
    answer = client.get("/aborted")
    assert (answer.status_code, answer.json["code"]) == (400, "bad_request")


def test_a_redirect_is_not_an_error(client):
    assert client.get("/moved").status_code == 302


def test_every_answer_has_the_common_headers_unless_it_sets_its_own(client):
    for path in ("/fine", "/refused", "/mistake", "/nothing", "/moved"):
        answer = client.get(path)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Request-Id"]
        caching = "max-age=5" if path == "/fine" else "no-store"
        assert answer.headers["Cache-Control"] == caching


def test_the_rate_goes_with_the_answer_where_it_is_known(client):
    assert client.get("/fine").headers["RateLimit"] == '"requests";r=1;t=2'
    assert "RateLimit" not in client.get("/nothing").headers
