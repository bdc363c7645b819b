"""Writes the records of all keys as JSON lines, and restores them. A backup holds no usable key.

A line is ``{"record": "apikey:...", "fields": {...}}``. Bytes that are not UTF-8 become lone
surrogates (PEP 383), so that a restore writes the same bytes.
"""

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

from app.records.client import Redis, run_script
from app.records.keys import PREFIX, read_records

_RECORD = re.compile(rf"{PREFIX}([0-9a-f]{{64}})")
_BATCH = 500  # records in one round trip

# KEYS: the record. ARGV: its fields and values, in turn. DEL and HSET in one step: no request finds
# the key missing, or with fields of both records.
_REPLACE = """
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], unpack(ARGV))
return 1
"""


class UnreadableLineError(ValueError):
    """A line of a backup is not a record; the text says which line."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How a record of a backup differs from Redis: ``fields`` is empty when Redis has no record."""

    digest: str
    fields: tuple[str, ...]


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A new file that replaces ``path`` once it is written whole; after an error ``path`` stays."""
    # In the same folder, because a rename cannot cross file systems.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    new = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as output:
            yield output
            output.flush()
            os.fsync(output.fileno())  # or a crash after the rename may leave an empty file
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def export(redis: Redis, batches: Iterable[list[str]], output: TextIO) -> int:
    """Write the records with these digests, and return how many there were.

    Names that are not a SHA-256 are left out: one may be a usable key, put in by mistake.
    """
    count = 0
    for batch in batches:
        digests = [digest for digest in batch if _RECORD.fullmatch(PREFIX + digest)]
        for digest, record in zip(digests, read_records(redis, digests), strict=True):
            if record:  # empty when it was deleted meanwhile, or is not a hash
                output.write(f"{_line(digest, record)}\n")
                count += 1
    return count


def _line(digest: str, record: Mapping[bytes, bytes]) -> str:
    fields = {_text(name): _text(value) for name, value in sorted(record.items())}
    return json.dumps({"record": PREFIX + digest, "fields": fields})


def _text(value: bytes) -> str:
    return value.decode(errors="surrogateescape")


def read(path: Path) -> Iterator[tuple[str, dict[bytes, bytes]]]:
    """The digest and fields of each record in a backup; raises UnreadableLineError."""
    with path.open(encoding="utf-8", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _parsed(line, number)


def _parsed(line: str, number: int) -> tuple[str, dict[bytes, bytes]]:
    try:
        entry = json.loads(line)
        name = _RECORD.fullmatch(entry["record"])
        fields = {
            field.encode(errors="surrogateescape"): value.encode(errors="surrogateescape")
            for field, value in entry["fields"].items()
        }
    # RecursionError: JSON that is nested too deeply for Python's parser.
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableLineError(f"line {number} is not the record of a key") from error
    if name is None or not fields:
        raise UnreadableLineError(f"line {number} is not the record of a key")
    return name[1], fields


def restore(
    redis: Redis, records: Iterable[tuple[str, dict[bytes, bytes]]], *, replace: bool
) -> Iterator[Difference]:
    """Add the records that Redis lacks, and with ``replace`` overwrite records that differ.

    Yields a Difference for each of both kinds, whether it was written or not.
    """
    records = iter(records)
    while batch := dict(islice(records, _BATCH)):
        there = dict(zip(batch, read_records(redis, list(batch)), strict=True))
        differing = [digest for digest in batch if batch[digest] != there[digest]]
        # No transaction: in a Cluster the records are on several nodes.
        with redis.pipeline(transaction=False) as pipe:
            for digest in differing:
                if replace or not there[digest]:
                    pairs = [each for pair in batch[digest].items() for each in pair]
                    run_script(pipe, _REPLACE, [PREFIX + digest], *pairs)
            pipe.execute()
        for digest in differing:
            # The fields that one of the two has alone, or with another value.
            names = {name for name, _ in batch[digest].items() ^ there[digest].items()}
            yield Difference(digest, tuple(map(_text, sorted(names))) if there[digest] else ())
