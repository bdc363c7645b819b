"""Fixtures of all tests, and skips: a test whose program is missing is skipped, in CI it fails."""

import os
import shutil

import pytest

from tests.fakes import Clock, FakeRedis, MemoryStore


def pytest_runtest_setup(item):
    """Skip a test that is marked with ``needs_program`` where the program is not installed."""
    for marker in item.iter_markers("needs_program"):
        for program in marker.args:
            if shutil.which(program) is None:
                pytest.skip(f"{program} is not installed (.ci/run installs it)")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """With REQUIRE_ALL=1 (set by .ci/run) a test that would be skipped fails."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("REQUIRE_ALL") == "1" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped although REQUIRE_ALL is 1: {report.longrepr}"


@pytest.fixture
def redis():
    return FakeRedis()


@pytest.fixture
def server(redis):
    """The server behind ``redis``: with ``connected = False`` it is down."""
    return redis.server


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def clock():
    return Clock()
