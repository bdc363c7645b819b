"""The shipped systemd unit: systemd's own checks of it, and its commands."""

import re
import shlex
import subprocess
import sys

import pytest

from deploy.local import servers
from tests.system.stack import HTTP, ROOT, run, wait_until

needs_systemd = pytest.mark.needs_program("systemd-analyze")

UNIT = ROOT / "deploy" / "systemd" / "uploader.service"


def analyze(*arguments):
    command = ["systemd-analyze", "--no-pager", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@needs_systemd
def test_systemd_accepts_the_unit_without_a_warning(tmp_path):
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
def test_systemd_rates_the_exposure_of_the_unit_below_two_of_ten():
    checked = analyze("security", "--offline=true", "--threshold=15", UNIT)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert re.search(r"Overall exposure level for uploader.service: [01]\.", checked.stdout)


def test_systemd_waits_longer_for_a_stop_than_gunicorn_takes():
    script = "import runpy; print(runpy.run_path('deploy/gunicorn.conf.py')['graceful_timeout'])"
    printed = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True
    ).stdout
    waits = re.search(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.MULTILINE)
    assert int(waits[1]) > int(printed)


def command_lines(name, service):
    """The commands of the unit with this name, for this environment and this service."""
    lines = re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)
    assert lines
    for line in lines:
        here = line.replace("/opt/uploader/.venv/bin", str(servers.SCRIPTS))
        yield shlex.split(here.replace("$MAINPID", str(service.pid)))


def reload(service, **environ):
    """Run the commands of a reload as systemd does: one after the other, until one fails."""
    for command in command_lines("ExecReload", service):
        ended = run(command, directory=service.directory, **(service.environ | environ))
        if ended.returncode:
            break
    return ended


@pytest.fixture
def copied(make_service, valkey, seaweedfs, bucket, copy):
    """A service that runs a copy of the code, which the test may change."""
    port = servers.free_port()
    settings = seaweedfs.settings(bucket) | {"METRICS_PORT": str(port)}
    # Without compiled files, so that each reload reads the code that the test has written.
    service = make_service(valkey.url, settings, directory=copy, PYTHONDONTWRITEBYTECODE="1")
    # A worker that has just been forked has yet to read the code.
    metrics = f"http://127.0.0.1:{port}/metrics"
    wait_until(lambda: b"\nuploader_processes 2.0\n" in HTTP.request("GET", metrics).data)
    return service


def test_a_reload_of_broken_code_fails_and_the_old_workers_go_on(copied):
    health, before = copied.directory / "app" / "ops" / "health.py", copied.workers
    good = health.read_text()
    health.write_text(good + "\nimport a_module_that_is_not_there\n")
    broken = reload(copied)
    assert broken.returncode != 0
    assert "No module named 'a_module_that_is_not_there'" in broken.stderr + broken.stdout
    assert copied.get("/healthz").status == 200
    assert copied.workers == before
    health.write_text(good)
    assert reload(copied).returncode == 0
    wait_until(lambda: len(copied.workers - before) == 2)
    assert copied.get("/healthz").status == 200


def test_a_reload_with_broken_settings_fails_and_names_them(copied):
    before = copied.workers
    broken = reload(copied, RATE_LIMIT="lots")
    assert broken.returncode != 0
    assert "RATE_LIMIT" in broken.stderr
    assert copied.workers == before
    assert copied.get("/healthz").status == 200


def test_a_start_with_broken_settings_is_not_tried_again(service):
    (start,) = command_lines("ExecStart", service)
    ended = run(start, **(service.environ | {"RATE_LIMIT": "lots"}))
    assert "RATE_LIMIT" in ended.stderr
    prevented = re.search(r"^RestartPreventExitStatus=(\d+)$", UNIT.read_text(), re.MULTILINE)
    assert ended.returncode == int(prevented[1])
