"""Fixtures of the tests that talk to real servers; the servers are in stack.py."""

import secrets

import pytest

from tests.system.stack import SeaweedFS, Valkey, record_name, services


@pytest.fixture(scope="session")
def valkey(tmp_path_factory):
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    yield server
    server.kill()


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory):
    server = SeaweedFS(tmp_path_factory.mktemp("seaweedfs"))
    yield server
    server.kill()


@pytest.fixture(scope="session")
def bucket(seaweedfs):
    return seaweedfs.make_bucket("assets")


@pytest.fixture(scope="module")
def make_service(tmp_path_factory):
    with services(tmp_path_factory) as make:
        yield make


@pytest.fixture(scope="session")
def service(tmp_path_factory, valkey, seaweedfs, bucket):
    """The service as most tests need it: all settings at their defaults."""
    with services(tmp_path_factory) as make:
        yield make(valkey.url, seaweedfs.settings(bucket))


@pytest.fixture
def redis_client(valkey):
    return valkey.client


@pytest.fixture
def api_key(valkey):
    """A factory of keys, added as an administrator does it with redis-cli."""

    def make(**fields):
        key = secrets.token_hex(32)
        record = {"name": "Test", "roles": "uploader", "rate_limit": "100000/minute", **fields}
        record = {name: value for name, value in record.items() if value is not None}
        valkey.client.hset(record_name(key), mapping=record or {"name": ""})
        return key

    return make
