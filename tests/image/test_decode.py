"""Decoders find damage that the structure does not show, and bound memory and time."""

import contextlib
import io
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
from PIL import Image

from app.errors import ApiError
from app.image.decode import BYTES_PER_PIXEL, cost
from app.image.gate import decode, walk
from tests.image.corpus import (
    apng,
    bombs,
    gif_of,
    gif_of_blocks,
    gif_of_pieces,
    hostile,
    jpeg_of_a_gap,
    jpeg_of_segments,
    made_up,
    odd_headers,
    png,
    png_cut,
    png_of_chunks,
    png_pieces_behind_the_end,
    png_without_checksum,
    strays,
    webp_alpha_of_groups,
    webp_animation,
    webp_of_chunks,
    webp_of_groups,
)
from tests.image.inspecting import inspector, refusal
from tests.image.measure import measure
from tests.pictures import drawing, encode, photo

ROOT = Path(__file__).parents[2]


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
    """libjpeg decodes the first zeros to pixels, and only warns of those left over."""
    data = encode(photo(1200, 800), "JPEG", quality=95, subsampling=0, **options)
    place = int(len(data) * share)
    zeros = bytes(len(data) - 2 - place)
    assert refusal(data[:place] + zeros + b"\xff\xd9").code == "corrupt_image"


@pytest.mark.parametrize("name", strays())
def test_stray_bytes_in_a_jpeg_change_no_pixel(name):
    """This is why they are accepted: libjpeg decodes the same picture without them."""
    progressive = {"progressive": True} if name == "zeros-between-scans" else {}
    expected = encode(photo(160, 120), "JPEG", **progressive)
    assert pixels(strays()[name]) == pixels(expected)


def pixels(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        return image.tobytes()


@pytest.mark.parametrize("name", made_up())
def test_a_jpeg_with_a_part_that_libjpeg_would_make_up_is_refused(name):
    assert refusal(made_up()[name]).code == "corrupt_image"


@pytest.mark.parametrize("zeros", [8, 600])
def test_a_sequential_jpeg_with_a_gap_after_a_scan_is_refused(zeros):
    assert "between two of its scans" in refusal(jpeg_of_a_gap(zeros)).detail


@pytest.mark.parametrize("missing", [1, 4])
def test_a_png_without_the_checksum_of_its_rows_is_refused(missing):
    assert "checksum" in refusal(png_without_checksum(missing)).detail


def test_a_jpeg_whose_header_is_odd_is_still_refused_when_it_is_cut():
    data = odd_headers()["samsung"]
    assert refusal(data[: len(data) // 2] + b"\xff\xd9").code == "corrupt_image"


def test_a_webp_cut_and_its_lengths_made_to_fit_is_refused():
    data = bytearray(encode(photo(320, 240), "WEBP"))
    half = len(data) // 2 & ~1
    struct.pack_into("<I", data, 4, half - 8)
    struct.pack_into("<I", data, 16, half - 20)
    assert refusal(data[:half]).code == "corrupt_image"


HOSTILE = hostile()


@pytest.mark.thorough
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
def test_metadata_and_bytes_after_the_picture_are_never_inflated(name):
    data = bombs()[name]
    tracemalloc.start()
    with contextlib.suppress(ApiError):
        inspector().inspect(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


@pytest.mark.thorough
def test_chunks_after_the_end_of_a_pngs_data_take_linear_time(tmp_path):
    """zlib once copied all earlier chunks for each new one: that took over a minute."""
    path = tmp_path / "picture"
    path.write_bytes(png_pieces_behind_the_end(99_000, 145))
    assert "rows of the picture are missing" in measure("inspect", path, 1, seconds=20)["error"]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "data",
    [png_cut(12_000, 2**31 - 1, announced=2**31), png_cut(12_000, 2**31 - 1)],
    ids=["its header has no end", "its header is whole"],
)
def test_nothing_is_inflated_to_say_how_much_of_a_huge_cut_png_is_there(data, tmp_path):
    path = tmp_path / "picture"
    path.write_bytes(data)
    assert measure("inspect", path, 1, seconds=4)["error"]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("make", "most", "beside"),
    [
        (gif_of_blocks, 100_000, 2),
        (gif_of_pieces, 1_000_000, 1),
        (lambda frames: gif_of(9, 9, frames), 10_000, 0),
        (png_of_chunks, 100_000, 3),
        (lambda frames: apng(frames, frames), 10_000, 0),
        (webp_of_chunks, 100_000, 2),
        (lambda frames: webp_animation(9, 9, frames), 10_000, 0),
        (jpeg_of_segments, 10_000, 7),
    ],
    ids=["GIF blocks", "GIF sub-blocks", "GIF frames", "PNG chunks", "APNG frames", "WebP chunks",
         "WebP frames", "JPEG segments"],
)  # fmt: skip
def test_whatever_costs_time_has_a_limit_far_above_what_programs_write(make, most, beside):
    """``beside`` is how many of them the smallest picture has already."""
    assert inspector().inspect(make(most - beside)).width > 0
    for check in ("decode", "structure"):
        assert "more" in refusal(make(most - beside + 1), check=check).detail


def test_a_progressive_jpeg_is_decoded_only_as_far_as_memory_allows():
    data = encode(photo(1000, 1000), "JPEG", progressive=True, subsampling=0)
    info = walk(data, 10**8)
    assert cost(data, info) * BYTES_PER_PIXEL > 6_000_000
    assert cost(data, info, memory=2_000_000) <= info.width * info.height + 2_000
    decode(data, info, memory=2_000_000)


def test_a_webp_that_needs_more_memory_than_there_is_is_answered_503():
    data = encode(photo(1000, 1000), "WEBP", lossless=True)
    with pytest.raises(ApiError) as caught:
        cost(data, walk(data, 10**8), memory=2_000_000)
    assert (caught.value.code, caught.value.status) == ("overloaded", 503)


@pytest.mark.parametrize(("step", "odd"), [(0, 0), (14, 1)], ids=["even", "odd"])
def test_a_large_webp_with_alpha_of_any_length_is_decoded_to_its_end(step, odd):
    """A chunk of odd length has a padding byte, which once stayed when the chunk was left out."""
    data = bytearray(encode(drawing(3000, 3000, step=step), "WEBP", method=0))
    assert inspector().inspect(data).width == 3000
    alpha = data.index(b"ALPH") + 8
    assert data[alpha - 4] & 1 == odd
    data[alpha + 40 : alpha + 400] = bytes(360)
    assert refusal(data).code == "corrupt_image"


def test_each_frame_is_charged_besides_its_pixels():
    few, many = gif_of(9, 9, 2), gif_of(9, 9, 1_000)
    assert charged(many) - charged(few) > 998 * 1_000 * BYTES_PER_PIXEL


def test_a_progressive_jpeg_with_hundreds_of_scans_is_refused_before_it_is_decoded():
    flat = photo(1, 1).resize((4000, 4000))
    data = encode(flat, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    many = data[:-2] + data[last:-2] * 200 + b"\xff\xd9"
    assert "scans" in refusal(many, check="structure").detail


@pytest.mark.thorough
def test_a_large_progressive_jpeg_needs_less_memory_than_its_coefficients(tmp_path):
    flat = photo(8, 8).resize((9000, 9000))
    path = tmp_path / "picture"
    path.write_bytes(encode(flat, "JPEG", progressive=True, subsampling=0, quality=30))
    found = measure("gate", path, 1)
    assert not found["error"]
    assert found["mb"] < 350  # the coefficients are 486 MB


@pytest.mark.thorough
def test_stray_bytes_are_also_accepted_in_a_jpeg_of_which_only_a_part_is_decoded():
    flat = photo(8, 8).resize((9000, 9000))
    data = encode(flat, "JPEG", progressive=True, subsampling=0, quality=30)
    table = data.index(b"\xff\xdb")
    assert inspector().inspect(data[:table] + bytes(9) + data[table:]).width == 9000


@pytest.mark.thorough
def test_a_large_webp_needs_less_memory_than_its_pixels(tmp_path):
    path = tmp_path / "picture"
    path.write_bytes(encode(photo(8, 8).resize((5000, 5000)), "WEBP", method=0))
    found = measure("gate", path, 1)
    assert not found["error"]
    assert found["mb"] < 60  # its pixels are 100 MB


@pytest.mark.thorough
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
    """The bytes of the decoding budget that a picture takes."""
    return BYTES_PER_PIXEL * cost(data, walk(data, 100_000_000))


@pytest.mark.thorough
def test_twenty_thousand_mutated_files_raise_nothing_but_refusals():
    command = [sys.executable, "-m", "tests.image.mutate", "--seconds", "20"]
    done = subprocess.run(
        command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "data",
    [gif_of(9, 9, 3), png(9, 9), png_pieces_behind_the_end(9)],
    ids=["frames of a GIF", "rows of a PNG", "chunks after a PNG's rows"],
)
def test_a_deadline_ends_a_decode(data):
    with pytest.raises(ApiError) as caught:
        decode(data, walk(data, 1000), time.monotonic() - 1)
    assert caught.value.code == "overloaded"
