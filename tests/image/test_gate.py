"""The image gate: whole pictures in, everything else refused with a sentence that helps."""

import contextlib
import math
import random
import site
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from pathlib import Path

import pytest

from app.errors import ApiError
from app.image import vp8l, webp
from app.image.gate import _BYTES_PER_PIXEL, ImageInfo, ImageInspector, _cost, decode, walk
from tests.image.corpus import (
    Sample,
    apng,
    bombs,
    chunk,
    gif_of,
    hostile,
    odd_headers,
    packed_rows,
    png,
    png_cut,
    png_of,
    png_pieces_behind_the_end,
    segment,
    valid,
    webp_alpha_of_groups,
    webp_of_groups,
)
from tests.image.measure import measure
from tests.pictures import encode, photo

ROOT = Path(__file__).parents[2]
VALID = valid()
NAMES = [sample.name for sample in VALID]
EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "GIF": "gif", "WEBP": "webp"}
CONTENT_TYPES = {kind: f"image/{kind.lower()}" for kind in EXTENSIONS}


def inspector(check="decode", max_pixels=100_000_000, decode_pixels=50_000_000, decode_wait=5.0):
    return ImageInspector(
        max_pixels=max_pixels, check=check, decode_pixels=decode_pixels, decode_wait=decode_wait
    )


def refusal(data, **settings) -> ApiError:
    with pytest.raises(ApiError) as caught:
        inspector(**settings).inspect(data)
    return caught.value


# What is accepted


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
    folders = [Path(folder) for folder in site.getsitepackages()]
    found = [
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix in (".png", ".jpg", ".jpeg", ".gif", ".webp") and path.stat().st_size
    ]
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


# What is cut off


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


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_jpeg_cut_in_half_with_its_end_mark_pasted_on_is_refused(options):
    data = encode(photo(320, 240), "JPEG", **options)
    assert refusal(data[: len(data) // 2] + b"\xff\xd9").code == "corrupt_image"


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_a_jpeg_with_a_block_of_zeros_in_it_is_refused(options):
    data = bytearray(encode(photo(800, 600), "JPEG", quality=90, **options))
    middle = len(data) // 2
    data[middle : middle + 4096] = bytes(4096)
    assert refusal(data).code == "corrupt_image"


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_jpeg_of_zeros_from_somewhere_up_to_its_end_mark_is_refused(options, share):
    """libjpeg makes a picture of the first zeros, and only finds some of them left over."""
    data = encode(photo(1200, 800), "JPEG", quality=95, subsampling=0, **options)
    place = int(len(data) * share)
    zeros = bytes(len(data) - 2 - place)
    assert refusal(data[:place] + zeros + b"\xff\xd9").code == "corrupt_image"


def test_a_jpeg_whose_header_is_odd_is_still_refused_when_it_is_cut():
    data = odd_headers()["samsung"]
    assert refusal(data[: len(data) // 2] + b"\xff\xd9").code == "corrupt_image"


def test_a_webp_cut_and_its_lengths_made_to_fit_is_refused():
    data = bytearray(encode(photo(320, 240), "WEBP"))
    half = len(data) // 2 & ~1
    struct.pack_into("<I", data, 4, half - 8)
    struct.pack_into("<I", data, 16, half - 20)
    assert refusal(data[:half]).code == "corrupt_image"


# What is damaged


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
        (png_of(9, 9, zlib.compress(b"\x05" * 28 * 9)), "a row is stored in a way"),
        (png_of(9, 9, zlib.compress(bytes(28 * 9))[:-1] + b"?"), "cannot be decoded"),
        (png_of(9, 9, b"", colour=5), "its header is impossible"),
        (png_of(0, 9, b""), "0 x 9"),
        (png_of(9, 9, b"", colour=3), "palette is missing"),
        (png(9, 9, before=chunk(b"PLTE", b"1234")), "palette is impossible"),
        (png(9, 9, before=chunk(b"WHAT")), "'WHAT'"),
        (png(9, 9, before=chunk(b"IDAT") + chunk(b"tEXt", b"a\0b")), "interrupted"),
        (png(1, 1)[:33] + chunk(b"IEND"), "no image data"),
        (b"\xff\xd8\xff\xd9", "before all of its colours came"),
        (b"\xff\xd8\xff\xda" + bytes(20), "is impossible"),
        (b"\xff\xd8" + segment(0xDA, b"\x01\x01\x00\x00\x3f\x00"), "before the frame header"),
        (b"\xff\xd8\xff\xe0\x00\x01" + bytes(20), "the length at byte"),
        (b"\xff\xd8\xff\xe0\x00\x04\x00\x00\x12\x34" + bytes(90), "has no place there"),
        (b"GIF89a\1\0\1\0\0\0\0;", "no picture in it"),
        (b"GIF89a\1\0\1\0\0\0\0?", "has no place there"),
        (b"RIFF\x0c\0\0\0WEBPVP8 \0\0\0\0", "is impossible"),
        (b"RIFF\x0c\0\0\0WEBPJUNK\0\0\0\0", "does not begin with a picture"),
        (b"RIFF\x0c\0\0\0WEBPVP8 \xff\0\0\0", "longer than the room it has"),
    ],
)
def test_a_refusal_says_what_is_wrong(data, words):
    error = refusal(data)
    assert error.code == "corrupt_image"
    assert words in error.detail


def test_an_empty_file_is_told_apart():
    assert refusal(b"").code == "empty_image"


# What is something else


FOREIGN = [
    (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC photo"),
    (b"\0\0\0\x1cftypmif1\0\0\0\0mif1miafheic", "a HEIC photo"),
    (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "an AVIF picture"),
    (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "an AVIF picture"),
    (b"\0\0\0\x18ftypcrx \0\0\0\0", "camera raw"),
    (b"\0\0\0\x18ftypisom\0\0\0\0", "a film (MP4)"),
    (b"\0\0\0\x14ftypqt  \0\0\0\0", "a QuickTime film"),
    (b"II*\0\x10\0\0\0CR\2\0", "camera raw file (Canon CR2)"),
    (b"II*\0\x08\0\0\0" + bytes(60), "a TIFF picture"),
    (b"MM\0*\0\0\0\x08" + bytes(60), "a TIFF picture"),
    (b"FUJIFILMCCD-RAW 0201", "camera raw file (Fujifilm RAF)"),
    (b"BM\x36\0\x0c\0\0\0\0\0\x36\0", "a BMP picture"),
    (b"8BPS\0\1", "a Photoshop document"),
    (b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0\x68\4\0\0\x16\0\0\0", "an icon"),
    (b"\0\0\2\0\0\0\0\0\0\0\0\0\x40\0\x20\0\x18\0" + bytes(9), "a TGA picture"),
    (b"OggS\0\2" + bytes(22) + b"\x80theora", "a film"),
    (b"\xff\xfe" + "<?xml version='1.0'?><svg>".encode("utf-16-le"), "an SVG drawing"),
    (b"<!-- x -->\n" * 99 + b"<svg:svg>", "an SVG drawing"),
    (
        b'<!DOCTYPE svg PUBLIC "-//W3C" "x.dtd" [\n<!ENTITY ns "http://x">\n]>\n<svg>',
        "an SVG drawing",
    ),
    (b"<!-- saved from url=(0014)about:internet -->\n<!DOCTYPE html>", "a web page"),
    (b"<!-- -->" * 999, "This is text"),
    (b"For free", "This is text"),
    (b"MZ is a magazine", "This is text"),
    (b"ID3 and icns are not BZh", "This is text"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51\0\x2f", "a JPEG 2000 picture"),
    (b"\xff\x0a\xfa\x1f", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
    (b"%PDF-1.7\n", "a PDF document"),
    (b"%!PS-Adobe-3.0", "a PostScript drawing"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
    (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- x -->\n<svg width='9'>", "an SVG drawing"),
    (b"<!DOCTYPE html><html>", "a web page"),
    (b"PK\3\4\x14\0" + bytes(40), "a ZIP archive"),
    (b"PK\3\4\x14\0" + bytes(24) + b"word/document.xml", "an Office document"),
    (b"\x1a\x45\xdf\xa3", "a film"),
    (b"iVBORw0KGgoAAAANSUhEUg", "Base64"),
    ("Grüße aus der Redaktion".encode(), "This is text"),
    (bytes(4000), "holds only zeros"),
    (b"\x9c\1\2\3\4\5\6\7" * 9, "not a picture of a known format"),
]


@pytest.mark.parametrize(("data", "words"), FOREIGN, ids=[words for _, words in FOREIGN])
def test_other_formats_are_named_with_what_to_do(data, words):
    error = refusal(data)
    assert error.code == "unsupported_format"
    assert words in error.detail
    assert error.detail.count(". ") >= 1  # what it is, then what to do


@pytest.mark.parametrize(
    ("place", "value", "words"), [(-1, 12, "12-bit"), (4, 2, "2-channel")], ids=["12-bit", "2"]
)
def test_jpegs_that_browsers_cannot_show_are_named(place, value, words):
    data = bytearray(encode(photo(16, 16), "JPEG"))
    start = data.index(b"\xff\xc0") + 5
    data[start + place] = value
    if value == 2:
        del data[start + 5 : start + 8]
        data[start - 2] -= 3
    error = refusal(data)
    assert (error.code, words in error.detail) == ("unsupported_format", True)


@pytest.mark.parametrize("marker", [0xC3, 0xF7])
def test_a_lossless_jpeg_is_named(marker):
    data = encode(photo(16, 16), "JPEG").replace(b"\xff\xc0", bytes((0xFF, marker)), 1)
    error = refusal(data)
    assert (error.code, "lossless" in error.detail) == ("unsupported_format", True)


def test_a_png_for_iphone_apps_is_named():
    data = png(9, 9).replace(png(9, 9)[8:33], chunk(b"CgBI", b"\x50\0\x20\2") + png(9, 9)[8:33])
    error = refusal(data)
    assert (error.code, "iPhone apps" in error.detail) == ("unsupported_format", True)


# What is hostile


HOSTILE = hostile()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_little_memory(name, tmp_path):
    code, data = HOSTILE[name]
    assert refusal(data).code == code
    path = tmp_path / "picture"
    path.write_bytes(data)
    found = measure("inspect", path, 1)
    assert found["error"]
    assert found["mb"] < 100


@pytest.mark.parametrize("name", bombs())
def test_metadata_and_bytes_behind_the_picture_are_never_inflated(name):
    data = bombs()[name]
    tracemalloc.start()
    with contextlib.suppress(ApiError):
        inspector().inspect(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


def test_pieces_behind_the_end_of_a_pngs_data_cost_no_more_each_the_more_there_are(tmp_path):
    """Each was once copied onto all before it: these took over a minute."""
    path = tmp_path / "picture"
    path.write_bytes(png_pieces_behind_the_end(655_000))
    assert "rows of the picture are missing" in measure("inspect", path, 1, seconds=20)["error"]


@pytest.mark.parametrize(
    "data",
    [png_cut(12_000, 2**31 - 1, announced=2**31), png_cut(12_000, 2**31 - 1)],
    ids=["its header has no end", "its header is whole"],
)
def test_nothing_is_inflated_to_say_how_much_of_a_huge_cut_png_is_there(data, tmp_path):
    path = tmp_path / "picture"
    path.write_bytes(data)
    assert measure("inspect", path, 1, seconds=4)["error"]


def test_while_all_slots_are_taken_a_cut_picture_is_refused_at_once():
    gate = inspector(decode_wait=600)
    data = encode(photo(640, 480), "PNG")
    with decoding(gate), pytest.raises(ApiError) as caught:
        gate.inspect(data[: len(data) // 2])
    assert caught.value.code == "corrupt_image"
    assert "%" not in caught.value.detail


def test_a_progressive_jpeg_with_hundreds_of_scans_is_refused_before_it_is_decoded():
    flat = photo(1, 1).resize((4000, 4000))
    data = encode(flat, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    many = data[:-2] + data[last:-2] * 200 + b"\xff\xd9"
    assert "scans" in refusal(many, check="structure").detail


def test_a_large_progressive_jpeg_needs_less_memory_than_its_coefficients(tmp_path):
    flat = photo(8, 8).resize((9000, 9000))
    path = tmp_path / "picture"
    path.write_bytes(encode(flat, "JPEG", progressive=True, subsampling=0, quality=30))
    found = measure("gate", path, 1)
    assert not found["error"]
    assert found["mb"] < 350  # the coefficients are 486 MB


def test_a_large_webp_is_decoded_in_a_fraction_of_its_pixels(tmp_path):
    path = tmp_path / "picture"
    path.write_bytes(encode(photo(8, 8).resize((5000, 5000)), "WEBP", method=0))
    found = measure("gate", path, 1)
    assert not found["error"]
    assert found["mb"] < 60  # its pixels are 100 MB


@pytest.mark.parametrize("make", [webp_of_groups, webp_alpha_of_groups])
def test_a_lossless_picture_takes_its_tables_from_the_budget(make, tmp_path):
    """Each group of prefix codes takes up to 20 kB of libwebp's memory before a pixel is made."""
    few, many = make(1, 1024), make(10_000, 1024)
    path = tmp_path / "picture"
    path.write_bytes(many)
    found = measure("gate", path, 1)
    assert not found["error"]
    assert charged(many) - charged(few) > 5_000 * 10_000
    assert found["mb"] * 1e6 < charged(many)


def charged(data: bytes) -> int:
    """The bytes that a picture takes from the budget."""
    return _BYTES_PER_PIXEL * _cost(memoryview(data), walk(data, 100_000_000), math.inf)


LOSSLESS = [
    (sample.name, bytes(stream), size)
    for sample in VALID
    if sample.format == "WEBP"
    for stream, size in webp._lossless(memoryview(sample.data), 12, sample.end)
]


def asked(stream: bytes, size: tuple[int, int]) -> int:
    return vp8l.asked(vp8l.Bits(memoryview(stream), vp8l.MAX_READS, math.inf), *size)


@pytest.mark.parametrize(("name", "stream", "size"), LOSSLESS, ids=[name for name, *_ in LOSSLESS])
def test_a_lossless_picture_never_asks_for_more_tables_than_its_size_allows(name, stream, size):
    assert 0 < asked(stream, size) <= vp8l.most(*size)


def test_where_prefix_codes_cannot_be_counted_libwebp_cannot_decode_either():
    sample = encode(photo(161, 121), "WEBP", lossless=True, method=6)
    rng = random.Random(3)
    refused = 0
    for _ in range(400):
        data = bytearray(sample)
        data[rng.randrange(25, 400)] ^= 1 << rng.randrange(8)
        try:
            asked(bytes(data[25:]), (161, 121))
        except ApiError:
            refused += 1
            with pytest.raises(ApiError):
                decode(data, walk(data, 100_000))
    assert refused > 50


def test_prefix_codes_of_endless_length_are_not_counted():
    with pytest.raises(ApiError) as caught:
        vp8l.asked(
            vp8l.Bits(memoryview(webp_of_groups(9, 1024))[25:], 50_000, math.inf), 1024, 1024
        )
    assert "longer than programs write" in caught.value.detail


def test_twenty_thousand_mutated_files_raise_nothing_but_refusals():
    command = [sys.executable, "-m", "tests.image.mutate", "--seconds", "20"]
    done = subprocess.run(
        command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("start", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF"])
def test_noise_behind_a_signature_is_refused(start):
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
    """As while another thread decodes 81 megapixels, for exactly as long as the block lasts."""
    return gate._slot(81_000_000, None)


def until(condition):
    """Wait for another thread, which is only a moment away."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_picture_takes_its_pixels_from_the_budget_while_it_is_decoded():
    gate = inspector(decode_wait=15)
    seen = []
    with decoding(gate):
        thread = threading.Thread(target=lambda: seen.append(gate.inspect(LARGE)))
        thread.start()
        until(lambda: gate.waiting)
    until(lambda: gate.pixels_in_use == 81_000_000 or seen)
    thread.join()
    assert seen[0].width == 9_000
    assert (gate.pixels_in_use, gate.waiting) == (0, 0)


def test_who_waits_too_long_for_a_slot_is_sent_away_with_503():
    gate = inspector(decode_wait=0.01)
    with decoding(gate), pytest.raises(ApiError) as caught:
        gate.inspect(png(9, 9))
    assert (caught.value.code, caught.value.status) == ("overloaded", 503)
    assert int(caught.value.headers["Retry-After"]) >= 1
    assert (gate.pixels_in_use, gate.waiting) == (0, 0)


@pytest.mark.parametrize(
    "data",
    [gif_of(9, 9, 3), png(9, 9), png_pieces_behind_the_end(9)],
    ids=["frames of a GIF", "rows of a PNG", "pieces behind a PNG's rows"],
)
def test_a_deadline_ends_a_decode(data):
    with pytest.raises(ApiError) as caught:
        decode(data, walk(data, 1000), time.monotonic() - 1)
    assert caught.value.code == "overloaded"


def test_a_deadline_ends_the_wait_sooner():
    gate = inspector(decode_wait=600)
    with decoding(gate), pytest.raises(ApiError) as caught:
        gate.inspect(png(9, 9), deadline=time.monotonic() - 1)
    assert caught.value.code == "overloaded"


def test_small_pictures_pass_a_large_one_that_waits():
    gate = inspector(decode_pixels=90_000_000, decode_wait=600)
    second = threading.Thread(target=gate.inspect, args=(LARGE,))
    with decoding(gate):
        second.start()
        until(lambda: gate.waiting)
        assert gate.inspect(png(9, 9)).width == 9
        assert gate.waiting == 1  # still
    second.join()
    assert gate.pixels_in_use == 0


def test_with_the_structure_check_nothing_waits():
    gate = inspector("structure", decode_wait=0)
    assert gate.inspect(LARGE).width == 9_000
    assert gate.pixels_in_use == 0


def test_a_refused_picture_gives_its_slot_back():
    gate = inspector()
    with pytest.raises(ApiError):
        gate.inspect(png_of(9, 9, b""))
    assert gate.pixels_in_use == 0
