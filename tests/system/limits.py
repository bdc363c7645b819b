"""A control group with a memory limit. To make one takes root, and cgroup v1 or v2."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


class Group:
    """One group. Processes that are started within ``entered()`` belong to it."""

    def __init__(self, megabytes: int) -> None:
        old = (_ROOT / "memory").is_dir()
        base = _ROOT / "memory" if old else _ROOT
        self._home = base / _own("memory" if old else "") / "cgroup.procs"
        self.folder = base / f"uploader-{uuid.uuid4()}"
        self.folder.mkdir()
        limit = "memory.limit_in_bytes" if old else "memory.max"
        (self.folder / limit).write_text(str(megabytes << 20))
        self._peak = "memory.max_usage_in_bytes" if old else "memory.peak"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Move this process into the group, and back to its old group after the block."""
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))
        try:
            yield
        finally:
            self._home.write_text(str(os.getpid()))

    @property
    def peak(self) -> float:
        """The most memory of all its processes together in MiB, with their cached files."""
        return int((self.folder / self._peak).read_text()) / 2**20

    def remove(self) -> None:
        self.folder.rmdir()


def _own(controller: str) -> str:
    """The group of this process, as cgroups(7) describes it: "" is the controller of v2."""
    lines = (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines())
    return next(path for _, names, path in lines if names == controller).lstrip("/")
