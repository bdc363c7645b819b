"""The shipped systemd unit, as systemd itself judges it."""

import re
import subprocess
import sys

import pytest

from tests.system.stack import ROOT

pytestmark = pytest.mark.needs_program("systemd-analyze")

UNIT = ROOT / "deploy" / "systemd" / "uploader.service"


def analyze(*arguments):
    command = ["systemd-analyze", "--no-pager", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


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
