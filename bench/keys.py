"""A million keys in one Redis: the time of a look-up, and of the commands of ``flask keys``.

    python -m bench.keys [RECORDS]    (default 1,000,000)

Starts a Valkey that writes nothing to the disk, and ends it.
"""

import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import redis

from app.config import Rate
from app.errors import ApiError
from app.records.keys import KeyStore
from deploy.local import servers

ROOT = Path(__file__).resolve().parents[1]

LOOK_UPS = 5000
BATCH = 5000  # records in one pipeline, which redis-py keeps in memory


def main():
    sys.stdout.reconfigure(line_buffering=True)
    records = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    port = servers.free_port()
    with tempfile.TemporaryDirectory() as directory:
        command = servers.valkey(Path(directory), port, "--save", "", "--loglevel", "warning")
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            measure(redis.Redis(port=port), port, records)
        finally:
            server.kill()
            server.wait()


def measure(client, port, records):
    wait_for(client)
    fill(client, 0, 1000)
    print_look_ups(client, 1000)
    start = time.perf_counter()
    fill(client, 1000, records)
    print(f"{records} records written in {time.perf_counter() - start:.0f} s")
    used = client.info("memory")["used_memory"]
    print(f"memory of the server: {used / records:.0f} bytes a record")
    print_look_ups(client, records)
    print_commands(port, records)


def wait_for(client):
    for _ in range(500):
        try:
            return client.ping()
        except redis.ConnectionError:
            time.sleep(0.02)
    raise SystemExit("Valkey did not start")


def key(number):
    return f"upl_{number:044}"


def fill(client, first, end):
    """Write records as ``flask keys create`` does; the pauses let other programs run."""
    for start in range(first, end, BATCH):
        with client.pipeline(transaction=False) as pipe:
            for number in range(start, min(start + BATCH, end)):
                digest = hashlib.sha256(key(number).encode()).hexdigest()
                record = {"name": f"Client {number}", "roles": "uploader"}
                pipe.hset(f"apikey:{digest}", mapping=record)
            pipe.execute()
        time.sleep(0.01)


def print_look_ups(client, records):
    store = KeyStore(client, Rate(60, 60))
    known = spread(store, [key(number * records // LOOK_UPS) for number in range(LOOK_UPS)])
    unknown = spread(store, [f"unknown {number}" for number in range(LOOK_UPS)])
    print(f"{records:>9} records: known key {known}, unknown key {unknown}")


def spread(store, presented):
    """The median and the 99th percentile of the time to look up these keys."""
    times = []
    for each in presented:
        start = time.perf_counter()
        with suppress(ApiError):
            store.authenticate(each)
        times.append((time.perf_counter() - start) * 1e6)
    centiles = statistics.quantiles(times, n=100)
    return f"median {centiles[49]:.0f} µs, 99 % under {centiles[98]:.0f} µs"


def print_commands(port, records):
    one = hashlib.sha256(key(records - 1).encode()).hexdigest()[:12]
    commands = [
        ["list", "--name", f"Client {records - 1}"],
        ["list", "--role", "nobody"],
        ["show", one],
        ["check"],
        ["list"],
    ]
    for command in commands:
        start = time.perf_counter()
        used = run(port, command)
        seconds = time.perf_counter() - start
        processor = used.ru_utime + used.ru_stime
        print(
            f"flask keys {' '.join(command)}: {seconds:.1f} s, of which {processor:.1f} s of"
            f" processor time; {used.ru_maxrss / 1024:.0f} MiB"
        )


def run(port, command):
    """Run one command; the resources that it used, with its memory in KiB."""
    environ = os.environ | {"REDIS_URL": f"redis://127.0.0.1:{port}/0", "FLASK_APP": "wsgi"}
    process = subprocess.Popen(
        [str(servers.SCRIPTS / "flask"), "keys", *command],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return used


if __name__ == "__main__":
    main()
