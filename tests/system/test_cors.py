"""Requests of browsers from other origins (CORS)."""

import pytest

from tests.system.stack import HTTP

ORIGIN = "https://cms.example.org"


@pytest.fixture(scope="module")
def cross_origin(make_service, valkey, seaweedfs, bucket):
    settings = seaweedfs.settings(bucket)
    return make_service(valkey.url, settings, CORS_ORIGINS=f"{ORIGIN}, http://localhost:3000")


def preflight(service, origin):
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "accept,cache-control,idempotency-key,prefer,"
        "x-api-key,x-request-id,x-requested-with",
    }
    return HTTP.request("OPTIONS", f"{service.url}/upload/image", headers=headers)


def test_a_preflight_needs_no_key(cross_origin):
    answer = preflight(cross_origin, ORIGIN)
    assert answer.status == 200
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    allowed = answer.headers["Access-Control-Allow-Headers"].lower()
    assert all(name in allowed for name in ("x-api-key", "idempotency-key", "prefer"))
    assert all(name in allowed for name in ("accept", "cache-control", "x-requested-with"))


def test_an_origin_that_is_named_in_the_setting_can_read_refusals(cross_origin):
    answer = cross_origin.upload(b"x", None, Origin=ORIGIN)
    assert answer.status == 401
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    exposed = answer.headers["Access-Control-Expose-Headers"]
    assert all(name in exposed for name in ("X-Request-Id", "Retry-After", "RateLimit"))
    assert answer.headers["Vary"] == "Origin"


@pytest.mark.parametrize("origin", ["https://cms.example.org.evil.example", "null"])
def test_other_origins_are_not_allowed(cross_origin, origin):
    for answer in (
        preflight(cross_origin, origin),
        cross_origin.upload(b"x", None, Origin=origin),
    ):
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert answer.headers["Vary"] == "Origin"


def test_without_the_setting_no_origin_is_allowed(service):
    assert "Access-Control-Allow-Origin" not in preflight(service, ORIGIN).headers
