"""What one hostile key does to another: its latency alone, and under each attack.

    python bench/hostile.py [--seconds 20] [--only GIF]

A victim uploads a photo of 40 kB twice a second. The hostile key has the default rate, and sends
a minute's uploads at once. Another attack is a line in tests/system/attacks.py.
"""

import argparse
import hashlib
import secrets
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import redis

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[1])]

import photos  # noqa: E402
from uploads import Stack, Web, body  # noqa: E402

from tests.system.attacks import FILES, at_once, largest, silent  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--only", default="", help="attacks whose names have this text")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        stack = Stack(Path(name))
        web = Web(stack, "decode", Path(name), RATE_LIMIT="60/minute")
        try:
            files = {each: make() for each, make in FILES.items() if options.only in each}
            costs(web, stack, files)
            latencies(web, stack, attacks(files, options.only), options.seconds)
        finally:
            web.stop()
            stack.stop()


def attacks(files, only):
    made = {f"60 x {name} at once": at_once(file) for name, file in files.items()}
    made["60 x photo of 15 MiB at once"] = at_once(largest())
    made["60 x body that lacks its last byte"] = silent(16, 14, 30)
    return {name: attack for name, attack in made.items() if only in name}


def costs(web, stack, files):
    """The processor time that one upload of each file takes."""
    print("| one upload of | size | CPU | PSS | answer |\n|---|---|---|---|---|")
    for name, file in files.items():
        before, memory = web.cpu(), web.memory()[0]
        with at_once(file, 1)(f"http://127.0.0.1:{web.port}", new_key(stack)) as attack:
            while attack.going_on:
                memory = max(memory, web.memory()[0])
                time.sleep(0.02)
        seconds = web.cpu() - before
        cells = name, f"{len(file) / 1e6:.1f} MB", f"{seconds * 1000:.0f} ms"
        print(
            "|", " | ".join(cells), f"| {memory >> 20} MiB | {show(attack.statuses)} |", flush=True
        )


def latencies(web, stack, made, seconds):
    print("\n| attack | victim: p50 | p99 | statuses | the hostile key's | PSS |")
    print("|---|---|---|---|---|---|")
    victim = Victim(web, new_key(stack, rate_limit="9999/minute"))
    victim.row("none", Counter(), *victim.uploads(seconds))
    for name, attack in made.items():
        with attack(f"http://127.0.0.1:{web.port}", new_key(stack)) as hostile:
            found = victim.uploads(seconds)
        victim.row(name, hostile.statuses, *found)
        time.sleep(2)


def new_key(stack, **fields):
    key = secrets.token_hex(32)
    record = f"apikey:{hashlib.sha256(key.encode()).hexdigest()}"
    redis.Redis(port=stack.redis_port).hset(record, mapping={"roles": "uploader", **fields})
    return key


class Victim:
    """Uploads twice a second, however long the last upload took."""

    def __init__(self, web, key):
        self._web = web
        file, headers = body(photos.closest(photos.photo(640, 480), 4e4))
        self._upload = file, {**headers, "x-api-key": key}

    def uploads(self, seconds):
        """What each took, in milliseconds and in order, their statuses, and the most memory."""
        taken, statuses, memory = [], Counter(), 0
        for _ in range(2 * seconds):
            start = time.perf_counter()
            statuses[self._web.upload(self._upload)] += 1
            taken.append((time.perf_counter() - start) * 1000)
            memory = max(memory, self._web.memory()[0])
            time.sleep(max(0, 0.5 - (time.perf_counter() - start)))
        return sorted(taken), statuses, memory

    @staticmethod
    def row(name, hostile, taken, statuses, memory):
        print(
            f"| {name} | {statistics.median(taken):.0f} ms | {taken[int(len(taken) * 0.99)]:.0f} ms"
            f" | {show(statuses)} | {show(hostile)} | {memory / 2**20:.0f} MiB |",
            flush=True,
        )


def show(counts):
    return ", ".join(f"{count} x {what}" for what, count in counts.items()) or "-"


if __name__ == "__main__":
    main()
