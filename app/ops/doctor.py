"""``flask doctor``: looks at Redis, the store and the settings once, and says what to change."""

import json
import re
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import click

from app.config import Config, Rate
from app.errors import ApiError, tls_cause
from app.ops import memory
from app.records import journal, ratelimit, usage
from app.records.client import RedisError, redis_errors
from app.records.journal import Entry, Result
from app.service import Service
from app.store.bucket import ImageStore
from app.store.causes import StoreError, seconds_behind

OK, WARNING, FAILED = "ok", "warning", "failed"
_COLOURS = {OK: "green", WARNING: "yellow", FAILED: "red"}
_PROBE_ID = "000000000000"
_SLOW_MS = 5.0
_SKEW_SECONDS = 30, 300  # S3 stores refuse requests that are 15 minutes off


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: ``state`` is ``ok``, ``warning`` or ``failed``."""

    check: str
    state: str
    found: str
    hint: str = ""


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="JSON for scripts.")
def doctor(as_json: bool) -> None:
    """Check Redis, the store and the settings; exit status 1 when something failed."""
    service = Service.current()
    findings: list[Finding] = []
    for examine in (_settings, _redis, _store):
        for finding in examine(service):
            findings.append(finding)
            if not as_json:
                _tell(finding)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    if any(finding.state == FAILED for finding in findings):
        raise click.exceptions.Exit(1)


def _tell(finding: Finding) -> None:
    state = click.style(f"{finding.state:8}", fg=_COLOURS[finding.state])
    click.echo(f"{finding.check:18} {state} {finding.found}")
    if finding.hint:
        click.echo(f"{'':27} {finding.hint}")


def _settings(service: Service) -> Iterator[Finding]:
    config = service.config
    yield Finding("settings", OK, "all can be read")
    yield _transport("redis encryption", config.redis_url, ("rediss", "unix"), "rediss://")
    yield _transport("store encryption", config.s3_endpoint, ("https",), "https://")
    yield _memory(config)


def _transport(check: str, url: str, safe: tuple[str, ...], scheme: str) -> Finding:
    """Whether what goes to this address can be read on the way."""
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2].split(",")
    local = all(
        urlsplit(f"//{host}").hostname in ("localhost", "127.0.0.1", "::1") for host in hosts
    )
    if parts.scheme in safe or local:
        return Finding(check, OK, "on this machine" if local else "encrypted")
    hint = f"Use {scheme} unless the network between is your own."
    return Finding(check, WARNING, "plain text over a network", hint)


def _memory(config: Config) -> Finding:
    """Whether the settings allow more memory than there is, for the unit or where this runs."""
    there = min(memory.limit(config), memory.limit(config, memory.UNIT))
    processes = config.web_concurrency
    most = memory.mib(processes * memory.plan(processes, there).most)
    found = f"at most {most} in {processes} processes, of {memory.mib(there)}"
    if lowered := memory.lowered(processes, there):
        hint = "Lower WEB_CONCURRENCY, or give it more memory."
        return Finding("memory", WARNING, f"{found}: {lowered}", hint)
    return Finding("memory", OK, found)


def _redis(service: Service) -> Iterator[Finding]:
    reached = _reach_redis(service)
    yield reached
    if reached.state == FAILED:
        return
    yield _rights(service)
    yield from _redis_settings(service)


def _reach_redis(service: Service) -> Finding:
    milliseconds = []
    try:
        with redis_errors():
            for _ in range(5):
                start = time.perf_counter()
                service.redis.ping()
                milliseconds.append(1000 * (time.perf_counter() - start))
    except ApiError as error:
        if cause := tls_cause(error):
            return Finding("redis", FAILED, cause, _tls_hint(cause, "REDIS"))
        hint = "Is it started, and are REDIS_URL's address, user and password right?"
        return Finding("redis", FAILED, _without_secrets(service.config, error), hint)
    typical = statistics.median(milliseconds)
    if typical > _SLOW_MS:
        hint = "Each upload waits for three answers: bring Redis nearer, or look at its load."
        return Finding("redis", WARNING, f"answers in {typical:.1f} ms", hint)
    return Finding("redis", OK, f"answers in {typical:.1f} ms")


def _rights(service: Service) -> Finding:
    """Do what uploads, /readyz and the sweep do, under an id that no key has; all of it expires."""
    given_up, ended = (
        Entry(_PROBE_ID, f"doctor-{uuid.uuid4()}", key, 5) for key in ("doctor", None)
    )
    counter = f"usage:{_PROBE_ID}:doctor"
    try:
        with redis_errors(), service.redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(f"apikey:{_PROBE_ID}")
            ratelimit.count(pipe, _PROBE_ID, Rate(1_000_000, 1))  # never over it
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
                pass
    except ApiError as error:
        hint = "deploy/redis/uploader.conf has the rights it needs. Or is it full, or read-only?"
        return Finding("redis rights", FAILED, _without_secrets(service.config, error), hint)
    return Finding("redis rights", OK, "all that the service does")


def _without_secrets(config: Config, error: ApiError) -> str:
    """The cause for a person; some of redis-py's messages repeat the address."""
    cause = error.cause or error.detail
    password = urlsplit(config.redis_url).password
    return cause.replace(password, "...") if password else cause


def _redis_settings(service: Service) -> Iterator[Finding]:
    try:
        info = cast(Any, service.redis.info())
    except RedisError:
        hint = "Let it have INFO, or run this with an administrator's REDIS_URL."
        yield Finding("redis settings", WARNING, "this user may not look", hint)
        return
    nodes = list(info.values()) if "redis_version" not in info else [info]  # of a Cluster: many
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
    """Whether Redis can replay what scripts wrote: it does that as the user ``default``."""
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
    name = str(node.get("server_name", "redis"))
    return f"{name} {node.get(f'{name}_version', node['redis_version'])}"


def _eviction(policies: set[str]) -> Finding:
    found = ", ".join(sorted(policies))
    hint = "Set maxmemory-policy noeviction: "
    if any(policy.startswith("allkeys") for policy in policies):
        return Finding("redis eviction", FAILED, found, hint + "a full Redis throws out API keys.")
    if policies != {"noeviction"}:
        return Finding("redis eviction", WARNING, found, hint + "a full Redis forgets rates.")
    return Finding("redis eviction", OK, found)


def _store(service: Service) -> Iterator[Finding]:
    store = service.store
    cause = store.check()
    if cause is None:
        yield Finding("store", OK, f"bucket {service.config.s3_bucket} is there")
    else:
        yield Finding("store", FAILED, cause, _store_hint(cause))
    if cause not in (None, "access denied"):  # who may not look may still write
        if cause.startswith(_ANSWERED):
            yield _clock(store)
        return
    yield _write(store)
    yield _clock(store)
    yield from _public(store)
    yield _versions(store)


_ANSWERED = ("wrong ", "expired credentials", "clock skew", "no such bucket")
_CREDENTIALS = "S3_ACCESS_KEY and S3_SECRET_KEY, or the role of this machine."
_STORE_HINTS = {
    "wrong credentials": _CREDENTIALS,
    "expired credentials": _CREDENTIALS,
    "no credentials": _CREDENTIALS,
    "access denied": "deploy/s3/policy.json has the rights it needs.",
    "no such bucket": "Make the bucket, or correct S3_BUCKET.",
    "wrong region": "Correct S3_REGION.",
    "clock skew": "Set this machine's clock (timedatectl).",
    "account suspended": "Ask whoever runs the store.",
    "quota used up": "Raise the bucket's quota, or delete what is not needed.",
    "disk full": "Give the store more room.",
    "encryption key not usable": "The key of the bucket's encryption, and the right to use it.",
    "not an answer of an S3 store": "S3_ENDPOINT leads to something else: a web page, a proxy.",
    "plain HTTP on a TLS port": "S3_ENDPOINT must begin with https://.",
}
"""By the beginning of the cause; the first that fits."""


def _tls_hint(cause: str, whose: str) -> str:
    address = {"S3": "S3_ENDPOINT", "REDIS": "REDIS_URL"}[whose]
    if cause.endswith(("expired", "not valid yet")):
        return f"Renew the certificate of {address}, if this machine's clock is right."
    if "for another" in cause:
        return f"{address} must have a name that the certificate is for."
    if cause.endswith("authority"):
        return f"{whose}_CA_CERTS: a PEM file of the authority that signed it."
    return f"{address} leads to a port without TLS: another scheme (http://, redis://) or port."


def _store_hint(cause: str) -> str:
    if cause.startswith("TLS "):
        return _tls_hint(cause, "S3")
    hints = (hint for beginning, hint in _STORE_HINTS.items() if cause.startswith(beginning))
    return next(hints, "Is it started, and is S3_ENDPOINT right?")


def _write(store: ImageStore) -> Finding:
    """Put an object as an upload does, see that it is there, and delete it."""
    key = f"uploads/.doctor-{uuid.uuid4()}"
    try:
        left = store.rehearse(key, 10)
    except StoreError as error:
        gone = error.never_written or _try(lambda: store.delete(key)) is not None
        hint = _store_hint(error.cause) + ("" if gone else f" Delete {key} by hand.")
        return Finding("store rights", FAILED, error.cause, hint)
    if left:
        hint = f"Delete {key} by hand; is the bucket locked, or s3:DeleteObjectVersion missing?"
        return Finding("store rights", WARNING, f"put and stat, but not delete: {left}", hint)
    if cause := _cannot_look(store, key):
        hint = f"{_store_hint(cause)} Without it nothing is swept."
        return Finding("store rights", FAILED, f"put, but not stat: {cause}", hint)
    return Finding("store rights", OK, "put, stat and delete")


def _cannot_look(store: ImageStore, gone: str) -> str | None:
    """Why a missing object cannot be told from a forbidden one."""
    try:
        store.client.stat(gone)
    except StoreError as error:
        return None if error.missing else error.cause
    return "what was deleted is there"


def _try(action: Callable[[], Any]) -> Any:
    try:
        return action()
    except (ApiError, StoreError):
        return None


def _clock(store: ImageStore) -> Finding:
    answer = store.client.as_anyone("HEAD")
    behind = seconds_behind(answer.headers) if answer is not None else None
    if behind is None:
        return Finding("clock", WARNING, "the store does not tell the time")
    seconds = abs(behind)
    found, hint = f"{seconds:.0f} s from the store's", "Set this machine's clock (timedatectl)."
    warn, fail = _SKEW_SECONDS
    if seconds > warn:
        return Finding("clock", FAILED if seconds > fail else WARNING, found, hint)
    return Finding("clock", OK, found)


def _public(store: ImageStore) -> Iterator[Finding]:
    """What somebody without credentials may do."""
    listing = store.client.as_anyone("GET")
    if listing is not None and listing.status == 200:
        hint = "Forbid it in the bucket's policy: names of unpublished pictures can be read."
        yield Finding("public listing", FAILED, "anyone may list the bucket", hint)
    else:
        yield Finding("public listing", OK, "refused")
    key = f"uploads/.doctor-{uuid.uuid4()}"
    written = store.client.as_anyone("PUT", key, b"doctor")
    if written is not None and written.status == 200:
        _try(lambda: store.client.delete(key, written.headers.get("x-amz-version-id", "")))
        hint = "Forbid it in the bucket's policy."
        yield Finding("public writing", FAILED, "anyone may write to the bucket", hint)
    else:
        yield Finding("public writing", OK, "refused")


def _versions(store: ImageStore) -> Finding:
    state = _versioning(store)
    if state == "Enabled":
        hint = "Deleted objects stay as versions: let a lifecycle rule end them (docs/deploy.md)."
        return Finding("store versioning", WARNING, "on", hint)
    return Finding("store versioning", OK, state or "cannot be asked")


def _versioning(store: ImageStore) -> str | None:
    """``Enabled``, ``Suspended`` or ``Off``; None when the store does not say."""
    try:
        answer = store.client.ask("GET", query="versioning=")
    except StoreError:
        return None
    found = re.search(rb"<Status>(Enabled|Suspended)</Status>", answer.body)
    return found[1].decode() if found else "Off"
