"""Mutants: damaged pictures, the same for the same seed, with changes to bytes and to whole blocks.

Each is one of the valid files of ``tests.image.corpus`` with a few changes. In most of them
checksums, sequence numbers and sizes of containers are set right again: otherwise the checks of
these would hide all later checks.
"""

import random
import re
import struct
import zlib
from collections.abc import Callable, Iterator

from tests.image import corpus

_EDGES = (
    *(b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff"),
    *(b"\x00\x00", b"\x7f\xff", b"\xff\xff", b"\xff\xd9", b"\xff\xda"),
    *(b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff"),
)

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def flip(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def edge(data: bytearray, rng: random.Random) -> None:
    """Write an extreme value, most often into the first bytes, where the sizes are."""
    value = rng.choice(_EDGES)
    at = rng.randrange(min(len(data), rng.choice((64, 256, 1 << 24))))
    data[at : at + len(value)] = value


def zeros(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    size = min(rng.choice((4, 64, 512)), len(data) - at)
    data[at : at + size] = bytes(size)


def remove(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 2, 16, 300))]


def insert(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at:at] = rng.randbytes(rng.choice((1, 2, 16, 300)))


def repeat(data: bytearray, rng: random.Random) -> None:
    """Copy a piece to another place: extra chunks, frames and scans."""
    start, at = rng.randrange(len(data)), rng.randrange(len(data))
    data[at:at] = data[start : start + rng.choice((8, 40, 400))]


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


BYTES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip, edge, edge, zeros, remove, insert, repeat, cut
)  # fmt: skip


def blocks(data: bytes) -> list[tuple[int, int]]:
    """Start and end of each block of the structure: segments, chunks, frames."""
    try:
        if data[:2] == b"\xff\xd8":
            return list(_segments(data))
        if data[:2] == b"\x89P":
            return list(_png_chunks(data))
        if data[:4] == b"RIFF":
            return list(_riff_chunks(data, 12, len(data)))
        return list(_gif_blocks(data))
    except (AttributeError, IndexError, struct.error):
        return []


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    pos = 2
    while data[pos + 1] != 0xD9:
        end = pos + 2 + (data[pos + 2] << 8 | data[pos + 3])
        while data[pos + 1] == 0xDA and (
            data[end] != 0xFF or data[end + 1] in (0, *range(0xD0, 0xD8))
        ):
            end += 1
        yield pos, end
        pos = end


def _png_chunks(data: bytes) -> Iterator[tuple[int, int]]:
    pos = 8
    while pos + 12 <= len(data):
        end = pos + 12 + struct.unpack_from(">I", data, pos)[0]
        yield pos, end
        pos = end


def _riff_chunks(data: bytes, pos: int, end: int) -> Iterator[tuple[int, int]]:
    while pos + 8 <= end:
        size = struct.unpack_from("<I", data, pos + 4)[0]
        yield pos, pos + 8 + size + (size & 1)
        if data[pos : pos + 4] == b"ANMF":
            yield from _riff_chunks(data, pos + 24, pos + 8 + size)
        pos += 8 + size + (size & 1)


def _gif_blocks(data: bytes) -> Iterator[tuple[int, int]]:
    pos = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    while data[pos] != 0x3B:
        end = pos + 2
        if data[pos] == 0x2C:
            flags = data[pos + 9]
            end = pos + 11 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
        while data[end]:
            end += data[end] + 1
        yield pos, end + 1
        pos = end + 1


def _drop(data: bytearray, rng: random.Random, start: int, end: int) -> None:
    del data[start:end]


def _double(data: bytearray, rng: random.Random, start: int, end: int) -> None:
    data[start:start] = data[start:end]


def _move(data: bytearray, rng: random.Random, start: int, end: int) -> None:
    block = data[start:end]
    to = rng.choice(blocks(data))[0]
    if to <= start:
        del data[start:end]
        data[to:to] = block


def _head(data: bytearray, rng: random.Random, start: int, end: int) -> None:
    """Write a small or extreme value into one of the fields at the start of a block."""
    at = min(start + rng.randrange(34), len(data) - 1)
    data[at] = rng.choice((0, 1, 2, 3, 4, 8, 16, 255, data[at] ^ 1 << rng.randrange(8)))


def _stray(data: bytearray, rng: random.Random, start: int, end: int) -> None:
    """Insert a few bytes between two blocks."""
    count = rng.choice((1, 2, 3, 9, 600))
    data[start:start] = rng.choice((bytes(count), b"\xff" * count, rng.randbytes(count)))


def _shorten(data: bytearray, rng: random.Random, start: int, end: int) -> None:
    del data[end - rng.choice((1, 2, 4)) : end]


def _rename(data: bytearray, rng: random.Random, start: int, end: int) -> None:
    """Give a block the name of another one."""
    other = rng.choice(blocks(data))[0]
    data[start : start + 8] = data[start : start + 4] + data[other + 4 : other + 8]
    if data[:4] == b"RIFF":
        data[start : start + 4] = rng.choice((b"JUNK", b"VP8 ", bytes(data[other : other + 4])))


BLOCKS: tuple[Callable[[bytearray, random.Random, int, int], None], ...] = (
    _drop, _double, _move, _head, _head, _head, _stray, _stray, _shorten, _rename
)  # fmt: skip


def repaired(data: bytearray) -> bytes:
    """Set the checksums and sequence numbers of a PNG right, and the size of a WebP."""
    if data[:4] == b"RIFF" and len(data) > 8:
        struct.pack_into("<I", data, 4, len(data) - 8)
    if data[:2] == b"\x89P":
        sequence = 0
        for start, end in list(_png_chunks(data)):
            if end > len(data):
                break
            if data[start + 4 : start + 8] in (b"fcTL", b"fdAT") and end - start >= 16:
                struct.pack_into(">I", data, start + 8, sequence)
                sequence += 1
            struct.pack_into(">I", data, end - 4, zlib.crc32(memoryview(data)[start + 4 : end - 4]))
    return bytes(data)


def mutant(data: bytes, rng: random.Random) -> bytes:
    """The file with one change or a few."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        parts = blocks(bytes(changed))
        if parts and rng.random() < 0.6:
            rng.choice(BLOCKS)(changed, rng, *rng.choice(parts))
        elif changed:
            rng.choice(BYTES)(changed, rng)
    return repaired(changed) if rng.random() < 0.75 else bytes(changed)


def mutants(seed: int, files: int, kinds: tuple[str, ...] = ("JPEG", "PNG", "GIF", "WEBP")):
    """Yield (name, bytes), the same for the same seed."""
    rng = random.Random(seed)
    samples = [sample for sample in corpus.valid() if len(sample.data) < 100_000]
    animated = [sample for sample in samples if sample.frames > 1]
    by_kind = [[s for s in samples if s.format == kind] for kind in kinds]
    for number in range(files):
        kind = rng.choice(by_kind)
        moving = [sample for sample in animated if sample in kind]
        sample = rng.choice(moving if moving and rng.random() < 0.3 else kind)
        yield f"{number} {sample.name}", mutant(sample.data, rng)
