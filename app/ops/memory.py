"""The memory that the service may take, and what each process lets in by it.

The limit is the least of three: ``MEMORY_LIMIT``, the memory of the machine, and the limits of
the control group that the service runs in (a unit, a container, a dyno; cgroup v1 and v2) and of
the groups above. Each process lets in only what fits its part, so that the kernel never kills it:
an upload for which there is no room waits, and is answered ``overloaded`` if none comes free.
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

_MOST_BODIES, _LEAST_BODIES = 104 * 2**20, 32 * 2**20
"""Bytes of bodies in a process: room for six of the largest files and for hundreds that have just
begun; at the least for two of the largest."""

_MOST_PIXELS, _LEAST_PIXELS = 50_000_000, 4_000_000
"""Pixels in decode in a process: four photos of 12 megapixels, which is more than two cores decode
at once; at the least what a screenshot has. A larger picture is decoded alone."""


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


WHOLE = Plan(_MOST_BODIES, _MOST_PIXELS, MOST_MEMORY)
"""What a process holds at once where there is memory enough."""


def plan(processes: int, limit: int) -> Plan:
    """``WHOLE``, or less where ``limit`` bytes are not enough for all processes."""
    share = int(limit * _USED) // processes - _PROCESS
    bodies = min(_MOST_BODIES, max(share // 3, _LEAST_BODIES))
    room = share - bodies
    pixels = min(_MOST_PIXELS, max(room // BYTES_PER_PIXEL, _LEAST_PIXELS))
    largest = min(MOST_MEMORY, max(room, _LEAST_PIXELS * BYTES_PER_PIXEL)
                  - pixels * BYTES_PER_PIXEL // 4)  # fmt: skip
    return Plan(bodies, pixels, largest)


def lowered(processes: int, limit: int) -> str:
    """A sentence about what a process holds less than ``WHOLE``, to fit; empty where nothing."""
    planned = plan(processes, limit)
    if planned == WHOLE:
        return ""
    return (
        f"{mib(limit)} of memory for {processes} process{'es' * (processes > 1)}: each holds "
        f"{mib(planned.bodies)} of bodies and {planned.pixels:,} pixels in decode, and no picture "
        f"that takes over {mib(planned.largest)}"
    )


def limit(config: Config, own: str | None = None, groups: Path = _GROUPS) -> int:
    """The bytes that all processes may take; ``own`` is the text of ``/proc/self/cgroup``."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if own is None:
        own = _OWN.read_text() if _OWN.exists() else ""
    return min([config.memory_limit or there, there, *_limits(own, groups)])


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
    """``size`` bytes, for people."""
    return f"{size / 2**20:,.0f} MiB"
