"""The pool of buffers: its limit, the share of each key, and bodies that wait for each other."""

import threading
import time
import tracemalloc

import pytest

from app.errors import ApiError
from app.intake.buffers import BufferPool


def test_buffers_are_reused():
    pool = BufferPool(100_000_000)
    first = pool.take(5_000_000)
    assert len(first) >= 5_000_000
    pool.give_back(first)
    assert pool.take(4_900_000) is first
    assert pool.take(4_900_000) is not first


def test_a_buffer_is_not_much_larger_than_was_asked_for():
    pool = BufferPool(2**30)
    for size in (1, 70_000, 1_000_000, 5_000_001, 15_730_000):
        assert size <= len(pool.take(size)) <= size * 1.07 + 65536


def test_a_large_buffer_is_not_given_to_a_small_body():
    pool = BufferPool(2**30)
    pool.give_back(pool.take(15_000_000))
    assert len(pool.take(100_000)) < 200_000


def test_the_pool_counts_what_is_in_use_and_refuses_beyond_its_limit():
    pool = BufferPool(33 * 1024 * 1024, wait=0)
    held = [pool.take(15 * 1024 * 1024, key) for key in "ab"]
    assert pool.in_use == sum(map(len, held))
    with pytest.raises(ApiError) as raised:
        pool.take(15 * 1024 * 1024, "c")
    assert (raised.value.status, raised.value.code) == (503, "overloaded")
    assert raised.value.headers["Retry-After"]
    assert pool.in_use == sum(map(len, held))
    pool.give_back(held.pop())
    pool.take(15 * 1024 * 1024)


def test_kept_buffers_and_those_in_use_are_together_within_the_limit():
    limit = 32 * 1024 * 1024
    pool = BufferPool(limit)
    tracemalloc.start()
    held = [pool.take(15_000_000, key) for key in "ab"]
    pool.give_back(held.pop())
    held.append(pool.take(16_500_000, "b"))  # the one that was kept is too small
    assert tracemalloc.get_traced_memory()[0] <= limit
    tracemalloc.stop()


def test_a_buffer_grows_keeps_its_bytes_and_counts_once():
    pool = BufferPool(10_000_000, wait=0)
    buffer = pool.take(65536)
    buffer[:5] = b"hello"
    buffer = pool.grow(buffer, 9_000_000)
    assert len(buffer) >= 9_000_000
    assert buffer[:5] == b"hello"
    assert pool.in_use == len(buffer)
    with pytest.raises(ApiError):
        pool.grow(buffer, 20_000_000)
    assert pool.in_use == len(buffer)
    pool.give_back(buffer)
    assert pool.in_use == 0


def test_one_key_leaves_an_eighth_of_the_room_to_others():
    pool = BufferPool(128 * 1024 * 1024, wait=0)
    held = [pool.take(15 * 1024 * 1024, "greedy") for _ in range(7)]
    with pytest.raises(ApiError) as raised:
        pool.take(15 * 1024 * 1024, "greedy")
    assert (raised.value.status, raised.value.code) == (429, "too_many_at_once")
    held[0] = pool.grow(held[0], 31 * 1024 * 1024)
    held.append(pool.take(15 * 1024 * 1024, "greedy"))
    with pytest.raises(ApiError) as raised:
        pool.grow(held[1], 31 * 1024 * 1024)
    assert raised.value.code == "too_many_at_once"
    pool.take(15 * 1024 * 1024, "other")
    with pytest.raises(ApiError) as raised:
        pool.take(15 * 1024 * 1024, "greedy")
    assert (raised.value.status, raised.value.code) == (503, "overloaded")
    pool.give_back(held.pop())
    pool.take(15 * 1024 * 1024, "greedy")


def test_one_body_always_has_room_however_small_the_limit():
    pool = BufferPool(16 * 1024 * 1024, wait=0)
    buffer = pool.take(64 * 1024, "key")
    assert len(pool.grow(buffer, 15 * 1024 * 1024 + 100_000)) > 15 * 1024 * 1024


def test_a_pool_to_which_all_was_given_back_remembers_no_key():
    pool = BufferPool(2**30)
    for buffer in [pool.grow(pool.take(70_000, str(number)), 200_000) for number in range(50)]:
        pool.give_back(buffer)
    assert (pool.in_use, pool._held, pool._owners) == (0, {}, {})


def test_an_idle_pool_holds_one_large_buffer():
    pool = BufferPool(2**30)
    for buffer in [pool.take(15 * 1024 * 1024) for _ in range(8)]:
        pool.give_back(buffer)
    assert pool.in_use == 0
    pool.take(15 * 1024 * 1024)
    assert sum(map(len, pool._idle)) <= 16 * 1024 * 1024


def test_threads_that_take_and_give_back_leave_nothing_in_use():
    pool = BufferPool(2**30)

    def work():
        for size in (100_000, 1_000_000, 300_000) * 20:
            buffer = pool.take(size)
            buffer[0] = 1
            pool.give_back(buffer)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pool.in_use == 0


def test_a_body_for_which_there_is_no_room_waits_until_another_ends():
    pool = BufferPool(16 * 1024 * 1024, wait=60)
    held = pool.take(15_000_000)
    waiting = threading.Thread(target=pool.take, args=(15_000_000,))
    waiting.start()
    pool.give_back(held)
    waiting.join(60)
    assert not waiting.is_alive()
    assert pool.in_use >= 15_000_000


def test_a_body_waits_no_longer_when_another_grows_without_being_counted():
    pool = BufferPool(4 * 1024 * 1024, wait=60)
    growing = pool.take(2 * 1024 * 1024, "one")
    pool.take(2 * 1024 * 1024, "another")
    waiting = threading.Thread(target=pool.take, args=(1024 * 1024, "a third"), daemon=True)
    waiting.start()
    while not pool._lock._waiters:
        time.sleep(0.001)
    pool.grow(growing, 3 * 1024 * 1024)
    waiting.join(5)
    assert not waiting.is_alive()


def test_a_body_larger_than_all_buffers_together_does_not_wait():
    with pytest.raises(ApiError) as raised:
        BufferPool(1_000_000, wait=600).take(2_000_000)
    assert raised.value.code == "overloaded"


def test_bodies_that_have_half_arrived_do_not_wait_for_each_other():
    pool = BufferPool(48 * 1024 * 1024, wait=60)
    ended = []

    def come(each):
        whole = pool.grow(each, 15 * 1024 * 1024)
        ended.append(len(whole))
        pool.give_back(whole)

    half = [pool.take(7 * 1024 * 1024) for _ in range(6)]
    bodies = [threading.Thread(target=come, args=(each,)) for each in half]
    for body in bodies:
        body.start()
    for body in bodies:
        body.join(60)
    assert len(ended) == len(half)
    assert pool.in_use == 0


def test_one_body_at_a_time_grows_beyond_the_limit():
    pool = BufferPool(48_000_000, wait=0)
    first, second = pool.take(20_000_000), pool.take(20_000_000)
    first = pool.grow(first, 41_000_000)
    pool.take(20_000_000)
    with pytest.raises(ApiError):
        pool.grow(second, 41_000_000)
    pool.give_back(pool.grow(first, 41_500_000))
    assert len(pool.grow(second, 41_000_000)) >= 41_000_000
