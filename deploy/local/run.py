"""``make run``: the whole service on one machine.

honcho runs Valkey, SeaweedFS and gunicorn (with the Procfile's line). On Ctrl-C, or when one of
them ends, all of them end: gunicorn first, so that uploads in progress finish. Data stays in
``var/``. While the stack runs, ``var/env`` has the settings with which ``flask`` commands of this
checkout reach the servers.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import redis
import urllib3
from honcho.environ import parse_procfile
from honcho.manager import Manager
from honcho.printer import Printer
from minio import Minio
from PIL import Image
from servers import SCRIPTS, free_port, is_free, seaweedfs, valkey, write_identities

ROOT = Path(__file__).resolve().parents[2]
VAR = ROOT / "var"
SETTINGS = VAR / "env"

# Which processes end together, and their seconds; 10 s in all at most. SeaweedFS closes its volumes
# within a fraction of a second, and then waits 15 s for connections to end: no need for that here.
_ENDED_TOGETHER = ((("web",), 5.0), (("seaweedfs", "valkey"), 3.0))


class Stack(Manager):  # type: ignore[misc]
    """Ends its processes in an order; honcho's own manager ends all at once."""

    def terminate(self) -> None:
        """Begin to end. honcho calls this on a signal, and when a process has ended."""
        if not self._terminating:
            self._terminating = True
            threading.Thread(target=self._end_all).start()

    def kill(self) -> None:
        """Do nothing: ``_end_all`` kills each process in its own time."""

    def _end_all(self) -> None:
        for names, seconds in _ENDED_TOGETHER:
            asked: set[int] = set()
            deadline = time.monotonic() + seconds
            while (left := self._left(names)) and time.monotonic() < deadline:
                for pid in left - asked:
                    _signal(os.kill, pid, signal.SIGTERM)
                asked |= left - {0}
                time.sleep(0.05)
            for pid in left:
                _signal(os.killpg, pid, signal.SIGKILL)

    def _left(self, names: tuple[str, ...]) -> set[int]:
        """The ids of the processes that run; 0 for one that is about to start."""
        found = (self._processes[name] for name in names)
        return {each.get("pid", 0) for each in found if "returncode" not in each}


def _signal(send: Callable[[int, int], None], pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        if pid:
            send(pid, number)


def main() -> int:
    """Start everything, print how to use it, and stay until it ends."""
    os.chdir(ROOT)
    VAR.mkdir(mode=0o700, exist_ok=True)
    lock = (VAR / "lock").open("w")
    try:
        # Held until this process ends; `flask` commands see by it that the stack runs.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("It is running already: var/ can be used by one `make run` at a time.")
        return 1
    wanted = os.environ.get("PORT")
    if wanted and not (wanted.isdecimal() and is_free(int(wanted))):
        print(f"Port {wanted} is taken, or not a port: set PORT to a free one, or unset it.")
        return 1
    port = int(wanted) if wanted else free_port(8000, *range(8001, 8020))
    redis_port, s3_port = free_port(6379), free_port(9000)
    settings = _settings(redis_port, s3_port)
    stack = _stack(settings, port, redis_port, s3_port)
    threading.Thread(target=_greet, args=(settings, port), daemon=True).start()
    _write_settings(settings)
    try:
        stack.loop()
    finally:
        SETTINGS.unlink(missing_ok=True)
    return stack.returncode or 0


def _settings(redis_port: int, s3_port: int) -> dict[str, str]:
    """The settings with which the service reaches the servers."""
    secret = _credentials()
    return {
        "REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
        "S3_ENDPOINT": f"http://127.0.0.1:{s3_port}",
        "S3_ACCESS_KEY": secret["access_key"],
        "S3_SECRET_KEY": secret["secret_key"],
        "S3_BUCKET": os.environ.get("S3_BUCKET") or "assets",
    }


def _stack(settings: dict[str, str], port: int, redis_port: int, s3_port: int) -> Stack:
    """Valkey, SeaweedFS and the web processes, not started yet."""
    identities = VAR / "identities.json"
    write_identities(identities, settings["S3_ACCESS_KEY"], settings["S3_SECRET_KEY"])
    keys = valkey(VAR / "valkey", redis_port, "--appendonly", "yes", "--loglevel", "warning")
    store = seaweedfs(VAR / "seaweedfs", s3_port, identities)
    log = shlex.quote(str(VAR / "seaweedfs.log"))
    web = parse_procfile((ROOT / "Procfile").read_text()).processes["web"]
    path = f"{SCRIPTS}:{os.environ['PATH']}"  # the Procfile's gunicorn is the one of .venv
    environ = os.environ | settings | {"BIND": f"127.0.0.1:{port}", "PATH": path}
    environ.pop("PORT", None)
    # Behind honcho's pipe the service would not see that a person reads its log.
    environ.setdefault("LOG_FORMAT", "text" if sys.stdout.isatty() else "json")
    stack = Stack(Printer(sys.stdout, colour=sys.stdout.isatty()))
    # exec: a shell in between would take the signals.
    stack.add_process("valkey", f"exec {shlex.join(keys)}")
    stack.add_process("seaweedfs", f"exec {shlex.join(store)} > {log} 2>&1")
    stack.add_process("web", f"exec {web}", env=environ)
    return stack


def _write_settings(settings: dict[str, str]) -> None:
    """Write the settings for ``flask`` commands: app/ops/local.py reads them."""
    SETTINGS.touch(mode=0o600)
    SETTINGS.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))


def _credentials() -> dict[str, str]:
    """The local store's credentials and the demonstration key; made at the first run."""
    path = VAR / "secrets.json"
    if not path.exists():
        path.touch(mode=0o600)
        names = ("access_key", "secret_key", "api_key")
        path.write_text(json.dumps({name: secrets.token_hex(24) for name in names}))
    content: dict[str, str] = json.loads(path.read_text())
    return content


def _greet(settings: dict[str, str], port: int) -> None:
    """Make the demonstration key and the bucket, wait for the service, and print how to use it."""
    api_key = _credentials()["api_key"]
    _wait_for(lambda: _make_key(settings["REDIS_URL"], api_key))
    _wait_for(lambda: _make_bucket(settings))
    address = f"http://127.0.0.1:{port}"
    _wait_for(lambda: _ready(address))
    upload = ("-H", f"x-api-key: {api_key}", "-F", f"image=@{_photo()}", f"{address}/upload/image")
    print(
        "\n".join(
            [
                "",
                f"The uploader is ready at {address}",
                f"API key: {api_key}",
                "",
                "Upload a photo (or any other JPEG, PNG, GIF or WebP):",
                "",
                f"curl {shlex.join(upload)}",
                "",
                "Ctrl-C ends everything; the data stays in var/.",
                "",
            ]
        ),
        flush=True,
    )


def _wait_for(step: Callable[[], object]) -> None:
    """Repeat the step until it succeeds."""
    while True:
        try:
            step()
        except Exception:  # noqa: BLE001 -- a server that is not up yet fails in many ways
            time.sleep(0.1)
        else:
            return


def _make_key(url: str, api_key: str) -> None:
    record = f"apikey:{hashlib.sha256(api_key.encode()).hexdigest()}"
    with redis.Redis.from_url(url) as client:
        client.hset(record, mapping={"name": "Demonstration", "roles": "uploader"})


def _make_bucket(settings: dict[str, str]) -> None:
    client = Minio(
        endpoint=settings["S3_ENDPOINT"].removeprefix("http://"),
        access_key=settings["S3_ACCESS_KEY"],
        secret_key=settings["S3_SECRET_KEY"],
        secure=False,
        region="us-east-1",
        http_client=urllib3.PoolManager(timeout=2, retries=False),
    )
    bucket = settings["S3_BUCKET"]
    if not client.bucket_exists(bucket_name=bucket):
        client.make_bucket(bucket_name=bucket)


def _ready(address: str) -> None:
    answer = urllib3.request("GET", f"{address}/readyz", timeout=3, retries=False)
    if answer.status != 200:
        raise OSError("not ready")


def _photo() -> Path:
    """A picture to try the service with."""
    path = VAR / "example.jpg"
    if not path.exists():
        gradient = Image.linear_gradient("L").resize((1200, 800))
        Image.merge(
            "RGB", (gradient, gradient.transpose(Image.Transpose.ROTATE_180), gradient)
        ).save(path, quality=90)
    return path


if __name__ == "__main__":
    sys.exit(main())
