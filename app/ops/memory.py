"""The memory that the service may take, and what each process lets in by it.

The limit is that of the control group which the service runs in (cgroup v1 and v2: a unit, a
container, a dyno), of each above it, or the machine's. Where the settings allow more, a process
lowers what it holds at once by itself, so that it is never killed: what does not fit waits, and
is refused with ``overloaded`` at last.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.config import MAX_FILE_SIZE, Config
from app.image.decode import BYTES_PER_PIXEL, MOST_MEMORY

_GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_FILES = ("memory.max", "memory.high", "memory.limit_in_bytes")
UNIT = "0::/system.slice/uploader.service\n1:memory:/system.slice/uploader.service\n"
"""Where deploy/systemd/uploader.service runs, as ``/proc/self/cgroup`` would say it there."""

_PROCESS = 100 * 2**20 + 4 * MAX_FILE_SIZE
"""Bytes of a process without bodies and pictures, its part of the master's included, and of the
two copies of a WebP that libwebp's demuxer is given, in two threads at once."""

_USED = 0.9
"""Of the limit: the kernel's own memory for connections and files counts toward it too."""

_LEAST_BODIES = 32 * 2**20
_LEAST_PIXELS = 4_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What one process holds at once: ``bodies`` and ``largest`` (one picture) in bytes."""

    bodies: int
    pixels: int
    largest: int

    @property
    def most(self) -> int:
        """Bytes that one process takes at most: one picture, and a quarter of the pixels beside."""
        beside = self.pixels * BYTES_PER_PIXEL // 4
        return _PROCESS + self.bodies + max(self.pixels * BYTES_PER_PIXEL, self.largest + beside)


def wanted(config: Config) -> Plan:
    """As the settings have it."""
    return Plan(config.body_memory, config.decode_pixels, MOST_MEMORY)


def plan(config: Config, limit: int) -> Plan:
    """As the settings have it, or less where ``limit`` bytes are not enough for all processes."""
    share = int(limit * _USED) // config.web_concurrency - _PROCESS
    bodies = min(config.body_memory, max(share // 3, _LEAST_BODIES))
    room = share - bodies
    pixels = min(config.decode_pixels, max(room // BYTES_PER_PIXEL, _LEAST_PIXELS))
    largest = min(MOST_MEMORY, max(room, _LEAST_PIXELS * BYTES_PER_PIXEL)
                  - pixels * BYTES_PER_PIXEL // 4)  # fmt: skip
    return Plan(bodies, pixels, largest)


def lowered(config: Config, limit: int) -> str:
    """What was lowered to fit, for people; empty where nothing was."""
    planned = plan(config, limit)
    if planned == wanted(config):
        return ""
    processes = f"{config.web_concurrency} process{'es' * (config.web_concurrency > 1)}"
    return (
        f"{mib(limit)} of memory for {processes}: each holds "
        f"{mib(planned.bodies)} of bodies and {planned.pixels:,} pixels in decode, and no picture "
        f"that takes over {mib(planned.largest)}"
    )


def limit(own: str | None = None, groups: Path = _GROUPS) -> int:
    """The bytes that all processes may take; ``own`` is the text of ``/proc/self/cgroup``."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if own is None:
        own = _OWN.read_text() if _OWN.exists() else ""
    return min([there, *_limits(own, groups)])


def _limits(own: str, groups: Path) -> Iterator[int]:
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            base = groups / controllers
            group = base / path.lstrip("/")
            for folder in (group, *group.parents):  # a container sees its own as the base
                if folder.is_relative_to(base):
                    yield from _read(folder)


def _read(folder: Path) -> Iterator[int]:
    for name in _FILES:
        file = folder / name
        if file.exists() and (text := file.read_text().strip()).isdigit():
            yield int(text)


def mib(size: int) -> str:
    """For people."""
    return f"{size / 2**20:,.0f} MiB"
