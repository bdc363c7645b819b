"""Work in threads, under gevent and without it."""

import subprocess
import sys

import pytest

from app.intake.processors import Processors

PATCHED = """
from gevent import monkey
monkey.patch_all(os=False, signal=False, subprocess=False)
import threading, time, gevent
from app.intake.processors import Processors
real = monkey.get_original("time", "sleep")
turns = []
def busy(data):
    real(0.2)
    return threading.get_ident(), len(data)
def others():
    while True:
        turns.append(1)
        gevent.sleep(0.001)
gevent.spawn(others)
processors = Processors()
assert processors.run_large(busy, memoryview(b"small"))[1] == 5
assert not turns, "small work is done in place"
assert processors.run(busy, b"large")[1] == 5
assert len(turns) > 10, "others go on beside large work"
try:
    processors.run(int, "x")
except ValueError:
    print("ended well")
"""


def test_where_nothing_is_patched_work_is_done_in_place():
    assert Processors().run(len, b"four") == 4
    with pytest.raises(ValueError, match="invalid literal"):
        Processors().run(int, "x")


def test_under_gevent_large_work_has_a_thread_and_others_go_on():
    command = [sys.executable, "-c", PATCHED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("ended well\n", "")
