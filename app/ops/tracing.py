"""OpenTelemetry traces, where OTEL_* variables switch them on: a span per request and per stage.

The SDK reads its standard variables itself: ``OTEL_EXPORTER_OTLP_ENDPOINT``,
``OTEL_SERVICE_NAME``, ``OTEL_TRACES_SAMPLER`` and the rest. The packages are in
requirements-tracing.txt. Without them, or without the variables, only the trace id of a client's
W3C ``traceparent`` header goes into the log lines.
"""

import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, g, has_request_context, request

from app.errors import ApiError
from app.ops.logs import QUIET, answered

if TYPE_CHECKING:
    from opentelemetry.context import Context

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_STOP_SECONDS = 2.0  # of the 95 s that a stop may take; a collector that lives needs less
# https://www.w3.org/TR/trace-context/: an id of zeros is invalid; a tracestate over 512 characters
# may be dropped.
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE_LENGTH = 512

log = logging.getLogger("uploader.tracing")


def init_app(app: Flask, environ: Mapping[str, str] = os.environ) -> None:
    """Note the trace id of each request, and send spans if ``environ`` switches tracing on."""
    app.before_request(_take_up)
    if not is_on(environ):
        return
    try:
        app.extensions["tracing"] = Tracing(app)
    except ImportError:
        log.error(  # noqa: TRY400 -- a traceback would add nothing
            "OTEL_* variables switch tracing on, but requirements-tracing.txt is not installed"
        )


def is_on(environ: Mapping[str, str]) -> bool:
    """Whether the standard variables switch tracing on: an endpoint, or the exporter ``otlp``."""
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none":
        return False
    return exporter == "otlp" or any(environ.get(name) for name in _ENDPOINTS)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Time a stage of an upload, for the log line and the metrics, and make its span."""
    start = time.perf_counter()
    try:
        with g.tracing.stage(name) if "tracing" in g else nullcontext():
            yield
    finally:
        g.stages[name] = time.perf_counter() - start


def headers() -> dict[str, str]:
    """The request headers that pass the trace on to the object store."""
    if has_request_context() and "tracing" in g:
        trace: Trace = g.tracing
        return trace.headers()
    return {}


def _take_up() -> None:
    if match := _TRACEPARENT.fullmatch(request.headers.get("traceparent", "")):
        g.trace_id = match[1]


class Tracing:
    """Makes the spans of one process; the SDK sends them from a background thread.

    Raises ImportError when the packages are not installed.
    """

    def __init__(self, app: Flask) -> None:
        # Imported here, because most installations do not have these packages.
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "uploader"}
        # No shutdown at exit: stop() does it, and waits less.
        provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
        self._processor = BatchSpanProcessor(OTLPSpanExporter())
        provider.add_span_processor(self._processor)
        self.tracer = provider.get_tracer("uploader")
        self.propagator = TraceContextTextMapPropagator()
        self.trace = trace
        app.before_request(self._begin)
        app.after_request(self._tell)
        app.teardown_request(self._end)

    def stop(self) -> None:
        """Send the spans that are left, within two seconds.

        The SDK's own shutdown at exit waits half a minute for a collector that is down.
        """
        ending = threading.Thread(target=self._processor.shutdown, daemon=True)
        ending.start()
        ending.join(_STOP_SECONDS)

    def _begin(self) -> None:
        if request.path not in QUIET:  # health checks would be most of the traces
            g.tracing = Trace(self)

    def _tell(self, response: Response) -> Response:
        if "tracing" in g:
            g.tracing.tell(response)
        return response

    def _end(self, _: BaseException | None) -> None:
        if "tracing" in g:
            g.tracing.end()


class Trace:
    """The spans of one request."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        route = request.url_rule.rule if request.url_rule else None
        attributes: dict[str, Any] = {"http.request.method": request.method}
        if route:
            attributes["http.route"] = route
        # The route, never the path or the query: a key can be in those.
        self._span = tracing.tracer.start_span(
            f"{request.method} {route}" if route else request.method,
            context=tracing.propagator.extract(request.headers),
            kind=tracing.trace.SpanKind.SERVER,
            attributes=attributes | {"uploader.request_id": g.request_id},
        )
        self._context: Context = tracing.trace.set_span_in_context(self._span)
        g.trace_id = f"{self._span.get_span_context().trace_id:032x}"

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Make a span for a stage of the upload, inside the current span."""
        outer = self._context
        inner = self._tracing.tracer.start_span(name, context=outer)
        self._context = self._tracing.trace.set_span_in_context(inner)
        try:
            yield
        except ApiError as error:
            inner.set_attribute("uploader.code", error.code)
            raise
        finally:
            self._context = outer
            inner.end()

    def headers(self) -> dict[str, str]:
        """``traceparent`` of the innermost span, and the client's ``tracestate``."""
        carrier: dict[str, str] = {}
        self._tracing.propagator.inject(carrier, self._context)
        # The client chose it, and stores limit the size of the headers.
        if len(carrier.get("tracestate", "")) > _TRACESTATE_LENGTH:
            del carrier["tracestate"]
        return carrier

    def tell(self, response: Response) -> None:
        """Add the answer to the span of the request."""
        code = g.get("error_code", "ok")
        attributes = {
            "http.response.status_code": answered(response),
            "uploader.code": code,
            "uploader.cause": g.get("error_cause") or None,
            "uploader.key_id": g.get("key_id"),
            "uploader.bytes": g.get("image_size"),
            "uploader.object_key": g.get("object_key"),
        }
        known = {name: value for name, value in attributes.items() if value is not None}
        self._span.set_attributes(known)
        # By OpenTelemetry's conventions for HTTP a 4xx is no error of the server.
        if response.status_code >= 500:
            self._span.set_attribute("error.type", code)
            self._span.set_status(self._tracing.trace.StatusCode.ERROR)

    def end(self) -> None:
        """End the span of the request."""
        self._span.end()
