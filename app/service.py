"""The parts of the service in one process: made once, and used by requests and commands."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Self, TypeVar, TypeVarTuple, cast

from flask import current_app

from app.config import INLINE_BYTES, KEEP, Config
from app.image.gate import ImageInspector, Run, at_once
from app.image.info import ImageInfo
from app.image.metadata import Stripped, strip
from app.intake.buffers import BufferPool
from app.intake.processors import Processors
from app.records.client import Redis
from app.records.keys import ApiKey, KeyStore
from app.records.usage import Usage
from app.shares import Shares
from app.store.bucket import ImageStore

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

LARGE_FILE = 4 * 1024 * 1024
SMALL_OF_A_KEY, LARGE_OF_A_KEY = 4, 2
"""Uploads of one key that a process checks and stores at once: two of PUTS_AT_ONCE stay for others.
A store that is busy with the large files of one key writes those of others late, so these are few,
and the small files of the key do not wait for them."""


@dataclass(frozen=True, slots=True)
class Service:
    """The parts that requests and commands work with.

    ``decoding`` shares out pixels in decode, ``at_work`` uploads, ``turns`` processor
    threads.
    """

    config: Config
    redis: Redis
    keys: KeyStore
    usage: Usage
    store: ImageStore
    inspector: ImageInspector
    pool: BufferPool
    processors: Processors
    decoding: Shares
    at_work: Shares
    turns: Shares

    def upload_turn(self, key: str, size: int, until: float) -> AbstractContextManager[None]:
        """The turn of an upload of ``size`` bytes, waited for up to ``until``.

        Raises the 429 ``too_many_at_once``. Small and large files of a key have a queue each, and
        a large one counts as several small ones.
        """
        if size < LARGE_FILE:
            return self.at_work.taken(f"{key} small", until=until)
        return self.at_work.taken(f"{key} large", SMALL_OF_A_KEY / LARGE_OF_A_KEY, until)

    def inspect(
        self, image: memoryview, sha256: str, api_key: ApiKey, deadline: float
    ) -> tuple[ImageInfo, Stripped]:
        """What the file is, and the file without the metadata that the policy takes out.

        The policy is the key's own, or else the service's. Large files are handled in the threads
        for processors. Raises what ``ImageInspector.inspect`` raises.
        """
        run = self._run_for(api_key.id, deadline)
        info = self.inspector.inspect(image, key=api_key.id, deadline=deadline, run=run)
        policy = api_key.metadata or self.config.metadata
        in_place = policy == KEEP or len(image) <= INLINE_BYTES
        return info, (at_once if in_place else run)(strip, image, info, policy, sha256, deadline)

    def _run_for(self, key: str, until: float) -> Run:
        """A function that runs its work in a thread for processors, at the turn of this API key.

        ``key`` is the id of the key. It waits for the turn up to ``until`` (of
        ``time.monotonic()``).
        """

        def run(function: Callable[[*Ts], T], *args: *Ts) -> T:
            with self.turns.taken(key, until=until):
                return self.processors.run(function, *args)

        return run

    @classmethod
    def current(cls) -> Self:
        """The service of the Flask application that handles the current request."""
        return cast(Self, current_app.extensions["uploader"])
