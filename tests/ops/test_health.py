"""/healthz and /readyz, and the causes that an operator reads."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask
from redis import exceptions

from app.ops import health
from app.ops.health import Readiness


@pytest.fixture
def readiness(redis, store):
    return Readiness(redis, store)


@pytest.fixture
def client(readiness):
    app = Flask(__name__)
    app.register_blueprint(health.blueprint)
    app.extensions["readiness"] = readiness
    return app.test_client()


def test_healthz_is_200_even_without_redis(client, server):
    server.connected = False
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json) == (200, {"status": "ok"})


def test_readyz_is_200_when_redis_and_the_store_work(client):
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json == {"status": "ready", "checks": {"redis": "ok", "storage": "ok"}}


def test_readyz_names_what_is_wrong_with_the_store(client, store):
    store.cause = "no such bucket"
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json == {
        "status": "unavailable",
        "checks": {"redis": "ok", "storage": "no such bucket"},
    }


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (exceptions.AuthenticationError("x"), "authentication failed"),
        (exceptions.NoPermissionError("x"), "no permission"),
        (exceptions.ReadOnlyError("x"), "read-only"),
        (exceptions.OutOfMemoryError("x"), "out of memory"),
        (exceptions.BusyLoadingError("x"), "loading"),
        (exceptions.TimeoutError("x"), "timeout"),
        (exceptions.ConnectionError("secret-host refused"), "connection refused or broken"),
        (ValueError("x"), "ValueError"),
    ],
)
def test_why_redis_cannot_be_written_is_named_without_its_address(redis, store, error, cause):
    def fail(*_, **__):
        raise error

    redis.set = fail
    assert Readiness(redis, store).checks() == {"redis": cause, "storage": "ok"}


def test_an_unexpected_error_in_a_check_is_a_cause(redis, store):
    store.ready = lambda: {}["mistake"]
    assert Readiness(redis, store).checks()["storage"] == "KeyError"


def test_a_check_that_hangs_is_a_timeout_and_does_not_delay_the_other(redis, store):
    hung = threading.Event()
    store.ready = lambda: hung.wait(10) and None
    assert Readiness(redis, store, seconds=0.05).checks() == {"redis": "ok", "storage": "timeout"}
    hung.set()


def test_no_answer_is_older_than_its_request(redis, store):
    causes = []
    store.ready = lambda: causes[0] if causes else None
    readiness = Readiness(redis, store)
    assert readiness.checks()["storage"] == "ok"
    causes.append("connection refused")
    assert readiness.checks()["storage"] == "connection refused"
    causes.clear()
    assert readiness.checks()["storage"] == "ok"


def test_many_requests_at_once_share_a_check_and_others_wait_their_turn(redis, store):
    asked = []
    store.ready = lambda: asked.append(1)
    readiness = Readiness(redis, store)
    begun = time.monotonic()
    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(lambda _: readiness.checks(), range(300)))
    assert answers == [{"redis": "ok", "storage": "ok"}] * 300
    assert len(asked) <= (time.monotonic() - begun) / 0.1 + 1


def test_requests_that_wait_for_a_check_that_hangs_are_answered_in_time(redis, store):
    hung = threading.Event()
    store.ready = lambda: hung.wait(10) and None
    readiness = Readiness(redis, store, seconds=0.3)
    begun = time.monotonic()
    with ThreadPoolExecutor(9) as pool:
        answers = list(pool.map(lambda _: readiness.checks()["storage"], range(9)))
    assert time.monotonic() - begun < 1
    assert answers == ["timeout"] * 9
    hung.set()


def test_a_process_that_is_ending_is_alive_but_not_ready(client, readiness):
    readiness.draining = True
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json["status"]) == (503, "unavailable")
    assert answer.json["checks"] == {"redis": "ok", "storage": "ok"}
    assert client.get("/healthz").status_code == 200


def test_the_check_of_redis_leaves_only_keys_that_expire(readiness, redis):
    readiness.checks()
    assert 0 < redis.pttl("ready:check") <= 1000
