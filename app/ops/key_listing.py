"""Finds the records of keys in Redis, and describes them as ``flask keys list`` shows them."""

import re
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice

import click

from app.ops.cli import printable
from app.records import usage
from app.records.keys import (
    PREFIX,
    ApiKey,
    UnreadableError,
    id_of,
    read_record,
    read_records,
    roles_in,
)
from app.service import Service

DIGEST = re.compile(r"[0-9a-f]{64}")
"""The part of a record's name after the prefix: the SHA-256 of the key."""

_SCAN = 1000  # names for each SCAN: a few milliseconds of Redis, so requests do not wait
_BATCH = 500  # records in one round trip
_HEADINGS = {
    "name": "NAME",
    "id": "ID",
    "roles": "ROLES",
    "rate_limit": "RATE",
    "metadata": "METADATA",
    "expires_at": "EXPIRES",
    "last_used_at": "LAST USED",
    "uploads_today": "TODAY",
    "state": "STATE",
}


def batches() -> Iterator[list[str]]:
    """Lists of what follows ``apikey:`` in the name of each record, a digest or not.

    SCAN may return a name more than once. On a terminal the progress goes to standard error.
    """
    names = iter(Service.current().redis.scan_iter(match=f"{PREFIX}*", count=_SCAN))
    shown = sys.stderr.isatty()  # a million keys take a minute
    done = 0
    while batch := [_suffix(name) for name in islice(names, _BATCH)]:
        yield batch
        done += len(batch)
        if shown:
            click.echo(f"\r{done} keys read", nl=False, err=True)
    if shown:
        click.echo("\r\033[K", nl=False, err=True)


def _suffix(name: bytes) -> str:
    # Names in Redis are bytes: somebody may have written one that is not UTF-8.
    return name.decode(errors="surrogateescape").removeprefix(PREFIX)


def matching(name: str, role: str | None) -> list[dict[str, str]]:
    """The rows of all keys whose name contains ``name`` and that have ``role``, by name."""
    rows: dict[str, dict[str, str]] = {}  # by digest, because SCAN may return a name twice
    for batch in batches():
        good = [digest for digest in batch if DIGEST.fullmatch(digest)]
        records = zip(good, read_records(Service.current().redis, good), strict=True)
        found = {
            digest: record
            for digest, record in records
            if name.lower() in text_of(record, "name").lower()
            and (role is None or role in roles_in(text_of(record, "roles")))
        }
        rows |= rows_of(found)
    return sorted(rows.values(), key=lambda row: (row["name"].lower(), row["id"]))


def text_of(record: Mapping[bytes, bytes], field: str) -> str:
    """A field as text, for people: empty if absent, with U+FFFD for what is not UTF-8."""
    return record.get(field.encode(), b"").decode(errors="replace")


def rows_of(records: Mapping[str, Mapping[bytes, bytes]]) -> dict[str, dict[str, str]]:
    """The row of each record, by digest."""
    redis = Service.current().redis
    ids = [id_of(digest) for digest in records]
    today = usage.read_many(redis, ids, datetime.now(UTC))
    last_used = usage.last_used(redis, ids)
    parts = zip(records.items(), today, last_used, strict=True)
    return {digest: _row(digest, record, day, last) for (digest, record), day, last in parts}


def _row(
    digest: str, record: Mapping[bytes, bytes], today: dict[str, int], last_used: str
) -> dict[str, str]:
    config = Service.current().config
    return {
        "name": text_of(record, "name"),
        "id": id_of(digest),
        "roles": " ".join(roles_in(text_of(record, "roles"))),
        "rate_limit": text_of(record, "rate_limit") or str(config.rate_limit),
        "metadata": text_of(record, "metadata").lower() or config.metadata,
        "expires_at": text_of(record, "expires_at"),
        "last_used_at": last_used,
        "uploads_today": str(today.get("uploads", 0)),
        "state": state_of(digest, record),
    }


def state_of(digest: str, record: Mapping[bytes, bytes]) -> str:
    """``good``, ``disabled``, ``expired``, or ``unreadable: `` and what cannot be read."""
    if not record:
        return "unreadable: not a hash"
    try:
        key = ApiKey.parse(digest, record, Service.current().config.rate_limit)
    except UnreadableError as error:
        return f"unreadable: {error}"
    if key.disabled:
        return "disabled"
    return "good" if key.usable(datetime.now(UTC)) else "expired"


def print_table(rows: list[dict[str, str]]) -> None:
    """Print the rows in columns that are wide enough for every value: nothing is cut."""
    if not rows:
        click.echo("No keys.", err=True)
        return
    table = [{name: printable(row[name]) for name in _HEADINGS} for row in (_HEADINGS, *rows)]
    widths = {name: max(len(row[name]) for row in table) for name in _HEADINGS}
    for number, row in enumerate(table):
        line = "  ".join(row[name].ljust(width) for name, width in widths.items()).rstrip()
        click.secho(line, bold=number == 0, dim=row["state"] not in ("STATE", "good"))


def find(key_id: str) -> str:
    """The digest of the one key whose id starts with ``key_id``; raises ClickException."""
    # No wildcards: in SCAN's pattern `*` would find any key.
    if not re.fullmatch(r"[0-9a-f]{1,64}", key_id):
        raise click.ClickException("An id has the digits 0-9 and a-f.")
    found = digests(key_id)
    if not found:
        raise click.ClickException(f"No key has the id {key_id}.")
    if len(found) > 1:
        raise click.ClickException(f"{len(found)} keys have ids that start with {key_id}.")
    return found.pop()


def digests(start: str) -> set[str]:
    """The digests that start with ``start`` and have a record."""
    names = Service.current().redis.scan_iter(match=f"{PREFIX}{start}*", count=_SCAN)
    return {each for each in map(_suffix, names) if DIGEST.fullmatch(each)}


def find_record(key_id: str) -> tuple[str, dict[bytes, bytes]]:
    """The digest and the record of the one key whose id starts with ``key_id``."""
    digest = find(key_id)
    record = read_record(Service.current().redis, digest)
    if not record:
        raise click.ClickException(f"The record of {id_of(digest)} is not a hash.")
    return digest, record
