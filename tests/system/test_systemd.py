"""The shipped systemd unit: as systemd itself judges it, and what its commands do."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import servers

from tests.system.stack import HTTP, ROOT, run, wait_until

needs_systemd = pytest.mark.needs_program("systemd-analyze")

UNIT = ROOT / "deploy" / "systemd" / "uploader.service"


def analyze(*arguments):
    command = ["systemd-analyze", "--no-pager", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@needs_systemd
def test_systemd_has_no_complaint_about_the_unit(tmp_path):
    program = tmp_path / ".venv" / "bin" / "gunicorn"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/uploader", str(tmp_path)))
    checked = analyze("verify", "--man=no", unit)
    complaints = [line for line in checked.stderr.splitlines() if unit.name in line]
    assert (checked.returncode, complaints) == (0, [])


@needs_systemd
def test_the_unit_is_among_the_well_confined():
    checked = analyze("security", "--offline=true", "--threshold=15", UNIT)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert re.search(r"Overall exposure level for uploader.service: [01]\.", checked.stdout)


def test_the_stop_waits_longer_than_gunicorn_does():
    script = "import runpy; print(runpy.run_path('deploy/gunicorn.conf.py')['graceful_timeout'])"
    printed = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True
    ).stdout
    waits = re.search(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.MULTILINE)
    assert int(waits[1]) > int(printed)


def command_lines(name, service):
    """The unit's commands of this name, for a service that was started here."""
    lines = re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)
    assert lines
    for line in lines:
        here = line.replace("/opt/uploader/.venv/bin", str(servers.SCRIPTS))
        yield shlex.split(here.replace("$MAINPID", str(service.pid)))


def reload(service, **environ):
    """As systemd does it: one command after the other, until one fails."""
    for command in command_lines("ExecReload", service):
        ended = run(command, directory=service.directory, **(service.environ | environ))
        if ended.returncode:
            break
    return ended


@pytest.fixture
def copied(make_service, valkey, seaweedfs, bucket, tmp_path):
    """A service with code of its own, which a test may change."""
    for name in ("app", "deploy"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "wsgi.py", tmp_path)
    port = servers.free_port()
    settings = seaweedfs.settings(bucket) | {"METRICS_PORT": str(port)}
    service = make_service(valkey.url, settings, directory=tmp_path, PYTHONDONTWRITEBYTECODE="1")
    # A worker that has only been forked has yet to read the code.
    metrics = f"http://127.0.0.1:{port}/metrics"
    wait_until(lambda: b"\nuploader_processes 2.0\n" in HTTP.request("GET", metrics).data)
    return service


def workers(service):
    children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text()
    return set(children.split())


def test_a_reload_with_a_broken_version_fails_and_the_old_one_goes_on(copied):
    health, before = copied.directory / "app" / "ops" / "health.py", workers(copied)
    good = health.read_text()
    health.write_text(good + "\nimport a_module_that_is_not_there\n")
    broken = reload(copied)
    assert broken.returncode != 0
    assert "No module named 'a_module_that_is_not_there'" in broken.stderr + broken.stdout
    assert copied.get("/healthz").status == 200
    assert workers(copied) == before
    health.write_text(good)
    assert reload(copied).returncode == 0
    wait_until(lambda: len(workers(copied) - before) == 2)
    assert copied.get("/healthz").status == 200


def test_a_reload_with_broken_settings_fails_and_names_them(copied):
    before = workers(copied)
    broken = reload(copied, RATE_LIMIT="lots")
    assert broken.returncode != 0
    assert "RATE_LIMIT" in broken.stderr
    assert workers(copied) == before
    assert copied.get("/healthz").status == 200


def test_a_start_with_broken_settings_is_not_tried_again(service):
    (start,) = command_lines("ExecStart", service)
    ended = run(start, **(service.environ | {"RATE_LIMIT": "lots"}))
    assert "RATE_LIMIT" in ended.stderr
    prevented = re.search(r"^RestartPreventExitStatus=(\d+)$", UNIT.read_text(), re.MULTILINE)
    assert ended.returncode == int(prevented[1])
