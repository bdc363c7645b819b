"""Prometheus metrics of all worker processes together, on a listener of their own.

Imported only where ``METRICS_PORT`` is set. Each process counts in files that all processes share
(prometheus_client's multi-process mode): any process can answer a scrape for all of them, and the
counts of a process stay when it ends. docs/monitoring.md explains each metric.
"""

import logging
import os
import shutil
import socket
import threading
import time
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from flask import Flask, Response, g, request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from app.config import MAX_FILE_SIZE, POLICIES, Config
from app.errors import CODES
from app.ops.logs import answered
from app.ops.sweep import Swept
from app.service import Service

log = logging.getLogger("uploader.metrics")

_UPLOAD = "upload.upload_image"  # Flask's name for POST /upload/image
_DEPENDENCIES = {"redis_unavailable": "redis", "storage_unavailable": "storage"}
# Upper bounds of the histograms' buckets: from one call to Redis to a slow client's body, and from
# an icon to the largest file.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BYTES = (10e3, 50e3, 100e3, 250e3, 500e3, 1e6, 2.5e6, 5e6, 10e6, MAX_FILE_SIZE)
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter, gauge = self._counter, self._gauge
        self.requests = counter(
            "requests", "Answers by route and status.", "method", "route", "status"
        )
        self.uploads = counter("uploads", "Answers to POST /upload/image.", "status", "code")
        self.images = counter("stored_images", "Answers with 200, by format.", "format")
        self.policies = counter(
            "metadata_policies", "Answers with 200, by policy for metadata.", "policy"
        )
        self.bytes = counter("upload_bytes", "Bytes of the images answered with 200.")
        self.sizes = self._histogram("upload_size_bytes", "Sizes of the files received.", _BYTES)
        self.stages = self._histogram(
            "stage_seconds", "Seconds of an upload, by stage.", _SECONDS, "stage"
        )
        self.failures = counter(
            "dependency_failures",
            "Requests that Redis or the object store failed.",
            "dependency",
            "cause",
        )
        self.keys = counter(
            "key_uploads", "Answers by API key (METRICS_PER_KEY).", "key_id", "code"
        )
        self.key_bytes = counter("key_upload_bytes", "Bytes stored by API key.", "key_id")
        self.swept = counter(
            "swept_objects", "Objects deleted because no upload was answered 200 for them."
        )
        self.doubtful = counter(
            "doubtful_objects", "Objects that stay because Redis may have forgotten their answer."
        )
        self.sweep_failures = counter("sweep_failures", "Names that a sweep could not settle.")
        self.cpu = counter("cpu_seconds", "Processor time of the worker processes.")
        self.in_progress = gauge("uploads_in_progress", "Uploads being served.")
        self.body_memory = gauge("body_memory_bytes", "Bytes of bodies in memory.")
        self.decode_pixels = gauge("decode_pixels", "Pixels being decoded.")
        self.decode_waiting = gauge("decode_waiting", "Images that wait to be decoded.")
        self.breaker = gauge("breaker_open", "Processes that treat the object store as down.")
        self.memory = gauge("resident_memory_bytes", "Resident memory of the worker processes.")
        self.processes = gauge("processes", "Worker processes.")

    def _counter(self, name: str, help_: str, *labels: str) -> Counter:
        return Counter(f"uploader_{name}", help_, labels, registry=self.registry)

    def _gauge(self, name: str, help_: str) -> Gauge:
        """A gauge whose value is the sum over the processes that are alive."""
        return Gauge(f"uploader_{name}", help_, registry=self.registry, multiprocess_mode="livesum")

    def _histogram(
        self, name: str, help_: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(f"uploader_{name}", help_, labels, buckets=buckets, registry=self.registry)

    def count_swept(self, swept: Swept) -> None:
        """Add the figures of one sweep."""
        self.swept.inc(swept.deleted)
        self.doubtful.inc(swept.doubtful)
        self.sweep_failures.inc(swept.failed)

    def watch(self, service: Service) -> None:
        """Start a thread that reads the gauges of this process once a second."""
        threading.Thread(target=self._watch, args=(service,), name="watch", daemon=True).start()

    def _watch(self, service: Service) -> None:
        seen = 0.0
        while True:
            now = time.process_time()
            self.cpu.inc(now - seen)
            seen = now
            self.memory.set(_resident_memory())
            self.body_memory.set(service.pool.in_use)
            self.decode_pixels.set(service.decoding.in_use)
            self.decode_waiting.set(service.decoding.waiting)
            self.breaker.set(service.store.breaker.open)
            self.processes.set(1)  # last: a process counts once its other figures are there
            time.sleep(1)


def init_app(app: Flask, config: Config) -> None:
    """Count every answer of ``app``."""
    metrics = app.extensions["metrics"] = Metrics()
    _begin_at_zero(metrics, app)

    def begin() -> None:
        # A preflight (OPTIONS) goes to the same endpoint, and is no upload.
        if request.endpoint == _UPLOAD and request.method == "POST":
            g.in_progress = True
            metrics.in_progress.inc()

    def count(response: Response) -> Response:
        status = str(answered(response))
        # Scanners try thousands of addresses and methods: each would become a series.
        rule = request.url_rule
        method, route = (request.method, rule.rule) if rule else ("other", "none")
        metrics.requests.labels(method, route, status).inc()
        if code := g.get("error_code"):
            _count_failure(metrics, code)
        if "in_progress" in g:
            _count_upload(metrics, status, code or "ok")
            if config.metrics_per_key and "key_id" in g:
                _count_key(metrics, code or "ok")
        return response

    def end(_: BaseException | None) -> None:
        if g.pop("in_progress", None):
            metrics.in_progress.dec()

    app.before_request(begin)
    app.after_request(count)
    app.teardown_request(end)  # runs after an exception too


def _begin_at_zero(metrics: Metrics, app: Flask) -> None:
    """Create the series that alerts and panels use, with the value 0.

    rate() and increase() see no increase when a series appears with the value 1.
    """
    metrics.uploads.labels("200", "ok")
    for policy in POLICIES:
        metrics.policies.labels(policy)
    for code, (status, _) in CODES.items():
        metrics.uploads.labels(str(status), code)
    for route in app.url_map.iter_rules():
        for method in route.methods or ():
            metrics.requests.labels(method, route.rule, "500")  # what the alert on errors counts


def _count_upload(metrics: Metrics, status: str, code: str) -> None:
    metrics.uploads.labels(status, code).inc()
    for stage, seconds in g.stages.items():
        metrics.stages.labels(stage).observe(seconds)
    metrics.stages.labels("total").observe(time.perf_counter() - g.started)
    if "image_size" in g:  # not when the request was refused before its file
        metrics.sizes.observe(g.image_size)
    if status == "200":
        metrics.bytes.inc(g.image_size)
        metrics.images.labels(g.object_key.rpartition(".")[2]).inc()
        metrics.policies.labels(g.metadata).inc()


def _count_key(metrics: Metrics, code: str) -> None:
    metrics.keys.labels(g.key_id, code).inc()
    if code == "ok":
        metrics.key_bytes.labels(g.key_id).inc(g.image_size)


def _count_failure(metrics: Metrics, code: str) -> None:
    if dependency := _DEPENDENCIES.get(code):
        # The text after the colon differs each time, and each text would become a series.
        cause = (g.get("error_cause") or "unknown").partition(":")[0]
        metrics.failures.labels(dependency, cause).inc()


def _resident_memory() -> int:
    """Bytes, from proc(5); 0 where there is no /proc, or no file can be opened."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return 0


class Listener:
    """The socket and the files of the metrics: the master opens them, its workers serve them."""

    def __init__(self, host: str, port: int, directory: str) -> None:
        self._address = host, port
        self._socket: socket.socket | None = None
        self._directory = directory

    def listen(self) -> None:
        """Open the port, once. A port that cannot be opened is logged, and uploads go on."""
        if self._socket is not None:
            return
        host, port = self._address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server(self._address, family=family)
        except OSError as error:
            log.critical(
                "no metrics: METRICS_HOST, METRICS_PORT: cannot listen at %s, port %s (%s); free"
                " the port and reload, or set another and restart",
                host,
                port,
                error.strerror,
            )
        else:
            self._socket.setblocking(False)  # several workers wake up, one gets the connection

    def serve(self) -> None:
        """Answer scrapes from a thread of this worker, if the port is open."""
        if self._socket is None:
            return
        registry = CollectorRegistry()
        MultiProcessCollector(registry, self._directory)  # type: ignore[no-untyped-call]
        server = _Server(self._socket, make_wsgi_app(registry))
        threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()

    def forget(self, pid: int) -> None:
        """Remove the gauges of a worker that has ended from the sums."""
        mark_process_dead(pid, self._directory)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Close the port and delete the files."""
        if self._socket is not None:
            self._socket.close()
        shutil.rmtree(self._directory, ignore_errors=True)


class _Server(ThreadingMixIn, WSGIServer):
    """A server on a socket that is already listening."""

    daemon_threads = True  # a scrape under way does not delay the end of the process

    def __init__(self, listener: socket.socket, application: Any) -> None:
        address = listener.getsockname()[:2]
        super().__init__(address, _Quiet, bind_and_activate=False)
        self.socket.close()  # the one that WSGIServer has made
        self.socket = listener
        self.server_name, self.server_port = address
        self.setup_environ()
        self.set_app(application)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.setblocking(True)  # not the listening socket's mode
        return connection, address


class _Quiet(WSGIRequestHandler):
    timeout = 5.0  # seconds without a byte: a silent client must not keep its thread

    def log_message(self, *_: object) -> None:
        pass
