"""make bench: the cost of an upload, compared with minio-py alone and with a simple Flask app.

Starts real servers on free ports of the loopback interface. The CPU time is that of the service's
processes, from /proc: that of Redis, the store and the clients is not counted. The targets are
measured in turn, several times, and the table has the medians.
"""

import argparse
import hashlib
import http.client
import io
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import redis
import urllib3
from minio import Minio

from bench import photos
from deploy.local import servers

ROOT = Path(__file__).resolve().parents[1]

CONNECTIONS = 8
# minio-py alone; bench/flask_app.py with each CHECK; the service with each IMAGE_CHECK.
TARGETS = ("direct", "flask-verify", "flask-load", "structure", "decode")
KEY = secrets.token_hex(32)


class Stack:
    """A running Valkey and SeaweedFS, as ``make run`` starts them."""

    def __init__(self, directory):
        self.access, self.secret = secrets.token_hex(8), secrets.token_hex(16)
        self.redis_port, self.s3_port = servers.free_port(), servers.free_port()
        servers.write_identities(directory / "identities.json", self.access, self.secret)
        commands = (
            servers.valkey(directory / "valkey", self.redis_port, "--save", ""),
            servers.seaweedfs(
                *(directory / "weed", self.s3_port, directory / "identities.json"),
                "-volume.max=1000",  # the usual 100, of 128 MB, were full after 12 GB of a soak
            ),
        )
        log = (directory / "log").open("wb")
        self.processes = [subprocess.Popen(command, stdout=log, stderr=log) for command in commands]
        self.settings = {
            "REDIS_URL": f"redis://127.0.0.1:{self.redis_port}/0",
            "S3_ENDPOINT": f"http://127.0.0.1:{self.s3_port}",
            "S3_ACCESS_KEY": self.access,
            "S3_SECRET_KEY": self.secret,
            "S3_BUCKET": "bench",
            "RATE_LIMIT": "999999/second",
            "WEB_CONCURRENCY": "2",
            "LOG_FORMAT": "json",
        }
        wait(lambda: redis.Redis(port=self.redis_port).ping())
        self.add_key(KEY)
        wait(lambda: self.client().bucket_exists(bucket_name="bench") or self.make_bucket())

    def add_key(self, key, **fields):
        """Write the record of a key, which may upload."""
        record = f"apikey:{hashlib.sha256(key.encode()).hexdigest()}"
        redis.Redis(port=self.redis_port).hset(record, mapping={"roles": "uploader", **fields})

    def client(self):
        """A client of the store with all rights."""
        return Minio(
            endpoint=f"127.0.0.1:{self.s3_port}",
            access_key=self.access,
            secret_key=self.secret,
            secure=False,
            region="us-east-1",
        )

    def make_bucket(self):
        self.client().make_bucket(bucket_name="bench")
        return True

    def empty(self):
        """Delete all objects, so that the disk does not fill up."""
        self.client().remove_bucket(bucket_name="bench")
        wait(self.make_bucket)

    def stop(self):
        for process in self.processes:
            process.kill()
            process.wait()


class Web:
    """A running gunicorn, with the CPU time and the memory of its processes."""

    def __init__(self, stack, target, directory, app="wsgi:app", **more):
        self.port = servers.free_port()
        environ = os.environ | stack.settings | {"BIND": f"127.0.0.1:{self.port}"} | more
        command = [str(servers.SCRIPTS / "gunicorn")]
        if target.startswith("flask"):
            environ["CHECK"] = target.removeprefix("flask-")
            command += ["-k", "gthread", "-w", "2", "--threads", "8", "--chdir", "bench"]
            command += ["-b", environ["BIND"], "flask_app:app"]
        else:
            environ["IMAGE_CHECK"] = target
            command += ["-c", "deploy/gunicorn.conf.py", app]
        log = (directory / f"{target}.log").open("wb")
        self.process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=log)
        wait(lambda: send(self.port, *body(photos.save(photos.photo(64, 64), "JPEG"))) == 200)

    def all(self):
        """The master and its workers."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def cpu(self):
        """Seconds."""
        times = [each.cpu_times() for each in self.all()]
        return sum(each.user + each.system for each in times)

    def memory(self):
        """Bytes of PSS, which counts shared memory once, and of RSS, which counts it each time."""
        full = [each.memory_full_info() for each in self.all()]
        return sum(each.pss for each in full), sum(each.rss for each in full)

    def upload(self, prepared):
        """The status of one upload of what ``body`` has made."""
        return send(self.port, *prepared)

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Direct:
    """minio-py alone, in another process, which reads what to measure from its standard input."""

    def __init__(self, stack):
        command = [sys.executable, "-m", "bench.uploads", "--direct"]
        environ = os.environ | stack.settings
        self.process = subprocess.Popen(
            command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def measure(self, file, seconds):
        with tempfile.NamedTemporaryFile() as photo:
            photo.write(file)
            photo.flush()
            self.process.stdin.write(f"{photo.name} {seconds}\n")
            self.process.stdin.flush()
            count, wall, cpu, rss = map(float, self.process.stdout.readline().split())
        return {"rate": count / wall, "cpu": 1000 * cpu / count, "rss": rss}

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def direct():
    """The main loop of that process: reads a file name and seconds, prints what it measured."""
    settings = os.environ
    client = Minio(
        endpoint=settings["S3_ENDPOINT"].removeprefix("http://"),
        access_key=settings["S3_ACCESS_KEY"],
        secret_key=settings["S3_SECRET_KEY"],
        secure=False,
        region="us-east-1",
        http_client=urllib3.PoolManager(maxsize=CONNECTIONS),
    )
    for line in sys.stdin:
        name, seconds = line.split()
        file = Path(name).read_bytes()

        def put(file=file):
            client.put_object(
                bucket_name="bench",
                object_name=f"uploads/{secrets.token_hex(8)}",
                data=io.BytesIO(file),
                length=len(file),
            )

        before, start = time.process_time(), time.perf_counter()
        times = load(put, float(seconds))
        wall, cpu = time.perf_counter() - start, time.process_time() - before
        rss = psutil.Process().memory_info().rss
        print(len(times), wall, cpu, rss, flush=True)


def body(file):
    """The body of an upload, and its headers."""
    form, kind = urllib3.encode_multipart_formdata({"image": ("photo", file)})
    return form, {"Content-Type": kind, "x-api-key": KEY}


_local = threading.local()


def send(port, form, headers):
    """Upload over the kept-alive connection of this thread; the status."""
    connections = _local.__dict__.setdefault("connections", {})
    connection = connections.setdefault(port, http.client.HTTPConnection("127.0.0.1", port))
    try:
        connection.request("POST", "/upload/image", form, headers)
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        connection.close()
        raise
    return answer.status


def load(call, seconds, connections=CONNECTIONS):
    """Call a function from several threads for some seconds; the duration of each call."""
    times, end = [], time.perf_counter() + seconds

    def loop():
        while (start := time.perf_counter()) < end:
            call()
            times.append(time.perf_counter() - start)

    threads = [threading.Thread(target=loop) for _ in range(connections)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return times


def measure(web, file, seconds, connections=CONNECTIONS):
    """Uploads a second, latencies (ms), CPU ms an upload, peak memory (bytes)."""
    prepared = body(file)
    peak, stop = [web.memory()], threading.Event()

    def watch():
        while not stop.wait(0.1):
            peak.append(web.memory())

    def upload():
        status = web.upload(prepared)
        assert status == 200, status

    watcher = threading.Thread(target=watch)
    watcher.start()
    before, start = web.cpu(), time.perf_counter()
    times = sorted(load(upload, seconds, connections))
    wall, cpu = time.perf_counter() - start, web.cpu() - before
    stop.set()
    watcher.join()
    return {
        "rate": len(times) / wall,
        "p50": 1000 * times[len(times) // 2],
        "p99": 1000 * times[int(len(times) * 0.99)],
        "cpu": 1000 * cpu / len(times),
        "pss": max(pss for pss, _ in peak),
        "rss": max(rss for _, rss in peak),
    }


def wait(condition, seconds=60):
    """Wait until the condition is true; an exception counts as false."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except Exception:  # noqa: BLE001, S110 -- any error: not up yet
            pass
        assert time.monotonic() < deadline, "a server did not start"
        time.sleep(0.05)


def tally(counts):
    """Counts as text: "12 x 200, 1 x 503"."""
    return ", ".join(f"{count} x {what}" for what, count in counts.items()) or "-"


def medians(rounds):
    """The median of each field over all rounds, by name."""
    return {
        name: {field: statistics.median(each[field] for each in found) for field in found[0]}
        for name, found in rounds.items()
    }


def table(results):
    """The lines of a Markdown table, with one for each photo and target."""
    yield (
        "| photo | target | uploads/s | p50 ms | p99 ms | CPU ms | x direct | x flask-load"
        " | PSS MB | RSS MB |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for name in dict.fromkeys(name for name, _ in results):
        cpu = {target: results[name, target]["cpu"] for target in TARGETS}
        for target in TARGETS:
            each = results[name, target]
            shown = [f"{each[field]:.0f}" if field in each else "" for field in ("p50", "p99")]
            megabytes = (each.get(field) for field in ("pss", "rss"))
            memory = [f"{size / 1e6:.0f}" if size else "" for size in megabytes]
            ratios = (each["cpu"] / cpu[other] for other in ("direct", "flask-load"))
            cells = (name, target, f"{each['rate']:.1f}", *shown, f"{each['cpu']:.1f}")
            yield f"| {' | '.join((*cells, *(f'{ratio:.2f}' for ratio in ratios), *memory))} |"


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--photo", default="", help="only photos whose name has this")
    options.add_argument("--direct", action="store_true", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.direct:
        direct()
        return
    files = {name: file for name, file in photos.all_photos().items() if chosen.photo in name}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        stack = Stack(directory)
        alone = Direct(stack)
        webs = {target: Web(stack, target, directory) for target in TARGETS if target != "direct"}
        rounds = {}
        try:
            for photo, file in files.items():
                for _ in range(chosen.rounds):
                    for target in TARGETS:
                        if target == "direct":
                            found = alone.measure(file, chosen.seconds)
                        else:
                            found = measure(webs[target], file, chosen.seconds)
                        rounds.setdefault((photo, target), []).append(found)
                print(f"{photo}: {len(file) / 1e6:.2f} MB measured", file=sys.stderr)
                stack.empty()
        finally:
            for each in (alone, *webs.values(), stack):
                each.stop()
    print("\n".join(table(medians(rounds))))


if __name__ == "__main__":
    main()
