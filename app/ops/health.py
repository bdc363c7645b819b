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

_CACHED_SECONDS = 1.0  # many balancers may ask at once; Redis and the store are asked once a second


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
    """Asks Redis and the store at the same time, at most once a second.

    The worker sets ``draining`` when this process is to end: it still finishes its requests, but a
    balancer should send no more. An answer takes ``seconds`` at most.
    """

    def __init__(
        self,
        redis: Redis,
        store: ImageStore,
        *,
        seconds: float = 1.8,  # /readyz answers within 2 s
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.draining = False
        self._seconds, self._clock = seconds, clock
        self._asks: dict[str, Callable[[], str | None]] = {
            "redis": partial(causes.check, redis),
            "storage": store.ready,
        }
        # Separate threads for each: when all calls to one server hang, the other is still asked.
        # Two, because one may still wait for the answer to the question before.
        self._threads = {name: ThreadPoolExecutor(2, f"readyz-{name}") for name in self._asks}
        self._lock = threading.Lock()
        self._until = 0.0
        self._checks: dict[str, str] = {}

    def checks(self) -> dict[str, str]:
        """``ok`` or the cause, for ``redis`` and ``storage``, within two seconds."""
        with self._lock:  # requests that come meanwhile get the same answer
            if self._clock() >= self._until:
                asked = {name: self._threads[name].submit(ask) for name, ask in self._asks.items()}
                wait_for(asked.values(), timeout=self._seconds)
                self._checks = {name: _outcome(answer) for name, answer in asked.items()}
                self._until = self._clock() + _CACHED_SECONDS
            return self._checks


def _outcome(answer: "Future[str | None]") -> str:
    if not answer.done():
        answer.cancel()  # one that waits for a thread: no server is asked for an old question
        return "timeout"
    if error := answer.exception():
        return type(error).__name__
    return answer.result() or "ok"
