"""Time and peak memory of one way to inspect one file, in a separate process.

python -m tests.image.measure WAY PATH REPEATS
"""

import io
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from app.errors import ApiError
from app.image.gate import decode, walk
from tests.image.inspecting import inspector
from tests.pictures import plain

Image.MAX_IMAGE_PIXELS = None  # else load() refuses what is to be measured
MAX_PIXELS = 100_000_000
ROOT = Path(__file__).parents[2]


def pillow_load(data: bytes) -> None:
    """Decode every frame, as a program does that trusts Pillow."""
    with Image.open(io.BytesIO(data)) as image:
        for frame in range(getattr(image, "n_frames", 1)):
            image.seek(frame)
            image.load()


def gate(data: bytes) -> None:
    """Walk and decode, as the service does."""
    decode(data, walk(data, MAX_PIXELS))


def inspect(data: bytes) -> None:
    """Inspect as for an upload, with the work for the sentence of a refusal."""
    inspector().inspect(data)


WAYS: dict[str, Callable[[bytes], object]] = {
    "walk": lambda data: walk(data, MAX_PIXELS),
    "gate": gate,
    "inspect": inspect,
    "load": pillow_load,
    "idle": lambda _: None,
}


def measure(way: str, path: Path, repeats: int, seconds: int = 600) -> dict[str, Any]:
    """Milliseconds, and peak megabytes above the resting process, of one way with one file.

    Raises CalledProcessError where that takes more than ``seconds`` of processor time.
    """
    command = [sys.executable, "-m", "tests.image.measure", way, str(path), str(repeats)]
    limit = (resource.RLIMIT_CPU, (seconds, seconds + 1))
    done = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(*limit),
    )
    return json.loads(done.stdout)


def one(way: str, path: Path, repeats: int) -> None:
    """Measure in this process, and print the result for :func:`measure`."""
    data = path.read_bytes()
    WAYS[way](plain())  # imports and allocates what every file needs
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak, which a fork inherits
    resting = peak()
    best = float("inf")
    error = ""
    for _ in range(repeats):
        start = time.process_time()
        try:
            WAYS[way](data)
        except ApiError as refusal:
            error = refusal.detail
        best = min(best, time.process_time() - start)
    print(json.dumps({"ms": best * 1000, "mb": peak() - resting, "error": error}))


def peak() -> float:
    """Megabytes of this process at their highest (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1000


if __name__ == "__main__":
    one(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
