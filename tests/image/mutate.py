"""Damaged pictures: whatever the bytes, only ApiError leaves the gate, and soon.

    python -m tests.image.mutate                         20,000 files from seed 1
    python -m tests.image.mutate --files 3000 --seconds 20

Prints what became of the files (``tests.image.mutants``) and the slowest one. Ends with status 1 if
anything but ApiError came out, if no file was accepted, or if one took longer than ten seconds. A
crash of a decoder ends the process.
"""

import argparse
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable

from app.errors import ApiError
from app.image.gate import decode, walk
from tests.image.measure import MAX_PIXELS
from tests.image.mutants import mutants

_MAX_SECONDS = 10


def arguments(description: str) -> argparse.ArgumentParser:
    """The options of every run over damaged pictures."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    return parser


def run(
    files: Iterable[tuple[str, bytes]],
    look: Callable[[str, bytes], bool],
    seconds: float,
    *,
    between: Callable[[], bool] = lambda: True,
) -> bool:
    """Pass each file to ``look``, print a summary, and return whether all is well.

    ``look`` gets the name and bytes of a file. It returns whether it found no fault, or raises the
    ApiError with which the file is refused. ``between`` is called after each file, outside of the
    time of that file, and returns whether all is well too. After ``seconds`` no file follows.
    """
    outcome: Counter[str] = Counter()
    slowest = (0.0, "")
    well = True
    begun = time.monotonic()
    for name, data in files:
        start = time.monotonic()
        if start - begun > seconds:
            break
        try:
            well &= look(name, data)
            outcome["accepted"] += 1
        except ApiError as error:
            outcome[error.code] += 1
        except Exception:
            print(f"file {name}:\n{traceback.format_exc()}")
            well = False
        slowest = max(slowest, (time.monotonic() - start, name))
        well &= between()
    print(f"{outcome.total()} files in {time.monotonic() - begun:.1f} s: {dict(outcome)}")
    print(f"slowest: {slowest[0]:.2f} s ({slowest[1]})")
    return well and slowest[0] < _MAX_SECONDS and outcome["accepted"] > 0


def _look(_name: str, data: bytes) -> bool:
    decode(data, walk(data, MAX_PIXELS))
    return True


def main() -> None:
    asked = arguments("Put damaged pictures through the image gate.").parse_args()
    sys.exit(0 if run(mutants(asked.seed, asked.files), _look, asked.seconds) else 1)


if __name__ == "__main__":
    main()
