"""What each process sets in Python, glibc and the kernel."""

import resource
import subprocess
import sys
import types

import pytest

from app.ops import process


def test_only_the_named_package_is_imported_anew(monkeypatch):
    package, part, other = (types.ModuleType(name) for name in ("old", "old.part", "older"))
    for module in (package, part, other):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    process.forget_code("old")
    assert {"old", "old.part"} & sys.modules.keys() == set()
    assert sys.modules["older"] is other


@pytest.mark.skipif(sys.platform != "linux", reason="macOS says infinity and means less")
def test_a_process_raises_its_limit_of_open_files():
    script = """
import resource
from app.ops import process
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
process.raise_file_limit()
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert int(done.stdout) == resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def test_kept_objects_are_not_collected_again():
    script = """
import gc
from app.ops import process
process.share_heaps()
process.keep_shared()
before = gc.get_freeze_count()
more = [[] for _ in range(1000)]
process.keep_for_good()
print(gc.get_freeze_count() - before >= 1000, before > 1000)
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert done.stdout.split() == [b"True", b"True"]
