"""``flask keys`` and ``flask uploads``: what administrators do from the shell.

The commands work on the same records that redis-cli writes; each can change
what the other made.
"""

import json
import re
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from functools import wraps
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import click
from flask.cli import AppGroup

from app.config import POLICIES, Rate
from app.errors import ApiError
from app.ops import backup
from app.ops import sweep as sweeping
from app.records import journal, usage
from app.records.client import redis_errors, run_script
from app.records.keys import (
    PREFIX,
    ApiKey,
    UnreadableError,
    check_text,
    digest_of,
    id_of,
    new_key,
    parse_expiry,
    read_record,
    read_records,
    roles_in,
    timestamp,
)
from app.service import Service

_DIGEST = re.compile(r"[0-9a-f]{64}")
_SOON = timedelta(days=14)
_SCAN = 1000  # names that one SCAN looks at
_BATCH = 500  # records of one round trip
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
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}

keys = AppGroup("keys", help="API keys: add, limit, rotate, find and take back.")
uploads = AppGroup("uploads", help="Uploads that were interrupted.")


def _command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Failures as one line and exit status 1, never a traceback."""

    @wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        try:
            with redis_errors():
                try:
                    return function(*args, **options)
                except BrokenPipeError as error:  # `| head`, which Click knows what to do about
                    end_of_output = error
        except ApiError as error:
            raise click.ClickException(f"{error.title}: {error.cause or error.detail}") from error
        raise end_of_output

    return run


_service = Service.current


def _rate(_: Any, __: Any, value: str | None) -> str | None:
    try:
        return str(Rate.parse(value)) if value else value
    except ValueError:
        raise click.BadParameter("must be like 120/minute") from None


def _expiry(_: Any, __: Any, value: str | None) -> str | None:
    try:
        if value:
            parse_expiry(value.strip())
    except ValueError:
        raise click.BadParameter("must be like 2027-01-31 or 2027-01-31T12:00:00Z") from None
    return value


def _duration(_: Any, __: Any, value: str) -> timedelta:
    match = re.fullmatch(r"([0-9]{1,6})([mhd])", value)
    if not match:
        raise click.BadParameter("must be like 30m, 24h or 7d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


_as_json = click.option("--json", "as_json", is_flag=True, help="JSON for scripts.")


@keys.command()
@click.argument("name")
@click.option("--role", "roles", multiple=True, help="A role, for example uploader; repeatable.")
@click.option("--rate-limit", callback=_rate, help="Like 120/minute.")
@click.option("--expires-at", callback=_expiry, help="Like 2027-01-31: until that day's end, UTC.")
@click.option(
    "--metadata",
    type=click.Choice(POLICIES, case_sensitive=False),
    help="What its pictures may say.",
)
@click.option("--stdin", "from_stdin", is_flag=True, help="Read the key from standard input.")
@_as_json
@_command
def create(
    name: str,
    roles: tuple[str, ...],
    rate_limit: str | None,
    expires_at: str | None,
    metadata: str | None,
    from_stdin: bool,
    as_json: bool,
) -> None:
    """Add a key and print it, once."""
    key = _read_key() if from_stdin else new_key()
    given = {
        "name": name,
        "roles": " ".join(roles),
        "rate_limit": rate_limit,
        "expires_at": expires_at,
        "metadata": metadata,
    }
    record = {field: value for field, value in given.items() if value} or {"name": ""}
    digest = digest_of(key)
    if from_stdin:
        _refuse_shared_id(digest)
    if not _add(digest, record):
        raise click.ClickException(f"This key is there already: {id_of(digest)}.")
    _tell_new(key, digest, as_json=as_json, shown=not from_stdin)
    if not roles_in(" ".join(roles)):
        click.secho("It has no role: every upload with it is refused.", fg="yellow", err=True)


def _read_key() -> str:
    try:
        return check_text(sys.stdin.buffer.readline().strip())
    except ValueError as error:
        raise click.ClickException(str(error)) from None


def _refuse_shared_id(digest: str) -> None:
    """Keys that were made elsewhere may be made so that they share an id, and with it a rate."""
    if _digests(id_of(digest)) - {digest}:
        raise click.ClickException(
            f"Another key has the id {id_of(digest)}: they would share rate and usage."
            " Make this key anew."
        )


def _add(digest: str, record: Mapping[str, str] | Mapping[bytes, bytes]) -> bool:
    """Write a record unless there is one."""
    script = """if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV)) return 1"""
    fields = [each for pair in record.items() for each in pair]
    return bool(run_script(_service().redis, script, [PREFIX + digest], *fields))


def _tell_new(key: str, digest: str, *, as_json: bool, shown: bool) -> None:
    created = {"id": id_of(digest)} | ({"key": key} if shown else {})
    if as_json:
        click.echo(json.dumps(created))
        return
    click.echo(f"id:  {id_of(digest)}")
    if shown:
        click.echo(f"key: {key}")
        click.secho("Keep it now: it is not stored and cannot be shown again.", err=True)


@keys.command("list")
@click.option("--name", default="", help="Only keys whose name has this text.")
@click.option("--role", help="Only keys with this role.")
@_as_json
@_command
def list_keys(name: str, role: str | None, as_json: bool) -> None:
    """All keys: name, id, roles, rate, expiry, last use, uploads of the day."""
    rows: dict[str, dict[str, str]] = {}  # by digest: SCAN may tell a name twice
    for batch in _batches():
        good = [digest for digest in batch if _DIGEST.fullmatch(digest)]
        records = zip(good, read_records(_service().redis, good), strict=True)
        found = {
            digest: record
            for digest, record in records
            if name.lower() in _text(record, "name").lower()
            and (role is None or role in roles_in(_text(record, "roles")))
        }
        rows |= _rows(found)
    table = sorted(rows.values(), key=lambda row: (row["name"].lower(), row["id"]))
    if as_json:
        click.echo(json.dumps(table))
    else:
        _table(table)


def _batches() -> Iterator[list[str]]:
    """What follows ``apikey:`` in every name, with SCAN, which blocks nobody."""
    names = iter(_service().redis.scan_iter(match=f"{PREFIX}*", count=_SCAN))
    shown = sys.stderr.isatty()
    done = 0
    while batch := [_suffix(name) for name in islice(names, _BATCH)]:
        yield batch
        done += len(batch)
        if shown:
            click.echo(f"\r{done} keys read", nl=False, err=True)
    if shown:
        click.echo("\r\033[K", nl=False, err=True)


def _suffix(name: bytes) -> str:
    return name.decode(errors="surrogateescape").removeprefix(PREFIX)


def _text(record: Mapping[bytes, bytes], field: str) -> str:
    return record.get(field.encode(), b"").decode(errors="replace")


def _rows(records: Mapping[str, Mapping[bytes, bytes]]) -> dict[str, dict[str, str]]:
    """The records as ``list`` and ``show`` tell them, by digest."""
    ids = [id_of(digest) for digest in records]
    today = usage.read_many(_service().redis, ids, datetime.now(UTC))
    last_used = usage.last_used(_service().redis, ids)
    parts = zip(records.items(), today, last_used, strict=True)
    return {digest: _row(digest, record, day, last) for (digest, record), day, last in parts}


def _row(
    digest: str, record: Mapping[bytes, bytes], today: dict[str, int], last_used: str
) -> dict[str, str]:
    return {
        "name": _text(record, "name"),
        "id": id_of(digest),
        "roles": " ".join(roles_in(_text(record, "roles"))),
        "rate_limit": _text(record, "rate_limit") or str(_service().config.rate_limit),
        "metadata": _text(record, "metadata").lower() or _service().config.metadata,
        "expires_at": _text(record, "expires_at"),
        "last_used_at": last_used,
        "uploads_today": str(today.get("uploads", 0)),
        "state": _state(digest, record),
    }


def _state(digest: str, record: Mapping[bytes, bytes]) -> str:
    if not record:
        return "unreadable: not a hash"
    try:
        key = ApiKey.parse(digest, record, _service().config.rate_limit)
    except UnreadableError as error:
        return f"unreadable: {error}"
    if key.disabled:
        return "disabled"
    return "good" if key.usable(datetime.now(UTC)) else "expired"


def _table(rows: list[dict[str, str]]) -> None:
    """Columns as wide as they need, on a narrow terminal too: nothing is cut."""
    if not rows:
        click.echo("No keys.", err=True)
        return
    table = [{name: _printable(row[name]) for name in _HEADINGS} for row in (_HEADINGS, *rows)]
    widths = {name: max(len(row[name]) for row in table) for name in _HEADINGS}
    for number, row in enumerate(table):
        line = "  ".join(row[name].ljust(width) for name, width in widths.items()).rstrip()
        click.secho(line, bold=number == 0, dim=row["state"] not in ("STATE", "good"))


def _printable(text: str) -> str:
    """Without the characters that move a terminal's cursor."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _find(key_id: str) -> str:
    """The digest of the one key whose id starts so."""
    if not re.fullmatch(r"[0-9a-f]{1,64}", key_id):
        raise click.ClickException("An id has the digits 0-9 and a-f.")
    digests = _digests(key_id)
    if not digests:
        raise click.ClickException(f"No key has the id {key_id}.")
    if len(digests) > 1:
        raise click.ClickException(f"{len(digests)} keys have ids that start with {key_id}.")
    return digests.pop()


def _digests(start: str) -> set[str]:
    """The SHA-256 of every key that has a record and whose SHA-256 starts so."""
    names = _service().redis.scan_iter(match=f"{PREFIX}{start}*", count=_SCAN)
    return {each for each in map(_suffix, names) if _DIGEST.fullmatch(each)}


def _find_record(key_id: str) -> tuple[str, dict[bytes, bytes]]:
    """As ``_find``, with the record."""
    digest = _find(key_id)
    record = read_record(_service().redis, digest)
    if not record:
        raise click.ClickException(f"The record of {id_of(digest)} is not a hash.")
    return digest, record


@keys.command()
@click.argument("key_id", metavar="ID")
@_as_json
@_command
def show(key_id: str, as_json: bool) -> None:
    """One key, whole."""
    digest = _find(key_id)
    row = _rows({digest: read_record(_service().redis, digest)})[digest]
    if as_json:
        click.echo(json.dumps(row))
        return
    for name, value in row.items():
        click.echo(f"{name.replace('_', ' ') + ':':15}{_printable(value)}".rstrip())


@keys.command()
@click.argument("key_id", metavar="ID")
@_command
def disable(key_id: str) -> None:
    """Refuse a key from the next request on."""
    _set(key_id, "disabled", "1")


@keys.command()
@click.argument("key_id", metavar="ID")
@_command
def enable(key_id: str) -> None:
    """Take a disabled key again."""
    _set(key_id, "disabled", "0")


def _set(key_id: str, field: str, value: str) -> None:
    digest, _ = _find_record(key_id)
    _service().redis.hset(PREFIX + digest, field, value)
    click.echo(f"{id_of(digest)}: {field} {value}")


@keys.command()
@click.argument("key_id", metavar="ID")
@click.option("--overlap", default="24h", callback=_duration, help="Like 24h: both keys work.")
@_as_json
@_command
def rotate(key_id: str, overlap: timedelta, as_json: bool) -> None:
    """Make a successor with the same rights and let the old key expire."""
    digest, record = _find_record(key_id)
    state = _state(digest, record)
    if state != "good":
        raise click.ClickException(
            f"{id_of(digest)} is {state}: its successor could do more than it."
        )
    inherited = {
        field: value
        for field, value in record.items()
        if value and field not in (b"disabled", b"last_used_at")
    }
    key = new_key()
    successor = digest_of(key)
    _add(successor, inherited or {b"name": b""})
    end = datetime.now(UTC) + overlap
    earlier = ApiKey.parse(digest, record, _service().config.rate_limit).expires_at
    if earlier is None or earlier > end:
        _service().redis.hset(PREFIX + digest, "expires_at", timestamp(end))
    _tell_new(key, successor, as_json=as_json, shown=True)


@keys.command()
@click.argument("key_id", metavar="ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_command
def delete(key_id: str, yes: bool) -> None:
    """Remove a key for good."""
    digest = _find(key_id)
    name = _printable(_text(read_record(_service().redis, digest), "name"))
    if not yes:
        click.confirm(f"Delete {id_of(digest)} ({name})?", abort=True)
    for record in (PREFIX + digest, usage.last_used_name(id_of(digest))):  # of a Cluster: two nodes
        _service().redis.delete(record)
    click.echo(f"{id_of(digest)}: deleted")


@keys.command()
@_command
def check() -> None:
    """Find unreadable records, plain keys and shared ids (exit status 1); warn of trouble."""
    ids = array("Q")  # of a million keys eight megabytes
    problems = sorted(each for batch in _batches() for each in _problems_of(batch, ids))
    problems += _shared_ids(ids)
    for severity, shown, problem in problems:
        click.secho(
            f"{severity}: {shown}: {problem}", fg="red" if severity == "error" else "yellow"
        )
    if any(severity == "error" for severity, _, _ in problems):
        sys.exit(1)
    click.echo("All records can be read.")


def _shared_ids(ids: "array[int]") -> Iterator[tuple[str, str, str]]:
    """The ids that two records have. SCAN may give one name twice, so those are read once more."""
    twice = {f"{one:012x}" for one, other in pairwise(sorted(ids)) if one == other}
    digests = {each for batch in (_batches() if twice else ()) for each in batch}
    shared = Counter(id_of(each) for each in digests if id_of(each) in twice)
    for key_id, count in sorted(shared.items()):
        if count > 1:
            yield "error", key_id, f"{count} keys have this id, and share rate and usage"


def _problems_of(batch: list[str], ids: "array[int]") -> Iterator[tuple[str, str, str]]:
    good = [digest for digest in batch if _DIGEST.fullmatch(digest)]
    ids.extend(int(id_of(digest), 16) for digest in good)
    records = dict(zip(good, read_records(_service().redis, good), strict=True))
    for digest in batch:
        shown = id_of(digest) if digest in records else f"{PREFIX}{_printable(digest[:4])}…"
        for severity, problem in _problems(records.get(digest)):
            yield severity, shown, problem


def _problems(record: Mapping[bytes, bytes] | None) -> Iterator[tuple[str, str]]:
    if record is None:
        yield "error", "not a SHA-256: a plain key put in by mistake? Replace it, it is known now"
        return
    if not record:
        yield "error", "not a hash"
        return
    try:
        key = ApiKey.parse("", record, _service().config.rate_limit)
    except UnreadableError as error:
        yield "error", f"the field {error} {error.problem}"
        return
    if not key.roles:
        yield "warning", "no roles: every upload is refused"
    now = datetime.now(UTC)
    if key.expires_at and now < key.expires_at < now + _SOON:
        yield "warning", f"expires soon, at {timestamp(key.expires_at)}"


@keys.command("usage")
@click.argument("key_id", metavar="ID")
@click.option("--days", default=30, type=click.IntRange(1, 90), help="How many days back.")
@_as_json
@_command
def show_usage(key_id: str, days: int, as_json: bool) -> None:
    """What a key did, a line a day (UTC)."""
    digest = _find(key_id)
    now = datetime.now(UTC)
    rows = []
    for back in range(days):
        day = now - timedelta(days=back)
        if counts := usage.read(_service().redis, id_of(digest), day):
            names = ("uploads", "bytes", "rejected", "rate_limited")
            rows.append({"day": f"{day:%Y-%m-%d}"} | {name: counts.get(name, 0) for name in names})
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
@_command
def export_keys(file: Path | None) -> None:
    """All records as JSON lines, without a usable key: on standard output, or into FILE.

    FILE is replaced when all of it is written, and never by an export without a record.
    """
    with backup.replacing(file) if file else nullcontext(sys.stdout) as output:
        count = backup.export(_service().redis, _batches(), output)
        if not count:
            raise click.ClickException("There is no key to export; nothing was written.")
    click.echo(f"{count} keys exported.", err=True)


@keys.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--replace", is_flag=True, help="Also write over records that differ.")
@_command
def import_keys(file: Path, replace: bool) -> None:
    """Add the keys of an export that Redis lacks, and say what differs.

    A line that is no record ends it before anything is written.
    """
    try:
        lines = sum(1 for _ in backup.read(file))
    except ValueError as error:
        raise click.ClickException(f"{file}: {error}; nothing was changed.") from error
    counts = Counter[str]()
    for each in backup.restore(_service().redis, backup.read(file), replace=replace):
        change = ("replaced" if replace else "left as it is") if each.fields else "added"
        counts[change] += 1
        differs = f", differs in {_printable(', '.join(each.fields))}" if each.fields else ""
        click.echo(f"{id_of(each.digest)}: {change}{differs}")
    changes = ", ".join(f"{count} {change}" for change, count in sorted(counts.items()))
    click.echo(f"{lines} keys read: {changes or 'nothing to change'}.", err=True)


@uploads.command("sweep")
@_command
def sweep_uploads() -> None:
    """Delete the objects of uploads that died under way more than a minute ago."""
    swept = sweeping.sweep(_service().redis, _service().store)
    click.echo(
        f"{swept.names} names looked at, {swept.deleted} objects deleted,"
        f" {swept.doubtful} left in doubt, {swept.failed} failed"
    )
    if swept.failed:
        sys.exit(1)


@uploads.command()
@click.option("--delete", is_flag=True, help="Delete them: no answer stood for any of them.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_command
def doubtful(delete: bool, yes: bool) -> None:
    """Objects that stay because Redis may have forgotten that they were answered 200."""
    redis, store = _service().redis, _service().store
    found = list(journal.in_doubt(redis))
    keys = [key for each in found for key in sweeping.keys_of(each.name)]
    objects = [key for key in keys if store.age(key) is not None]
    for key in objects:
        click.echo(key)
    if delete and objects:
        if not yes:
            click.confirm(f"Delete these {len(objects)}?", abort=True)
        for claimed in found:
            journal.settle(redis, claimed, stays=False)
            sweeping.delete(store, claimed.name)
