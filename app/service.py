"""The parts of one process, made once and passed around."""

from dataclasses import dataclass
from typing import Self, cast

from flask import current_app

from app.config import Config
from app.image.gate import ImageInspector
from app.intake.buffers import BufferPool
from app.intake.processors import Processors
from app.records.client import Redis
from app.records.keys import KeyStore
from app.records.usage import Usage
from app.store.bucket import ImageStore


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

    @classmethod
    def current(cls) -> Self:
        """The one of the Flask application that is running."""
        return cast(Self, current_app.extensions["uploader"])
