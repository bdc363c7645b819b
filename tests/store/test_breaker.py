"""When the breaker opens, lets a probe through, and closes."""

import pytest

from app.store.breaker import Breaker


@pytest.fixture
def breaker(clock):
    return Breaker(clock)


def test_a_store_that_was_never_seen_is_looked_at_first(breaker):
    assert not breaker.fresh()
    assert not breaker.open


def test_a_store_that_just_worked_is_not_looked_at(breaker, clock):
    breaker.succeeded()
    assert breaker.fresh()
    clock.now += 11
    assert not breaker.fresh()


def test_three_failures_in_a_row_open_the_breaker(breaker):
    breaker.succeeded()
    for opened in (False, False, True):
        breaker.failed("timeout")
        assert breaker.open is opened
    assert breaker.cause == "timeout"


def test_a_success_between_failures_keeps_it_closed(breaker):
    for _ in range(5):
        breaker.failed("timeout")
        breaker.succeeded()
    assert not breaker.open


def test_one_request_in_two_seconds_may_probe(breaker, clock):
    for _ in range(3):
        breaker.failed("timeout")
    assert not breaker.may_probe()
    clock.now += 2
    assert [breaker.may_probe() for _ in range(3)] == [True, False, False]


def test_a_success_closes_the_breaker(breaker):
    for _ in range(3):
        breaker.failed("timeout")
    breaker.succeeded()
    assert breaker.fresh()


def test_failures_are_forgotten_after_a_minute_without_another(breaker, clock):
    for _ in range(3):
        breaker.failed("timeout")
    clock.now += 59
    assert breaker.open
    clock.now += 1
    assert not breaker.open
