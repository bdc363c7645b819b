"""The client of Redis: made without connecting, bounded in time, its failures all one answer."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from redis import exceptions

from app.config import Config
from app.errors import ApiError
from app.records import client
from app.records.client import (
    CALLS_AT_ONCE,
    connect,
    is_wrong_type,
    redis_errors,
    run_script,
)

SUM = "return tonumber(redis.call('GET', KEYS[1])) + tonumber(ARGV[1])"


def options(url, **settings):
    """What a connection of the client for ``url`` is made with."""
    return connect(Config(redis_url=url, **settings)).connection_pool.connection_kwargs


def test_a_client_waits_half_a_second_and_tries_twice():
    found = options("redis://127.0.0.1:1/3")
    assert (found["host"], found["port"], found["db"]) == ("127.0.0.1", 1, 3)
    assert found["socket_timeout"] == found["socket_connect_timeout"] == 0.5
    assert found["retry"].get_retries() == 1


def test_a_socket_file_and_credentials_in_the_address_are_taken():
    assert options("unix:///run/redis.sock")["path"] == "/run/redis.sock"
    found = options("redis://uploader:p%40ss@redis.example.org:6379/0")
    assert (found["username"], found["password"]) == ("uploader", "p@ss")


def test_certificates_are_checked_unless_a_setting_says_not_to():
    assert "ssl_cert_reqs" not in options("rediss://redis.example.org:6379/0")
    found = options("rediss://redis.example.org:6379/0", redis_tls_verify="no")
    assert (found["ssl_cert_reqs"], found["ssl_check_hostname"]) == ("none", False)


def test_sentinel_is_asked_for_the_named_service_with_the_credentials_of_the_address():
    found = connect(Config(redis_url="redis+sentinel://user:secret@one:26379,two/mymaster/2"))
    pool = found.connection_pool
    assert pool.service_name == "mymaster"
    asked = [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]
    assert [(each["host"], each["port"]) for each in asked] == [("one", 26379), ("two", 26379)]
    found = pool.connection_kwargs
    assert (found["username"], found["password"], found["db"]) == ("user", "secret", 2)


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "redis+cluster://127.0.0.1:1"])
def test_a_client_is_made_while_redis_is_down_and_fails_only_when_it_is_used(url):
    made = connect(Config(redis_url=url))
    with pytest.raises(ApiError) as refused, redis_errors():
        made.get("x")
    assert refused.value.code == "redis_unavailable"


def test_calls_to_a_cluster_that_is_down_do_not_wait_for_each_other(monkeypatch):
    tries = []

    def unreachable(**_):
        tries.append(1)
        time.sleep(0.1)
        raise exceptions.RedisClusterException("no nodes")

    def call(_):
        with pytest.raises(ApiError), redis_errors():
            cluster.get("x")

    monkeypatch.setattr(client, "RedisCluster", unreachable)
    cluster = connect(Config(redis_url="redis+cluster://127.0.0.1:1"))
    with ThreadPoolExecutor(CALLS_AT_ONCE) as pool:
        list(pool.map(call, range(CALLS_AT_ONCE)))
    assert len(tries) <= 3, "one try, and few for calls that began later"
    call(None)
    assert len(tries) <= 4, "the next call tries again"


@pytest.mark.parametrize(
    "error",
    [
        exceptions.ConnectionError("refused"),
        exceptions.TimeoutError("slow"),
        exceptions.ResponseError("OOM command not allowed"),
        exceptions.ReadOnlyError("You can't write against a read only replica."),
        exceptions.NoPermissionError("no rights"),
        exceptions.RedisClusterException("no nodes"),
        OSError("broken"),
        TimeoutError(),
        ValueError("an answer that cannot be read"),
    ],
)
def test_every_failure_of_redis_is_the_same_503_with_its_cause_for_the_log(error):
    with pytest.raises(ApiError) as refused, redis_errors():
        raise error
    assert (refused.value.status, refused.value.code) == (503, "redis_unavailable")
    assert refused.value.cause == f"{type(error).__name__}: {error}"
    assert refused.value.headers["Retry-After"]


def test_our_own_mistakes_and_refusals_are_no_failures_of_redis():
    for error in (KeyError("x"), ApiError("rate_limited", "Wait.")):
        with pytest.raises(type(error)), redis_errors():
            raise error


def test_calls_at_once_are_bounded():
    passed = threading.Event()

    def call():
        with redis_errors():
            passed.set()

    with ExitStack() as calls:
        first = ExitStack()
        calls.enter_context(first)
        first.enter_context(redis_errors())
        for _ in range(CALLS_AT_ONCE - 1):
            calls.enter_context(redis_errors())
        thread = threading.Thread(target=call)
        thread.start()
        assert not passed.wait(0.05)
        first.close()
        assert passed.wait(5)
    thread.join()


def test_a_failure_gives_its_turn_to_the_next():
    for _ in range(CALLS_AT_ONCE + 1):
        with pytest.raises(ApiError), redis_errors():
            raise OSError


def test_a_script_runs_at_once_or_as_one_step_of_a_pipeline(redis):
    redis.set("{a}n", 40)
    assert run_script(redis, SUM, ["{a}n"], 2) == 42
    with redis.pipeline(transaction=False) as pipe:
        run_script(pipe, SUM, ["{a}n"], 1)
        pipe.get("{a}n")
        assert pipe.execute() == [41, b"40"]


def test_a_value_of_another_type_is_distinguished_from_a_failure(redis):
    redis.set("text", "x")
    with pytest.raises(exceptions.ResponseError) as error:
        redis.hgetall("text")
    assert is_wrong_type(error.value)
    assert not is_wrong_type({b"a": b"b"})
    with pytest.raises(exceptions.ConnectionError):
        is_wrong_type(exceptions.ConnectionError("down"))
