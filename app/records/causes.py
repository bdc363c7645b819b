"""Why Redis cannot be used: a few words for people, without its address."""

from redis import Redis, exceptions

from app.errors import tls_cause

# The first match counts: some of these are subclasses of redis-py's ConnectionError.
_CAUSES: tuple[tuple[type[Exception], str], ...] = (
    (exceptions.AuthenticationError, "authentication failed"),
    (exceptions.AuthorizationError, "no permission"),
    (exceptions.NoPermissionError, "no permission"),
    (exceptions.ReadOnlyError, "read-only"),
    (exceptions.OutOfMemoryError, "out of memory"),
    (exceptions.BusyLoadingError, "loading"),
    (exceptions.TimeoutError, "timeout"),
    (exceptions.ConnectionError, "connection refused or broken"),
)


def check(redis: Redis) -> str | None:
    """None when Redis can be written, else the cause.

    It writes, because a server that is full or read-only still answers PING.
    """
    try:
        redis.set("ready:check", b"1", px=1000)  # expires by itself
    except Exception as error:  # noqa: BLE001 -- whatever it is, Redis is not usable
        return tls_cause(error) or next(
            (cause for kind, cause in _CAUSES if isinstance(error, kind)), type(error).__name__
        )
    return None
