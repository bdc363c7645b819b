"""Mutated pictures with metadata: what passed the gate passes it without them, and tells nothing.

    python -m tests.image.mutate_metadata                     20,000 files from seed 1
    python -m tests.image.mutate_metadata --files 500 --judge

Each file is one of ``tests.image.tagged`` with a few wounds, most of them where its metadata are.
``--judge`` asks exiftool too whether it still finds a position. Ends with status 1 if anything but
ApiError came out, if a picture without metadata was refused or changed at the second time, or if
one file took longer than ten seconds.
"""

import argparse
import math
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from app.config import MINIMAL, NO_LOCATION
from app.errors import ApiError
from app.image.gate import decode, walk
from app.image.metadata import strip
from tests.image import judge, tagged
from tests.image.mutants import BYTES, mended
from tests.image.mutate import MAX_SECONDS

_BATCH = 500
_EXTENSIONS = {b"\xff\xd8": "jpg", b"\x89P": "png", b"GI": "gif", b"RI": "webp"}


def mutants(seed: int, files: int) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes), the same for the same seed."""
    rng = random.Random(seed)
    by_kind = [
        list(kind().items())
        for kind in (
            tagged.located_jpegs,
            tagged.located_pngs,
            tagged.located_gifs,
            tagged.located_webps,
        )
    ]
    for number in range(files):
        name, original = rng.choice(rng.choice(by_kind))
        data = bytearray(original)
        for _ in range(rng.choice((1, 1, 2, 5))):
            if data:
                rng.choice(BYTES)(data, rng)
        png = data.startswith(b"\x89PNG")
        yield f"{number}-{name}", mended(data) if png else bytes(data)


def stripped(data: bytes) -> dict[str, bytes]:
    """A picture by each policy; ApiError where the gate refuses it in the first place."""
    info = walk(data, 100_000_000)
    decode(data, info)
    return {
        policy: b"".join(strip(memoryview(data), info, policy, "", math.inf).pieces)
        for policy in (NO_LOCATION, MINIMAL)
    }


def faults(data: bytes, policy: str) -> str:
    """What is wrong with a picture that was stripped; nothing is."""
    try:
        info = walk(data, 100_000_000)
        decode(data, info)
    except ApiError as error:
        return f"refused by the gate: {error}"
    again = strip(memoryview(data), info, policy, "", math.inf).pieces
    return "" if len(again) == 1 and len(again[0]) == len(data) else "changed once more"


def run(seed: int, files: int, seconds: float, *, judged: bool) -> bool:
    """Strip mutants by each policy; say how it went, and whether all was well."""
    outcome: Counter[str] = Counter()
    slowest = (0.0, "")
    well = True
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for name, data in mutants(seed, files):
            start = time.monotonic()
            if start - begun > seconds:
                break
            try:
                for policy, less in stripped(data).items():
                    if fault := faults(less, policy):
                        print(f"seed {seed}, file {name}, {policy}: {fault}")
                        well = False
                    (Path(folder) / f"{name}.{policy}.{_EXTENSIONS[less[:2]]}").write_bytes(less)
                outcome["accepted"] += 1
            except ApiError as error:
                outcome[error.code] += 1
            except Exception:
                print(f"seed {seed}, file {name}:\n{traceback.format_exc()}")
                well = False
            slowest = max(slowest, (time.monotonic() - start, name))
            if outcome.total() % _BATCH == 0:
                well &= _judge(Path(folder), judged=judged)
        well &= _judge(Path(folder), judged=judged)
    print(f"{outcome.total()} files in {time.monotonic() - begun:.1f} s: {dict(outcome)}")
    print(f"slowest: {slowest[0]:.2f} s ({slowest[1]})")
    return well and slowest[0] < MAX_SECONDS and outcome["accepted"] > 0


def _judge(folder: Path, *, judged: bool) -> bool:
    """Ask exiftool about the files of a folder, and empty it."""
    files = list(folder.iterdir())
    found = judge.positions(folder) if judged and files else {}
    for name, tags in found.items():
        print(f"exiftool finds a position in {name}: {tags}")
        shutil.copy(folder / name, Path(tempfile.gettempdir()) / name)
    for file in files:
        file.unlink()
    return not found


def main() -> None:
    parser = argparse.ArgumentParser(description="Take the metadata out of mutated pictures.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--judge", action="store_true", help="ask exiftool too")
    asked = parser.parse_args()
    well = run(asked.seed, asked.files, asked.seconds, judged=asked.judge)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
