"""The store's credentials: from the settings, or from where MinIO and AWS programs look for them.

Those of a role end after hours, and those in a file are replaced by whoever
rotates them: what is held is renewed before it ends, and when the store refuses it.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import urllib3
from minio.credentials.credentials import Credentials
from minio.credentials.providers import (
    AWSConfigProvider,
    ChainedProvider,
    EnvAWSProvider,
    EnvMinioProvider,
    IamAwsProvider,
    MinioClientConfigProvider,
    Provider,
    StaticProvider,
)
from minio.time import utcnow

from app.config import Config
from app.store.causes import Kind, StoreError

__all__ = ["CredentialSource", "Credentials", "provider_of"]

log = logging.getLogger("uploader.storage")

_EARLY = timedelta(minutes=5)  # AWS has the next ones of a role ready so long before
_AGAIN_SECONDS = 10.0
_AGAIN_AFTER_FAILURE = 1.0  # not each request waits for a metadata service that is not there
_CALL = urllib3.Timeout(total=1.0)
_FAILURES = (ValueError, KeyError, OSError, urllib3.exceptions.HTTPError)


class CredentialSource:
    """Credentials as they are now. Safe between threads."""

    def __init__(
        self, provider: Callable[[], Provider], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``provider`` makes one that has read nothing yet: minio's own keep what they found."""
        self._provider, self._clock = provider, clock
        self._held: Credentials | None = None
        self._lock = threading.Lock()
        self._next_try = 0.0

    def current(self) -> Credentials:
        """Those to sign with; StoreError "no credentials" when there are none.

        Where they end soon one thread renews them, and no other waits for it.
        """
        held = self._held
        if held is None or _ends_within(held, timedelta(0)):
            with self._lock:
                return self._ours() or self._renewed()
        if _ends_within(held, _EARLY) and self._lock.acquire(blocking=False):
            try:
                return self._renewed()
            except StoreError as error:
                log.warning("credentials that end soon are not renewed: %s", error.__cause__)
            finally:
                self._lock.release()
        return held

    def replaced(self, refused: Credentials) -> bool:
        """Whether there are others now than those that the store refused."""
        with self._lock:
            if self._held == refused:
                with suppress(StoreError):
                    self._renewed()
            return self._held != refused

    def _ours(self) -> Credentials | None:
        held = self._held
        return None if held is None or _ends_within(held, timedelta(0)) else held

    def _renewed(self) -> Credentials:
        """New ones, looked for at most every ten seconds; between that those that are held."""
        if self._clock() < self._next_try:
            if (held := self._ours()) is not None:
                return held
            raise _none_found()
        self._next_try = self._clock() + _AGAIN_SECONDS
        try:
            self._held = self._provider().retrieve()
        except _FAILURES as error:
            self._next_try = self._clock() + _AGAIN_AFTER_FAILURE
            raise _none_found() from error
        return self._held


def provider_of(config: Config) -> Provider:
    """The settings' own credentials, else all the usual places, in their usual order."""
    if config.s3_access_key and config.s3_secret_key:
        return StaticProvider(config.s3_access_key, config.s3_secret_key)
    pool = urllib3.PoolManager(timeout=_CALL, retries=False)
    return ChainedProvider(
        [
            EnvMinioProvider(),
            EnvAWSProvider(),
            MinioClientConfigProvider(),
            AWSConfigProvider(),
            IamAwsProvider(http_client=pool, custom_endpoint=_metadata_service()),
        ]
    )


def _metadata_service() -> str | None:
    """The address of EC2's metadata service where the AWS variable of it is set."""
    others = ("WEB_IDENTITY_TOKEN_FILE", "CONTAINER_CREDENTIALS_RELATIVE_URI",
              "CONTAINER_CREDENTIALS_FULL_URI")  # fmt: skip
    if any(os.environ.get(f"AWS_{name}") for name in others):
        return None  # minio would ask that address for these as well
    return os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "").rstrip("/") or None


def _ends_within(credentials: Credentials, time_left: timedelta) -> bool:
    end = credentials.expiration
    return end is not None and end < utcnow().replace(tzinfo=None) + time_left


def _none_found() -> StoreError:
    return StoreError("no credentials", Kind.SETUP, final=True, never_written=True)
