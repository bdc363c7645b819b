"""How a hostile key affects another one: the latency of the other alone, and under each attack.

    python -m bench.hostile [--seconds 20] [--only GIF]

A victim uploads a photo of 40 kB twice a second. The hostile key has the default rate and sends
the 60 uploads of a minute at once. tests/system/attacks.py has the attacks.
"""

import argparse
import secrets
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

from bench import photos
from bench.uploads import Stack, Web, body, tally
from tests.system.attacks import FILES, at_once, largest, silent


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
    """The attacks by name, as far as the name has this text."""
    made = {f"60 x {name} at once": at_once(file) for name, file in files.items()}
    made["60 x photo of 15 MiB at once"] = at_once(largest())
    made["60 x body that lacks its last byte"] = silent(16, 14, 30)
    return {name: attack for name, attack in made.items() if only in name}


def costs(web, stack, files):
    """Print the CPU time and the peak memory of one upload of each file."""
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
            "|", " | ".join(cells), f"| {memory >> 20} MiB | {tally(attack.statuses)} |", flush=True
        )


def latencies(web, stack, made, seconds):
    """Print the latency of the victim alone, and under each attack."""
    print("\n| attack | victim: p50 | p99 | statuses | the hostile key's | PSS |")
    print("|---|---|---|---|---|---|")
    victim = Victim(web, new_key(stack, rate_limit="9999/minute"))
    victim.row("none", Counter(), *victim.uploads(seconds))
    for name, attack in made.items():
        with attack(f"http://127.0.0.1:{web.port}", new_key(stack)) as hostile:
            found = victim.uploads(seconds)
        victim.row(name, hostile.statuses, *found)
        time.sleep(2)  # the service finishes what the attack has left


def new_key(stack, **fields):
    key = secrets.token_hex(32)
    stack.add_key(key, **fields)
    return key


class Victim:
    """Uploads twice a second, however long the last upload took."""

    def __init__(self, web, key):
        self._web = web
        file, headers = body(photos.closest(photos.photo(640, 480), 4e4))
        self._upload = file, {**headers, "x-api-key": key}

    def uploads(self, seconds):
        """The durations in milliseconds, sorted; the statuses; the peak of memory in bytes."""
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
            f" | {tally(statuses)} | {tally(hostile)} | {memory / 2**20:.0f} MiB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
