"""The parts of one process, made once and passed around."""

from dataclasses import dataclass

from redis import Redis

from app.body import BufferPool
from app.config import Config
from app.images import ImageInspector
from app.keys import KeyStore
from app.storage import ImageStore
from app.usage import Usage


@dataclass(frozen=True, slots=True)
class Service:
    """What requests and commands work with: ``current_app.extensions["uploader"]``."""

    config: Config
    redis: Redis
    keys: KeyStore
    usage: Usage
    store: ImageStore
    inspector: ImageInspector
    pool: BufferPool
