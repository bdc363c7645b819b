"""The image gate accepts whole pictures and refuses all else with a helpful sentence."""

import math
import random
import threading
import time
import tracemalloc
import zlib

import pytest

from app.config import INLINE_BYTES
from app.errors import ApiError
from app.image.decode import cost
from app.image.gate import ImageInfo, ImageInspector, decode, walk
from app.shares import Shares
from tests.image.corpus import (
    Sample,
    apng,
    chunk,
    gif_of,
    not_shown,
    packed_rows,
    png,
    png_of,
    segment,
    valid,
    webp_animation,
)
from tests.image.inspecting import inspector, refusal
from tests.pictures import encode, installed, photo

VALID = valid()
NAMES = [sample.name for sample in VALID]
EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "GIF": "gif", "WEBP": "webp"}
CONTENT_TYPES = {kind: f"image/{kind.lower()}" for kind in EXTENSIONS}


# Accepted files


def test_the_corpus_is_large_enough_to_mean_something():
    assert len(VALID) >= 150
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("check", ["decode", "structure"])
@pytest.mark.parametrize("sample", VALID, ids=NAMES)
def test_every_valid_picture_is_accepted_and_described(sample: Sample, check):
    assert inspector(check).inspect(sample.data) == ImageInfo(
        sample.format,
        EXTENSIONS[sample.format],
        CONTENT_TYPES[sample.format],
        *sample.size,
        sample.frames,
    )


def test_pictures_from_installed_packages_are_accepted():
    found = installed()
    assert found
    gate = inspector()
    for path in found:
        assert gate.inspect(path.read_bytes()).width > 0, path


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_will_do(kind):
    assert inspector().inspect(kind(png(5, 3))).width == 5


def test_a_picture_of_exactly_the_limit_is_accepted_and_one_pixel_more_is_not():
    data = png(33, 17)
    assert inspector(max_pixels=33 * 17).inspect(data).frames == 1
    error = refusal(data, max_pixels=33 * 17 - 1)
    assert error.code == "too_many_pixels"
    assert error.extra == {"limit": 33 * 17 - 1, "actual": 33 * 17}
    assert "33 x 17" in error.detail


@pytest.mark.parametrize("data", [apng(5, 5), gif_of(16, 8, 5)], ids=["APNG", "GIF"])
def test_all_frames_count_toward_the_limit(data):
    assert inspector(max_pixels=16 * 8 * 5).inspect(data).frames == 5
    assert refusal(data, max_pixels=16 * 8 * 5 - 1).code == "too_many_pixels"


# Files that are cut off


@pytest.mark.parametrize("check", ["decode", "structure"])
@pytest.mark.parametrize("sample", VALID, ids=NAMES)
def test_a_picture_cut_anywhere_is_refused(sample: Sample, check):
    places = {int(sample.end * share) for share in (0.01, 0.1, 0.5, 0.9, 0.99)}
    for place in places | {sample.end - 1}:
        error = refusal(sample.data[:place], check=check)
        assert error.code in ("corrupt_image", "unsupported_format", "empty_image"), place


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_refusal_says_how_much_of_a_cut_picture_is_there(kind):
    data = encode(photo(640, 480), kind)
    detail = refusal(data[: len(data) * 6 // 10]).detail
    share = int(detail.split(" %")[0].split()[-1])
    assert 50 <= share <= 70
    assert "Copy or export it again" in detail


# Damaged files


@pytest.mark.parametrize(
    "sample",
    [s for s in VALID if s.format == "PNG" and s.end < 2000],
    ids=lambda sample: sample.name,
)
def test_a_flipped_bit_in_any_byte_of_any_png_chunk_is_refused(sample: Sample):
    gate = inspector("structure")
    rng = random.Random(sample.name)
    for place in range(8, sample.end):
        data = bytearray(sample.data)
        data[place] ^= 1 << rng.randrange(8)
        with pytest.raises(ApiError):
            gate.inspect(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (png_of(9, 9, zlib.compress(bytes(27 * 9))), "rows of the picture are missing"),
        (png_of(9, 9, b"not zlib at all"), "cannot be decoded"),
        (png_of(9, 9, zlib.compress(b"\x05" * 28 * 9)), "a row has a filter"),
        (png_of(9, 9, zlib.compress(bytes(28 * 9))[:-1] + b"?"), "cannot be decoded"),
        (png_of(9, 9, b"", colour=5), "its header is not valid"),
        (png_of(0, 9, b""), "0 x 9"),
        (png_of(9, 9, b"", colour=3), "palette is missing"),
        (png(9, 9, before=chunk(b"PLTE", b"1234")), "palette is not valid"),
        (png(9, 9, before=chunk(b"WHAT")), "'WHAT'"),
        (png(9, 9, before=chunk(b"IDAT") + chunk(b"tEXt", b"a\0b")), "interrupted"),
        (png(1, 1)[:33] + chunk(b"IEND"), "no image data"),
        (b"\xff\xd8\xff\xd9", "before all of its colours are there"),
        (b"\xff\xd8\xff\xda" + bytes(20), "is not valid"),
        (b"\xff\xd8" + segment(0xDA, b"\x01\x01\x00\x00\x3f\x00"), "before the frame header"),
        (b"\xff\xd8\xff\xdb\x00\x01" + bytes(20), "the length at byte"),
        (b"\xff\xd8\xff\x02\x00\x04" + bytes(90), "does not belong there"),
        (b"\xff\xd8\xff\xe0\x00\x04\x00\x00\x12\x34" + bytes(90), "ends before its picture"),
        (b"GIF89a\1\0\1\0\0\0\0;", "no picture in it"),
        (b"GIF89a\1\0\1\0\0\0\0?", "does not belong there"),
        (b"RIFF\x0c\0\0\0WEBPVP8 \0\0\0\0", "is not valid"),
        (b"RIFF\x0c\0\0\0WEBPJUNK\0\0\0\0", "does not begin with a picture"),
        (b"RIFF\x0c\0\0\0WEBPVP8 \xff\0\0\0", "does not begin with a picture"),
        (webp_animation(64, 64, 0), "its chunks do not form a picture"),
    ],
)
def test_a_refusal_says_what_is_wrong(data, words):
    error = refusal(data)
    assert error.code == "corrupt_image"
    assert words in error.detail


NOT_SHOWN = not_shown()


@pytest.mark.parametrize("check", ["decode", "structure"])
@pytest.mark.parametrize("name", NOT_SHOWN)
def test_a_file_that_no_browser_shows_is_refused(name, check):
    assert refusal(NOT_SHOWN[name], check=check).code == "corrupt_image"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_a_picture_that_lacks_only_its_end_mark_is_refused_with_what_helps(kind):
    data = encode(photo(64, 48), kind)
    end = {"JPEG": 2, "PNG": 12, "GIF": 1}[kind]
    error = refusal(data[:-end])
    assert error.code == "corrupt_image"
    assert "no end mark" in error.detail
    assert "save it again" in error.detail


def test_an_empty_file_has_its_own_code():
    assert refusal(b"").code == "empty_image"


def test_while_all_slots_are_taken_a_cut_picture_is_refused_at_once():
    gate = inspector()
    data = encode(photo(640, 480), "PNG")
    with decoding(gate), pytest.raises(ApiError) as caught:
        gate.inspect(data[: len(data) // 2])
    assert caught.value.code == "corrupt_image"
    assert "%" not in caught.value.detail


@pytest.mark.parametrize("start", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF"])
def test_noise_after_a_signature_is_refused(start):
    rng = random.Random(start)
    gate = inspector()
    for size in (0, 1, 5, 30, 500):
        for _ in range(100):
            with pytest.raises(ApiError):
                gate.inspect(start + rng.randbytes(size))


# The buffer


@pytest.mark.parametrize("sample", VALID[:: len(VALID) // 40], ids=lambda sample: sample.name)
def test_nothing_holds_the_buffer_afterwards(sample: Sample):
    buffer = bytearray(sample.data)
    with memoryview(buffer) as view:
        inspector().inspect(view)
    buffer.append(0)  # BufferError if anything held it

    broken = bytearray(sample.data[: sample.end - 1])
    with memoryview(broken) as view, pytest.raises(ApiError) as caught:
        inspector().inspect(view)
    broken.append(0)
    assert caught.value.detail


def test_the_file_itself_is_not_copied():
    comments = b"".join(segment(0xFE, bytes(65_000)) for _ in range(150))
    plain = encode(photo(320, 240), "JPEG")
    data = plain[:2] + comments + plain[2:]
    tracemalloc.start()
    inspector().inspect(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(data) / 10


# How much is decoded at once


LARGE = png_of(9_000, 9_000, packed_rows(9_000, 9_000, bits=8, interlaced=False), depth=8, colour=0)
"""81 megapixels."""


def decoding(gate: ImageInspector):
    """Hold the slots, as another thread does while it decodes 81 megapixels."""
    return gate._slots.taken("another key", 81_000_000, math.inf)


def until(condition):
    """Wait for another thread, which is only a moment away."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_picture_takes_its_pixels_from_the_budget_while_it_is_decoded():
    gate = inspector()
    seen = []
    with decoding(gate):
        thread = threading.Thread(target=lambda: seen.append(gate.inspect(LARGE)))
        thread.start()
        until(lambda: gate._slots.waiting)
    until(lambda: gate._slots.in_use == 50_000_000 or seen)
    thread.join()
    assert seen[0].width == 9_000
    assert (gate._slots.in_use, gate._slots.waiting) == (0, 0)


def test_a_picture_that_finds_no_slot_in_half_of_its_time_is_answered_503():
    gate = inspector()
    deadline = time.monotonic() + 0.1
    with decoding(gate), pytest.raises(ApiError) as caught:
        gate.inspect(png(9, 9), deadline=deadline)
    assert time.monotonic() > deadline - 0.05
    assert (caught.value.code, caught.value.status) == ("overloaded", 503)
    assert int(caught.value.headers["Retry-After"]) >= 1
    assert (gate._slots.in_use, gate._slots.waiting) == (0, 0)


def test_after_its_deadline_a_picture_does_not_wait():
    gate = inspector()
    with decoding(gate), pytest.raises(ApiError) as caught:
        gate.inspect(png(9, 9), deadline=time.monotonic() - 1)
    assert caught.value.code == "overloaded"


def test_small_pictures_overtake_a_large_one_that_waits():
    gate = inspector(decode_pixels=90_000_000)
    second = threading.Thread(target=gate.inspect, args=(LARGE,))
    with decoding(gate):
        second.start()
        until(lambda: gate._slots.waiting)
        assert gate.inspect(png(9, 9)).width == 9
        assert gate._slots.waiting == 1  # still
    second.join()
    assert gate._slots.in_use == 0


def test_a_key_that_holds_its_whole_share_leaves_room_for_another():
    slots = Shares("pixels in decode", total=50_000_000, share=40_000_000)
    gate = ImageInspector(max_pixels=100_000_000, check="decode", slots=slots)
    with slots.taken("greedy", 81_000_000):
        with pytest.raises(ApiError) as caught:
            gate.inspect(png(9, 9), key="greedy", deadline=time.monotonic())
        assert caught.value.code == "too_many_at_once"
        assert gate.inspect(png(9, 9), key="other").width == 9


def test_work_that_takes_long_is_done_by_the_callers_runner():
    done = []

    def run(function, *args):
        done.append(function)
        return function(*args)

    large = png(9, 9) + bytes(INLINE_BYTES)
    inspector("decode").inspect(large, run=run)
    inspector("structure").inspect(large, run=run)
    inspector("decode").inspect(png(9, 9), run=run)
    assert done == [walk, cost, decode, walk]


def test_with_the_structure_check_nothing_waits():
    gate = inspector("structure")
    with decoding(gate):
        assert gate.inspect(LARGE).width == 9_000
    assert gate._slots.in_use == 0


def test_a_refused_picture_gives_its_slot_back():
    gate = inspector()
    with pytest.raises(ApiError):
        gate.inspect(png_of(9, 9, b""))
    assert gate._slots.in_use == 0
