"""Redis behind TLS: a certificate that nobody vouches for is taken only when told so."""

import json

import pytest
import redis
from servers import free_port

from tests.system.nginx import make_certificate
from tests.system.stack import Process, wait_until

# The Valkey of the wheel is built without TLS.
pytestmark = pytest.mark.needs_program("redis-server", "openssl")


@pytest.fixture(scope="module")
def tls_url(tmp_path_factory):
    directory = tmp_path_factory.mktemp("redis")
    certificate, key = make_certificate(directory)
    port = free_port()
    command = ["redis-server", "--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1"]
    files = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    options = ["--tls-auth-clients", "no", "--save", "", "--dir", str(directory)]
    server = Process([*command, *files, *options], directory / "log")
    with redis.Redis(port=port, ssl=True, ssl_cert_reqs="none") as client:
        wait_until(client.ping)
    yield f"rediss://127.0.0.1:{port}/0"
    server.kill()


@pytest.mark.parametrize(
    ("settings", "status"),
    [({}, 503), ({"REDIS_TLS_VERIFY": "yes"}, 503), ({"REDIS_TLS_VERIFY": "no"}, 200)],
)
def test_a_self_signed_certificate_counts_only_when_checks_are_switched_off(
    make_service, tls_url, seaweedfs, bucket, settings, status
):
    service = make_service(tls_url, seaweedfs.settings(bucket), WEB_CONCURRENCY="1", **settings)
    answer = service.get("/readyz")
    assert answer.status == status
    assert (json.loads(answer.data)["checks"]["redis"] == "ok") == (status == 200)
    service.stop()
