"""Mutated pictures: whatever the bytes, only ApiError leaves the gate, and soon.

    python -m tests.image.mutate                         20,000 files from seed 1
    python -m tests.image.mutate --files 3000 --seconds 20

Prints what became of the files (``tests.image.mutants``) and the slowest; ends with status 1 if
anything but ApiError came out or one file took longer than ten seconds. A crash of a decoder ends
the process.
"""

import argparse
import sys
import time
import traceback
from collections import Counter

from app.errors import ApiError
from app.image.gate import decode, walk
from tests.image.mutants import mutants

MAX_SECONDS = 10


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
