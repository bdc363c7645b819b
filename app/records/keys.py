"""API keys and their roles, as administrators write them into Redis.

Each key has one hash, its record, under ``apikey:`` + the SHA-256 of the key. A record
that cannot be read never grants anything.
"""

import hashlib
import logging
import re
import secrets
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from app.config import Rate, parse_flag, parse_metadata
from app.errors import ApiError
from app.records.client import is_wrong_type, redis_errors

log = logging.getLogger("uploader.keys")

PREFIX = "apikey:"
_CHALLENGE = {"WWW-Authenticate": 'ApiKey realm="uploader"'}  # RFC 9110: a 401 must have one
_DATE_TIME = re.compile(
    r"(\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:)(\d{2})(\.\d+)?([Zz]|[+-]\d{2}:[0-5]\d)", re.ASCII
)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
LONGEST_KEY = 1024
"""Characters. A longer key is refused without asking Redis."""

KEY_PREFIX = "upl_"
"""The beginning of keys that are made here, by which people and secret scanners know them."""

_SHORTEST_KEY = 32  # 128 bits in hex digits
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM_DIGITS = 38  # of base 62: 226 bits
_CHECK_DIGITS = 6  # 62^6 is more than 2^32, the values of a CRC-32

_FIELDS = {b"name", b"roles", b"rate_limit", b"expires_at", b"disabled", b"metadata"}
_RETIRED = {b"last_used_at"}  # ignored: earlier versions of the service wrote it
_NOTE = b"x-"  # fields that begin so are notes of administrators


class UnreadableError(ValueError):
    """A field of a record is not known or cannot be read; the text is the field's name.

    ``problem`` says what is wrong, as the end of a sentence that begins with the field.
    """

    def __init__(self, field: str, problem: str = "cannot be read") -> None:
        super().__init__(field)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One record, read and checked. ``digest`` is the key's SHA-256 in hex."""

    digest: str
    name: str
    roles: frozenset[str]
    rate: Rate
    expires_at: datetime | None
    disabled: bool
    metadata: str | None

    @classmethod
    def parse(cls, digest: str, record: Mapping[bytes, bytes], default_rate: Rate) -> "ApiKey":
        """Read a hash from Redis; UnreadableError names the first field that is wrong.

        An unknown field is wrong too, because it may be a mistyped ``disabled``.
        """
        fields = _Fields(record)
        return cls(
            digest=digest,
            name=fields.read("name", str) or "",
            roles=frozenset(fields.read("roles", roles_in) or ()),
            rate=fields.read("rate_limit", Rate.parse) or default_rate,
            expires_at=fields.read("expires_at", parse_expiry),
            disabled=fields.read("disabled", parse_flag) or False,
            metadata=fields.read("metadata", parse_metadata),
        )

    @property
    def id(self) -> str:
        """The name of the key in logs, counters and metadata; see ``id_of``."""
        return id_of(self.digest)

    def usable(self, now: datetime) -> bool:
        """Whether the key is neither disabled nor expired."""
        return not self.disabled and (self.expires_at is None or now < self.expires_at)

    def require(self, role: str) -> None:
        """Raise the 403 ``missing_role`` for a key without the role."""
        if role not in self.roles:
            raise ApiError(
                "missing_role",
                f"This API key is good but may not upload: it lacks the role “{role}”."
                " Ask an administrator to add it.",
            )


class KeyStore:
    """Looks up keys: one read of Redis, and never a write.

    There is no cache, so a change by an administrator counts from the next request.
    """

    def __init__(self, redis: Redis, default_rate: Rate) -> None:
        self._redis = redis
        self._default_rate = default_rate

    def authenticate(self, presented: str | bytes | None) -> ApiKey:
        """The record of the key that the client sent, as text or as the bytes of a header.

        Raises the 401 ``missing_api_key`` or ``invalid_api_key``, and the 503
        ``redis_unavailable``. The answer does not tell an unknown key from one that is
        expired, disabled or unreadable: a stranger learns nothing about keys.
        """
        if not presented:
            raise ApiError(
                "missing_api_key",
                "Send your API key in the request header x-api-key.",
                headers=_CHALLENGE,
            )
        key = self._find(digest_of(presented)) if len(presented) <= LONGEST_KEY else None
        if key is None or not key.usable(datetime.now(UTC)):
            if key is not None:  # the log alone tells the reasons apart
                log.info("key %s is refused: it is disabled or has expired", key.id)
            raise ApiError(
                "invalid_api_key",
                "This API key is not accepted. Check that it was copied whole, or ask an"
                " administrator for a new one.",
                headers=_CHALLENGE,
            )
        return key

    def _find(self, digest: str) -> ApiKey | None:
        record = read_record(self._redis, digest)
        if not record:
            return None
        try:
            return ApiKey.parse(digest, record, self._default_rate)
        except UnreadableError as error:
            log.warning(
                "the record of key %s cannot be read: the field %s %s",
                id_of(digest),
                error,
                error.problem,
            )
            return None


def new_key() -> str:
    """Make a key: a prefix to recognise it by, 226 random bits, and a checksum."""
    body = "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_DIGITS))
    return f"{KEY_PREFIX}{body}{_checksum(body)}"


def looks_mistyped(key: str) -> bool:
    """Whether a key that was made here does not match its checksum. Needs no Redis."""
    body = key.removeprefix(KEY_PREFIX)
    ours = key.startswith(KEY_PREFIX)
    random = body[:-_CHECK_DIGITS]
    return ours and not (random and body.endswith(_checksum(random)))


def check_text(key: bytes) -> str:
    """Check a key that was made elsewhere, and return it as text.

    The text of the ValueError says what is wrong with it.
    """
    if not _SHORTEST_KEY <= len(key) <= LONGEST_KEY:
        raise ValueError(f"A key must have {_SHORTEST_KEY} to {LONGEST_KEY} characters.")
    if not re.fullmatch(rb"[!-~]+", key):
        raise ValueError("A key may have ASCII letters, digits and punctuation, but no spaces.")
    if looks_mistyped(key.decode()):
        raise ValueError("This key does not match its checksum: it was mistyped or cut off.")
    return key.decode()


def _checksum(body: str) -> str:
    """CRC-32 in base 62: it finds mistakes without a look-up, and proves nothing."""
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(_CHECK_DIGITS):
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits


def digest_of(key: str | bytes) -> str:
    """The SHA-256 of a key in hex, as in the name of its record."""
    # A query may decode to lone surrogates, which UTF-8 alone refuses.
    data = key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key
    return hashlib.sha256(data).hexdigest()


def id_of(digest: str) -> str:
    """The id of a key: the first 12 hex digits of its SHA-256. Not a secret, and not a proof."""
    return digest[:12]


def read_record(redis: Redis, digest: str) -> dict[bytes, bytes]:
    """The record of a key; empty when it does not exist or is not a hash."""
    with redis_errors():
        try:
            record: Any = redis.hgetall(PREFIX + digest)
        except ResponseError as error:
            record = error
        return _record(digest, record)


def read_records(redis: Redis, digests: Sequence[str]) -> list[dict[bytes, bytes]]:
    """As ``read_record`` for each, in one round trip (of a Cluster: one for each node)."""
    with redis_errors(), redis.pipeline(transaction=False) as pipe:
        for digest in digests:
            pipe.hgetall(PREFIX + digest)
        answers = pipe.execute(raise_on_error=False)
        return [_record(*each) for each in zip(digests, answers, strict=True)]


def _record(digest: str, answer: Any) -> dict[bytes, bytes]:
    if is_wrong_type(answer):
        log.warning("the record of key %s cannot be read: it is no hash", id_of(digest))
        return {}
    return dict(answer)


def timestamp(moment: datetime) -> str:
    """A time as records have it: RFC 3339 in UTC, whole seconds."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def parse_expiry(text: str) -> datetime:
    """Read an RFC 3339 date-time, or a date: the key is good until that day ends in UTC."""
    if _DATE.fullmatch(text):
        return datetime.combine(date.fromisoformat(text), time.max, UTC)
    match = _DATE_TIME.fullmatch(text)
    if match is None:
        raise ValueError("not a date")
    start, seconds, fraction, offset = match.groups(default="")
    leap = seconds == "60"  # RFC 3339 allows leap seconds, datetime does not
    moment = f"{start}{'59' if leap else seconds}{fraction}{offset}".upper()
    return datetime.fromisoformat(moment) + timedelta(seconds=int(leap))


class _Fields:
    """The fields of a record; raises UnreadableError for unknown names and unreadable values."""

    def __init__(self, record: Mapping[bytes, bytes]) -> None:
        self._record = record
        # Sorted, so that the same record always names the same field.
        for name in sorted(record.keys() - _FIELDS - _RETIRED):
            if not name.startswith(_NOTE):
                raise UnreadableError(_shown(name), "is not known")

    def read(self, name: str, parse: Any) -> Any:
        """The parsed field; None when it is absent or empty."""
        try:
            text = self._record.get(name.encode(), b"").decode().strip()
            return parse(text) if text else None
        except (ValueError, OverflowError) as error:
            raise UnreadableError(name) from error


def _shown(name: bytes) -> str:
    """A field's name for logs and terminals: short, and without control characters."""
    text = name[:40].decode(errors="backslashreplace")
    return text if text.isprintable() else ascii(text)[1:-1]


def roles_in(text: str) -> list[str]:
    """The names in a field ``roles``, separated by spaces or commas."""
    return text.replace(",", " ").split()
