"""The prefix codes of a lossless WebP are counted before libwebp allocates memory for them."""

import math
import random

import pytest

from app.errors import ApiError
from app.image import vp8l, webp
from app.image.gate import decode, walk
from tests.image.corpus import webp_of_groups, webps
from tests.pictures import encode, photo

LOSSLESS = [
    (sample.name, bytes(stream), size)
    for sample in webps()
    for stream, size in webp.lossless_streams(memoryview(sample.data))
]


def asked(stream: bytes, size: tuple[int, int]) -> int:
    return vp8l.table_bytes(vp8l.Bits(memoryview(stream), vp8l.MAX_READS, math.inf), *size)


@pytest.mark.parametrize(("name", "stream", "size"), LOSSLESS, ids=[name for name, *_ in LOSSLESS])
def test_a_lossless_picture_never_asks_for_more_tables_than_its_size_allows(name, stream, size):
    assert 0 < asked(stream, size) <= vp8l.most_table_bytes(*size)


@pytest.mark.thorough
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
        vp8l.table_bytes(
            vp8l.Bits(memoryview(webp_of_groups(9, 1024))[25:], 50_000, math.inf), 1024, 1024
        )
    assert "longer than any program writes" in caught.value.detail
