"""The Redis client: one server, Sentinel or Cluster, with a bound on each call.

Also the one place that turns failures of Redis into "try again later".
"""

import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from socket import socket
from ssl import VERIFY_X509_PARTIAL_CHAIN, SSLSocket, create_default_context
from typing import Any, cast
from urllib.parse import SplitResult, unquote, urlsplit

from redis import Redis
from redis.backoff import ConstantBackoff
from redis.client import Pipeline
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import SSLConnection
from redis.exceptions import RedisClusterException, RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel

from app.config import Config
from app.errors import unavailable

# Other packages pass Redis and Pipeline on, and need these names for their annotations.
__all__ = ["Pipeline", "Redis", "RedisError", "connect", "redis_errors", "run_script"]
CALLS_AT_ONCE = 16
"""Calls of a process to Redis at once. Of hundreds of calls at once most run into their timeout:
without this bound 317 of 1,000 clients within a second were answered 503."""

WAIT_SECONDS = 10.0
"""How long a call waits for its turn: a burst of requests passes in this time."""

CALL_SECONDS = 0.5
"""The timeout of one try: a thousand times what a call takes. Two tries fit into the two seconds
of ``/readyz``."""

_turns = threading.BoundedSemaphore(CALLS_AT_ONCE)


def connect(config: Config) -> Redis:
    """A client for ``config.redis_url``; it connects at its first use.

    Each call is tried twice, and each try waits at most half a second. With redis-py's
    own defaults, 5 s and 10 retries, a call to a dead server takes a minute. Answers
    are bytes.
    """
    url = urlsplit(config.redis_url)
    match url.scheme:
        case "redis+sentinel":
            return _sentinel(url, _options())
        case "redis+cluster":
            return cast(Redis, _LazyCluster(url, _options()))
        case "rediss":
            return Redis.from_url(config.redis_url, **_options(), **_tls_options(config))
        case _:
            return Redis.from_url(config.redis_url, **_options())


@contextmanager
def redis_errors() -> Iterator[None]:
    """Wait for a turn, and turn every failure of Redis into the 503 ``redis_unavailable``.

    This includes a server that answers but cannot serve (out of memory, read-only, no
    permission, loading), and answers that cannot be read, for which redis-py raises
    ValueError.
    """
    if not _turns.acquire(timeout=WAIT_SECONDS):
        raise unavailable("redis_unavailable", f"{CALLS_AT_ONCE} calls are under way")
    try:
        yield
    except (RedisError, RedisClusterException, OSError, ValueError) as error:
        raise unavailable("redis_unavailable", f"{type(error).__name__}: {error}") from error
    finally:
        _turns.release()


def run_script(
    redis: Redis | Pipeline, script: str, keys: Sequence[str], *args: str | bytes | float
) -> Any:
    """Run a Lua script whose keys share a hash slot; on a pipeline, queue it.

    It does not use redis-py's ``eval``, which the pipeline of a Cluster does not have.
    """
    command: Any = redis.execute_command
    return command("EVAL", script, len(keys), *keys, *args)


def is_wrong_type(answer: Any) -> bool:
    """Whether ``answer`` is the error for a value of another type; raises any other error."""
    if not isinstance(answer, Exception):
        return False
    if not str(answer).startswith("WRONGTYPE"):  # redis-py has no exception of its own for it
        raise answer
    return True


def _options() -> dict[str, Any]:
    return {
        "socket_timeout": CALL_SECONDS,
        "socket_connect_timeout": CALL_SECONDS,
        "retry": Retry(ConstantBackoff(0.05), 1),
    }


class _OwnAuthorities(SSLConnection):
    """Trusts the authorities in ``ssl_ca_certs`` and no others; redis-py adds the system's.

    It overrides a private method of redis-py. A test connects through this class, and fails
    when redis-py changes.
    """

    def _wrap_socket_with_ssl(self, sock: socket) -> SSLSocket:
        context = create_default_context(cafile=self.ca_certs)
        # An intermediate or the server's own certificate may stand in the file, without a root.
        context.verify_flags |= VERIFY_X509_PARTIAL_CHAIN
        context.check_hostname = self.check_hostname
        if self.certfile:
            context.load_cert_chain(self.certfile, self.keyfile, self.certificate_password)
        return context.wrap_socket(sock, server_hostname=self.host)


def _tls_options(config: Config) -> dict[str, Any]:
    if config.redis_tls_verify == "no":
        return {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    if config.redis_ca_certs is None:
        return {}
    return {
        "connection_class": _OwnAuthorities,
        "ssl_ca_certs": config.redis_ca_certs,
        "ssl_check_hostname": config.redis_tls_verify == "yes",
    }


def _credentials(url: SplitResult) -> dict[str, str]:
    given = {"username": url.username, "password": url.password}
    return {name: unquote(value) for name, value in given.items() if value}


def _hosts(url: SplitResult, default_port: int) -> list[tuple[str, int]]:
    # urlsplit knows one host, of which it reads names, IPv4 and IPv6 in brackets.
    parts = [urlsplit(f"//{host}") for host in url.netloc.rpartition("@")[2].split(",")]
    return [(part.hostname or "localhost", part.port or default_port) for part in parts]


def _sentinel(url: SplitResult, options: dict[str, Any]) -> Redis:
    service, _, db = url.path.strip("/").partition("/")
    sentinel = Sentinel(_hosts(url, 26379), **options)
    # The URL's credentials are the Redis server's. Sentinels get none.
    options = options | _credentials(url)
    master = sentinel.master_for(service, db=int(db or 0), **options)
    return cast(Redis, master)


class _LazyCluster:
    """A RedisCluster that is built at its first use.

    redis-py's own asks the nodes for their slots in its constructor, and this service
    must start while they are down.
    """

    def __init__(self, url: SplitResult, options: dict[str, Any]) -> None:
        self._nodes = _hosts(url, 6379)
        self._options = options | _credentials(url)
        self._lock = threading.Lock()
        self._cluster: RedisCluster | None = None
        self._failed_at = -math.inf

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connected(), name)

    def _connected(self) -> RedisCluster:
        asked_at = time.monotonic()
        with self._lock:
            if self._cluster is None:
                # Nodes that do not answer cost seconds: calls that waited for one try share its
                # failure, and do not try one after the other.
                if self._failed_at > asked_at:
                    raise RedisClusterException("no node could be reached just now")
                nodes = [ClusterNode(*node) for node in self._nodes]
                try:
                    self._cluster = RedisCluster(startup_nodes=nodes, **self._options)
                except Exception:
                    self._failed_at = time.monotonic()
                    raise
            return self._cluster
