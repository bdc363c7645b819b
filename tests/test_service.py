"""How a file is inspected: by which policy, at the turn of which key, and in which thread."""

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
    """Stands for the threads for processors, and keeps what they were given."""

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
        app = create_app(Config(log_format="json", **settings), redis=redis, store=store)
        return replace(app.extensions["uploader"], processors=threads)

    return make


def look(service, file, **record):
    fields = {name.encode(): text.encode() for name, text in record.items()}
    api_key = ApiKey.parse(DIGEST, fields, Rate(60, 60))
    sha256 = hashlib.sha256(file).hexdigest()
    return service.inspect(memoryview(file), sha256, api_key, time.monotonic() + 20)


def test_a_file_is_identified_and_its_bytes_are_kept_by_default(make):
    info, stripped = look(make(), SMALL)
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
def test_a_keys_policy_goes_before_the_services(make, setting, record, applied):
    _, stripped = look(make(metadata=setting), SMALL, **record)
    assert stripped.policy == applied
    assert (b"nobody's eyes" in b"".join(stripped.pieces)) == (applied == "keep")
    assert stripped.size == len(b"".join(stripped.pieces))


def test_a_small_file_is_looked_at_in_place(make, threads):
    service = make(metadata="minimal")
    look(service, SMALL)
    assert threads.given == []
    look(service, LARGE)
    assert [each.__name__ for each in threads.given] == ["walk", "cost", "decode", "strip"]


def test_many_pixels_in_a_small_file_are_decoded_in_the_threads(make, threads):
    look(make(), plain("PNG", (1100, 1000)))
    assert [each.__name__ for each in threads.given] == ["decode"]


def test_a_refusal_gives_the_keys_turn_back(make):
    service = make()
    for _ in range(10):
        with pytest.raises(ApiError) as refused:
            look(service, b"no picture, but large" * 20_000)
        assert refused.value.code == "unsupported_format"
    assert service.turns.in_use == 0
    assert service.decoding.in_use == 0


def test_a_key_that_has_all_its_turns_is_refused_in_time(make):
    service = make()
    with service.turns.taken(ID, service.turns._share):
        api_key = ApiKey.parse(DIGEST, {}, Rate(60, 60))
        with pytest.raises(ApiError) as refused:
            service.inspect(memoryview(LARGE), "ab" * 32, api_key, time.monotonic() + 0.05)
    assert refused.value.code == "too_many_at_once"
