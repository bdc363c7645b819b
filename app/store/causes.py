"""Why a request to the store failed: a cause for people, and what follows for the program.

The codes are those of the S3 API ("Error responses") and the further ones of MinIO, Ceph,
SeaweedFS and VersityGW.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    EmptyPoolError,
    NewConnectionError,
    ProtocolError,
)

from app.errors import tls_cause

NO_STORE = "not an answer of an S3 store"
_CODE = re.compile(rb"<Code>\s*([\w.-]{1,100})\s*</Code>")
# The right region: an element of the error, or a part of its message.
_REGION = re.compile(rb"<Region>\s*([\w-]{1,63})\s*</Region>|expecting '([\w-]{1,63})'")
_OF_S3 = ("x-amz-request-id", "x-amz-id-2", "x-amz-bucket-region")
_SKEW_SECONDS = 900  # S3 allows 15 minutes between the clocks ("RequestTimeTooSkewed")


class Kind(Enum):
    """What a failure says about the uploads that follow."""

    PASSING = "the store cannot be used right now; it recovers by itself"
    SETUP = "nothing can be stored until a person changes something"
    ROOM = "some uploads cannot be stored until a person changes something; others can"
    OBJECT = "this one object is refused; others are stored"


class StoreError(Exception):
    """A request failed; the text is the cause, without host names.

    ``status`` and ``code`` are those of the store's answer, 0 and empty when
    there was none. ``final``: another try is of no use. ``never_written``: the
    PUT has not written its object and never will. ``about_checksum``: the store
    may not know the header ``x-amz-checksum-sha256``.
    """

    def __init__(
        self,
        cause: str,
        kind: Kind = Kind.PASSING,
        *,
        status: int = 0,
        code: str = "",
        final: bool = False,
        never_written: bool = False,
        about_checksum: bool = False,
    ) -> None:
        super().__init__(cause)
        self.cause, self.kind = cause, kind
        self.status, self.code = status, code
        self.final, self.never_written = final, never_written
        self.about_checksum = about_checksum

    @property
    def missing(self) -> bool:
        """Whether an S3 store, and nothing in its place, says that there is no such object."""
        return self.status == 404 and self.cause != NO_STORE


# Each code's cause, and which uploads it concerns. All of these need a person.
_CODES: dict[str, tuple[str, Kind]] = {
    "AccessDenied": ("access denied", Kind.SETUP),
    "NoSuchBucket": ("no such bucket", Kind.SETUP),
    "InvalidBucketName": ("no such bucket", Kind.SETUP),
    "InvalidAccessKeyId": ("wrong credentials: the access key is not known", Kind.SETUP),
    "SignatureDoesNotMatch": ("wrong credentials: the secret key does not match", Kind.SETUP),
    "ExpiredToken": ("expired credentials", Kind.SETUP),
    "ExpiredTokenException": ("expired credentials", Kind.SETUP),
    "InvalidToken": ("expired credentials", Kind.SETUP),
    "InvalidClientTokenId": ("wrong credentials: the access key is not known", Kind.SETUP),
    "RequestTimeTooSkewed": ("clock skew", Kind.SETUP),
    "RequestExpired": ("clock skew", Kind.SETUP),
    "PermanentRedirect": ("wrong region", Kind.SETUP),
    "AuthorizationHeaderMalformed": ("wrong region", Kind.SETUP),
    "IllegalLocationConstraintException": ("wrong region", Kind.SETUP),
    "AllAccessDisabled": ("account suspended", Kind.SETUP),
    "AccountProblem": ("account suspended", Kind.SETUP),
    "NotSignedUp": ("account suspended", Kind.SETUP),
    "UserSuspended": ("account suspended", Kind.SETUP),
    "XMinioStorageFull": ("disk full", Kind.SETUP),
    "InsufficientCapacity": ("disk full", Kind.SETUP),
    "KMSNotConfigured": ("encryption key not usable", Kind.SETUP),
    "InvalidEncryptionAlgorithmError": ("encryption key not usable", Kind.SETUP),
    "QuotaExceeded": ("quota used up", Kind.ROOM),
    "XMinioAdminBucketQuotaExceeded": ("quota used up", Kind.ROOM),
    "EntityTooLarge": ("object refused: too large for the store", Kind.OBJECT),
    "MaxMessageLengthExceeded": ("object refused: too large for the store", Kind.OBJECT),
}
# Codes with 3xx or 4xx that say nothing about the object: the next try may succeed.
_TRY_AGAIN = {"RequestTimeout", "SlowDown", "OperationAborted", "TooManyRequests",
              "TemporaryRedirect", "ConditionalRequestConflict"}  # fmt: skip
# These name a checksum because the bytes were damaged, not because the header is unknown.
_DAMAGED = {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch",
            "XAmzContentSHA256Mismatch"}  # fmt: skip


def of_answer(status: int, headers: Mapping[str, str], body: bytes) -> StoreError:
    """The error for an answer other than 2xx.

    The answer to a HEAD has no body and so no code: then the status decides.
    """
    found = _CODE.search(body)
    code = found[1].decode() if found else ""
    if not code and not proves_s3(headers):
        return _of_stranger(status, body)
    cause, kind = _cause(status, code)
    # Some stores answer a wrong clock with AccessDenied or SignatureDoesNotMatch.
    behind = seconds_behind(headers) or 0.0
    if cause == "clock skew" or (status == 403 and abs(behind) > _SKEW_SECONDS):
        side = "behind" if behind >= 0 else "ahead of"
        cause = f"clock skew: {abs(behind):.0f} s {side} the store's"
    elif cause == "wrong region" and (region := _right_region(headers, body)):
        cause = f"wrong region: the bucket is in {region}"
    elif code == "AuthorizationHeaderMalformed":  # and not about the region
        cause = "wrong credentials: the store cannot read them"
    refused = status < 500 and code not in _TRY_AGAIN
    return StoreError(
        cause,
        kind,
        status=status,
        code=code,
        final=refused,
        never_written=refused,
        about_checksum=_about_checksum(status, code, body),
    )


def proves_s3(headers: Mapping[str, str]) -> bool:
    """Whether an answer has a header that only S3 stores send, and no CDN or gateway."""
    return any(name in headers for name in _OF_S3)


def seconds_behind(headers: Mapping[str, str]) -> float | None:
    """How far this machine's clock is behind the store's; None when the store does not say."""
    try:
        theirs = parsedate_to_datetime(headers.get("Date", ""))
        return (theirs - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):  # TypeError: a time without a zone
        return None


def of_exception(error: BaseException) -> StoreError:
    """The error for an exception of urllib3 or of a socket."""
    # Nothing was sent without a connection. EmptyPoolError: all connections are in use.
    never = isinstance(error, NewConnectionError | ConnectTimeoutError)
    match error:
        case EmptyPoolError():
            return StoreError("timeout", never_written=True)
        case NewConnectionError():
            return StoreError("connection refused", never_written=never)
        case TimeoutError() | urllib3.exceptions.TimeoutError():
            return StoreError("timeout", never_written=never)
        case ProtocolError(args=(_, TimeoutError())):  # the store stopped taking the body
            return StoreError("timeout")
        case _ if (cause := tls_cause(error)) is not None:
            return StoreError(cause, Kind.SETUP, final=True, never_written=True)
        case _:
            return StoreError("connection broken")


def _cause(status: int, code: str) -> tuple[str, Kind]:
    if code in _CODES:
        return _CODES[code]
    if code.upper().startswith(("KMS", "XMINIOKMS")):
        return "encryption key not usable", Kind.SETUP
    if status == 507:
        return "disk full", Kind.SETUP
    if status >= 500 or code in _TRY_AGAIN:
        return f"status {status}", Kind.PASSING
    if code:
        return f"object refused: {code}", Kind.OBJECT
    # Answers to HEAD. For an object 404 means that it is not there: see ``StoreError.missing``.
    by_status = {301: "PermanentRedirect", 403: "AccessDenied", 404: "NoSuchBucket"}
    return _CODES.get(by_status.get(status, ""), (f"status {status}", Kind.OBJECT))


def _of_stranger(status: int, body: bytes) -> StoreError:
    """The error for an answer of a proxy, a gateway or a web server in the store's place."""
    if status == 413:
        cause = "object refused: too large for a proxy in between"
        return StoreError(cause, Kind.OBJECT, status=status, final=True, never_written=True)
    if status >= 500:
        return StoreError(f"status {status}", status=status)
    if status == 400 and b"https" in body.lower():
        return StoreError("plain HTTP on a TLS port", Kind.SETUP, status=status, final=True)
    return StoreError(NO_STORE, Kind.SETUP, status=status, final=True)


def _right_region(headers: Mapping[str, str], body: bytes) -> str:
    found = _REGION.search(body)
    named = (found[1] or found[2]).decode() if found else ""
    return headers.get("x-amz-bucket-region", "") or named


def _about_checksum(status: int, code: str, body: bytes) -> bool:
    """Whether the store may have refused the request for its ``x-amz-checksum-*`` header.

    S3's 501 means that a header implies something which the store does not implement.
    """
    named = b"checksum" in body.lower() and code not in _DAMAGED
    return (status == 400 and named) or status == 501
