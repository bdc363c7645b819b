"""The service under a memory limit: fifty uploads at once of each kind of large image.

    python -m bench.memory [--uploads 50]

Prints the peak of memory, the statuses, and whether a worker was killed: with one process in
512 MiB, and with two in 1,024 MiB. The limit is a control group, so this must run as root.
"""

import argparse
import re
import secrets
import tempfile
from pathlib import Path

from deploy.local import servers
from tests.image import corpus
from tests.pictures import encode, photo
from tests.system.limits import Group
from tests.system.stack import (
    SeaweedFS,
    Service,
    Valkey,
    record_name,
    upload_at_once,
)

SIZES = ((512, 1), (1024, 2))  # MiB, processes


def loads() -> dict[str, bytes]:
    """Files that need much memory to decode, by name."""

    def progressive(width: int, height: int, quality: int) -> bytes:
        image = photo(width, height)
        return encode(image, "JPEG", quality=quality, progressive=True)

    large = photo(2500, 2500).resize((10_000, 10_000))
    rows = corpus.packed_rows(10_000, 10_000, bits=64, interlaced=True)
    return {
        "progressive JPEG, 15 MP": progressive(4700, 3200, 92),
        "progressive JPEG, 43 MP": progressive(7600, 5700, 90),
        "progressive JPEG, 98 MP": encode(large, "JPEG", quality=30, progressive=True),
        "PNG, 100 MP, 16 bits": corpus.png_of(
            10_000, 10_000, rows, depth=16, colour=6, interlace=1
        ),
        "WebP lossless, 12 MP": encode(
            photo(875, 875).resize((3500, 3500)), "WEBP", lossless=True, quality=0, method=0
        ),
        "WebP, 8 MP of 10,000 groups": corpus.webp_of_groups(10_000, 2800),
    }


class Stack:
    """One Redis and one store for all services, and eight keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.valkey = Valkey(folder / "redis")
        self.store = SeaweedFS(folder / "store")
        self.settings = self.store.settings(self.store.make_bucket("assets"))
        self.keys = [secrets.token_hex(32) for _ in range(8)]
        for key in self.keys:
            fields = {"roles": "uploader", "rate_limit": "100000/minute"}
            self.valkey.client.hset(record_name(key), mapping=fields)

    def service(self, log: Path, processes: int) -> Service:
        settings = {
            "REDIS_URL": self.valkey.url,
            "BIND": f"127.0.0.1:{servers.free_port()}",
            "WEB_CONCURRENCY": str(processes),
            "LOG_FORMAT": "json",
            **self.settings,
        }
        return Service(log, settings)

    def stop(self) -> None:
        self.valkey.kill()
        self.store.kill()


def measured(stack: Stack, data: bytes, megabytes: int, processes: int, uploads: int) -> str:
    """The table cell of one file with one size of the service."""
    group = Group(megabytes)
    log = Path(tempfile.mkdtemp(dir=stack.folder)) / "log"
    with group.entered():
        service = stack.service(log, processes)
    try:
        statuses = upload_at_once(service, stack.keys, data, uploads)
        killed = len(re.findall("SIGKILL", service.log))
    finally:
        service.stop()
    peak = group.peak
    group.remove()
    return f"{peak:.0f} | {dict(sorted(statuses.items()))}{', KILLED' if killed else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uploads", type=int, default=50)
    asked = parser.parse_args()
    head = " | ".join(f"{limit} MiB, {n} process(es): peak | answers" for limit, n in SIZES)
    print(f"| {asked.uploads} at once | MB | {head} |\n|---|---|{'---|---|' * len(SIZES)}")
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder))
        try:
            for name, data in loads().items():
                cells = [measured(stack, data, *size, asked.uploads) for size in SIZES]
                print(f"| {name} | {len(data) / 1e6:.1f} | {' | '.join(cells)} |", flush=True)
        finally:
            stack.stop()


if __name__ == "__main__":
    main()
