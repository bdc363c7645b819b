"""Mutated pictures: whatever the bytes, only ApiError leaves the gate, and soon.

    python -m tests.image.mutate                         20,000 files from seed 1
    python -m tests.image.mutate --files 3000 --seconds 20

Each file is one of the valid ones of ``tests.image.corpus`` with a few wounds; of a PNG the
checksums are made right again every other time, or nothing would get past them. Prints what
became of the files and the slowest; ends with status 1 if anything but ApiError came out or
one file took longer than ten seconds. A crash of a decoder ends the process.
"""

import argparse
import random
import struct
import sys
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable

from app.errors import ApiError
from app.image.gate import decode, walk
from tests.image import corpus

MAX_SECONDS = 10
_EDGES = (
    *(b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff"),
    *(b"\x00\x00", b"\x7f\xff", b"\xff\xff", b"\xff\xd9", b"\xff\xda"),
    *(b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff"),
)


def flip(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def edge(data: bytearray, rng: random.Random) -> None:
    """An extreme value somewhere, most often in the first bytes, where the sizes are."""
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
    """A piece once more, somewhere else: chunks, frames and scans too many."""
    start, at = rng.randrange(len(data)), rng.randrange(len(data))
    data[at:at] = data[start : start + rng.choice((8, 40, 400))]


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


WOUNDS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip, edge, edge, zeros, remove, insert, repeat, cut
)  # fmt: skip


def mended(data: bytearray) -> bytes:
    """A PNG with right checksums, as far as its chunks can be followed."""
    pos = 8
    while pos + 12 <= len(data):
        end = pos + 8 + struct.unpack_from(">I", data, pos)[0]
        if end + 4 > len(data):
            break
        struct.pack_into(">I", data, end, zlib.crc32(memoryview(data)[pos + 4 : end]))
        pos = end + 4
    return bytes(data)


def mutants(seed: int, files: int):
    """Yield (name, bytes), the same for the same seed."""
    rng = random.Random(seed)
    samples = [sample for sample in corpus.valid() if len(sample.data) < 100_000]
    by_kind = [[s for s in samples if s.format == kind] for kind in ("JPEG", "PNG", "GIF", "WEBP")]
    for number in range(files):
        sample = rng.choice(rng.choice(by_kind))
        data = bytearray(sample.data)
        for _ in range(rng.choice((1, 1, 2, 5))):
            if data:
                rng.choice(WOUNDS)(data, rng)
        mend = sample.format == "PNG" and rng.random() < 0.5
        yield f"{number} {sample.name}", mended(data) if mend else bytes(data)


def run(seed: int, files: int, seconds: float) -> bool:
    """Put mutants through walk and decode; say how it went, and whether all was well."""
    outcome: Counter[str] = Counter()
    slowest = (0.0, "")
    well = True
    begun = time.monotonic()
    for name, data in mutants(seed, files):
        start = time.monotonic()
        if start - begun > seconds:
            break
        try:
            decode(data, walk(data, 100_000_000))
            outcome["accepted"] += 1
        except ApiError as error:
            outcome[error.code] += 1
        except Exception:
            print(f"seed {seed}, file {name}:\n{traceback.format_exc()}")
            well = False
        slowest = max(slowest, (time.monotonic() - start, name))
    print(f"{outcome.total()} files in {time.monotonic() - begun:.1f} s: {dict(outcome)}")
    print(f"slowest: {slowest[0]:.2f} s ({slowest[1]})")
    return well and slowest[0] < MAX_SECONDS and outcome.total() > 0


def main() -> None:
    parser = argparse.ArgumentParser(description="Put mutated pictures through the image gate.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    asked = parser.parse_args()
    sys.exit(0 if run(asked.seed, asked.files, asked.seconds) else 1)


if __name__ == "__main__":
    main()
