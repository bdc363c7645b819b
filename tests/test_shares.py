"""How much a key may hold, which requests wait, and which one is granted next."""

import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from app.errors import ApiError
from app.shares import Shares

ROOT = Path(__file__).parents[1]
FOREVER = float("inf")


def refused(shares, key, amount=1, until=0.0):
    """The code with which a request is refused."""
    with pytest.raises(ApiError) as error, shares.taken(key, amount, until):
        pass
    return error.value.code


def until(condition):
    """Wait until the condition holds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Waiter:
    """A thread that takes an amount, sets ``entered``, and holds the amount until ``end()``."""

    def __init__(self, shares, key, amount=1, entered=None, wait=FOREVER):
        self.entered, self.error = threading.Event(), None
        self._end = threading.Event()
        before = shares.waiting
        self._thread = threading.Thread(
            target=self._run, args=(shares, key, amount, entered, wait), daemon=True
        )
        self._thread.start()
        until(lambda: self.entered.is_set() or shares.waiting > before or self.error)

    def _run(self, shares, key, amount, entered, wait):
        try:
            with shares.taken(key, amount, wait):
                if entered is not None:
                    entered.append(key)
                self.entered.set()
                self._end.wait(10)
        except ApiError as error:
            self.error = error.code

    def end(self):
        self._end.set()
        self._thread.join(10)
        assert not self._thread.is_alive()


@contextmanager
def waiters(shares, *keys, entered=None):
    """Start a waiter for each of these keys, in this order."""
    made = [Waiter(shares, key, entered=entered) for key in keys]
    try:
        yield made
    finally:
        for each in made:
            each.end()


def test_a_key_holds_no_more_than_its_share_and_others_have_the_rest():
    shares = Shares("seats", total=3, share=2)
    with shares.taken("a"), shares.taken("a"):
        assert refused(shares, "a") == "too_many_at_once"
        with shares.taken("b"):
            assert shares.in_use == 3
        assert shares.in_use == 2
    assert (shares.in_use, shares.waiting) == (0, 0)


def test_when_others_have_the_rest_the_service_is_full():
    shares = Shares("seats", total=3, share=2)
    with shares.taken("a"), shares.taken("a"), shares.taken("b"):
        assert refused(shares, "b") == "overloaded"
        assert refused(shares, "c") == "overloaded"


def test_a_refusal_says_when_to_come_again_and_what_was_in_use():
    shares = Shares("seats", total=3, share=2)
    with shares.taken("a", 2), pytest.raises(ApiError) as error, shares.taken("a"):
        pass
    assert error.value.status == 429
    assert int(error.value.headers["Retry-After"]) >= 1
    assert error.value.headers["Retry-After"] in error.value.detail
    assert error.value.cause == "2 of 2 seats are of this key"


def test_a_request_for_more_than_the_share_counts_as_the_share():
    shares = Shares("pixels", total=50, share=40)
    with shares.taken("a", 1000):
        assert shares.in_use == 40
        with shares.taken("b", 10):
            assert refused(shares, "b", 1) == "overloaded"
        assert refused(shares, "b", 1000) == "overloaded"
        assert refused(shares, "a", 1) == "too_many_at_once"


def test_a_waiting_request_is_granted_when_its_own_key_gives_something_back():
    shares = Shares("seats", total=9, share=1)
    with ExitStack() as held:
        held.enter_context(shares.taken("a"))
        with waiters(shares, "a") as [waiter]:
            assert shares.waiting == 1
            assert not waiter.entered.is_set()
            held.close()
            assert waiter.entered.wait(10)
    assert (shares.in_use, shares.waiting) == (0, 0)


def test_queues_take_turns_however_long_one_of_them_is():
    shares = Shares("seats", total=1, share=1)
    entered = []
    with ExitStack() as held:
        held.enter_context(shares.taken("a"))
        with waiters(shares, *"aaaabcb", entered=entered) as waiting:
            held.close()
            for number in range(1, 8):
                until(lambda number=number: len(entered) == number)
                [now] = [each for each in waiting if each.entered.is_set()]
                waiting.remove(now)
                now.end()
    assert "".join(entered) == "abcabaa"


def test_a_small_request_overtakes_a_large_one_that_finds_no_room_yet():
    shares = Shares("pixels", total=10, share=10)
    with ExitStack() as held:
        held.enter_context(shares.taken("a", 4))
        large = Waiter(shares, "b", 7)
        with shares.taken("c", 2):
            assert not large.entered.is_set()
        held.close()
        assert large.entered.wait(10)
        large.end()


def test_within_a_key_a_small_request_overtakes_a_large_one_too():
    shares = Shares("pixels", total=10, share=8)
    with shares.taken("a", 4):
        large = Waiter(shares, "a", 7)
        with shares.taken("a", 1):
            assert not large.entered.is_set()
    assert large.entered.wait(10)
    large.end()


def test_a_large_request_that_has_waited_for_long_holds_up_its_key_and_no_other():
    shares = Shares("pixels", total=20, share=8, patience=0)
    with shares.taken("a", 4):
        large = Waiter(shares, "a", 7)
        assert refused(shares, "a", 1) == "too_many_at_once"
        with shares.taken("b", 8):
            assert not large.entered.is_set()
    assert large.entered.wait(10)
    large.end()


def test_a_large_request_that_has_waited_for_long_behind_other_keys_holds_up_all():
    shares = Shares("pixels", total=10, share=8, patience=0)
    with shares.taken("a", 4):
        large = Waiter(shares, "b", 7)
        assert refused(shares, "c", 1) == "overloaded"
        assert not large.entered.is_set()
    assert large.entered.wait(10)
    large.end()


def test_requests_of_a_key_that_have_room_are_granted_in_their_order():
    shares = Shares("seats", total=2, share=1)
    with ExitStack() as held:
        held.enter_context(shares.taken("a"))
        first, second = Waiter(shares, "a"), Waiter(shares, "a")
        held.close()
        assert first.entered.wait(10)
        assert not second.entered.is_set()
        first.end()
        assert second.entered.wait(10)
        second.end()


def test_a_request_that_gives_up_leaves_nothing_behind():
    shares = Shares("seats", total=2, share=1)
    with shares.taken("a"):
        impatient = Waiter(shares, "a", wait=time.monotonic() + 0.1)
        patient = Waiter(shares, "a")
        until(lambda: impatient.error)
        assert impatient.error == "too_many_at_once"
        assert shares.waiting == 1
    assert patient.entered.wait(10)
    patient.end()
    assert (shares.in_use, shares.waiting) == (0, 0)


def test_a_request_that_is_interrupted_while_it_waits_leaves_nothing_behind(monkeypatch):
    shares = Shares("seats", total=1, share=1)

    class Interrupted(BaseException):
        pass

    def interrupt(*_):
        raise Interrupted

    with shares.taken("a"):
        monkeypatch.setattr(threading.Event, "wait", interrupt)
        with pytest.raises(Interrupted), shares.taken("a", 1, FOREVER):
            pass
        monkeypatch.undo()
        assert shares.waiting == 0
    assert shares.in_use == 0


def test_an_error_gives_back_what_was_held():
    shares = Shares("seats", total=1, share=1)
    with pytest.raises(RuntimeError), shares.taken("a"):
        raise RuntimeError
    with shares.taken("b"):
        assert shares.in_use == 1


def test_a_hundred_threads_of_ten_keys_all_get_their_turn_within_the_bounds():
    shares = Shares("seats", total=4, share=2)
    lock, now, most = threading.Lock(), dict.fromkeys(range(10), 0), [0, 0]

    def work(number):
        key = number % 10
        for _ in range(20):
            with shares.taken(str(key), 1, FOREVER):
                with lock:
                    now[key] += 1
                    most[:] = max(most[0], now[key]), max(most[1], sum(now.values()))
                with lock:
                    now[key] -= 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(100)]
    [each.start() for each in threads]
    [each.join(60) for each in threads]
    assert not any(each.is_alive() for each in threads)
    assert most[0] <= 2
    assert most[1] <= 4
    assert (shares.in_use, shares.waiting, shares._held) == (0, 0, {})


GREENLETS = """
from gevent import monkey
monkey.patch_all()
import gevent
from app.errors import ApiError
from app.shares import Shares

shares, order = Shares("seats", total=2, share=1), []

def work(key, until):
    with shares.taken(key, until=until):
        order.append(key)
        gevent.sleep(0.01)

jobs = [gevent.spawn(work, key, float("inf")) for key in "aaaabb"]
killed = gevent.spawn(work, "a", float("inf"))
gevent.sleep(0)
killed.kill()
gevent.joinall(jobs, timeout=10)
assert "".join(order) == "ababaa", order
with shares.taken("a"):
    refused = gevent.spawn(work, "a", 0.0)
    refused.join(10)
assert refused.exception.code == "too_many_at_once"
assert (shares.in_use, shares.waiting) == (0, 0)
"""


def test_greenlets_wait_as_threads_do():
    done = subprocess.run(
        [sys.executable, "-c", GREENLETS],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    # stderr always has a traceback: gevent prints that of the greenlet whose request is refused.
    assert done.returncode == 0, done.stderr
