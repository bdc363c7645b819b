"""Prometheus metrics of all worker processes together, on a listener of their own.

Made only where ``METRICS_PORT`` is set. Each process counts in files that all of them share
(prometheus_client's multi-process mode), so whichever answers a scrape answers for all, and what a
process counted stays when it ends. docs/monitoring.md explains each metric.
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

from app.config import POLICIES, Config
from app.errors import CODES
from app.ops.logs import answered
from app.ops.sweep import Swept
from app.service import Service

log = logging.getLogger("uploader.metrics")

_UPLOAD = "upload.upload_image"
_DEPENDENCIES = {"redis_unavailable": "redis", "storage_unavailable": "storage"}
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BYTES = (10e3, 50e3, 100e3, 250e3, 500e3, 1e6, 2.5e6, 5e6, 10e6, 15728640)
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Metrics:
    """The counters of one process."""

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
        self.swept = counter("swept_objects", "Objects deleted that no answer stood for.")
        self.doubtful = counter(
            "doubtful_objects", "Objects that stay because Redis may have forgotten their answer."
        )
        self.sweep_failures = counter("sweep_failures", "Names that a sweep could not settle.")
        self.cpu = counter("cpu_seconds", "Processor time of the worker processes.")
        self.in_progress = gauge("uploads_in_progress", "Uploads being served.")
        self.body_memory = gauge("body_memory_bytes", "Bytes of bodies in memory.")
        self.decode_pixels = gauge("decode_pixels", "Pixels being decoded.")
        self.decode_waiting = gauge("decode_waiting", "Images that wait to be decoded.")
        self.breaker = gauge("breaker_open", "Processes that take the object store to be down.")
        self.memory = gauge("resident_memory_bytes", "Resident memory of the worker processes.")
        self.processes = gauge("processes", "Worker processes.")

    def _counter(self, name: str, help_: str, *labels: str) -> Counter:
        return Counter(f"uploader_{name}", help_, labels, registry=self.registry)

    def _gauge(self, name: str, help_: str) -> Gauge:
        """A gauge whose value is the sum over the processes that live."""
        return Gauge(f"uploader_{name}", help_, registry=self.registry, multiprocess_mode="livesum")

    def _histogram(
        self, name: str, help_: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(f"uploader_{name}", help_, labels, buckets=buckets, registry=self.registry)

    def count_swept(self, swept: Swept) -> None:
        """Count what a sweep did."""
        self.swept.inc(swept.deleted)
        self.doubtful.inc(swept.doubtful)
        self.sweep_failures.inc(swept.failed)

    def watch(self, service: Service) -> None:
        """Once a second, from a thread of its own, look at what this process holds."""
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
            self.processes.set(1)  # last: what is counted as a process has its figures
            time.sleep(1)


def init_app(app: Flask, config: Config) -> None:
    """Count every answer of ``app``."""
    metrics = app.extensions["metrics"] = Metrics()
    _begin_at_zero(metrics, app)

    def begin() -> None:
        if request.endpoint == _UPLOAD and request.method == "POST":
            g.in_progress = True
            metrics.in_progress.inc()

    def count(response: Response) -> Response:
        status = str(answered(response))
        # Each unknown method or address would be a series of its own.
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
    app.teardown_request(end)


def _begin_at_zero(metrics: Metrics, app: Flask) -> None:
    """Prometheus sees no increase in a series that begins with 1."""
    metrics.uploads.labels("200", "ok")
    for policy in POLICIES:
        metrics.policies.labels(policy)
    for code, (status, _) in CODES.items():
        metrics.uploads.labels(str(status), code)
    for route in app.url_map.iter_rules():
        for method in route.methods or ():
            metrics.requests.labels(method, route.rule, "500")


def _count_upload(metrics: Metrics, status: str, code: str) -> None:
    metrics.uploads.labels(status, code).inc()
    for stage, seconds in g.stages.items():
        metrics.stages.labels(stage).observe(seconds)
    metrics.stages.labels("total").observe(time.perf_counter() - g.started)
    if "image_size" in g:
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
        # What follows the colon is for the log: it may be different each time.
        cause = (g.get("error_cause") or "unknown").partition(":")[0]
        metrics.failures.labels(dependency, cause).inc()


def _resident_memory() -> int:
    """Bytes, from proc(5); 0 where there is no /proc, or no file can be opened."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return 0


class Listener:
    """The metrics' own socket and files: opened by gunicorn's master, served by its workers."""

    def __init__(self, host: str, port: int, directory: str) -> None:
        self._address = host, port
        self._socket: socket.socket | None = None
        self._directory = directory

    def listen(self) -> None:
        """Open the port, if it is not open yet; a port that cannot be had costs no upload."""
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
        """Answer scrapes from threads of this worker, where the port could be had."""
        if self._socket is None:
            return
        registry = CollectorRegistry()
        MultiProcessCollector(registry, self._directory)  # type: ignore[no-untyped-call]
        server = _Server(self._socket, make_wsgi_app(registry))
        threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()

    def forget(self, pid: int) -> None:
        """Take the gauges of a worker that has ended out of the sums."""
        mark_process_dead(pid, self._directory)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Delete the files."""
        if self._socket is not None:
            self._socket.close()
        shutil.rmtree(self._directory, ignore_errors=True)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, listener: socket.socket, application: Any) -> None:
        address = listener.getsockname()[:2]
        super().__init__(address, _Quiet, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_name, self.server_port = address
        self.setup_environ()
        self.set_app(application)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.setblocking(True)
        return connection, address


class _Quiet(WSGIRequestHandler):
    timeout = 5.0

    def log_message(self, *_: object) -> None:
        pass
