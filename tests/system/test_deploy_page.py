"""The commands of docs/deploy.md as they stand, run by bash in a directory, with real servers.

Programs that would change the machine are replaced: apt-get, useradd and pip do nothing, git copies
the code, certbot finds a certificate that is there, and systemctl starts the commands of the units.
"""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from deploy.local import servers
from tests.pictures import picture
from tests.system.nginx import make_certificate
from tests.system.stack import ROOT, run, wait_until

PAGE = (ROOT / "docs" / "deploy.md").read_text()
SITE = ROOT / "deploy" / "nginx" / "uploader.conf"

# Scripts in place of programs, by name; {names} are filled in for the test's directory and ports.
STAND_INS = {
    "apt-get": ":",
    "useradd": ":",
    "setpriv": 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"',
    "git": 'for each in app deploy wsgi.py; do cp -r "{root}/$each" "$3/"; done',
    "python3": "mkdir -p .venv/bin; ln -s {scripts}/* .venv/bin/; ln -sf /bin/true .venv/bin/pip",
    "certbot": "[ -d {certificates} ]",
    "systemctl": """
start() {{ (set -m; "$@" >> {box}/output 2>&1 & echo $! >> {box}/pids); }}
case "$*" in
    "restart redis-server")
        redis-cli -p {redis} SHUTDOWN NOSAVE 2> /dev/null || true
        start redis-server {box}/etc/redis/redis.conf
        until redis-cli -p {redis} PING > /dev/null; do sleep 0.1; done ;;
    "daemon-reload") ;;
    "enable --now uploader")
        unit={box}/etc/systemd/system/uploader.service
        set -a
        . "$(sed -n 's/^EnvironmentFile=//p' $unit)"
        BIND=127.0.0.1:{service}
        set +a
        cd "$(sed -n 's/^WorkingDirectory=//p' $unit)"
        start $(sed -n 's/^ExecStart=//p' $unit)
        until curl -fs http://127.0.0.1:{service}/healthz > /dev/null; do sleep 0.1; done ;;
    "reload nginx")
        start "$(command -v nginx)" -g "daemon off;"
        until curl -sk https://127.0.0.1:{tls}/ > /dev/null; do sleep 0.1; done ;;
    *) echo "systemctl $*: unknown here"; exit 1 ;;
esac
""",
    "nginx": 'exec {nginx} -c {box}/etc/nginx/nginx.conf "$@"',
    "redis-cli": 'exec {redis_cli} -p {redis} "$@"',
}


def recipe():
    """The commands under "From nothing to TLS"."""
    [block] = re.findall(
        r"^## From nothing to TLS.*?^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL
    )
    return block


class Box:
    """A directory in place of the machine: its /etc, /root, /opt, and the replaced programs."""

    def __init__(self, directory):
        self.path = directory
        self.ports = {name: servers.free_port() for name in ("redis", "service", "tls")}
        self.ports |= {name: servers.free_port() for name in ("metrics", "plain")}
        for name in ("etc/redis", "etc/nginx/sites-enabled", "etc/nginx/sites-available", "root"):
            (directory / name).mkdir(parents=True)
        for name in ("etc/systemd/system", "usr/local/bin", "bin", "opt/uploader", "data", "log"):
            (directory / name).mkdir(parents=True)
        certificates = directory / "etc/letsencrypt/live/upload.example.org"
        certificates.mkdir(parents=True)
        certificate, key = make_certificate(directory, "upload.example.org")
        certificate.rename(certificates / "fullchain.pem")
        key.rename(certificates / "privkey.pem")
        (directory / "photo.jpg").write_bytes(picture("JPEG"))
        (directory / "etc/nginx/sites-enabled/default").touch()
        (directory / "etc/redis/redis.conf").write_text(
            f"port {self.ports['redis']}\nbind 127.0.0.1\ndir {directory}/data\nsave ''\n"
        )
        user = "user root;" if os.geteuid() == 0 else ""
        (directory / "etc/nginx/nginx.conf").write_text(
            f"{user}\npid {directory}/nginx.pid;\nevents {{\n\tworker_connections 768;\n}}\n"
            f"http {{\n\taccess_log off;\n\terror_log {directory}/log/main;\n"
            f"\tinclude {directory}/etc/nginx/sites-enabled/*;\n}}\n"
        )
        self._stand_in(certificates)

    def _stand_in(self, certificates):
        nginx = shutil.which("nginx") or "/usr/sbin/nginx"
        given = {"root": ROOT, "box": self.path, "scripts": servers.SCRIPTS, "nginx": nginx}
        given |= {"certificates": certificates, "redis_cli": shutil.which("redis-cli")}
        for name, script in STAND_INS.items():
            program = self.path / "bin" / name
            program.write_text(f"#!/bin/bash\nset -e\n{script.format(**given, **self.ports)}\n")
            program.chmod(0o755)

    def here(self, text):
        """The text with paths in this directory and with free ports in place of the page's."""
        for name, port in (("6379", "redis"), ("8000", "service"), ("8002", "metrics")):
            text = re.sub(rf"(?<=[:=]){name}\b", str(self.ports[port]), text)
        return re.sub(r"(?<![\w.\]}])(?=/(etc|opt|root|usr/local|var)/)", str(self.path), text)

    def run(self, script, **environ):
        """Run lines as a person types them, up to the first that fails."""
        return run(
            ["bash", "-euo", "pipefail", "-c", script],
            directory=self.path,
            timeout=120,
            PATH=f"{self.path}/bin:{self.path}/usr/local/bin:{os.environ['PATH']}",
            **environ,
        )

    def end(self):
        """End everything that the replaced systemctl has started."""
        pids = self.path / "pids"
        for pid in pids.read_text().split() if pids.exists() else []:
            try:
                os.kill(int(pid), signal.SIGTERM)
            except ProcessLookupError:
                continue
            wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists())


@pytest.fixture
def box(tmp_path):
    box = Box(tmp_path)
    yield box
    box.end()


def adapt_installed_files(box):
    """Put this directory and its ports into the files that the recipe has installed."""
    for name in ("deploy/uploader", "deploy/systemd/uploader.service"):
        file = box.path / "opt/uploader" / name
        file.write_text(box.here(file.read_text()))
    site = box.path / "opt/uploader/deploy/nginx/uploader.conf"
    text = site.read_text()
    for shipped, port in (("listen 80 ", "plain"), ("listen 443 ", "tls")):
        text = text.replace(shipped, f"listen 127.0.0.1:{box.ports[port]} ")
    text = re.sub(r"    listen \[::\].*\n", "", text)
    site.write_text(box.here(text).replace(f"{box.path}/var/log/nginx", f"{box.path}/log"))


def steps(box, store):
    """The numbered steps of the recipe, for this directory and this store."""
    script = recipe()
    for name, value in store.items():
        script = re.sub(rf"^{name}=.*$", f"{name}={value}", script, flags=re.MULTILINE)
    # Only root may give a file to another group.
    script = script.replace(" -g redis", "") if os.geteuid() else script
    parts = re.split(r"^(?=# \d)", box.here(script), flags=re.MULTILINE)
    assert len(parts) == 7
    return parts[1:]


@pytest.mark.needs_program("redis-server", "redis-cli", "nginx", "openssl", "curl")
def test_every_line_of_the_recipe_runs_and_the_last_one_stores_an_image(box, seaweedfs):
    store = seaweedfs.settings(seaweedfs.make_bucket("recipe"))
    before = seaweedfs.keys("recipe")
    subprocess.run(
        ["redis-server", f"{box.path}/etc/redis/redis.conf", "--daemonize", "yes"], check=True
    )
    programs, *rest, first_image = steps(box, store)
    done = box.run(programs)
    assert done.returncode == 0, done.stderr
    adapt_installed_files(box)
    wait_until(lambda: box.run("redis-cli PING").returncode == 0)
    # Data that is there before the recipe changes the configuration must still be there after it.
    box.run("redis-cli SET kept 1")
    script = f"cd {box.path}/opt/uploader\n" + "".join(rest)
    done = box.run(script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"status":"ready"' in done.stdout.replace(" ", "")
    assert "redis rights       ok" in done.stdout
    # Only root may read the file: it has passwords.
    assert (box.path / "etc/uploader.env").stat().st_mode & 0o777 == 0o600
    # The aliases with which docs/keys.md has an administrator begin.
    page = (ROOT / "docs" / "keys.md").read_text()
    administrator = re.search(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[1]
    script = (
        f"shopt -s expand_aliases\n{box.here(administrator)}redis-cli GET kept\nflask keys check"
    )
    assert box.run(script).stdout == "1\nAll records can be read.\n"

    create, upload = first_image.strip().splitlines()[1:]
    made = box.run(create)
    key = re.search(r"upl_\w+", made.stdout)[0]
    certificate = box.path / "etc/letsencrypt/live/upload.example.org/fullchain.pem"
    # So that curl reaches the site here by its public name, and trusts its certificate.
    (box.path / ".curlrc").write_text(
        f'cacert = "{certificate}"\nconnect-to = "::127.0.0.1:{box.ports["tls"]}"\n'
    )
    answer = box.run(upload.replace("THE-KEY", key), CURL_HOME=str(box.path))
    assert answer.returncode == 0, answer.stderr
    stored = re.search(r'"key": *"(uploads/[^"]*)"', answer.stdout)[1]
    assert seaweedfs.keys("recipe") - before == {stored}
    assert box.run("uploader uploads sweep").stdout.startswith("0 names looked at")


@pytest.mark.parametrize(
    ("version", "own_line"),
    [("1.22.1", False), ("1.25.0", False), ("1.25.1", True), ("1.26.3", True)],
)
def test_the_recipe_writes_http2_as_the_version_of_nginx_wants_it(box, version, own_line):
    (box.path / "bin/nginx").write_text(f"#!/bin/sh\necho nginx version: nginx/{version} >&2\n")
    shutil.copytree(ROOT / "deploy", box.path / "opt/uploader/deploy")
    lines = re.search(r"^site=.*?^fi$", recipe(), re.MULTILINE | re.DOTALL)[0]
    done = box.run(f"cd {box.path}/opt/uploader\n{box.here(lines)}")
    assert done.returncode == 0, done.stderr
    site = (box.path / "etc/nginx/sites-available/uploader.conf").read_text()
    if not own_line:
        assert site == SITE.read_text()
        return
    assert "ssl http2" not in site
    assert site.count("    http2 on;\n    listen 443 ssl default_server;") == 1


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("RATE_LIMIT=7/day", "7/day"),
        ('RATE_LIMIT="7/day"', "7/day"),
        ("RATE_LIMIT='7/day'", "7/day"),
        ("# RATE_LIMIT=7/day", None),
        ("RATE_LIMIT=a=b&c $d `e`", "a=b&c $d `e`"),
    ],
)
def test_the_commands_get_the_settings_as_systemd_reads_them(box, line, value):
    program = box.path / "bin/uploader"
    program.write_text(box.here((ROOT / "deploy" / "uploader").read_text()))
    program.chmod(0o755)
    (box.path / "etc/uploader.env").write_text(f"{line}\nWEB_THREADS=3")
    flask = box.path / "opt/uploader/.venv/bin/flask"
    flask.parent.mkdir(parents=True)
    flask.write_text('#!/bin/sh\nprintf "%s\\n" "${RATE_LIMIT-none}" "$WEB_THREADS" "$*"\n')
    flask.chmod(0o755)
    shown = box.run("uploader doctor")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == f"{value or 'none'}\n3\n--app wsgi doctor\n"
