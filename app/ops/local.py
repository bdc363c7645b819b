"""Gives ``flask`` commands the settings of a ``make run`` that runs in the same checkout."""

import fcntl
from collections.abc import Mapping
from pathlib import Path


def settings_of_stack(var: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The settings of the ``make run`` that runs now; empty when none runs.

    Also empty where the environment sets any of them: a mixture, such as the Redis of one and the
    store of the other, would be neither.
    """
    path = var / "env"
    if not path.exists() or not _is_held(var / "lock"):
        return {}
    lines = path.read_text().splitlines()
    settings = {name: value for name, _, value in (line.partition("=") for line in lines)}
    return {} if settings.keys() & environ.keys() else settings


def _is_held(lock: Path) -> bool:
    """Whether ``make run`` is alive: it holds this lock.

    A ``make run`` that was killed leaves its file of settings, and its ports may be in use by
    other servers since.
    """
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
