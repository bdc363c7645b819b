"""The inspection of a file: its metadata policy, the turn of its key, and the threads it uses."""

import hashlib
import time
from dataclasses import replace

import pytest

from app import create_app
from app.config import INLINE_BYTES, Config, Rate
from app.errors import ApiError
from app.records.keys import ApiKey
from tests.fakes import DIGEST, ID
from tests.pictures import padded, plain

SMALL = plain("JPEG", comment=b"for nobody's eyes")
LARGE = padded("PNG", INLINE_BYTES + 1)


class Threads:
    """In place of app/intake/processors.py: runs functions at once, and keeps them in ``given``."""

    threads = 2

    def __init__(self):
        self.given = []

    def run(self, function, *arguments):
        self.given.append(function)
        return function(*arguments)


@pytest.fixture
def threads():
    return Threads()


@pytest.fixture
def make(redis, store, threads):
    def make(**settings):
        """A service with these settings."""
        app = create_app(Config(log_format="json", **settings), redis=redis, store=store)
        return replace(app.extensions["uploader"], processors=threads)

    return make


def inspect(service, file, **record):
    """The result of an inspection for a key with this record."""
    fields = {name.encode(): text.encode() for name, text in record.items()}
    api_key = ApiKey.parse(DIGEST, fields, Rate(60, 60))
    sha256 = hashlib.sha256(file).hexdigest()
    return service.inspect(memoryview(file), sha256, api_key, time.monotonic() + 20)


def test_a_file_is_identified_and_its_bytes_are_kept_by_default(make):
    info, stripped = inspect(make(), SMALL)
    assert (info.format, info.width, info.height) == ("JPEG", 8, 6)
    assert b"".join(stripped.pieces) == SMALL
    assert stripped.sha256 == hashlib.sha256(SMALL).hexdigest()


@pytest.mark.parametrize(
    ("setting", "record", "applied"),
    [
        ("keep", {}, "keep"),
        ("minimal", {}, "minimal"),
        ("keep", {"metadata": "minimal"}, "minimal"),
        ("minimal", {"metadata": "keep"}, "keep"),
    ],
)
def test_the_policy_of_the_key_comes_before_that_of_the_service(make, setting, record, applied):
    _, stripped = inspect(make(metadata=setting), SMALL, **record)
    assert stripped.policy == applied
    assert (b"nobody's eyes" in b"".join(stripped.pieces)) == (applied == "keep")
    assert stripped.size == len(b"".join(stripped.pieces))


def test_only_large_files_are_inspected_in_the_threads(make, threads):
    service = make(metadata="minimal")
    inspect(service, SMALL)
    assert threads.given == []
    inspect(service, LARGE)
    assert [each.__name__ for each in threads.given] == ["walk", "cost", "decode", "strip"]


def test_many_pixels_in_a_small_file_are_decoded_in_the_threads(make, threads):
    inspect(make(), plain("PNG", (1100, 1000)))
    assert [each.__name__ for each in threads.given] == ["decode"]


def test_a_refusal_ends_the_turn_of_the_key(make):
    service = make()
    for _ in range(10):
        with pytest.raises(ApiError) as refused:
            inspect(service, b"no picture, but large" * 20_000)
        assert refused.value.code == "unsupported_format"
    assert service.turns.in_use == 0
    assert service.decoding.in_use == 0


def test_a_key_that_waits_too_long_for_a_turn_is_refused(make):
    service = make()
    with service.turns.taken(ID, service.turns._share):
        api_key = ApiKey.parse(DIGEST, {}, Rate(60, 60))
        with pytest.raises(ApiError) as refused:
            service.inspect(memoryview(LARGE), "ab" * 32, api_key, time.monotonic() + 0.05)
    assert refused.value.code == "too_many_at_once"
