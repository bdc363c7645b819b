"""Fixtures of the tests that talk to real servers; the servers are in stack.py."""

import secrets
import shutil

import pytest
from playwright.sync_api import sync_playwright

from tests.system.chromium import CLIPBOARD, FLAGS
from tests.system.stack import ROOT, SeaweedFS, Valkey, record_name, services


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


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def open_page(browser, service):
    """Opens a page; at the end nothing was asked of others, stored, or complained of."""
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
    assert [each for each in errors if "Failed to load resource" not in each] == []


@pytest.fixture
def copy(tmp_path):
    """A copy of the code, to be changed."""
    for part in ("app", "deploy"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "wsgi.py", tmp_path)
    return tmp_path
