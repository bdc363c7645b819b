"""The parts of one process, made once and passed around."""

from collections.abc import Callable
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
from app.store.bucket import PUTS_AT_ONCE, ImageStore

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

UPLOADS_OF_A_KEY = PUTS_AT_ONCE // 2
"""Uploads of one key that a process looks at and stores at once, half of what the store is given:
one key neither has all its places nor alone makes it slow. The next ones wait for these."""


@dataclass(frozen=True, slots=True)
class Service:
    """What requests and commands work with."""

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

    def inspect(
        self, image: memoryview, sha256: str, api_key: ApiKey, deadline: float
    ) -> tuple[ImageInfo, Stripped]:
        """What the file is, and what the key's policy lets pass of it (or the service's).

        Large files are looked at in the threads for processors. Raises what
        ``ImageInspector.inspect`` raises.
        """
        run = self._run_for(api_key.id, deadline)
        info = self.inspector.inspect(image, key=api_key.id, deadline=deadline, run=run)
        policy = api_key.metadata or self.config.metadata
        at_hand = policy == KEEP or len(image) <= INLINE_BYTES
        return info, (at_once if at_hand else run)(strip, image, info, policy, sha256, deadline)

    def _run_for(self, key: str, until: float) -> Run:
        """Runs things in the threads for processors, when it is the turn of the key with this id.

        It waits until then (of ``time.monotonic()``) at most.
        """

        def run(function: Callable[[*Ts], T], *args: *Ts) -> T:
            with self.turns.taken(key, until=until):
                return self.processors.run(function, *args)

        return run

    @classmethod
    def current(cls) -> Self:
        """The one of the Flask application that is running."""
        return cast(Self, current_app.extensions["uploader"])
