"""Prometheus metrics: one port for the sums of all workers."""

import json
import os
import re
import signal
import socket
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy.local import servers
from tests.pictures import picture
from tests.system.raw import head
from tests.system.stack import HTTP, Valkey, key_id, wait_until

GOOD = picture()
BROKEN = GOOD[:-20]
ORIGIN = "https://cms.example.org"


class Scraped:
    """One answer of /metrics."""

    def __init__(self, port):
        answer = HTTP.request("GET", f"http://127.0.0.1:{port}/metrics")
        assert answer.status == 200
        self.text = answer.data.decode()
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.text)
            for sample in family.samples
        }

    def get(self, name, **labels):
        """The value of a sample; 0 where there is none yet."""
        return self.samples.get((f"uploader_{name}", frozenset(labels.items())), 0)


@pytest.fixture
def measured(make_service, valkey, seaweedfs, bucket):
    port = servers.free_port()
    settings = {"METRICS_PORT": str(port), "METRICS_PER_KEY": "yes", "CORS_ORIGINS": ORIGIN}
    service = make_service(valkey.url, seaweedfs.settings(bucket), **settings)
    service.metrics_port = port
    service.metrics = lambda: Scraped(port)
    return service


def send_a_mixed_load(service, key, times=6):
    """Send requests of every kind, each on a new connection, so that both workers get some."""
    preflight = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    for _ in range(times):
        asked = HTTP.request("OPTIONS", f"{service.url}/upload/image", headers=preflight)
        assert asked.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert HTTP.request("BREW", f"{service.url}/nothing").status == 404
        for file, given in ((GOOD, key), (BROKEN, key), (GOOD, "nonsense")):
            service.upload(file, given, Connection="close")


def expect_the_mixed_load(scraped, key, times):
    """Check the counters after this many rounds; requests with a bad key end before their body."""
    assert scraped.get("uploads_total", status="200", code="ok") == times
    assert scraped.get("uploads_total", status="400", code="corrupt_image") == times
    assert scraped.get("uploads_total", status="401", code="invalid_api_key") == times
    assert scraped.get("upload_bytes_total") == times * len(GOOD)
    assert scraped.get("stored_images_total", format="png") == times
    assert scraped.get("upload_size_bytes_count") == 2 * times
    assert scraped.get("key_uploads_total", key_id=key_id(key), code="ok") == times
    assert scraped.get("key_upload_bytes_total", key_id=key_id(key)) == times * len(GOOD)
    assert scraped.get("stage_seconds_count", stage="auth") == 3 * times
    assert scraped.get("stage_seconds_count", stage="receive") == 2 * times
    assert scraped.get("stage_seconds_count", stage="inspect") == 2 * times
    assert scraped.get("stage_seconds_count", stage="store") == times
    assert scraped.get("stage_seconds_count", stage="total") == 3 * times
    assert scraped.get("uploads_in_progress") == 0
    route = {"method": "POST", "route": "/upload/image"}
    assert scraped.get("requests_total", status="400", **route) == times
    # Unknown methods and paths share a label: else a client could make any number of them.
    nowhere = {"method": "other", "route": "none", "status": "404"}
    assert scraped.get("requests_total", **nowhere) == times


def test_counters_are_exact_even_after_workers_were_killed_and_reloaded(measured, api_key):
    key = api_key()
    send_a_mixed_load(measured, key)
    expect_the_mixed_load(measured.metrics(), key, 6)
    kill = (min(measured.workers), signal.SIGKILL)
    reload = (measured.pid, signal.SIGHUP)
    for number, (pid, number_of_signal) in enumerate((kill, reload), start=2):
        before = measured.workers
        os.kill(pid, number_of_signal)
        gone = {pid} & before or before  # a reload replaces all workers
        wait_until(lambda gone=gone: not gone & measured.workers)
        wait_until(lambda: len(measured.workers) == 2)
        wait_until(lambda: measured.metrics().get("processes") == 2)
        send_a_mixed_load(measured, key)
        expect_the_mixed_load(measured.metrics(), key, 6 * number)


def test_an_upload_under_way_counts_as_in_progress(measured, api_key):
    with socket.create_connection(("127.0.0.1", measured.port)) as connection:
        connection.sendall(head(api_key(), "Content-Length: 9999") + b"--")
        wait_until(lambda: measured.metrics().get("uploads_in_progress") == 1)
        wait_until(lambda: measured.metrics().get("body_memory_bytes") > 0)
    wait_until(lambda: measured.metrics().get("uploads_in_progress") == 0)
    wait_until(lambda: measured.metrics().get("body_memory_bytes") == 0)
    answered = {"status": "499", "code": "malformed_multipart"}
    assert measured.metrics().get("uploads_total", **answered) == 1


def test_memory_and_processor_time_are_the_sums_of_the_workers(measured):
    wait_until(lambda: measured.metrics().get("processes") == 2)
    resident = sum(psutil.Process(pid).memory_info().rss for pid in measured.workers)
    scraped = measured.metrics()
    assert 0.5 < scraped.get("resident_memory_bytes") / resident < 1.5
    assert scraped.get("cpu_seconds_total") > 0


def test_failures_of_redis_are_counted_by_their_cause(
    make_service, seaweedfs, bucket, tmp_path, api_key
):
    server, port = Valkey(tmp_path), servers.free_port()
    settings = seaweedfs.settings(bucket)
    service = make_service(server.url, settings, METRICS_PORT=str(port))
    server.kill()
    assert service.upload(GOOD, "any").status == 503
    labels = {"dependency": "redis", "cause": "ConnectionError"}
    assert Scraped(port).get("dependency_failures_total", **labels) == 1
    service.stop()


def test_uploads_are_counted_by_key_only_if_that_is_switched_on(
    make_service, valkey, seaweedfs, bucket, api_key
):
    port = servers.free_port()
    service = make_service(valkey.url, seaweedfs.settings(bucket), METRICS_PORT=str(port))
    service.upload(GOOD, api_key())
    assert "key_uploads" not in re.sub("#.*", "", Scraped(port).text)


def test_metrics_are_never_on_the_public_port(measured):
    answer = measured.get("/metrics")
    assert (answer.status, answer.headers["Content-Type"]) == (404, "application/problem+json")


def test_without_metrics_port_the_service_listens_on_its_own_port_only(service):
    for process in (psutil.Process(service.pid), *psutil.Process(service.pid).children()):
        listening = {
            each.laddr.port for each in process.net_connections() if each.status == "LISTEN"
        }
        assert listening <= {service.port}


def test_the_port_of_the_metrics_is_on_the_loopback_interface_by_default(measured):
    with socket.create_connection(("127.0.0.1", measured.metrics_port)) as connection:
        assert connection.getpeername()[0] == "127.0.0.1"
    addresses = {
        each.laddr.ip
        for each in psutil.Process(measured.pid).net_connections()
        if each.laddr.port == measured.metrics_port and each.status == "LISTEN"
    }
    assert addresses == {"127.0.0.1"}


def test_a_silent_client_does_not_delay_a_scrape(measured):
    with (
        socket.create_connection(("127.0.0.1", measured.metrics_port)),
        socket.create_connection(("127.0.0.1", measured.metrics_port)),
    ):
        assert measured.metrics().get("processes") >= 1


def test_with_a_taken_port_uploads_work_and_a_reload_brings_the_metrics_back(
    make_service, valkey, seaweedfs, bucket, api_key
):
    key, port = api_key(), servers.free_port()
    with socket.create_server(("127.0.0.1", port)):
        service = make_service(valkey.url, seaweedfs.settings(bucket), METRICS_PORT=str(port))
        assert service.upload(GOOD, key).status == 200
    (line,) = [line for line in service.log.splitlines() if "METRICS_PORT" in line]
    logged = json.loads(line)
    assert logged["level"] == "critical"
    assert f"cannot listen at 127.0.0.1, port {port}" in logged["message"]
    service.signal(signal.SIGHUP)
    wait_until(lambda: Scraped(port).get("processes") == 2)
    assert Scraped(port).get("uploads_total", status="200", code="ok") == 1
    assert service.stop() == 0


def test_a_stop_leaves_no_files_of_metrics(measured):
    # prometheus_client maps one file per worker and kind of metric into memory.
    maps = Path(f"/proc/{min(measured.workers)}/maps").read_text()
    (directory,) = {Path(path).parent for path in re.findall(r"/\S+/counter_\d+\.db", maps)}
    assert measured.stop() == 0
    assert not directory.exists()
