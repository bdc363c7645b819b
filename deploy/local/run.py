"""The whole service on one machine: ``make run``.

Valkey, SeaweedFS and gunicorn (the Procfile's own line) under honcho, which
ends all of them on Ctrl-C and when one of them ends. Data stays in ``var/``.
"""

import fcntl
import hashlib
import json
import os
import secrets
import shlex
import sys
import threading
import time
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


def main() -> int:
    """Start everything, print how to use it, and stay until it ends."""
    os.chdir(ROOT)
    VAR.mkdir(mode=0o700, exist_ok=True)
    lock = (VAR / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("It is running already: var/ can be used by one `make run` at a time.")
        return 1
    wanted = os.environ.get("PORT")
    if wanted and not (wanted.isdecimal() and is_free(int(wanted))):
        print(f"Port {wanted} is taken (or none): set PORT to a free one, or unset it.")
        return 1
    port = int(wanted) if wanted else free_port(8000, *range(8001, 8020))
    redis_port, s3_port = free_port(6379), free_port(9000)
    secret = _credentials()
    settings = {
        "REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
        "S3_ENDPOINT": f"http://127.0.0.1:{s3_port}",
        "S3_ACCESS_KEY": secret["access_key"],
        "S3_SECRET_KEY": secret["secret_key"],
        "BIND": f"127.0.0.1:{port}",
        "PATH": f"{SCRIPTS}:{os.environ['PATH']}",
    }
    environ = os.environ | settings
    environ.pop("PORT", None)
    environ.setdefault("LOG_FORMAT", "text" if sys.stdout.isatty() else "json")
    identities = VAR / "identities.json"
    write_identities(identities, secret["access_key"], secret["secret_key"])
    log = shlex.quote(str(VAR / "seaweedfs.log"))
    store = seaweedfs(VAR / "seaweedfs", s3_port, identities)
    web = parse_procfile((ROOT / "Procfile").read_text()).processes["web"]
    manager = Manager(Printer(sys.stdout, colour=sys.stdout.isatty()))
    persistent = ("--appendonly", "yes", "--loglevel", "warning")
    manager.add_process("valkey", shlex.join(valkey(VAR / "valkey", redis_port, *persistent)))
    manager.add_process("seaweedfs", f"exec {shlex.join(store)} > {log} 2>&1")
    manager.add_process("web", f"exec {web}", env=environ)
    threading.Thread(target=_greet, args=(settings, port), daemon=True).start()
    manager.loop()
    return manager.returncode or 0


def _credentials() -> dict[str, str]:
    """The local store's credentials and the demonstration key, made once."""
    path = VAR / "secrets.json"
    if not path.exists():
        path.touch(mode=0o600)
        names = ("access_key", "secret_key", "api_key")
        path.write_text(json.dumps({name: secrets.token_hex(24) for name in names}))
    content: dict[str, str] = json.loads(path.read_text())
    return content


def _greet(settings: dict[str, str], port: int) -> None:
    """Make the bucket and the demonstration key when all is up, and say how to use them."""
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
                "Ctrl-C ends all of it; the data stays in var/.",
                "",
            ]
        ),
        flush=True,
    )


def _wait_for(step: "object") -> None:
    while True:
        try:
            step()  # type: ignore[operator]
        except Exception:  # noqa: BLE001 -- whatever fails is not up yet
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
    bucket = os.environ.get("S3_BUCKET", "assets")
    if not client.bucket_exists(bucket_name=bucket):
        client.make_bucket(bucket_name=bucket)


def _ready(address: str) -> None:
    answer = urllib3.request("GET", f"{address}/readyz", timeout=3, retries=False)
    if answer.status != 200:
        raise OSError("not ready")


def _photo() -> Path:
    path = VAR / "example.jpg"
    if not path.exists():
        gradient = Image.linear_gradient("L").resize((1200, 800))
        Image.merge(
            "RGB", (gradient, gradient.transpose(Image.Transpose.ROTATE_180), gradient)
        ).save(path, quality=90)
    return path


if __name__ == "__main__":
    sys.exit(main())
