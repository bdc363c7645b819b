"""Every setting: its variable, its default, its form and its check, in one place.

``Config.from_env()`` reads the environment and names all mistakes together.
A test compares the table in docs/settings.md with this module.
"""

import os
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

MAX_FILE_SIZE = 15 * 1024 * 1024
"""Bytes of the largest file that is accepted (the specification's 15 MB)."""

KEEP, NO_LOCATION, MINIMAL = POLICIES = ("keep", "no-location", "minimal")
"""The metadata policies: what stays in an image beside its pixels (docs/privacy.md)."""

INLINE_BYTES = 256 * 1024
"""A file of at most this size, in bytes, is hashed and walked in place: handing it to a thread
would take longer."""

_PERIODS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
# 15 digits: the limit stays exact in Lua, whose numbers are doubles.
_RATE = re.compile(r"\s*([0-9]{1,15})\s*/\s*(second|minute|hour|day)\s*", re.ASCII | re.IGNORECASE)


class ConfigError(ValueError):
    """One or more settings are wrong; the message names all of them."""


@dataclass(frozen=True, slots=True)
class Rate:
    """``limit`` requests in any ``period`` seconds."""

    limit: int
    period: int

    @classmethod
    def parse(cls, text: str) -> "Rate":
        """Read ``120/minute``; ValueError when it is anything else or not positive."""
        match = _RATE.fullmatch(text)
        if match is None or int(match[1]) == 0:
            raise ValueError("not a rate")
        return cls(int(match[1]), _PERIODS[match[2].lower()])

    @property
    def name(self) -> str:
        """The period's word: second, minute, hour or day."""
        return next(name for name, seconds in _PERIODS.items() if seconds == self.period)

    def __str__(self) -> str:
        return f"{self.limit}/{self.name}"


def _text(value: str) -> str:
    if not value.isprintable():
        raise ValueError
    return value


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        number = int(value) if re.fullmatch(r"[0-9]{1,18}", value) else -1
        if not low <= number <= high:
            raise ValueError
        return number

    return parse


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(value: str) -> float:
        number = float(value) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value) else -1.0
        if not low <= number <= high:
            raise ValueError
        return number

    return parse


def _choice(*names: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value.lower() not in names:
            raise ValueError
        return value.lower()

    return parse


def parse_flag(value: str) -> bool:
    """Read ``1``, ``true``, ``yes`` or ``0``, ``false``, ``no``; else raise ValueError."""
    if value.lower() in ("1", "true", "yes"):
        return True
    if value.lower() in ("0", "false", "no"):
        return False
    raise ValueError


parse_metadata = _choice(*POLICIES)
"""Read the name of a metadata policy, in any case; else raise ValueError."""


def _tls_verify(value: str) -> str:
    if value.lower() == "certificate":
        return "certificate"
    return "yes" if parse_flag(value) else "no"


def _authorities(value: str) -> str:
    # Load the file now: a mistake in it would else show as a broken connection much later.
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(value)
    except OSError as error:  # there is no such file, or it holds no certificate
        raise ValueError from error
    return str(Path(value).resolve())


# redis-py takes any option from the query, timeouts and TLS checks too. Only these may be there:
# the others have settings, or are bounds that the service counts on.
_REDIS_OPTIONS = {"db", "client_name", "ssl_ca_certs", "ssl_ca_path", "ssl_certfile",
                  "ssl_keyfile", "ssl_password"}  # fmt: skip


def _redis_url(value: str) -> str:
    url = urlsplit(value)
    hosts = [urlsplit(f"//{host}") for host in url.netloc.rpartition("@")[2].split(",")]
    named = all(host.hostname and host.port != 0 for host in hosts)  # ValueError: no port
    options = dict(parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query)))
    known = options.keys() <= _REDIS_OPTIONS and options.get("db", "0").isdecimal()
    match url.scheme:
        case "redis" | "rediss":
            complete = named and len(hosts) == 1 and known
            complete = complete and re.fullmatch(r"(/[0-9]*)?", url.path) is not None
        case "unix":
            complete = len(url.path) > 1 and known
        case "redis+sentinel":
            complete = named and re.fullmatch(r"/[^/]+(/[0-9]*)?", url.path) is not None
            complete = complete and not url.query
        case "redis+cluster":
            complete = named and url.path in ("", "/", "/0") and not url.query
        case _:
            complete = False
    if not complete:
        raise ValueError
    return value


def _endpoint(value: str) -> str:
    url = urlsplit(value)
    plain = url.path in ("", "/") and not (url.query or url.fragment)
    named = re.fullmatch(r"[A-Za-z0-9._-]+(:[0-9]+)?|\[[0-9a-fA-F:.]+\](:[0-9]+)?", url.netloc)
    if url.scheme not in ("http", "https") or not plain or not named or url.port == 0:
        raise ValueError
    return f"{url.scheme}://{url.netloc}"


def _public_url(value: str) -> str:
    """An address with or without a path; keys follow behind a slash."""
    address = value.rstrip("/")
    url = urlsplit(address)
    _endpoint(f"{url.scheme}://{url.netloc}")
    if not re.fullmatch(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*", url.path) or {*"?#"} & {*value}:
        raise ValueError
    return address


def _bucket(value: str) -> str:
    label = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
    if not 3 <= len(value) <= 63 or not re.fullmatch(rf"{label}(\.{label})*", value):
        raise ValueError
    if re.fullmatch(r"[0-9.]+", value) and value.count(".") == 3:
        raise ValueError  # S3 refuses a name that looks like an IPv4 address
    return value


def _region(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?", value):
        raise ValueError
    return value


def _host(value: str) -> str:
    if re.fullmatch(r"[0-9.]+|.*:.*", value):
        ip_address(value)  # raises ValueError
    elif not re.fullmatch(r"[A-Za-z0-9._-]+", value):
        raise ValueError
    return value


def _origins(value: str) -> tuple[str, ...]:
    origins = tuple(part.strip() for part in value.split(",") if part.strip())
    for origin in origins:
        # Browsers send exactly this form (RFC 6454 section 6.2). With a path it would never match.
        url = urlsplit(origin)
        if url.scheme not in ("http", "https") or origin != f"{url.scheme}://{url.netloc}":
            raise ValueError
        if not url.hostname or "@" in url.netloc or "*" in origin or url.port == 0:
            raise ValueError
    return origins


def _bind(value: str) -> str:
    if value.startswith("unix:") and len(value) > len("unix:"):
        return value
    url = urlsplit(f"//{value}")
    if not url.hostname or not url.port or url.netloc != value:
        raise ValueError
    return value


def _setting(
    variable: str,
    default: Any,
    parse: Callable[[str], Any],
    form: str,
    example: str,
    *,
    secret: bool = False,
) -> Any:
    return field(
        default=default,
        repr=not secret,
        metadata={
            "variable": variable,
            "parse": parse,
            "form": form,
            "example": example,
            "secret": secret,
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings, checked. Sizes are bytes, times are seconds."""

    # Secret: the address may hold a password.
    redis_url: str = _setting(
        "REDIS_URL",
        "redis://127.0.0.1:6379/0",
        _redis_url,
        "redis://, rediss://, unix://, redis+sentinel://host:port,host:port/service/db"
        " or redis+cluster://host:port,host:port",
        "redis://127.0.0.1:6379/0",
        secret=True,
    )
    redis_tls_verify: str = _setting(
        "REDIS_TLS_VERIFY",
        "yes",
        _tls_verify,
        "yes, no (accept any certificate) or certificate (one of REDIS_CA_CERTS, for any host)",
        "yes",
    )
    redis_ca_certs: str | None = _setting(
        "REDIS_CA_CERTS",
        None,
        _authorities,
        "a PEM file of the authorities that vouch for Redis",
        "/etc/ssl/private-ca.pem",
    )
    # Secret: someone may have written credentials into the address.
    s3_endpoint: str = _setting(
        "S3_ENDPOINT",
        "http://127.0.0.1:9000",
        _endpoint,
        "scheme, host and port, without a path",
        "https://s3.eu-central-1.amazonaws.com",
        secret=True,
    )
    s3_bucket: str = _setting("S3_BUCKET", "assets", _bucket, "name of a bucket", "assets")
    s3_region: str = _setting("S3_REGION", "us-east-1", _region, "name of a region", "eu-central-1")
    s3_access_key: str | None = _setting(
        "S3_ACCESS_KEY", None, _text, "text, together with S3_SECRET_KEY", "uploader", secret=True
    )
    s3_secret_key: str | None = _setting(
        "S3_SECRET_KEY", None, _text, "text, together with S3_ACCESS_KEY", "...", secret=True
    )
    s3_ca_certs: str | None = _setting(
        "S3_CA_CERTS",
        None,
        _authorities,
        "a PEM file of the authorities that vouch for the store",
        "/etc/ssl/private-ca.pem",
    )
    # Less than half of UPLOAD_TIMEOUT: the rest is for the turn of the key and for decoding.
    s3_put_timeout: float = _setting(
        "S3_PUT_TIMEOUT", 8.0, _seconds(0.5, 20), "seconds for a PUT with its retry, 0.5 to 20", "8"
    )
    rate_limit: Rate = _setting(
        "RATE_LIMIT",
        Rate(60, 60),
        Rate.parse,
        "a positive whole number per second, minute, hour or day",
        "60/minute",
    )
    max_image_pixels: int = _setting(
        "MAX_IMAGE_PIXELS",
        100_000_000,
        _whole(1, 10_000_000_000),
        "whole number: width x height x frames",
        "100000000",
    )
    metadata: str = _setting(
        "METADATA", KEEP, parse_metadata, "keep, no-location or minimal", "no-location"
    )
    image_check: str = _setting(
        "IMAGE_CHECK", "decode", _choice("decode", "structure"), "decode or structure", "decode"
    )
    # 15 MiB in 60 s are 2 Mbit/s, which a phone on a poor network reaches.
    body_timeout: float = _setting(
        "BODY_TIMEOUT", 60.0, _seconds(1, 3600), "seconds for a whole body, 1 to 3600", "60"
    )
    # At most 25: Heroku's router gives up 30 s after the last byte of a request.
    upload_timeout: float = _setting(
        "UPLOAD_TIMEOUT", 20.0, _seconds(3, 25), "seconds for all after the body, 3 to 25", "20"
    )
    sweep_interval: float = _setting(
        "SWEEP_INTERVAL", 20.0, _seconds(0, 3600), "seconds between sweeps, 0 for none", "20"
    )
    public_url: str | None = _setting(
        "PUBLIC_URL",
        None,
        _public_url,
        "address under which the bucket's objects are served, without a query",
        "https://assets.example.org",
    )
    cors_origins: tuple[str, ...] = _setting(
        "CORS_ORIGINS",
        (),
        _origins,
        "origins (scheme, host and port), separated by commas",
        "https://cms.example.org",
    )
    # None by default: any client can send X-Forwarded-For.
    trusted_proxies: int = _setting(
        "TRUSTED_PROXIES",
        0,
        _whole(0, 10),
        "number of proxies in front whose X-Forwarded-For is believed, 0 to 10",
        "1",
    )
    port: int | None = _setting("PORT", None, _whole(1, 65535), "a port, 1 to 65535", "8000")
    bind_to: str | None = _setting("BIND", None, _bind, "host:port or unix:/path", "127.0.0.1:8000")
    web_concurrency: int = _setting(
        "WEB_CONCURRENCY",
        os.cpu_count() or 1,
        _whole(1, 1024),
        "number of processes, 1 to 1024",
        "2",
    )
    memory_limit: int | None = _setting(
        "MEMORY_LIMIT",
        None,
        _whole(256 * 1024 * 1024, 2**50),
        "bytes that all processes may take together, from 268435456",
        "1073741824",
    )
    log_format: str | None = _setting(
        "LOG_FORMAT", None, _choice("json", "text"), "json or text", "json"
    )
    log_level: str = _setting(
        "LOG_LEVEL",
        "info",
        _choice("debug", "info", "warning", "error"),
        "debug, info, warning or error",
        "info",
    )
    metrics_port: int | None = _setting(
        "METRICS_PORT", None, _whole(1, 65535), "a port, 1 to 65535", "8002"
    )
    # Loopback by default: metrics tell how much each client uploads.
    metrics_host: str = _setting(
        "METRICS_HOST", "127.0.0.1", _host, "address that METRICS_PORT listens on", "127.0.0.1"
    )
    # Off by default: a thousand keys are many thousands of time series in Prometheus.
    metrics_per_key: bool = _setting(
        "METRICS_PER_KEY", False, parse_flag, "yes or no: count uploads per API key", "no"
    )

    @property
    def bind(self) -> str:
        """The address gunicorn listens on: ``BIND``, else all of ``PORT``, else loopback."""
        return self.bind_to or (f"0.0.0.0:{self.port}" if self.port else "127.0.0.1:8000")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> "Config":
        """Read all settings; an empty variable counts as unset.

        Raises ConfigError naming every wrong variable with its form and an
        example, and the value where it can hold no secret.
        """
        values: dict[str, Any] = {}
        mistakes: list[str] = []
        for each in fields(cls):
            setting = each.metadata
            value = environ.get(setting["variable"], "").strip()
            if not value:
                continue
            try:
                values[each.name] = setting["parse"](value)
            except ValueError:
                shown = "the value" if setting["secret"] else repr(value)
                mistakes.append(
                    f"{setting['variable']}: {shown} is not valid; it must be"
                    f" {setting['form']}, for example {setting['example']}"
                )
        config = cls(**values)
        mistakes += _contradictions(config, environ)
        if mistakes:
            raise ConfigError("The settings are not valid:\n  " + "\n  ".join(mistakes))
        return config


def _contradictions(config: Config, environ: Mapping[str, str]) -> Iterator[str]:
    """Name the settings that are well each for itself and cannot be together."""
    pair = [environ.get(name, "").strip() for name in ("S3_ACCESS_KEY", "S3_SECRET_KEY")]
    if any(pair) and not all(pair):
        yield (
            "S3_ACCESS_KEY, S3_SECRET_KEY: only one of them is set; set both,"
            " for example S3_ACCESS_KEY=uploader S3_SECRET_KEY=..., or neither"
        )
    if config.redis_tls_verify == "certificate" and config.redis_ca_certs is None:
        yield (
            "REDIS_TLS_VERIFY: certificate needs REDIS_CA_CERTS,"
            " for example REDIS_CA_CERTS=/etc/ssl/redis.pem"
        )
    host, _, port = config.bind.rpartition(":")
    if port == str(config.metrics_port) and _overlap(host.strip("[]"), config.metrics_host):
        yield (
            f"METRICS_PORT: the service itself listens on {port}; it must be another port,"
            " for example METRICS_PORT=8002"
        )


def _overlap(one: str, other: str) -> bool:
    """Whether two addresses that are listened on are the same, or one of them is all addresses."""
    return one == other or not {one, other}.isdisjoint(("0.0.0.0", "::"))  # noqa: S104
