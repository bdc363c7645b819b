"""The store's credentials: from the settings, or from where MinIO and AWS programs look for them.

The credentials of a role end after hours, and those in a file may be rotated. So they are
renewed before they end, and when the store refuses them.
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

_EARLY = timedelta(minutes=5)  # AWS has a role's next credentials ready five minutes before
_AGAIN_SECONDS = 10.0  # refused requests must not make each of them read files or call a service
_AGAIN_AFTER_FAILURE = 1.0  # nor must each of them wait for a metadata service that is down
_CALL = urllib3.Timeout(total=1.0)
_FAILURES = (ValueError, KeyError, OSError, urllib3.exceptions.HTTPError)


class CredentialSource:
    """The credentials that are valid now. Safe for threads."""

    def __init__(
        self, provider: Callable[[], Provider], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``provider`` makes a new provider: minio's keep what they have once read."""
        self._provider, self._clock = provider, clock
        self._held: Credentials | None = None
        self._lock = threading.Lock()
        self._next_try = 0.0

    def current(self) -> Credentials:
        """The credentials to sign with; StoreError "no credentials" when there are none.

        When they end soon one thread renews them, and the others go on with the old ones.
        """
        held = self._held
        if held is None or _ends_within(held, timedelta(0)):
            with self._lock:
                return self._valid() or self._renewed()
        if _ends_within(held, _EARLY) and self._lock.acquire(blocking=False):
            try:
                return self._renewed()
            except StoreError as error:
                log.warning("credentials that end soon are not renewed: %s", error.__cause__)
            finally:
                self._lock.release()
        return held

    def replaced(self, refused: Credentials) -> bool:
        """Whether there are other credentials now than those that the store refused."""
        with self._lock:
            if self._held == refused:  # else another thread has renewed them meanwhile
                with suppress(StoreError):
                    self._renewed()
            return self._held != refused

    def _valid(self) -> Credentials | None:
        held = self._held
        return None if held is None or _ends_within(held, timedelta(0)) else held

    def _renewed(self) -> Credentials:
        """New credentials, read at most every ten seconds; in between the ones that are held."""
        if self._clock() < self._next_try:
            if (held := self._valid()) is not None:
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
    """The credentials in the settings, else those in the usual places, in the usual order."""
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
    """The address of EC2's metadata service, if AWS's variable for it is set."""
    others = ("WEB_IDENTITY_TOKEN_FILE", "CONTAINER_CREDENTIALS_RELATIVE_URI",
              "CONTAINER_CREDENTIALS_FULL_URI")  # fmt: skip
    if any(os.environ.get(f"AWS_{name}") for name in others):
        return None  # minio would ask that address for these as well
    return os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "").rstrip("/") or None


def _ends_within(credentials: Credentials, time_left: timedelta) -> bool:
    end = credentials.expiration
    # minio's expiration has no time zone, and is in UTC.
    return end is not None and end < utcnow().replace(tzinfo=None) + time_left


def _none_found() -> StoreError:
    return StoreError("no credentials", Kind.SETUP, final=True, never_written=True)
