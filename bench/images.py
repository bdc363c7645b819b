"""Time and peak memory of the image gate, compared with Pillow's load().

    python -m bench.images            the table of formats and sizes
    python -m bench.images --worst    the worst pictures that are accepted, and sixteen at once
    python -m bench.images --hostile  files that ask for too much, or lie
    python -m bench.images --linear   time by size, for each loop whose length a client chooses
    python -m bench.images --damage   how much damage to JPEGs each way of decoding finds

Each figure comes from a separate process. Times are processor times, the best of several runs.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from app.errors import ApiError
from tests.image import corpus
from tests.image.inspecting import inspector
from tests.image.measure import ROOT, gate, measure, peak, pillow_load


def pictures() -> dict[str, bytes]:
    """Each format in the size of a screen, of a camera, and of a large camera."""
    made = {}
    for width, height in ((1200, 800), (4000, 3000), (6000, 4000)):
        photo = corpus.photo(width, height)
        small = photo.resize((width // 2, height // 2))
        size = f"{width * height / 1e6:.0f} MP"
        quarter = f"{width * height / 4e6:.1f} MP"
        made[f"JPEG {size}"] = corpus.encode(photo, "JPEG", quality=85)
        made[f"JPEG progressive {size}"] = corpus.encode(
            photo, "JPEG", quality=85, progressive=True
        )
        made[f"PNG {quarter}"] = corpus.encode(small, "PNG", compress_level=6)
        made[f"PNG drawing {size}"] = corpus.encode(corpus.drawing(width, height), "PNG")
        made[f"GIF {quarter}"] = corpus.encode(small.quantize(256), "GIF")
        made[f"WebP {size}"] = corpus.encode(photo, "WEBP", quality=80, method=0)
        made[f"WebP lossless {quarter}"] = corpus.encode(
            small, "WEBP", lossless=True, quality=0, method=0
        )
    frames = [corpus.photo(480, 320, seed=seed).quantize(128) for seed in range(20)]
    made["GIF 20 x 0.15 MP"] = corpus.encode(
        frames[0], "GIF", save_all=True, append_images=frames[1:]
    )
    return made


def worst() -> dict[str, bytes]:
    """Pictures of 100 megapixels of the most expensive kinds, each within 15 MiB."""
    photo = corpus.photo(10_000, 10_000, seed=3).resize((2500, 2500)).resize((10_000, 10_000))
    progressive = {"quality": 30, "progressive": True}
    rows = corpus.packed_rows(10_000, 10_000, bits=64, interlaced=True)
    return {
        "JPEG baseline": corpus.encode(photo, "JPEG", quality=30),
        "JPEG progressive 4:2:0": corpus.encode(photo, "JPEG", **progressive),
        "JPEG progressive 4:4:4": corpus.encode(photo, "JPEG", subsampling=0, **progressive),
        "JPEG progressive CMYK": corpus.encode(
            photo.convert("CMYK"), "JPEG", **progressive | {"quality": 20}
        ),
        "PNG interlaced, 16-bit RGBA": corpus.png_of(
            10_000, 10_000, rows, depth=16, colour=6, interlace=1
        ),
        "PNG palette": corpus.encode(photo.quantize(4), "PNG"),
        "APNG, 10,000 frames": corpus.apng(10_000, 10_000, (100, 100)),
        "GIF": corpus.encode(photo.quantize(4), "GIF"),
        "GIF, 10,000 frames": corpus.gif_of(100, 100, 10_000, (100, 100)),
        "WebP lossy": corpus.encode(photo, "WEBP", quality=30, method=0),
        "WebP lossless": corpus.encode(
            gradients(10_000), "WEBP", lossless=True, quality=0, method=0
        ),
        "WebP lossless, 20,000 groups of prefix codes": corpus.webp_of_groups(20_000, 1024),
        "WebP, 10,000 frames": corpus.webp_animation(100, 100, 10_000),
    }  # fmt: skip


def gradients(side: int) -> Image.Image:
    """An image of millions of colours that compresses well."""
    down = Image.linear_gradient("L").resize((side, side), Image.Resampling.BICUBIC)
    return Image.merge("RGB", (down, down.transpose(Image.Transpose.ROTATE_90), down))


def table(made: dict[str, bytes], folder: Path, repeats: int, *, load: bool) -> None:
    head = "| picture | MB | walk, ms (per MB) | walk and decode, ms | MB of memory |"
    print(head + (" load(), ms | MB of memory |" if load else ""))
    print("|---|---|---|---|---|" + ("---|---|" if load else ""))
    for name, data in made.items():
        path = folder / "picture"
        path.write_bytes(data)
        size = len(data) / 1e6
        walked, gated = measure("walk", path, repeats), measure("gate", path, repeats)
        line = (
            f"| {name} | {size:.2f} | {walked['ms']:.2f} ({walked['ms'] / size:.2f}) "
            f"| {gated['ms']:.1f} | {gated['mb']:.0f} |"
        )
        if load:
            loaded = measure("load", path, repeats)
            line += f" {loaded['ms']:.1f} | {loaded['mb']:.0f} |"
        print(line + f" {gated['error']}".rstrip(), flush=True)


def hostile(folder: Path) -> None:
    print("| hostile file | MB | ms | MB of memory | answer |\n|---|---|---|---|---|")
    made = {name: data for name, (_, data) in corpus.hostile().items()} | corpus.bombs()
    for name, data in made.items():
        path = folder / "picture"
        path.write_bytes(data)
        found = measure("inspect", path, 1)
        size = f"{len(data) / 1e6:.2f}"
        answer = found["error"] or "accepted"
        print(f"| {name} | {size} | {found['ms']:.0f} | {found['mb']:.0f} | {answer} |", flush=True)


LINEAR: dict[str, Callable[[int], bytes]] = {
    "JPEG, segments (10,000)": lambda size: corpus.jpeg_of_segments(size // 1_510),
    "JPEG, strays between segments": corpus.jpeg_of_strays,
    "JPEG, restart intervals (10,000)": lambda size: corpus.jpeg_of_intervals(size // 1_510),
    "JPEG, pixels": lambda size: corpus.encode(
        corpus.photo(3000, size // 6_000, "L"), "JPEG", quality=95
    ),
    "PNG, chunks (100,000)": lambda size: corpus.png_of_chunks(size // 151),
    "PNG, chunks after the end of its data": lambda size: corpus.png_pieces_behind_the_end(
        size // 160, 148
    ),
    "PNG, cut, a gigabyte of data for each megabyte": lambda size: corpus.png_cut(
        size // 1000, 5000
    ),
    "PNG, rows (100 megapixels)": lambda size: corpus.png_of(
        10_000, size // 1_500, corpus.packed_rows(10_000, size // 1_500, bits=24, interlaced=False)
    ),
    "APNG, frames (10,000)": lambda size: corpus.apng(size // 1_510, size // 1_510),
    "GIF, blocks (100,000)": lambda size: corpus.gif_of_blocks(size // 151),
    "GIF, sub-blocks (1,000,000)": lambda size: corpus.gif_of_pieces(size // 16),
    "GIF, frames (10,000)": lambda size: corpus.gif_of(90, 90, size // 1_510),
    "WebP, chunks (100,000)": lambda size: corpus.webp_of_chunks(size // 151),
    "WebP, frames (10,000)": lambda size: corpus.webp_animation(90, 90, size // 1_510),
    "WebP, groups of prefix codes": lambda size: corpus.webp_of_groups(size // 1_000, 1024),
}
"""For each loop whose length a client chooses, a file in proportion to a size. The largest one is
the largest that is accepted, or 15 MB."""

_SIZES = [15_000_000 >> halved for halved in range(5, -1, -1)]
_PARTS = [f"1/{1 << halved}" for halved in range(5, 0, -1)] + ["1"]


def linear(folder: Path) -> None:
    """Print milliseconds for six sizes, each twice the one before.

    ``growth`` compares the time for a byte at the whole size with that at an eighth: 1.0 is linear.
    """
    print(f"| milliseconds at | {' | '.join(_PARTS)} | growth |\n|---|{'---|' * 7}")
    path = folder / "picture"
    for name, make in LINEAR.items():
        times = []
        for size in _SIZES:
            path.write_bytes(make(size))
            times.append(measure("inspect", path, 1)["ms"])
        grown = times[-1] / max(times[2], 0.1) / 8  # a clock may show 0
        print(f"| {name} | {' | '.join(f'{ms:.1f}' for ms in times)} | {grown:.1f} |", flush=True)


def sixteen(folder: Path, made: dict[str, bytes]) -> None:
    """Inspect sixteen copies of each of the worst at once, each with its own buffer."""
    print("\n| sixteen at once | s | peak memory of the process, MB | refused |\n|---|---|---|---|")
    for name, data in made.items():
        path = folder / "picture"
        path.write_bytes(data)
        command = [sys.executable, "-m", "bench.images", "--sixteen", str(path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
        seconds, peak, refused = json.loads(done.stdout)
        print(f"| {name} | {seconds:.1f} | {peak:.0f} | {refused} |", flush=True)


def sixteen_of(path: Path) -> None:
    shared = inspector()
    outcome: Counter[str] = Counter()

    def inspect(data: bytes) -> None:
        try:
            shared.inspect(data)
            outcome["ok"] += 1
        except ApiError as error:
            outcome[error.code] += 1

    threads = [threading.Thread(target=inspect, args=(path.read_bytes(),)) for _ in range(16)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps([time.perf_counter() - start, peak(), outcome.total() - outcome["ok"]]))


def damage() -> None:
    """How often damaged JPEG data is refused: 200 files of each kind."""
    import simplejpeg

    def refuses(check: Callable[[bytes], object], data: bytes) -> bool:
        try:
            check(data)
        except Exception:  # noqa: BLE001 - any refusal counts
            return True
        return False

    image = corpus.photo(800, 600)
    kinds = {
        "baseline": {},
        "optimised": {"optimize": True},
        "progressive": {"progressive": True},
        "4:4:4": {"subsampling": 0},
        "restart markers": {"restart_marker_rows": 1},
    }
    rng = random.Random(5)
    print("| JPEG | damage | Pillow load() | libjpeg's warnings | the gate |")
    print("|---|---|---|---|---|")
    for name, options in kinds.items():
        good = corpus.encode(image, "JPEG", quality=80, **options)
        first = good.index(b"\xff\xda") + 20
        for what in ("one bit flipped", "4 KiB of zeros", "cut, EOI pasted on"):
            found: Counter[str] = Counter()
            for _ in range(200):
                bad = _damaged(good, what, rng, first)
                found["load"] += refuses(pillow_load, bad)
                found["warn"] += refuses(simplejpeg.decode_jpeg, bad)
                found["gate"] += refuses(gate, bad)
            shares = " | ".join(f"{found[way] / 2:.0f} %" for way in ("load", "warn", "gate"))
            print(f"| {name} | {what} | {shares} |", flush=True)


def _damaged(good: bytes, what: str, rng: random.Random, first: int) -> bytes:
    bad = bytearray(good)
    at = rng.randrange(first, len(good) - 4200)
    if what == "one bit flipped":
        bad[at] ^= 1 << rng.randrange(8)
    elif what == "4 KiB of zeros":
        bad[at : at + 4096] = bytes(4096)
    else:
        bad[at:] = b"\xff\xd9"
    return bytes(bad)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worst", action="store_true")
    parser.add_argument("--damage", action="store_true")
    parser.add_argument("--hostile", action="store_true")
    parser.add_argument("--linear", action="store_true")
    parser.add_argument("--sixteen", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.sixteen:
        sixteen_of(asked.sixteen)
    elif asked.damage:
        damage()
    elif asked.hostile or asked.linear:
        with tempfile.TemporaryDirectory() as folder:
            (hostile if asked.hostile else linear)(Path(folder))
    else:
        with tempfile.TemporaryDirectory() as folder:
            made = worst() if asked.worst else pictures()
            table(made, Path(folder), 1 if asked.worst else 5, load=not asked.worst)
            if asked.worst:
                sixteen(Path(folder), made)


if __name__ == "__main__":
    main()
