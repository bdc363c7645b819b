"""The main cases with moto, a second store, which answers with other headers and codes."""

import hashlib

import pytest

from tests.pictures import animated, padded, picture
from tests.system.proxy import Proxy
from tests.system.stack import ROOT, Moto, Valkey, doctor, key_id, outcome, wait_until

PNG = picture()
POLICY = (ROOT / "deploy" / "s3" / "policy.json").read_text()


@pytest.fixture(scope="module")
def valkey(tmp_path_factory):
    """Not shared with other modules, whose services would sweep these uploads too."""
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    yield server
    server.kill()


@pytest.fixture(scope="module")
def moto(tmp_path_factory):
    server = Moto(tmp_path_factory.mktemp("moto"))
    server.make_bucket("assets")
    yield server
    server.kill()


@pytest.fixture(scope="module")
def proxy(moto):
    proxy = Proxy(("127.0.0.1", moto.port))
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def service(make_service, valkey, moto, proxy):
    settings = moto.settings("assets") | {"S3_ENDPOINT": f"http://127.0.0.1:{proxy.port}"}
    return make_service(valkey.url, settings, SWEEP_INTERVAL="2")


def stored(answer):
    assert answer.status == 200, answer.data
    return answer.json()["data"]["key"]


@pytest.mark.parametrize(
    "file",
    [PNG, picture("JPEG"), animated("GIF"), padded("PNG", 14_000_000)],
    ids=["png", "jpeg", "gif", "14 MB"],
)
def test_an_upload_is_stored_byte_for_byte_with_its_metadata(service, moto, api_key, file):
    api_key = api_key()
    key = stored(service.upload(file, api_key, name="über.png", X_Request_Id="abc-1"))
    assert moto.read("assets", key) == file
    found = moto.client.stat_object(bucket_name="assets", object_name=key)
    meta = {name.lower(): value for name, value in found.metadata.items()}
    assert meta["cache-control"] == "public, max-age=31536000, immutable"
    assert meta["x-amz-meta-uploaded-by"] == key_id(api_key)
    assert meta["x-amz-meta-request-id"] == "abc-1"
    assert meta["x-amz-meta-sha256"] == hashlib.sha256(file).hexdigest()
    assert meta["x-amz-meta-original-filename"] == "%C3%BCber.png"


def test_the_service_is_ready_and_the_doctor_finds_no_fault(service, moto, valkey):
    wait_until(lambda: service.get("/readyz").status == 200)
    _, found = doctor(valkey.url, moto.settings("assets"))
    assert found["store"]["state"] == found["store rights"]["state"] == "ok"


def test_a_refused_file_leaves_nothing(service, moto, api_key):
    before = moto.keys("assets")
    assert service.upload(PNG[:-20], api_key()).status == 400
    assert moto.keys("assets") == before


@pytest.mark.parametrize("mode", ["refuse", "black_hole", "delay", "cut", "cut_answer", "garbage"])
def test_uploads_are_503_and_leave_nothing_while_the_store_fails(
    service, proxy, moto, api_key, mode
):
    """An object that the store has written all the same is deleted by the sweep."""
    key = api_key()
    good = moto.keys("assets") | {wait_until(lambda: stored(service.upload(PNG, key)))}
    proxy.mode = mode
    try:
        answer = service.upload(PNG, key)
    finally:
        proxy.mode = "pass"
    if mode == "delay" and answer.status == 200:
        good.add(stored(answer))
    else:
        assert outcome(answer) == (503, "storage_unavailable")
    wait_until(lambda: moto.keys("assets") == good, 30)
    wait_until(lambda: stored(service.upload(PNG, key)))


def test_a_repeat_stores_nothing_new(service, moto, api_key):
    key = api_key()
    first = stored(service.upload(PNG, key, Idempotency_Key="k"))
    before = moto.keys("assets")
    assert stored(service.upload(PNG, key, Idempotency_Key="k")) == first
    assert moto.keys("assets") == before


def test_the_policy_suffices_and_the_doctor_names_wrong_credentials(
    make_service, tmp_path_factory, valkey, api_key
):
    moto = Moto(tmp_path_factory.mktemp("moto"))
    try:
        moto.make_bucket("assets")
        user = moto.make_user("uploader", POLICY)
        settings = moto.settings("assets") | user
        service = make_service(valkey.url, settings, WEB_CONCURRENCY="1")
        assert outcome(service.upload(PNG, api_key())) == (200, "ok")
        wait_until(lambda: service.get("/readyz").status == 200)
        _, found = doctor(valkey.url, settings)
        assert (found["store"]["state"], found["store rights"]["state"]) == ("ok", "ok")
        for change, cause in (
            ({"S3_ACCESS_KEY": "nobody"}, "wrong credentials: the access key is not known"),
            ({"S3_SECRET_KEY": "wrong"}, "wrong credentials: the secret key does not match"),
        ):
            status, found = doctor(valkey.url, settings | change)
            assert (status, found["store"]["found"]) == (1, cause)
        service.stop()
    finally:
        moto.kill()
