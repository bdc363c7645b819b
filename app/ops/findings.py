"""What ``flask doctor`` reports about each thing that it looks at."""

from dataclasses import dataclass

OK, WARNING, FAILED = "ok", "warning", "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: ``state`` is ``ok``, ``warning`` or ``failed``.

    ``found`` says what is the case, ``hint`` what to do about it.
    """

    check: str
    state: str
    found: str
    hint: str = ""


def tls_hint(cause: str, whose: str) -> str:
    """What to do about a failure of TLS (``errors.tls_cause``) with ``S3`` or ``REDIS``."""
    address = {"S3": "S3_ENDPOINT", "REDIS": "REDIS_URL"}[whose]
    if cause.endswith(("expired", "not valid yet")):
        return f"Renew the certificate of {address}, if this machine's clock is right."
    if "for another" in cause:
        return f"{address} must have a name that the certificate is for."
    if cause.endswith("authority"):
        return f"{whose}_CA_CERTS: a PEM file of the authority that signed it."
    return f"{address} leads to a port without TLS: another scheme (http://, redis://) or port."
