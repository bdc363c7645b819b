"""Answers to broken HTTP; what the worker does with connections is in tests/system."""

import pytest
from gunicorn.http import errors

from app.intake import broken
from app.intake.body import refusal_of
from app.intake.connection import HeadTooSlow

SECRET = "b3c0ffee" * 8


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (HeadTooSlow(), 408, "request_timeout"),
        (errors.LimitRequestLine(1, 1), 414, "bad_request"),
        (errors.LimitRequestHeaders("long"), 431, "bad_request"),
        (errors.ExpectationFailed("x"), 417, "bad_request"),
        (errors.InvalidRequestLine("x"), 400, "bad_request"),
        (errors.InvalidHeader("x"), 400, "bad_request"),
        (errors.UnsupportedTransferCoding("x"), 400, "bad_request"),
        (errors.InvalidChunkSize(b"x"), 400, "bad_request"),
        (RuntimeError("x"), 500, "internal_error"),
    ],
)
def test_each_kind_of_broken_http_has_its_answer(error, status, code):
    refusal = broken.error_of(error)
    assert (refusal.status, refusal.code) == (status, code)
    assert refusal.problem("id")["status"] == status
    assert refusal.cause == type(error).__name__


def test_the_readable_parts_of_a_broken_head_go_to_the_application():
    head = (
        f"POST /upload/image?x-api-key={SECRET} HTTP/1.1\r\nHost: x\r\nx-request-id: mine\r\n"
        f"Origin: https://cms.example\r\nx-api-key: {SECRET}\r\nX: "
    )
    refusal = broken.error_of(HeadTooSlow())
    environ = broken.environ_of(head.encode(), ("192.0.2.1", 1234), refusal)
    assert environ["REQUEST_METHOD"] == "POST"
    assert environ["PATH_INFO"] == "/upload/image"
    assert environ["HTTP_X_REQUEST_ID"] == "mine"
    assert environ["HTTP_ORIGIN"] == "https://cms.example"
    assert environ["REMOTE_ADDR"] == "192.0.2.1"
    assert SECRET not in repr(environ)
    assert refusal_of(environ) is refusal


@pytest.mark.parametrize("head", [b"", b"\x16\x03\x01", b"post / HTTP/1.1\r\n", b"A" * 40])
def test_nothing_is_read_from_bytes_that_are_no_head(head):
    environ = broken.environ_of(head, "", broken.error_of(HeadTooSlow()))
    assert (environ["REQUEST_METHOD"], environ["PATH_INFO"]) == ("-", "/")
    assert environ["REMOTE_ADDR"] == ""


def test_an_answer_goes_out_whole_and_closes_the_connection():
    def application(environ, start_response):
        start_response("408 Request Timeout", [("X-Request-Id", "mine"), ("Content-Length", "2")])
        return [b"n", b"o"]

    head, _, body = broken.answer(application, {}).partition(b"\r\n\r\n")
    status, date, *headers = head.split(b"\r\n")
    assert status == b"HTTP/1.1 408 Request Timeout"
    assert date.startswith(b"Date: ")
    assert headers == [b"Connection: close", b"X-Request-Id: mine", b"Content-Length: 2"]
    assert body == b"no"
