"""The settings of a running ``make run``, for ``flask`` commands of the same checkout."""

import fcntl
from collections.abc import Mapping
from pathlib import Path


def settings_of_stack(var: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The servers of the ``make run`` that runs now, or nothing.

    Nothing either where the environment names any server itself: half of one
    and half of the other would be neither.
    """
    path = var / "env"
    if not path.exists() or not _is_held(var / "lock"):
        return {}
    lines = path.read_text().splitlines()
    settings = {name: value for name, _, value in (line.partition("=") for line in lines)}
    return {} if settings.keys() & environ.keys() else settings


def _is_held(lock: Path) -> bool:
    """Whether ``make run`` lives: what it leaves when it is killed leads to other servers."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
