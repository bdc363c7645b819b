"""The real nginx with the shipped site, on free ports and with a self-signed certificate."""

import os
import re
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import urllib3

from deploy.local.servers import free_port
from tests.system.stack import ROOT, Process, upload, wait_until

SITE = ROOT / "deploy" / "nginx" / "uploader.conf"

# What Debian's nginx.conf does around a site. All paths are in the directory of the test; the
# limits let a test open thousands of connections, each of which needs two files.
MAIN = """
{user}
daemon off;
pid {directory}/pid;
error_log {directory}/main.error.log info;
worker_processes 2;
worker_rlimit_nofile 16384;
events {{ worker_connections 4096; }}
http {{
    access_log {directory}/main.access.log;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    include {directory}/uploader.conf;
}}
"""


class Nginx(Process):
    """Starts nginx; ``changes`` are pairs of texts to replace in the site."""

    def __init__(self, directory, upstream_port, changes=()):
        self.directory = Path(directory)
        self.port, self.plain_port = free_port(), free_port()
        certificate, key = make_certificate(self.directory)
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        site = SITE.read_text()
        for shipped, here in (
            ("    listen [::]:80 default_server;\n", ""),
            ("    listen [::]:443 ssl http2 default_server;\n", ""),
            ("listen 80 ", f"listen 127.0.0.1:{self.plain_port} "),
            ("listen 443 ", f"listen 127.0.0.1:{self.port} "),
            ("127.0.0.1:8000", f"127.0.0.1:{upstream_port}"),
            ("/etc/letsencrypt/live/upload.example.org/fullchain.pem", str(certificate)),
            ("/etc/letsencrypt/live/upload.example.org/privkey.pem", str(key)),
            ("/var/log/nginx", str(self.directory)),
            *changes,
        ):
            assert shipped in site, f"the site no longer has {shipped!r}"
            site = site.replace(shipped, here)
        # nginx 1.25.1 made http2 a directive and warns of the old form: see docs/deploy.md.
        if version_of(program) >= (1, 25, 1):
            site = site.replace(" ssl http2 ", " ssl ")
            site = site.replace("    server_name ", "    http2 on;\n    server_name ")
        (self.directory / "uploader.conf").write_text(site)
        user = "user root;" if os.geteuid() == 0 else ""
        main = self.directory / "nginx.conf"
        main.write_text(MAIN.format(directory=self.directory, user=user))
        self.url = f"https://localhost:{self.port}"
        self.plain_url = f"http://localhost:{self.plain_port}"
        self.http = urllib3.PoolManager(
            ca_certs=str(certificate), retries=False, timeout=60, maxsize=64
        )
        super().__init__([program, "-c", str(main)], self.directory / "output")
        # nginx itself refuses this path, so the answer shows that it runs, with any service.
        wait_until(lambda: self.get("/metrics").status == 404)

    def get(self, path, **headers):
        return self.http.request("GET", self.url + path, headers=headers, redirect=False)

    def upload(self, file, key, **options):
        return upload(self.http, self.url, file, key, **options)

    def connect(self):
        """A TLS connection, for requests that an HTTP library would not send."""
        context = ssl.create_default_context(cafile=str(self.directory / "certificate.pem"))
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        return context.wrap_socket(plain, server_hostname="localhost")

    @property
    def logs(self):
        """The text of all its log files."""
        return "".join(
            path.read_text(errors="replace")
            for path in [*self.directory.glob("*.log"), self.log_path]
        )


def version_of(program):
    """The version of an nginx, as a tuple of three numbers."""
    printed = subprocess.run([program, "-v"], check=True, capture_output=True, text=True).stderr
    return tuple(map(int, re.search(r"nginx/([\d.]+)", printed)[1].split(".")))


def make_certificate(directory, name="localhost"):
    """Make a self-signed certificate for this host name; the paths of it and of its key."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    names = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    return certificate, key
