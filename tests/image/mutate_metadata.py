"""Damaged pictures with metadata: after a policy they still pass the gate, and tell nothing.

    python -m tests.image.mutate_metadata                     20,000 files from seed 1
    python -m tests.image.mutate_metadata --files 500 --judge

Each file is one of ``tests.image.tagged``, damaged as in ``tests.image.mutants``. ``--judge`` asks
exiftool too whether it still finds a position. Ends with status 1 where ``tests.image.mutate``
does, and if a picture without its metadata was refused, or changed by a second run.
"""

import math
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from app.config import MINIMAL, NO_LOCATION
from app.errors import ApiError
from app.image.gate import ImageInfo, decode, walk
from app.image.metadata import strip
from tests.image import judge, tagged
from tests.image.measure import MAX_PIXELS
from tests.image.mutants import mutant
from tests.image.mutate import arguments, run

_BATCH = 1000
"""Files for which exiftool is started once: a start takes longer than a file."""


def tagged_mutants(seed: int, files: int) -> Iterator[tuple[str, bytes]]:
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
        yield f"{number}-{name}", mutant(original, rng)


def checked(data: bytes) -> ImageInfo:
    """What the gate finds; ApiError where it refuses the file."""
    info = walk(data, MAX_PIXELS)
    decode(data, info)
    return info


def stripped(data: bytes, info: ImageInfo, policy: str) -> bytes:
    return b"".join(strip(memoryview(data), info, policy, "", math.inf).pieces)


def fault(data: bytes, policy: str) -> str:
    """What is wrong with a picture to which a policy was applied; empty where nothing is."""
    try:
        info = checked(data)
    except ApiError as error:
        return f"refused by the gate: {error}"
    return "" if stripped(data, info, policy) == data else "changed by a second run"


class Look:
    """Applies both policies to a picture, and keeps the results in a folder for exiftool."""

    def __init__(self, folder: Path, *, judged: bool) -> None:
        self._folder = folder
        self._judged = judged
        self._kept: list[Path] = []

    def __call__(self, name: str, data: bytes) -> bool:
        info = checked(data)
        well = True
        for policy in (NO_LOCATION, MINIMAL):
            less = stripped(data, info, policy)
            if wrong := fault(less, policy):
                print(f"file {name}, {policy}: {wrong}")
                well = False
            if self._judged:
                self._kept.append(self._folder / f"{name}.{policy}.{info.extension}")
                self._kept[-1].write_bytes(less)
        return well

    def judge_batch(self) -> bool:
        """Judge the files kept so far, if they are enough to start exiftool for."""
        return len(self._kept) < _BATCH or self.judge()

    def judge(self) -> bool:
        """Whether exiftool finds no position in the files kept so far; deletes them."""
        found = judge.positions(self._folder) if self._kept else {}
        for name, tags in found.items():
            print(f"exiftool finds a position in {name}: {tags}")
            shutil.copy(self._folder / name, Path(tempfile.gettempdir()) / name)
        for file in self._kept:
            file.unlink()
        self._kept.clear()
        return not found


def main() -> None:
    parser = arguments("Take the metadata out of damaged pictures.")
    parser.add_argument("--judge", action="store_true", help="ask exiftool too")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        look = Look(Path(folder), judged=asked.judge)
        files = tagged_mutants(asked.seed, asked.files)
        well = run(files, look, asked.seconds, between=look.judge_batch)
        well &= look.judge()
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
