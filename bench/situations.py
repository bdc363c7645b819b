"""Further measurements of `make bench`: memory, fairness, the service without its store, logging.

Each part answers one question of docs/performance.md. As in uploads.py, real servers are started on
free ports, the targets are measured in turn, and the tables have the medians.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

from bench import photos
from bench.uploads import Stack, Web, body, load, measure, medians, send, servers

MIB = 1 << 20


def without_the_store(stack, directory, seconds, rounds):
    """Uploads a second of 5 MB, with an S3 endpoint that keeps nothing."""
    targets = ("flask-verify", "flask-load", "structure", "decode")
    photo = photos.closest(photos.photo(4000, 3000), 5e6)
    with forgetful() as endpoint:
        webs = {each: Web(stack, each, directory, **endpoint) for each in targets}
        found = in_turn(webs, rounds, lambda web: measure(web, photo, seconds))
    print("\nStore taken away, JPEG 5 MB:\n\n| target | uploads/s | CPU ms |\n|---|---|---|")
    for target in targets:
        print(f"| {target} | {found[target]['rate']:.0f} | {found[target]['cpu']:.1f} |")


@contextmanager
def forgetful():
    """The settings of an S3 endpoint that keeps nothing and takes little CPU time."""
    port = servers.free_port()
    command = [sys.executable, str(Path(__file__).with_name("null_store.py")), str(port)]
    store = subprocess.Popen(command)
    yield {"S3_ENDPOINT": f"http://127.0.0.1:{port}"}
    store.kill()
    store.wait()


def fairness(stack, directory, seconds, rounds):
    """Latency of one client with 0.16 MB while eight clients send 14 MB without a pause."""
    beside_large(stack, directory, seconds, rounds, "the real store")
    with forgetful() as endpoint:
        beside_large(stack, directory, seconds, rounds, "the store taken away", **endpoint)


def beside_large(stack, directory, seconds, rounds, store, **endpoint):
    small = body(photos.closest(photos.photo(800, 600), 0.16e6))
    large = body(photos.closest(photos.photo(6000, 4500), 14e6))
    targets = ("flask-load", "structure", "decode")
    webs = {each: Web(stack, each, directory, **endpoint) for each in targets}

    def both(web):
        # In another process: this one's interpreter is busy with the eight other clients.
        with ProcessPoolExecutor(1, get_context("fork")) as own:
            one = own.submit(latencies, web.port, small, seconds, 1)
            times = {"large": latencies(web.port, large, seconds, 8), "small": one.result()}
        return {
            f"{name} p{share}": 1000 * times[name][len(times[name]) * share // 100]
            for name in times
            for share in (50, 99)
        }

    found = in_turn(webs, rounds, both)
    print(f"\nOne client with 0.16 MB beside eight with 14 MB, {store}, ms:\n")
    print("| target | small p50 | small p99 | large p50 | large p99 |\n|---|---|---|---|---|")
    for target in targets:
        names = ("small p50", "small p99", "large p50", "large p99")
        print(f"| {target} | " + " | ".join(f"{found[target][name]:.0f}" for name in names) + " |")


def latencies(port, prepared, seconds, connections):
    return sorted(load(lambda: send(port, *prepared), seconds, connections))


def memory(stack, directory, seconds, rounds):
    """PSS before 32 uploads of 15 MiB at once, and its peak during them."""
    photo = photos.closest(photos.photo(6000, 4500), 14.5e6)
    small = photos.save(photos.photo(64, 64), "JPEG")
    largest = photo[: 15 * MIB] + bytes(15 * MIB - len(photo))
    print("\n32 uploads of 15 MiB at once, 2 workers, MB of PSS:\n")
    print("| target | idle | peak |\n|---|---|---|")
    for target in ("flask-load", "structure", "decode"):
        idle, peaks = [], []
        for _ in range(rounds):
            web = Web(stack, target, directory)
            measure(web, small, 2)  # after this both workers have all their code in memory
            idle.append(web.memory()[0])
            peaks.append(measure(web, largest, seconds, connections=32)["pss"])
            web.stop()
        row = (statistics.median(idle), statistics.median(peaks))
        print(f"| {target} | " + " | ".join(f"{size / 1e6:.0f}" for size in row) + " |")


def workers(stack, directory, seconds, rounds):
    """Uploads of a JPEG of 1.1 MB by sixteen clients, with one to four processes."""
    photo = photos.closest(photos.photo(2000, 1500), 1.1e6)
    webs = {
        processes: Web(stack, "decode", directory, WEB_CONCURRENCY=str(processes))
        for processes in (1, 2, 3, 4)
    }
    found = in_turn(webs, rounds, lambda web: measure(web, photo, seconds, connections=16))
    print("\nProcesses, JPEG 1.1 MB, decode, 16 clients:\n")
    print("| processes | uploads/s | p50 ms | p99 ms | CPU ms | PSS MB |")
    print("|---|---|---|---|---|---|")
    for processes, each in found.items():
        shown = (each[name] for name in ("rate", "p50", "p99", "cpu"))
        cells = (processes, *(f"{x:.0f}" for x in shown), f"{each['pss'] / 1e6:.0f}")
        print(f"| {' | '.join(map(str, cells))} |")


def logging(stack, directory, seconds, rounds):
    """CPU of an upload of 0.16 MB with and without log lines and metrics."""
    photo = photos.closest(photos.photo(800, 600), 0.16e6)
    metrics = {"METRICS_PORT": str(servers.free_port())}
    webs = {
        "neither": Web(stack, "structure", directory, LOG_LEVEL="error"),
        "log lines": Web(stack, "structure", directory),
        "log lines and metrics": Web(stack, "structure", directory, **metrics),
    }
    found = in_turn(webs, 3 * rounds, lambda web: measure(web, photo, seconds))
    print("\nLogging and metrics, JPEG 0.16 MB, structure:\n\n| with | CPU ms |\n|---|---|")
    for name in webs:
        print(f"| {name} | {found[name]['cpu']:.2f} |")


def in_turn(webs, rounds, measured):
    """Measure each web in every round, one after the other; the medians by name."""
    found = {name: [] for name in webs}
    for _ in range(rounds):
        for name, web in webs.items():
            found[name].append(measured(web))
    for web in webs.values():
        web.stop()
    return medians(found)


PARTS = {each.__name__: each for each in (without_the_store, fairness, memory, workers, logging)}


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("parts", nargs="*", choices=[[], *PARTS], help="default: all")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        stack = Stack(directory)
        try:
            for part in chosen.parts or PARTS:
                PARTS[part](stack, directory, chosen.seconds, chosen.rounds)
                stack.empty()
        finally:
            stack.stop()


if __name__ == "__main__":
    main()
