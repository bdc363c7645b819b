"""The causes of failures, from a store's answers and from broken connections."""

import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from urllib3 import HTTPHeaderDict
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ProtocolError, SSLError

from app.store.causes import NO_STORE, Kind, of_answer, of_exception, proves_s3

S3 = {"x-amz-request-id": "1"}


def of(status, code="", message="", **headers):
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>" if code else ""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return of_answer(status, HTTPHeaderDict(S3 | more), body.encode())


def at(seconds):
    """The Date of a store whose clock is that far from this machine's."""
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("status", "code", "cause"),
    [
        (403, "InvalidAccessKeyId", "wrong credentials: the access key is not known"),
        (403, "SignatureDoesNotMatch", "wrong credentials: the secret key does not match"),
        (400, "ExpiredToken", "expired credentials"),
        (403, "AccessDenied", "access denied"),
        (404, "NoSuchBucket", "no such bucket"),
        (403, "", "access denied"),
    ],
)
def test_a_failure_that_needs_a_person_has_its_cause_and_is_not_tried_again(status, code, cause):
    error = of(status, code)
    assert (error.cause, error.kind) == (cause, Kind.SETUP)
    assert error.final
    assert error.never_written


@pytest.mark.parametrize("code", ["RequestTimeTooSkewed", "AccessDenied", "SignatureDoesNotMatch"])
def test_a_clock_that_is_off_is_named_with_the_difference_whatever_the_code(code):
    error = of(403, code, Date=at(3600))
    assert error.cause.startswith("clock skew: 3")
    assert error.cause.endswith(" s behind the store's")
    assert of(403, code, Date=at(-3600)).cause.endswith(" s ahead of the store's")


def test_a_clock_that_is_nearly_right_is_not_the_cause():
    assert of(403, "AccessDenied", Date=at(30)).cause == "access denied"
    for unclear in ("yesterday", "Wed, 25 Nov 2020 16:41:40 -0000"):
        assert of(403, "AccessDenied", Date=unclear).cause == "access denied"


def test_the_right_region_is_named():
    right = "wrong region: the bucket is in eu-central-1"
    assert of(301, "PermanentRedirect", x_amz_bucket_region="eu-central-1").cause == right
    wrong = "the region is wrong; expecting 'eu-central-1'"
    assert of(400, "AuthorizationHeaderMalformed", wrong).cause == right
    aws = b"<Code>AuthorizationHeaderMalformed</Code><Region>eu-central-1</Region>"
    assert of_answer(400, HTTPHeaderDict(S3), aws).cause == right


def test_a_malformed_authorization_without_a_region_is_about_the_credentials():
    assert of(400, "AuthorizationHeaderMalformed").cause.startswith("wrong credentials")


@pytest.mark.parametrize(
    ("status", "code"),
    [(500, "InternalError"), (503, "SlowDown"), (400, "RequestTimeout"), (502, "")],
)
def test_a_passing_failure_is_tried_again_and_may_have_written_the_object(status, code):
    error = of(status, code)
    assert (error.cause, error.kind) == (f"status {status}", Kind.PASSING)
    assert not error.final
    assert not error.never_written


def test_an_answer_that_no_store_sent_is_recognised():
    page = {"Content-Type": "text/html"}
    assert of_answer(404, page, b"<h1>Not found</h1>").cause == NO_STORE
    assert of_answer(302, page, b"").cause == NO_STORE
    assert of_answer(502, page, b"<h1>Bad gateway</h1>").kind is Kind.PASSING
    assert of_answer(413, page, b"").kind is Kind.OBJECT
    https = b"Client sent an HTTP request to an HTTPS server."
    assert of_answer(400, page, https).cause == "plain HTTP on a TLS port"


@pytest.mark.parametrize("name", ["x-amz-cf-id", "x-amzn-requestid", "x-amz-apigw-id"])
def test_a_cdn_or_a_gateway_is_no_store(name):
    assert not proves_s3(HTTPHeaderDict({name: "1"}))


def test_a_missing_object_is_missing_only_where_a_store_says_so():
    assert of(404).missing
    assert of(404, "NoSuchKey").missing
    assert not of_answer(404, {}, b"").missing


def certificate_error(code):
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code = code
    return SSLError(error)


def tls_error(reason):
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return SSLError(error)


@pytest.mark.parametrize(
    ("error", "cause", "never_written"),
    [
        (NewConnectionError(None, "refused"), "connection refused", True),
        (ConnectTimeoutError(None, "late"), "timeout", True),
        (TimeoutError(), "timeout", False),
        (ProtocolError("Connection aborted.", TimeoutError("timed out")), "timeout", False),
        (ProtocolError("broken"), "connection broken", False),
        (ConnectionResetError(), "connection broken", False),
        (certificate_error(10), "TLS certificate not accepted: expired", True),
        (certificate_error(62), "TLS certificate not accepted: for another host name", True),
        (certificate_error(20), "TLS certificate not accepted: of an unknown authority", True),
        (tls_error("WRONG_VERSION_NUMBER"), "TLS on a plain port", True),
        (tls_error("BAD_RECORD_MAC"), "connection broken", False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_connection_has_its_cause(error, cause, never_written):
    found = of_exception(error)
    assert (found.cause, found.never_written) == (cause, never_written)
