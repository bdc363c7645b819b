"""What the processes of the service ask of Python, of glibc and of the kernel.

For ``deploy/gunicorn.conf.py``, which shows settings and hooks and leaves the rest to this.
"""

import contextlib
import ctypes
import gc
import resource
import sys

_M_ARENA_MAX = -8  # malloc.h
_M_MMAP_THRESHOLD = -3
_HEAPS = 2
_OWN_PAGES = 1 << 20


def forget_code(package: str = "app") -> None:
    """Have the next import read the package anew: after a reload the code is to be the new one.

    The master imports the code, and its workers share that memory; a reload (HUP) evaluates
    the configuration again in the same master.
    """
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


def share_heaps() -> None:
    """Have the threads share two heaps of glibc's instead of one each (mallopt(3)).

    A heap keeps what was freed in it, up to tens of megabytes, for the next picture: 740 MB
    instead of 420 for progressive JPEGs of 12 megapixels. And what is larger than a megabyte has
    pages of its own, which go back when it is freed: without that glibc keeps 16 to 90 MB after
    progressive JPEGs, and takes 377 MB where the pictures need 292.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _HEAPS)
        mallopt(_M_MMAP_THRESHOLD, _OWN_PAGES)


def raise_file_limit() -> None:
    """Room for all connections: many systems give 1,024 files unless a process asks for more."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS has a lower limit than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def keep_shared() -> None:
    """Keep the collector off what the master has imported: looking at it would unshare it."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def keep_for_good() -> None:
    """What there is now stays as long as the process: the collector need not look at it again."""
    gc.freeze()
