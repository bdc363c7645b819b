"""Alive and ready: GET /healthz and GET /readyz."""

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

_CACHED_SECONDS = 1.0


@blueprint.get("/healthz")
def healthz() -> Response:
    """200 while the process lives."""
    return jsonify(status="ok")


@blueprint.get("/readyz")
def readyz() -> Response:
    """200 when uploads can succeed, else 503, with the cause of each part."""
    readiness = cast(Readiness, current_app.extensions["readiness"])
    checks = readiness.checks()
    ready = not readiness.draining and set(checks.values()) == {"ok"}
    answer = jsonify(status="ready" if ready else "unavailable", checks=checks)
    answer.status_code = 200 if ready else 503
    return answer


class Readiness:
    """Asks Redis and the store side by side, at most once a second.

    ``draining`` is set by the worker when this process is to end: it finishes
    its requests but wants no more. ``seconds`` bounds the answer.
    """

    def __init__(
        self,
        redis: Redis,
        store: ImageStore,
        *,
        seconds: float = 1.8,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.draining = False
        self._seconds, self._clock = seconds, clock
        self._asks: dict[str, Callable[[], str | None]] = {
            "redis": partial(causes.check, redis),
            "storage": store.ready,
        }
        # Of their own: what hangs in one must not keep the other from being asked.
        self._threads = {name: ThreadPoolExecutor(2, f"readyz-{name}") for name in self._asks}
        self._lock = threading.Lock()
        self._until = 0.0
        self._checks: dict[str, str] = {}

    def checks(self) -> dict[str, str]:
        """``ok`` or the cause, for ``redis`` and ``storage``, within two seconds."""
        with self._lock:
            if self._clock() >= self._until:
                asked = {name: self._threads[name].submit(ask) for name, ask in self._asks.items()}
                wait_for(asked.values(), timeout=self._seconds)
                self._checks = {name: _outcome(answer) for name, answer in asked.items()}
                self._until = self._clock() + _CACHED_SECONDS
            return self._checks


def _outcome(answer: "Future[str | None]") -> str:
    if not answer.done():
        answer.cancel()
        return "timeout"
    if error := answer.exception():
        return type(error).__name__
    return answer.result() or "ok"
