"""``flask keys``: what administrators do with API keys from the shell.

The commands and redis-cli work on the same records: each can change what the other made.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
from flask.cli import AppGroup

from app.config import POLICIES, Rate
from app.ops import backup, key_check, key_listing
from app.ops.cli import as_json, command, printable
from app.records import usage
from app.records.client import run_script
from app.records.keys import (
    PREFIX,
    ApiKey,
    check_text,
    digest_of,
    id_of,
    new_key,
    parse_expiry,
    read_record,
    roles_in,
    timestamp,
)
from app.service import Service

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_COLOURS = {"error": "red", "warning": "yellow"}
_COUNTS = ("uploads", "bytes", "rejected", "rate_limited")

# KEYS: the record. ARGV: its fields and values, in turn. In one step, so that two commands at once
# cannot write one record over the other.
_ADD = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV))
return 1
"""

keys = AppGroup("keys", help="Add, list, change, rotate and delete API keys.")


def _rate(_: Any, __: Any, value: str | None) -> str | None:
    try:
        return str(Rate.parse(value)) if value else value
    except ValueError:
        # From None, here and below: the ValueError of the parser adds nothing.
        raise click.BadParameter("must be like 120/minute") from None


def _expiry(_: Any, __: Any, value: str | None) -> str | None:
    try:
        if value:
            parse_expiry(value.strip())
    except ValueError:
        raise click.BadParameter("must be like 2027-01-31 or 2027-01-31T12:00:00Z") from None
    return value


def _duration(_: Any, __: Any, value: str) -> timedelta:
    match = re.fullmatch(r"([0-9]{1,6})([mhd])", value)  # timedelta overflows at 9 digits of days
    if not match:
        raise click.BadParameter("must be like 30m, 24h or 7d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


@keys.command()
@click.argument("name")
@click.option("--role", "roles", multiple=True, help="A role, for example uploader; repeatable.")
@click.option("--rate-limit", callback=_rate, help="Like 120/minute.")
@click.option("--expires-at", callback=_expiry, help="Like 2027-01-31: until that day's end, UTC.")
@click.option(
    "--metadata",
    type=click.Choice(POLICIES, case_sensitive=False),
    help="Which metadata its pictures keep.",
)
@click.option("--stdin", "from_stdin", is_flag=True, help="Read the key from standard input.")
@as_json
@command
def create(
    name: str,
    roles: tuple[str, ...],
    rate_limit: str | None,
    expires_at: str | None,
    metadata: str | None,
    from_stdin: bool,
    as_json: bool,
) -> None:
    """Add a key and print it. It cannot be shown again."""
    key = _read_key() if from_stdin else new_key()
    given = {
        "name": name,
        "roles": " ".join(roles),
        "rate_limit": rate_limit,
        "expires_at": expires_at,
        "metadata": metadata,
    }
    # Redis has no empty hash: a key without any field gets an empty name.
    record = {field: value for field, value in given.items() if value} or {"name": ""}
    digest = digest_of(key)
    if from_stdin:  # a random key needs no check
        _refuse_shared_id(digest)
    if not _add(digest, record):
        raise click.ClickException(f"This key is there already: {id_of(digest)}.")
    # A key that the caller gave is not repeated: the output may end in a log.
    _print_new(key, digest, as_json=as_json, shown=not from_stdin)
    if not roles_in(" ".join(roles)):
        click.secho("It has no role: every upload with it is refused.", fg="yellow", err=True)


def _read_key() -> str:
    try:
        return check_text(sys.stdin.buffer.readline().strip())
    except ValueError as error:
        raise click.ClickException(str(error)) from None


def _refuse_shared_id(digest: str) -> None:
    """Refuse a key whose id another key has.

    Random keys practically never share these 48 bits. A person who may choose a key can search for
    one that does, and then use up the rate of the other key.
    """
    if key_listing.digests(id_of(digest)) - {digest}:
        raise click.ClickException(
            f"Another key has the id {id_of(digest)}: they would share rate and usage."
            " Make this key anew."
        )


def _add(digest: str, record: Mapping[str, str] | Mapping[bytes, bytes]) -> bool:
    """Write a record unless there is one; whether it was written."""
    fields = [each for pair in record.items() for each in pair]
    return bool(run_script(Service.current().redis, _ADD, [PREFIX + digest], *fields))


def _print_new(key: str, digest: str, *, as_json: bool, shown: bool) -> None:
    created = {"id": id_of(digest)} | ({"key": key} if shown else {})
    if as_json:
        click.echo(json.dumps(created))
        return
    click.echo(f"id:  {id_of(digest)}")
    if shown:
        click.echo(f"key: {key}")
        click.secho("Keep it now: it is not stored and cannot be shown again.", err=True)


@keys.command("list")
@click.option("--name", default="", help="Only keys whose name contains this text.")
@click.option("--role", help="Only keys with this role.")
@as_json
@command
def list_keys(name: str, role: str | None, as_json: bool) -> None:
    """List keys: name, id, roles, rate, expiry, last use, uploads today."""
    rows = key_listing.matching(name, role)
    if as_json:
        click.echo(json.dumps(rows))
    else:
        key_listing.print_table(rows)


@keys.command()
@click.argument("key_id", metavar="ID")
@as_json
@command
def show(key_id: str, as_json: bool) -> None:
    """Show everything about one key."""
    digest = key_listing.find(key_id)
    record = read_record(Service.current().redis, digest)
    row = key_listing.rows_of({digest: record})[digest]
    if as_json:
        click.echo(json.dumps(row))
        return
    for name, value in row.items():
        click.echo(f"{name.replace('_', ' ') + ':':15}{printable(value)}".rstrip())


@keys.command()
@click.argument("key_id", metavar="ID")
@command
def disable(key_id: str) -> None:
    """Refuse a key from the next request on."""
    _set(key_id, "disabled", "1")


@keys.command()
@click.argument("key_id", metavar="ID")
@command
def enable(key_id: str) -> None:
    """Accept a disabled key again."""
    _set(key_id, "disabled", "0")


def _set(key_id: str, field: str, value: str) -> None:
    digest, _ = key_listing.find_record(key_id)
    Service.current().redis.hset(PREFIX + digest, field, value)
    click.echo(f"{id_of(digest)}: {field} {value}")


@keys.command()
@click.argument("key_id", metavar="ID")
@click.option("--overlap", default="24h", callback=_duration, help="Like 24h: both keys work.")
@as_json
@command
def rotate(key_id: str, overlap: timedelta, as_json: bool) -> None:
    """Make a successor with the same rights; the old key expires after the overlap."""
    digest, record = key_listing.find_record(key_id)
    state = key_listing.state_of(digest, record)
    if state != "good":
        raise click.ClickException(
            f"{id_of(digest)} is {state}: its successor would be allowed more than this key."
        )
    # Notes (x-...) too. Empty fields count as absent.
    inherited = {
        field: value
        for field, value in record.items()
        if value and field not in (b"disabled", b"last_used_at")
    }
    key = new_key()
    successor = digest_of(key)
    # The successor first: if the command breaks off here, the old key still works.
    _add(successor, inherited or {b"name": b""})
    end = datetime.now(UTC) + overlap
    earlier = ApiKey.parse(digest, record, Service.current().config.rate_limit).expires_at
    if earlier is None or earlier > end:  # never later than it would have expired
        Service.current().redis.hset(PREFIX + digest, "expires_at", timestamp(end))
    _print_new(key, successor, as_json=as_json, shown=True)


@keys.command()
@click.argument("key_id", metavar="ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@command
def delete(key_id: str, yes: bool) -> None:
    """Delete a key. This cannot be undone."""
    redis = Service.current().redis
    digest = key_listing.find(key_id)
    name = printable(key_listing.text_of(read_record(redis, digest), "name"))
    if not yes:
        click.confirm(f"Delete {id_of(digest)} ({name})?", abort=True)
    # One by one: in a Cluster the two may be on different nodes, and one DEL cannot name both.
    for record in (PREFIX + digest, usage.last_used_name(id_of(digest))):
        redis.delete(record)  # rates and usage expire by themselves
    click.echo(f"{id_of(digest)}: deleted")


@keys.command()
@command
def check() -> None:
    """Find unreadable records, plain keys and shared ids: exit status 1 if there are any.

    Also warns of keys that expire soon or have no role.
    """
    found = key_check.problems()
    for severity, shown, problem in found:
        click.secho(f"{severity}: {shown}: {problem}", fg=_COLOURS[severity])
    if any(severity == "error" for severity, _, _ in found):
        sys.exit(1)
    click.echo("All records can be read.")


@keys.command("usage")
@click.argument("key_id", metavar="ID")
@click.option("--days", default=30, type=click.IntRange(1, 90), help="How many days back.")
@as_json
@command
def show_usage(key_id: str, days: int, as_json: bool) -> None:
    """Show what a key did, one line per day (UTC)."""
    digest = key_listing.find(key_id)
    now = datetime.now(UTC)
    rows = []
    for back in range(days):
        day = now - timedelta(days=back)
        if counts := usage.read(Service.current().redis, id_of(digest), day):
            figures = {name: counts.get(name, 0) for name in _COUNTS}
            rows.append({"day": f"{day:%Y-%m-%d}"} | figures)
    if as_json:
        click.echo(json.dumps(rows))
        return
    click.echo(f"{'DAY':12}{'UPLOADS':>10}{'BYTES':>16}{'REJECTED':>10}{'RATE LIMITED':>14}")
    for row in rows:
        click.echo(
            f"{row['day']:12}{row['uploads']:>10}{row['bytes']:>16}{row['rejected']:>10}"
            f"{row['rate_limited']:>14}"
        )


@keys.command("export")
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@command
def export_keys(file: Path | None) -> None:
    """Write all records as JSON lines to standard output, or to FILE. They hold no usable key.

    FILE is replaced when the export is complete, and never by an export without a record.
    """
    with backup.replacing(file) if file else nullcontext(sys.stdout) as output:
        count = backup.export(Service.current().redis, key_listing.batches(), output)
        if not count:
            raise click.ClickException("There is no key to export; nothing was written.")
    click.echo(f"{count} keys exported.", err=True)


@keys.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--replace", is_flag=True, help="Also overwrite records that differ.")
@command
def import_keys(file: Path, replace: bool) -> None:
    """Add the keys of an export that are missing in Redis, and report records that differ.

    If a line of FILE is not a record, nothing is written.
    """
    try:
        lines = sum(1 for _ in backup.read(file))  # read once to check every line, then to write
    except ValueError as error:
        raise click.ClickException(f"{file}: {error}; nothing was changed.") from error
    counts = Counter[str]()
    records = backup.read(file)
    for each in backup.restore(Service.current().redis, records, replace=replace):
        change = ("replaced" if replace else "left as it is") if each.fields else "added"
        counts[change] += 1
        differs = f", differs in {printable(', '.join(each.fields))}" if each.fields else ""
        click.echo(f"{id_of(each.digest)}: {change}{differs}")
    changes = ", ".join(f"{count} {change}" for change, count in sorted(counts.items()))
    click.echo(f"{lines} keys read: {changes or 'nothing to change'}.", err=True)
