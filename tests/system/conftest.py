"""Fixtures of the tests that talk to real servers; stack.py has the servers."""

import secrets

import pytest

from tests.system.chromium import CLIPBOARD, chromium
from tests.system.proxy import Proxy
from tests.system.stack import SeaweedFS, Valkey, copy_code, record_name, services


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


@pytest.fixture
def store_proxy(seaweedfs):
    """A proxy in front of the store, for a service whose store shall fail."""
    proxy = Proxy(("127.0.0.1", seaweedfs.port))
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def make_service(tmp_path_factory):
    """A factory of services, which end with the module."""
    with services(tmp_path_factory) as make:
        yield make


@pytest.fixture(scope="session")
def service(tmp_path_factory, valkey, seaweedfs, bucket):
    """The service that most tests share: all settings have their defaults."""
    with services(tmp_path_factory) as make:
        yield make(valkey.url, seaweedfs.settings(bucket))


@pytest.fixture
def redis_client(valkey):
    return valkey.client


@pytest.fixture
def api_key(valkey):
    """A factory of keys, written to Redis as an administrator does it with redis-cli.

    Fields of the record are given by name; None leaves a field out.
    """

    def make(**fields):
        key = secrets.token_hex(32)
        record = {"name": "Test", "roles": "uploader", "rate_limit": "100000/minute", **fields}
        record = {name: value for name, value in record.items() if value is not None}
        # Redis keeps no hash without a field.
        valkey.client.hset(record_name(key), mapping=record or {"name": ""})
        return key

    return make


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture
def open_page(browser, service):
    """Opens a page of the service.

    After the test: no page has asked another site, stored anything, or logged an error.
    """
    contexts, foreign, errors, sites = [], [], [], [service.url]

    def make(path="/", site=service, **options):
        sites.append(site.url)
        context = browser.new_context(permissions=CLIPBOARD, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda each: foreign.append(each.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda each: errors.append(each.text) if each.type == "error" else None)
        page.goto(site.url + path)
        return page

    yield make
    for context in contexts:
        assert context.cookies() == []
        for page in context.pages:
            assert page.evaluate("localStorage.length + sessionStorage.length") == 0
        context.close()
    assert [url for url in foreign if not url.startswith((*sites, "blob:"))] == []
    # Chromium writes this line for every answer of 400 and above, which the page expects.
    assert [each for each in errors if "Failed to load resource" not in each] == []


@pytest.fixture
def copy(tmp_path):
    """The directory of a copy of the code, which the test may change."""
    return copy_code(tmp_path)
