"""Credentials that end, are rotated, or are missing."""

import hashlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from minio.credentials import Credentials
from minio.credentials.providers import Provider
from minio.time import utcnow

from app.config import Config
from app.store.bucket import ImageStore, StoredObject
from app.store.causes import StoreError
from app.store.credentials import CredentialSource
from tests.system.stand_ins import MetadataService, Store, only


class Role(Provider):
    """Gives numbered credentials that end after ``lasts``; none while ``broken``."""

    def __init__(self):
        self.number, self.asked, self.broken = 1, 0, False
        self.lasts, self.now = timedelta(hours=1), utcnow()

    def retrieve(self):
        self.asked += 1
        if self.broken:
            raise ValueError("the metadata service is down")
        return Credentials(f"role-{self.number}", "secret", "token", self.now + self.lasts)


@pytest.fixture
def clock(clock):
    clock.now = 0.0
    return clock


@pytest.fixture
def role():
    return Role()


@pytest.fixture
def source(role, clock):
    return CredentialSource(lambda: role, clock)


def test_credentials_that_last_are_asked_for_once(source, role):
    assert [source.current().access_key for _ in range(3)] == ["role-1"] * 3
    assert role.asked == 1


def test_credentials_that_end_soon_are_renewed_before_they_do(source, role, clock):
    role.lasts = timedelta(minutes=4)
    source.current()
    role.number, role.lasts, clock.now = 2, timedelta(hours=1), 11
    assert source.current().access_key == "role-2"
    assert role.asked == 2


def test_held_credentials_are_used_while_they_cannot_be_renewed(source, role, clock, caplog):
    role.lasts = timedelta(minutes=4)
    source.current()
    role.broken = True
    for clock.now in (11, 11.5, 12.5):
        assert source.current().access_key == "role-1"
    assert role.asked == 3, "asked once a second, not with each request"
    assert "credentials that end soon are not renewed" in caplog.text


def test_missing_credentials_are_not_looked_for_with_each_request(source, role, clock):
    role.broken = True
    for _ in range(3):
        with pytest.raises(StoreError, match="no credentials"):
            source.current()
    assert role.asked == 1
    role.broken, clock.now = False, 2
    assert source.current().access_key == "role-1"


def test_credentials_that_have_ended_are_not_used(source, role, clock):
    role.lasts = timedelta(seconds=-1)
    source.current()
    role.broken, clock.now = True, 11
    with pytest.raises(StoreError, match="no credentials"):
        source.current()


def test_refused_credentials_are_replaced_where_there_are_others(source, role, clock):
    refused = source.current()
    clock.now = 11
    assert not source.replaced(refused)
    role.number, clock.now = 2, 22
    assert source.replaced(refused)
    assert source.replaced(refused), "another thread's renewal is as good"
    assert role.asked == 3


def put(store, key="uploads/x.png"):
    digest = hashlib.sha256(b"x").hexdigest()
    store.put(StoredObject(key, (b"x",), "image/png", digest, {}), time.monotonic() + 9)


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No credentials in the environment or in the files of whoever runs the tests."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE",
                 "AWS_SECRET_KEY", "AWS_SHARED_CREDENTIALS_FILE", "AWS_SESSION_TOKEN",
                 "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "MINIO_ALIAS", "AWS_ROLE_ARN",
                 "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                 "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
    return tmp_path


@pytest.fixture
def server():
    with Store() as server:
        yield server


@pytest.fixture
def metadata(nowhere, monkeypatch):
    with MetadataService() as service:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url)
        yield service


def connected(server):
    environ = {"S3_ENDPOINT": server.url}
    return ImageStore(Config.from_env(environ))


def test_without_credentials_that_is_the_cause(server, nowhere):
    assert connected(server).check() == "no credentials"
    assert server.seen == []


@pytest.mark.parametrize("names", [("MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"),
                                   ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")])  # fmt: skip
def test_credentials_of_the_environment(server, nowhere, monkeypatch, names):
    for name, value in zip(names, ("from-environ", "secret"), strict=True):
        monkeypatch.setenv(name, value)
    server.refuse = only("from-environ")
    put(connected(server))


def test_credentials_of_mc_s_file(server, nowhere, monkeypatch):
    path = nowhere / ".mc" / "config.json"
    path.parent.mkdir()
    alias = {"accessKey": "from-mc", "secretKey": "secret"}
    path.write_text(json.dumps({"aliases": {"s3": alias}}))
    server.refuse = only("from-mc")
    put(connected(server))


def write_aws(home, access_key):
    path = home / ".aws" / "credentials"
    path.parent.mkdir(exist_ok=True)
    lines = ["[default]", f"aws_access_key_id = {access_key}", "aws_secret_access_key = secret"]
    path.write_text("\n".join(lines))


def test_a_file_whose_credentials_are_rotated_costs_no_upload(server, nowhere):
    write_aws(nowhere, "first")
    server.refuse = only("first")
    store = connected(server)
    put(store)
    write_aws(nowhere, "second")
    server.refuse = only("second")
    store.client._credentials._next_try = 0
    sent = server.count("PUT")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: put(store, f"uploads/{number}.png"), range(8)))
    assert len(server.objects) == 9
    assert server.count("PUT") - sent <= 16, "at most one request more for each upload"
    assert store.check() is None


def test_the_credentials_of_a_role_are_renewed_and_cost_no_upload(server, metadata):
    server.refuse = only("role-1")
    metadata.seconds = 200
    store = connected(server)
    put(store)
    metadata.number = 2
    server.refuse = only("role-1", "role-2")
    store.client._credentials._next_try = 0
    put(store)
    assert store.client._credentials.current().access_key == "role-2"
    assert server.count("PUT") == 2, "they were renewed before they were refused"


def test_a_role_taken_away_and_given_anew_costs_no_upload(server, metadata):
    server.refuse = only("role-1")
    store = connected(server)
    put(store)
    metadata.number = 2
    server.refuse = only("role-2")
    store.client._credentials._next_try = 0
    put(store)
    assert server.count("PUT") == 3


def test_a_metadata_service_may_be_down_while_the_credentials_last(server, metadata):
    metadata.seconds = 200
    store = connected(server)
    put(store)
    metadata.broken = True
    store.client._credentials._next_try = 0
    put(store)


@pytest.mark.thorough
def test_a_metadata_service_that_hangs_delays_nothing_for_long(nowhere, monkeypatch, server):
    given_up = threading.Event()

    class Hanging(MetadataService):
        def answer(self, *request):
            given_up.wait(30)
            return super().answer(*request)

    with Hanging() as service:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url)
        assert connected(server).check() == "no credentials"
        given_up.set()
