"""make soak: ten minutes of uploads beside 100 slow clients.

Prints ten times the memory and the file descriptors of the service, which should not grow. In the
end it prints the answers that the clients got and the usage counters, which should agree.
"""

import argparse
import hashlib
import multiprocessing
import random
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import redis

from bench import photos
from bench.slow_clients import drip_all
from bench.uploads import KEY, Stack, Web, body, send

CLIENTS = 4
SLOW = 100
CORPUS = (((800, 600), "JPEG"), ((1600, 1200), "JPEG"), ((500, 400), "PNG"), ((800, 600), "WEBP"))


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--minutes", type=float, default=10)
    minutes = options.parse_args().minutes
    files = [photos.save(photos.photo(*size), kind) for size, kind in CORPUS]
    bad = files[0][: len(files[0]) // 2]
    with tempfile.TemporaryDirectory() as name:
        stack = Stack(Path(name))
        web = Web(stack, "decode", Path(name))
        try:
            counted = usage(stack)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                slow = pool.apply_async(drip_on, (web.port, KEY, minutes * 60))
                seen, samples = soak(web, [body(file) for file in (*files, bad)], minutes * 60)
                slow.wait()
            time.sleep(1.5)  # usage is written within a second
            new = {field: count - counted.get(field, 0) for field, count in usage(stack).items()}
        finally:
            web.stop()
            stack.stop()
    print("| minute | PSS MB | RSS MB | file descriptors |\n|---|---|---|---|")
    for minute, pss, rss, descriptors in samples:
        print(f"| {minute:.1f} | {pss / 1e6:.0f} | {rss / 1e6:.0f} | {descriptors} |")
    print(f"\nThe clients saw {seen}; the counters in Redis say {new}.")


def drip_on(port, key, seconds):
    """Run crowds of slow clients one after the other: each ends at BODY_TIMEOUT, or after 70 s."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 1:
        drip_all(f"http://127.0.0.1:{port}", None, key, SLOW, 1000, int(min(left, 70)))


def usage(stack):
    """The usage counters of the key today."""
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    client = redis.Redis(port=stack.redis_port, decode_responses=True)
    counts = client.hgetall(f"usage:{digest[:12]}:{datetime.now(UTC):%Y-%m-%d}")
    return {field: int(count) for field, count in counts.items()}


def soak(web, prepared, seconds):
    """Upload for some seconds; counts of the statuses, and ten samples of the processes."""
    seen, lock, end = {200: 0, 400: 0}, threading.Lock(), time.monotonic() + seconds

    def client(seed):
        chance = random.Random(seed)
        while time.monotonic() < end:
            status = send(web.port, *chance.choice(prepared))
            with lock:
                seen[status] = seen.get(status, 0) + 1

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(CLIENTS)]
    [thread.start() for thread in threads]
    samples, start = [], time.monotonic()
    while any(thread.is_alive() for thread in threads):
        descriptors = sum(each.num_fds() for each in web.all())
        samples.append(((time.monotonic() - start) / 60, *web.memory(), descriptors))
        for thread in threads:
            thread.join(seconds / 10 / CLIENTS)
    return seen, samples


if __name__ == "__main__":
    main()
