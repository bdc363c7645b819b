"""What ``flask doctor`` looks at in Redis: answers, rights, eviction, persistence."""

import re
import statistics
import time
import uuid
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from app.config import Rate
from app.errors import ApiError, tls_cause
from app.ops.findings import FAILED, OK, WARNING, Finding, tls_hint
from app.records import journal, ratelimit, usage
from app.records.client import RedisError, redis_errors
from app.records.journal import Entry, Result
from app.service import Service

_PINGS = 5  # an odd number has a middle one: one slow answer changes nothing
_SLOW_MS = 5.0  # three of these are longer than all else in the upload of a small image
_PROBE_ID = "000000000000"  # the id of a key whose SHA-256 begins with 48 zero bits: nobody's


def examine(service: Service) -> Iterator[Finding]:
    """Look at Redis, and stop at the first thing without which the rest cannot be asked."""
    reached = _reach(service)
    yield reached
    if reached.state == FAILED:
        return
    yield _rights(service)
    yield from _settings(service)


def _reach(service: Service) -> Finding:
    milliseconds = []
    try:
        with redis_errors():
            for _ in range(_PINGS):
                start = time.perf_counter()
                service.redis.ping()
                milliseconds.append(1000 * (time.perf_counter() - start))
    except ApiError as error:
        if cause := tls_cause(error):
            return Finding("redis", FAILED, cause, tls_hint(cause, "REDIS"))
        hint = "Is it started, and are REDIS_URL's address, user and password right?"
        return Finding("redis", FAILED, _cause(service, error), hint)
    typical = statistics.median(milliseconds)
    if typical > _SLOW_MS:
        hint = "Each upload waits for three answers: bring Redis nearer, or look at its load."
        return Finding("redis", WARNING, f"answers in {typical:.1f} ms", hint)
    return Finding("redis", OK, f"answers in {typical:.1f} ms")


def _rights(service: Service) -> Finding:
    """Do what uploads, /readyz and the sweep do, under an id that no key has; all of it expires.

    Only doing it shows that all rights are there: ACL DRYRUN needs Redis 7 and an administrator.
    """
    given_up, ended = (
        Entry(_PROBE_ID, f"doctor-{uuid.uuid4()}", key, 5) for key in ("doctor", None)
    )
    counter = f"usage:{_PROBE_ID}:doctor"
    try:
        with redis_errors(), service.redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(f"apikey:{_PROBE_ID}")
            ratelimit.count(pipe, _PROBE_ID, Rate(1_000_000, 1))  # a rate that is never used up
            given_up.begin(pipe)
            given_up.abort(pipe)
            ended.begin(pipe)
            ended.commit(pipe, Result("", "", 0, 0, 0, 0, ""))
            pipe.hincrby(counter, "uploads", 1)
            pipe.expire(counter, 1)
            pipe.set(usage.last_used_name(_PROBE_ID), b"", px=1000)
            pipe.set("ready:check", b"1", px=1000)
            pipe.execute()
            for _ in journal.claim(service.redis):
                pass  # names that are claimed and not settled stay on the sweep's list
    except ApiError as error:
        hint = "deploy/redis/uploader.conf has the rights it needs. Or is it full, or read-only?"
        return Finding("redis rights", FAILED, _cause(service, error), hint)
    return Finding("redis rights", OK, "all that the service does")


def _cause(service: Service, error: ApiError) -> str:
    """Why Redis failed, without secrets: some of redis-py's messages repeat the address."""
    cause = error.cause or error.detail
    url = urlsplit(service.config.redis_url)
    given = [url.password or "", *re.findall(r"\bssl_password=([^&]+)", url.query)]
    # Percent-encoded as in the address, and decoded as redis-py uses it.
    secrets = {form for each in given for form in (each, unquote(each))} - {""}
    for secret in sorted(secrets, key=len, reverse=True):  # one may contain another
        cause = cause.replace(secret, "...")
    return cause


def _settings(service: Service) -> Iterator[Finding]:
    try:
        info = cast(Any, service.redis.info())
    except RedisError:
        hint = "Give this user INFO, or run this with an administrator's REDIS_URL."
        yield Finding("redis settings", WARNING, "this user may not look", hint)
        return
    # A Cluster answers with one dictionary per node.
    nodes = list(info.values()) if "redis_version" not in info else [info]
    yield Finding("redis version", OK, ", ".join(sorted({_version(node) for node in nodes})))
    yield _eviction({str(node.get("maxmemory_policy", "unknown")) for node in nodes})
    if all(node.get("aof_enabled") for node in nodes):
        yield Finding("redis persistence", OK, "append-only file")
    else:
        hint = "appendonly yes, or a managed service that replicates: keys must not be lost."
        yield Finding("redis persistence", WARNING, "no append-only file", hint)
        return
    if not any(node.get("server_name") == "valkey" for node in nodes):
        yield from _replay(service)


def _replay(service: Service) -> Iterator[Finding]:
    """Whether Redis can replay what scripts wrote after a restart.

    Redis 7 and 8 replay their append-only file as the user ``default``, and drop each script
    with several writes when that user lacks rights. Valkey 9.1 does not.
    """
    try:
        default = cast(Any, service.redis.acl_getuser("default"))
        whole = "+@all" in default["categories"] and "~*" in default["keys"]
    except (RedisError, KeyError, TypeError):  # only administrators may look
        return
    if whole:
        yield Finding("redis replay", OK, "the default user has its rights")
        return
    hint = "user default off resetpass ~* &* +@all: a restart forgets what scripts wrote, and more."
    yield Finding("redis replay", FAILED, "the default user lacks rights", hint)


def _version(node: dict[str, Any]) -> str:
    # Valkey gives the version of Redis that it is compatible with as redis_version.
    name = str(node.get("server_name", "redis"))
    return f"{name} {node.get(f'{name}_version', node['redis_version'])}"


def _eviction(policies: set[str]) -> Finding:
    # Records of keys have no time to live, so the volatile policies leave them alone.
    found = ", ".join(sorted(policies))
    hint = "Set maxmemory-policy noeviction: "
    if any(policy.startswith("allkeys") for policy in policies):
        return Finding("redis eviction", FAILED, found, hint + "a full Redis throws out API keys.")
    if policies != {"noeviction"}:
        return Finding("redis eviction", WARNING, found, hint + "a full Redis forgets rates.")
    return Finding("redis eviction", OK, found)
