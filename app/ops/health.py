"""GET /healthz and GET /readyz: whether the process is alive, and whether uploads can succeed."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from functools import partial
from typing import cast

from flask import Blueprint, Response, current_app, jsonify

from app.records import causes
from app.records.client import Redis
from app.store.bucket import ImageStore

blueprint = Blueprint("health", __name__)

_PAUSE = 0.1
"""Seconds between two checks, so that many balancers cost Redis and the store ten a second."""


@blueprint.get("/healthz")
def healthz() -> Response:
    """200 while the process lives."""
    return jsonify(status="ok")


@blueprint.get("/readyz")
def readyz() -> Response:
    """200 when uploads can succeed, else 503; ``ok`` or the cause for Redis and for the store."""
    readiness = cast(Readiness, current_app.extensions["readiness"])
    checks = readiness.checks()
    ready = not readiness.draining and set(checks.values()) == {"ok"}
    answer = jsonify(status="ready" if ready else "unavailable", checks=checks)
    answer.status_code = 200 if ready else 503
    return answer


class Readiness:
    """Asks Redis and the store at the same time, and for each answer anew.

    The worker sets ``draining`` when this process is to end: it still finishes its requests, but a
    balancer should send no more. A check takes ``seconds`` at most.
    """

    def __init__(
        self,
        redis: Redis,
        store: ImageStore,
        *,
        seconds: float = 1.5,  # with two pauses 1.7: /readyz answers within 2 s
    ) -> None:
        self.draining = False
        self._seconds = seconds
        self._asks: dict[str, Callable[[], str | None]] = {
            "redis": partial(causes.check, redis),
            "storage": store.ready,
        }
        # Separate threads for each: when all calls to one server hang, the other is still asked.
        # Two, because one may still wait for the answer to the question before.
        self._threads = {name: ThreadPoolExecutor(2, f"readyz-{name}") for name in self._asks}
        self._lock = threading.Lock()
        self._turn = ThreadPoolExecutor(1, "readyz")  # one check at a time
        self._next: Future[dict[str, str]] | None = None  # one that has not begun
        self._not_before = 0.0
        self._last: dict[str, str] = {}

    def checks(self) -> dict[str, str]:
        """``ok`` or the cause, for ``redis`` and ``storage``, within two seconds.

        Of a check that begins after the call, since what worked a second ago may be gone. Calls
        that come before a check begins share it.
        """
        with self._lock:
            check = self._next = self._next or self._turn.submit(self._check)
        try:
            return check.result(self._seconds + 2 * _PAUSE)
        except TimeoutError:  # it waits for a check that hung, and that has ended meanwhile
            return self._last

    def _check(self) -> dict[str, str]:
        time.sleep(max(0.0, self._not_before - time.monotonic()))
        with self._lock:
            self._next = None
        self._not_before = time.monotonic() + _PAUSE
        asked = {name: self._threads[name].submit(ask) for name, ask in self._asks.items()}
        wait_for(asked.values(), timeout=self._seconds)
        self._last = {name: _outcome(answer) for name, answer in asked.items()}
        return self._last


def _outcome(answer: "Future[str | None]") -> str:
    if not answer.done():
        answer.cancel()  # one that waits for a thread: no server is asked for an old question
        return "timeout"
    if error := answer.exception():
        return type(error).__name__
    return answer.result() or "ok"
