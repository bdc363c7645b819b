"""Valkey or Redis with the shipped configuration, deploy/redis/uploader.conf."""

import hashlib
import secrets

import redis

from deploy.local import servers
from tests.system.stack import ROOT, Process, redis_command, wait_until

CONFIG = ROOT / "deploy" / "redis" / "uploader.conf"


class Guarded(Process):
    """A server with the shipped users, ``admin`` and ``uploader``, and a new password for each."""

    def __init__(self, kind, directory):
        self.port = servers.free_port()
        text = CONFIG.read_text()
        passwords = {"admin": secrets.token_hex(8), "uploader": secrets.token_hex(8)}
        # The file has 64 zeros and 64 ones where an administrator puts the passwords' SHA-256.
        for digit, password in zip("01", passwords.values(), strict=True):
            assert f"#{digit * 64}" in text
            digest = hashlib.sha256(password.encode()).hexdigest()
            text = text.replace(f"#{digit * 64}", f"#{digest}")
        (directory / "uploader.conf").write_text(text)
        include = ("--include", str(directory / "uploader.conf"))
        command = redis_command(kind, directory, self.port, *include)
        super().__init__(command, directory / "log")
        self.url, self.admin_url = (
            f"redis://{name}:{passwords[name]}@127.0.0.1:{self.port}/0"
            for name in ("uploader", "admin")
        )
        self.admin, self.service = (
            redis.Redis(port=self.port, username=name, password=password)
            for name, password in passwords.items()
        )
        wait_until(self.admin.ping)

    def restart(self, number):
        """End it with this signal, and start it again with the data that it kept."""
        self.signal(number)
        self.popen.wait(30)
        self.start()
        wait_until(self.admin.ping)

    def close(self):
        self.admin.close()
        self.service.close()
        self.kill()
