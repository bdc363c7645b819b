from urllib.parse import unquote

import pytest

from app.config import Config
from app.errors import ApiError
from app.store.bucket import Breaker, ImageStore, encode_filename


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


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


class StoreThatAnswers(ImageStore):
    """A store whose bucket is there."""

    def check(self):
        return None


def test_a_store_that_answers_and_cannot_be_written_is_refused_before_the_body(clock):
    store = StoreThatAnswers(Config())
    store.breaker = Breaker(clock)
    for _ in range(3):
        store.ensure_open()
        store.breaker.failed("disk full")
    with pytest.raises(ApiError) as refused:
        store.ensure_open()
    assert refused.value.code == "storage_unavailable"
    clock.now += 2
    store.ensure_open()  # the probe, which is to put


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("photo.png", "photo.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\photo.png", "photo.png"),
        ("Über uns.png", "%C3%9Cber%20uns.png"),
        ("a\r\nb", "a%0D%0Ab"),
        ("dir/", ""),
        ("\udcff", "%3F"),
    ],
)
def test_the_last_path_component_is_percent_encoded(sent, stored):
    assert encode_filename(sent) == stored


@pytest.mark.parametrize("character", ["a", "é", "漢", "😀"])
def test_a_long_name_is_cut_between_characters(character):
    encoded = encode_filename(character * 300)
    assert 243 < len(encoded) <= 255
    assert set(unquote(encoded)) == {character}
