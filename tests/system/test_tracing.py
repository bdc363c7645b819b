"""OpenTelemetry traces, received by a small collector."""

import json
import secrets
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from deploy.local import servers
from tests.pictures import picture
from tests.system.proxy import Proxy
from tests.system.stack import key_id, wait_until

PHOTO = picture()
TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"
SERVER, OK_UNSET, ERROR = 2, 0, 2  # the kind of a span, and two values of its status


class Span:
    """A span of the OpenTelemetry protocol, with plain values."""

    def __init__(self, span, service_name):
        self.name, self.kind, self.status = span.name, span.kind, span.status.code
        self.service_name = service_name
        self.trace_id, self.id = span.trace_id.hex(), span.span_id.hex()
        self.parent_id = span.parent_span_id.hex()
        self.start, self.end = span.start_time_unix_nano, span.end_time_unix_nano
        self.attributes = {
            each.key: getattr(each.value, each.value.WhichOneof("value"))
            for each in span.attributes
        }


class Collector:
    """Receives OTLP over HTTP, and keeps the spans by their trace id."""

    def __init__(self):
        self.received, self.traces = b"", defaultdict(list)
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                collector.take(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, body):
        self.received += body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            named = {each.key: each.value.string_value for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                for each in scope.spans:
                    span = Span(each, named["service.name"])
                    self.traces[span.trace_id].append(span)

    def trace(self, trace_id, spans):
        """The spans of a trace by name, once this many have come."""
        wait_until(lambda: len(self.traces[trace_id]) >= spans)
        return {span.name: span for span in self.traces[trace_id]}

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Watched(Proxy):
    """A proxy that keeps the requests to the store."""

    def __init__(self, target):
        super().__init__(target)
        self.requests = b""
        self.look = self._keep

    def _keep(self, direction, data):
        if direction == "request":
            self.requests += data


@pytest.fixture
def collector():
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture
def store(seaweedfs):
    proxy = Watched(("127.0.0.1", seaweedfs.port))
    yield proxy
    proxy.close()


@pytest.fixture
def traced(make_service, valkey, seaweedfs, bucket, collector, store):
    settings = seaweedfs.settings(bucket) | {"S3_ENDPOINT": f"http://127.0.0.1:{store.port}"}
    return make_service(
        valkey.url,
        settings,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        OTEL_BSP_SCHEDULE_DELAY="50",  # ms between two exports, else 5 s
    )


def log_line(service, answer):
    request_id = answer.headers["X-Request-Id"]
    lines = [json.loads(line) for line in service.log.splitlines() if request_id in line]
    return next(line for line in lines if line["message"] == "request")


def test_an_upload_is_a_span_in_the_clients_trace_with_a_span_for_each_stage(
    traced, collector, api_key
):
    key = api_key()
    answer = traced.upload(PHOTO, key, traceparent=TRACEPARENT)
    spans = collector.trace(TRACE_ID, 5)
    whole = spans.pop("POST /upload/image")
    assert (whole.parent_id, whole.kind, whole.status) == (PARENT_ID, SERVER, OK_UNSET)
    assert whole.service_name == "uploader"
    assert whole.attributes == {
        "http.request.method": "POST",
        "http.route": "/upload/image",
        "http.response.status_code": 200,
        "uploader.request_id": answer.headers["X-Request-Id"],
        "uploader.code": "ok",
        "uploader.key_id": key_id(key),
        "uploader.bytes": len(PHOTO),
        "uploader.object_key": json.loads(answer.data)["data"]["key"],
    }
    assert spans.keys() == {"auth", "receive", "inspect", "store"}
    for stage in spans.values():
        assert stage.parent_id == whole.id
        assert whole.start <= stage.start <= stage.end <= whole.end


def test_the_trace_id_is_in_the_log_line(traced, collector, api_key):
    answer = traced.upload(PHOTO, api_key())
    trace_id = log_line(traced, answer)["trace_id"]
    assert collector.trace(trace_id, 5)["POST /upload/image"].parent_id == ""


def test_the_store_gets_the_trace_context(traced, collector, store, api_key):
    assert traced.upload(PHOTO, api_key(), traceparent=TRACEPARENT).status == 200
    parent = collector.trace(TRACE_ID, 5)["store"].id
    put = store.requests[store.requests.index(b"PUT ") :]
    assert f"traceparent: 00-{TRACE_ID}-{parent}-01\r\n".encode() in put


def test_a_tracestate_too_long_for_a_store_is_not_passed_on(traced, store, api_key):
    state = ",".join(f"vendor{number}={'x' * 200}" for number in range(30))
    answer = traced.upload(PHOTO, api_key(), traceparent=TRACEPARENT, tracestate=state)
    assert answer.status == 200
    assert b"vendor1" not in store.requests


def test_the_span_of_a_refusal_has_its_code_and_its_stage(traced, collector, api_key):
    assert traced.upload(PHOTO[:-20], api_key(), traceparent=TRACEPARENT).status == 400
    spans = collector.trace(TRACE_ID, 4)
    assert spans["POST /upload/image"].attributes["uploader.code"] == "corrupt_image"
    assert spans["POST /upload/image"].status == OK_UNSET  # the client's fault, not ours
    assert spans["inspect"].attributes["uploader.code"] == "corrupt_image"
    assert "store" not in spans


def test_the_span_of_a_failure_of_the_store_is_an_error_with_its_cause(
    traced, collector, store, api_key
):
    store.mode = "refuse"
    assert traced.upload(PHOTO, api_key(), traceparent=TRACEPARENT).status == 503
    whole = collector.trace(TRACE_ID, 2)["POST /upload/image"]
    assert whole.status == ERROR
    assert whole.attributes["error.type"] == "storage_unavailable"
    assert whole.attributes["uploader.cause"] == "connection refused"


def test_no_trace_has_a_key_or_a_query(traced, collector, api_key):
    key, secret = api_key(), secrets.token_hex(16)
    assert traced.upload(PHOTO, None, query=f"?x-api-key={key}").status == 200
    assert traced.upload(PHOTO, secret, query=f"?x={secret}").status == 401
    assert traced.get(f"/nothing/{secret}?x-api-key={secret}").status == 404
    wait_until(lambda: len(collector.traces) >= 3)
    assert b"uploader.code" in collector.received
    assert key.encode() not in collector.received
    assert secret.encode() not in collector.received


def test_health_checks_are_not_traced(traced, collector, api_key):
    for path in ("/healthz", "/readyz"):
        assert traced.get(path).status == 200
    traced.upload(PHOTO, api_key(), traceparent=TRACEPARENT)
    collector.trace(TRACE_ID, 5)
    assert collector.traces.keys() == {TRACE_ID}


def test_a_stop_sends_the_remaining_spans(
    make_service, valkey, seaweedfs, bucket, collector, api_key
):
    service = make_service(
        valkey.url,
        seaweedfs.settings(bucket),
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        OTEL_BSP_SCHEDULE_DELAY="600000",  # ten minutes: only the stop sends them
    )
    assert service.upload(PHOTO, api_key(), traceparent=TRACEPARENT).status == 200
    assert service.stop() == 0
    assert len(collector.traces[TRACE_ID]) == 5


@pytest.mark.parametrize("mode", ["refuse", "black_hole"])
def test_a_collector_that_is_down_fails_no_upload_and_delays_no_stop(
    make_service, valkey, seaweedfs, bucket, api_key, mode
):
    down = Proxy(("127.0.0.1", servers.free_port()))
    down.mode = mode
    service = make_service(
        valkey.url,
        seaweedfs.settings(bucket),
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{down.port}",
        OTEL_BSP_SCHEDULE_DELAY="10",
    )
    key = api_key()
    assert [service.upload(PHOTO, key).status for _ in range(20)] == [200] * 20
    assert service.stop(15) == 0
    down.close()


def test_without_tracing_the_trace_id_of_the_client_is_still_logged(service, api_key):
    answer = service.upload(PHOTO, api_key(), traceparent=TRACEPARENT)
    assert log_line(service, answer)["trace_id"] == TRACE_ID
    answer = service.upload(PHOTO, api_key(), traceparent="00-nonsense-01")
    assert "trace_id" not in log_line(service, answer)
