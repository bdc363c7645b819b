"""What each process sets in Python, glibc and the kernel, for ``deploy/gunicorn.conf.py``."""

import contextlib
import ctypes
import gc
import resource
import sys

# Parameters of mallopt(3), from glibc's malloc.h.
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_HEAPS = 2  # one would make the threads wait for each other
_OWN_PAGES = 1 << 20  # bytes from which an allocation has pages of its own


def forget_code(package: str = "app") -> None:
    """Have the next import read the package anew, so that a reload brings new code.

    gunicorn's master imports the code, and its workers share that memory. A reload (HUP) runs
    the configuration again in the same master, where the old modules are still loaded.
    """
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


def share_heaps() -> None:
    """Make glibc return more memory: two heaps for all threads, own pages from 1 MiB on.

    By itself glibc gives each thread a heap, and a heap keeps tens of megabytes that were freed:
    740 MB instead of 420 MB for progressive JPEGs of 12 megapixels. Pages of an allocation of its
    own return to the kernel when it is freed. Otherwise glibc keeps 16 to 90 MB after
    progressive JPEGs, and takes 377 MB where the pictures need 292 MB.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl and macOS have none
        mallopt(_M_ARENA_MAX, _HEAPS)
        mallopt(_M_MMAP_THRESHOLD, _OWN_PAGES)


def raise_file_limit() -> None:
    """Allow as many open files as the system lets us: each connection is one.

    Many systems give a process 1,024 unless it asks for more.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS refuses the hard limit that it reports
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def keep_shared() -> None:
    """Exclude what the master has imported from garbage collection, before it forks workers.

    The collector writes into each object that it looks at: the kernel would then copy the page
    for each worker.
    """
    gc.unfreeze()  # after a reload: the old code is garbage now
    gc.collect()
    gc.freeze()


def keep_for_good() -> None:
    """Exclude the objects that exist now from garbage collection: they stay until the end."""
    gc.freeze()
