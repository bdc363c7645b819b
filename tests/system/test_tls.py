"""Redis and the store behind TLS: only certificates of a trusted authority are accepted."""

import ssl
from datetime import UTC, datetime, timedelta

import pytest
import redis
import trustme

from deploy.local.servers import free_port
from tests.pictures import picture
from tests.system.stack import Process, SeaweedFS, doctor, wait_until
from tests.system.stand_ins import Store

PNG = picture()
UNKNOWN = "TLS certificate not accepted: of an unknown authority"
EXPIRED = "TLS certificate not accepted: expired"
OTHER_ADDRESS = "TLS certificate not accepted: for another address"
# The Valkey of the wheel is built without TLS.
needs_redis = pytest.mark.needs_program("redis-server")


class Authority:
    """A private authority: its PEM file, and the certificates that it signs."""

    def __init__(self, directory):
        self.directory = directory
        self.ca = trustme.CA()
        self.path = str(directory / "authority.pem")
        self.ca.cert_pem.write_to_path(self.path)

    def certificate(self, name="127.0.0.1", **options):
        return self.ca.issue_cert(name, **options)

    def expired(self):
        yesterday = datetime.now(UTC) - timedelta(days=1)
        return self.certificate(not_before=yesterday - timedelta(days=9), not_after=yesterday)

    def context(self, certificate):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        return context

    def files(self, certificate):
        """Write a certificate's chain and key to files; their paths."""
        number = len(list(self.directory.iterdir()))
        chain, key = self.directory / f"chain{number}.pem", self.directory / f"key{number}.pem"
        for pem in certificate.cert_chain_pems:
            pem.write_to_path(chain, append=True)
        certificate.private_key_pem.write_to_path(key)
        return str(chain), str(key)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls_store(tmp_path_factory, authority):
    """SeaweedFS behind TLS."""
    chain, key = authority.files(authority.certificate())
    options = (f"-s3.cert.file={chain}", f"-s3.key.file={key}")
    server = SeaweedFS(tmp_path_factory.mktemp("seaweedfs"), options, authority.path)
    server.make_bucket("assets")
    yield server
    server.kill()


@pytest.fixture
def tls_redis(tmp_path):
    """A factory of Redis servers behind TLS, which returns their URLs."""
    running = []

    def start(authority, certificate):
        chain, key = authority.files(certificate)
        port = free_port()
        directory = tmp_path / str(port)
        directory.mkdir()
        command = ["redis-server", "--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1"]
        files = ["--tls-cert-file", chain, "--tls-key-file", key, "--tls-auth-clients", "no"]
        server = Process([*command, *files, "--save", "", "--dir", directory], directory / "log")
        running.append(server)
        with redis.Redis(port=port, ssl=True, ssl_cert_reqs="none") as client:
            wait_until(client.ping)
        return f"rediss://127.0.0.1:{port}/0"

    yield start
    for server in running:
        server.kill()


def readiness(service):
    """The answer of /readyz without a timeout, which a busy machine may cause at first."""

    def settled():
        answer = service.get("/readyz")
        return answer if "timeout" not in answer.json()["checks"].values() else None

    return wait_until(settled)


def test_uploads_reach_a_store_with_a_certificate_of_a_private_authority(
    make_service, valkey, tls_store, authority, api_key
):
    settings = tls_store.settings("assets") | {"S3_CA_CERTS": authority.path}
    service = make_service(valkey.url, settings, WEB_CONCURRENCY="1")
    answer = service.upload(PNG, api_key())
    assert answer.status == 200
    assert tls_store.read("assets", answer.json()["data"]["key"]) == PNG
    assert readiness(service).status == 200
    service.stop()
    status, found = doctor(valkey.url, settings)
    assert (status, found["store"]["state"]) == (0, "ok")


@pytest.mark.parametrize(
    ("change", "cause", "word"),
    [
        ({"S3_CA_CERTS": ""}, UNKNOWN, "S3_CA_CERTS"),
        ({"scheme": "http"}, "plain HTTP on a TLS port", "https://"),
    ],
    ids=["unknown authority", "plain HTTP"],
)
def test_uploads_are_503_when_the_store_is_not_trusted_or_addressed_by_http(
    make_service, valkey, tls_store, authority, api_key, change, cause, word
):
    scheme = change.pop("scheme", "https")
    settings = tls_store.settings("assets") | {"S3_CA_CERTS": authority.path} | change
    settings["S3_ENDPOINT"] = f"{scheme}://127.0.0.1:{tls_store.port}"
    assert_the_cause_is_everywhere(make_service, valkey, settings, api_key(), cause, word)


@pytest.mark.parametrize(
    ("make", "cause", "word"),
    [
        (lambda authority: authority.expired(), EXPIRED, "Renew"),
        (lambda authority: authority.certificate("10.0.0.1"), OTHER_ADDRESS, "S3_ENDPOINT"),
    ],
    ids=["expired", "wrong name"],
)
def test_uploads_are_503_when_the_certificate_of_the_store_is_wrong(
    make_service, valkey, authority, api_key, make, cause, word
):
    with Store(tls=authority.context(make(authority))) as store:
        settings = store.settings() | {"S3_CA_CERTS": authority.path}
        assert_the_cause_is_everywhere(make_service, valkey, settings, api_key(), cause, word)
        assert store.seen == []


def test_uploads_are_503_when_a_store_without_tls_is_addressed_by_https(
    make_service, valkey, api_key
):
    with Store() as store:
        settings = store.settings()
        settings["S3_ENDPOINT"] = settings["S3_ENDPOINT"].replace("http:", "https:")
        key = api_key()
        assert_the_cause_is_everywhere(
            make_service, valkey, settings, key, "TLS on a plain port", "http://"
        )


def assert_the_cause_is_everywhere(make_service, valkey, settings, key, cause, word):
    """An upload is 503. /readyz, the log and the doctor name the cause, the doctor the cure too."""
    service = make_service(valkey.url, settings, WEB_CONCURRENCY="1")
    answer = service.upload(PNG, key)
    assert (answer.status, answer.json()["code"]) == (503, "storage_unavailable")
    ready = readiness(service)
    assert (ready.status, ready.json()["checks"]["storage"]) == (503, cause)
    assert '"level": "critical"' in service.log
    assert cause in service.log
    service.stop()
    status, found = doctor(valkey.url, settings)
    assert (status, found["store"]["found"]) == (1, cause)
    assert word in found["store"]["hint"]


@needs_redis
@pytest.mark.parametrize(
    ("make", "settings", "cause"),
    [
        (lambda authority: authority.certificate(), {}, "ok"),
        (lambda authority: authority.certificate(), {"REDIS_CA_CERTS": ""}, UNKNOWN),
        (lambda authority: authority.expired(), {}, EXPIRED),
        (lambda authority: authority.certificate("10.0.0.1"), {}, OTHER_ADDRESS),
        (
            lambda authority: authority.certificate("10.0.0.1"),
            {"REDIS_TLS_VERIFY": "certificate"},
            "ok",
        ),
        (
            lambda authority: authority.expired(),
            {"REDIS_TLS_VERIFY": "no", "REDIS_CA_CERTS": ""},
            "ok",
        ),
    ],
    ids=["good", "unknown authority", "expired", "wrong name", "any name", "any certificate"],
)
def test_the_certificate_of_redis_is_checked_as_the_settings_say(
    make_service, tls_redis, authority, seaweedfs, bucket, make, settings, cause
):
    url = tls_redis(authority, make(authority))
    settings = {"REDIS_CA_CERTS": authority.path, "WEB_CONCURRENCY": "1", **settings}
    service = make_service(url, seaweedfs.settings(bucket), **settings)
    answer = readiness(service)
    assert answer.json()["checks"]["redis"] == cause
    assert answer.status == (200 if cause == "ok" else 503)
    code = "invalid_api_key" if cause == "ok" else "redis_unavailable"
    assert service.upload(PNG, "k" * 64).json()["code"] == code
    service.stop()
    if cause != "ok":
        status, found = doctor(url, seaweedfs.settings(bucket), **settings)
        assert (status, found["redis"]["found"]) == (1, cause)


@needs_redis
def test_a_pinned_certificate_is_trusted_but_not_others_of_its_authority(
    make_service, tls_redis, authority, tmp_path, seaweedfs, bucket
):
    """For a hosted Redis whose certificate is of no known authority and for another name."""
    ours, other = authority.certificate("ours.invalid"), authority.certificate("other.invalid")
    pinned = tmp_path / "pinned.pem"
    ours.cert_chain_pems[0].write_to_path(pinned)
    for certificate, cause in ((ours, "ok"), (other, UNKNOWN)):
        service = make_service(
            tls_redis(authority, certificate),
            seaweedfs.settings(bucket),
            WEB_CONCURRENCY="1",
            REDIS_TLS_VERIFY="certificate",
            REDIS_CA_CERTS=str(pinned),
        )
        assert readiness(service).json()["checks"]["redis"] == cause
        service.stop()
