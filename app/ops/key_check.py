"""``flask keys check``: what is wrong, or soon will be, with the records of keys."""

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from app.ops.cli import printable
from app.ops.key_listing import DIGEST, batches
from app.records.keys import PREFIX, ApiKey, UnreadableError, id_of, read_records, timestamp
from app.service import Service

_SOON = timedelta(days=14)  # time to hand a new key to whoever uses the old one

Problem = tuple[str, str, str]
"""``error`` or ``warning``, the id of the key, and a sentence."""


def problems() -> list[Problem]:
    """The problems of all records: errors first, then warnings, by id; shared ids at the end."""
    ids = array("Q")  # 8 bytes each: 8 MB for a million keys
    found = sorted(each for batch in batches() for each in _problems_of_batch(batch, ids))
    return found + list(_shared_ids(ids))


def _problems_of_batch(batch: list[str], ids: "array[int]") -> Iterator[Problem]:
    """The problems of these records; appends their ids to ``ids``."""
    good = [digest for digest in batch if DIGEST.fullmatch(digest)]
    ids.extend(int(id_of(digest), 16) for digest in good)
    records = dict(zip(good, read_records(Service.current().redis, good), strict=True))
    for digest in batch:
        # A name that is no digest may be a usable key: show only its beginning.
        shown = id_of(digest) if digest in records else f"{PREFIX}{printable(digest[:4])}…"
        for severity, problem in _problems_of(records.get(digest)):
            yield severity, shown, problem


def _problems_of(record: Mapping[bytes, bytes] | None) -> Iterator[tuple[str, str]]:
    if record is None:
        yield "error", "not a SHA-256: a plain key put in by mistake? Replace it, it is known now"
        return
    if not record:
        yield "error", "not a hash"
        return
    try:
        key = ApiKey.parse("", record, Service.current().config.rate_limit)
    except UnreadableError as error:
        yield "error", f"the field {error} {error.problem}"
        return
    if not key.roles:
        yield "warning", "no roles: every upload is refused"
    now = datetime.now(UTC)
    if key.expires_at and now < key.expires_at < now + _SOON:
        yield "warning", f"expires soon, at {timestamp(key.expires_at)}"


def _shared_ids(ids: "array[int]") -> Iterator[Problem]:
    """The ids that two records share.

    SCAN may return one name twice, so the names of ids seen twice are read once more.
    """
    twice = {f"{one:012x}" for one, other in pairwise(sorted(ids)) if one == other}
    digests = {each for batch in (batches() if twice else ()) for each in batch}
    shared = Counter(id_of(each) for each in digests if id_of(each) in twice)
    for key_id, count in sorted(shared.items()):
        if count > 1:
            yield "error", key_id, f"{count} keys have this id, and share rate and usage"
