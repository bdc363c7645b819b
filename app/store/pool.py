"""Pools of connections to the store on which the timeout holds for an answer as a whole.

The timeout of a socket begins anew with each read. A server that sends one byte now and then would
keep its client waiting without end.
"""

import io
import socket
import time
from http.client import HTTPResponse
from typing import Any

import urllib3
from urllib3.connectionpool import HTTPConnectionPool


def pool(**options: Any) -> urllib3.PoolManager:
    """A ``PoolManager`` with these options, whose answers end with TimeoutError in time."""
    manager = urllib3.PoolManager(**options)
    manager.pool_classes_by_scheme = {
        scheme: _bounded(kind) for scheme, kind in manager.pool_classes_by_scheme.items()
    }
    return manager


def _bounded(kind: type[HTTPConnectionPool]) -> type[HTTPConnectionPool]:
    connection = type("Connection", (kind.ConnectionCls,), {"response_class": _Response})
    return type("Pool", (kind,), {"ConnectionCls": connection})


class _Response(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        # urllib3 has set the timeout of the socket to what was left when the request was sent.
        deadline = time.monotonic() + (sock.gettimeout() or 0)
        self.fp = io.BufferedReader(_Bounded(sock, self.fp.detach(), deadline))


class _Bounded(io.RawIOBase):
    """The bytes that come from a socket until a deadline (of ``time.monotonic()``)."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase, deadline: float) -> None:
        self._sock, self._raw, self._deadline = sock, raw, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer comes too slowly")
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()
