"""Stores that fail, and servers that are not a store: no 200 without a stored object."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.pictures import padded, picture
from tests.system.stack import doctor, outcome, wait_until
from tests.system.stand_ins import LoginPage, MetadataService, Store, only, s3_error

PNG = picture()
PHOTO = padded("PNG", 2_000_000)
NO_STORE = "not an answer of an S3 store"


def test_a_server_that_answers_200_to_everything_is_not_taken_for_a_store(
    make_service, valkey, api_key
):
    with LoginPage() as page:
        service = make_service(valkey.url, page.settings(), WEB_CONCURRENCY="1")
        key = api_key()
        for _ in range(5):
            assert outcome(service.upload(PNG, key)) == (503, "storage_unavailable")
        ready = service.get("/readyz")
        assert (ready.status, ready.json()["checks"]["storage"]) == (503, NO_STORE)
        status, found = doctor(valkey.url, page.settings())
        assert (status, found["store"]["state"], found["store"]["found"]) == (1, "failed", NO_STORE)
        assert "S3_ENDPOINT" in found["store"]["hint"]
        service.stop()


@pytest.mark.parametrize("status", [413, 403])
def test_files_that_the_store_refuses_do_not_block_others(make_service, valkey, api_key, status):
    """A proxy in front of the store refuses large files by a limit (413) or a filter (403)."""

    def too_large(method, key, headers, body):
        if method == "PUT" and len(body) > 1_000_000:
            return status, {"Content-Type": "text/html"}, b"<h1>No</h1>"
        return None

    with Store(too_large) as store, ThreadPoolExecutor(3) as pool:
        service = make_service(valkey.url, store.settings(), WEB_CONCURRENCY="1")
        key, refused_key = api_key(), api_key()
        going = True

        def loop():
            while going:
                yield outcome(service.upload(PHOTO, refused_key))

        loops = [pool.submit(lambda: set(loop())) for _ in range(3)]
        try:
            answers = [service.upload(PNG, key).status for _ in range(100)]
        finally:
            going = False
        assert answers == [200] * 100
        for each in loops:
            assert each.result() == {(503, "storage_unavailable")}
        assert '"level": "critical"' in service.log
        assert service.get("/readyz").status == 200
        service.stop()


def test_no_upload_fails_while_the_credentials_of_a_role_are_renewed(
    make_service, valkey, api_key, tmp_path
):
    """The old ones still have 200 s when the new ones are there, and the store takes both."""
    with MetadataService() as metadata, Store(only("role-1", "role-2")) as store:
        metadata.seconds = 200
        settings = {
            "S3_ENDPOINT": store.url,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.url,
            "HOME": str(tmp_path),  # not the credentials of the user who runs the test
        }
        service = make_service(valkey.url, settings, WEB_CONCURRENCY="1")
        key = api_key()
        assert service.upload(PNG, key).status == 200
        metadata.number, metadata.seconds = 2, 3600

        def upload(_):
            return service.upload(PNG, key).status

        with ThreadPoolExecutor(4) as pool:
            while metadata.count("PUT") < 2:
                assert list(pool.map(upload, range(8))) == [200] * 8
            store.refuse = only("role-2")
            assert list(pool.map(upload, range(8))) == [200] * 8
        assert metadata.count("PUT") == 2, "one request renews for all"
        service.stop()


def far_away(method, key, headers, body):
    """The answer of AWS in the wrong region. A HEAD has no body; a header names the region."""
    status, more, said = s3_error(301, "PermanentRedirect", x_amz_bucket_region="eu-west-3")
    return status, more, b"" if method == "HEAD" else said


def late(method, key, headers, body):
    """The answer of a store whose clock differs by years."""
    status, more, said = s3_error(403, "RequestTimeTooSkewed", Date="Wed, 25 Nov 2020 16:41:40 GMT")
    return status, more, b"" if method == "HEAD" else said


def forbidden(method, key, headers, body):
    """The answer of a store to a user who may only read."""
    return s3_error(403, "AccessDenied") if method == "PUT" else None


@pytest.mark.parametrize(
    ("refuse", "check", "cause", "word"),
    [
        (far_away, "store", "wrong region: the bucket is in eu-west-3", "S3_REGION"),
        (late, "store", "clock skew: ", "timedatectl"),
        (forbidden, "store rights", "access denied", "policy.json"),
    ],
    ids=["region", "clock", "rights"],
)
def test_the_doctor_and_readyz_name_the_right_cause(
    make_service, valkey, api_key, refuse, check, cause, word
):
    with Store(refuse) as store:
        service = make_service(valkey.url, store.settings(), WEB_CONCURRENCY="1")
        assert outcome(service.upload(PNG, api_key())) == (503, "storage_unavailable")
        wait_until(lambda: service.get("/readyz").status == 503, 5)
        assert service.get("/readyz").json()["checks"]["storage"].startswith(cause)
        assert '"level": "critical"' in service.log
        service.stop()
        status, found = doctor(valkey.url, store.settings())
    assert (status, found[check]["state"]) == (1, "failed")
    assert found[check]["found"].startswith(cause)
    assert word in found[check]["hint"]
    assert "clock" in found, "the other checks are still made"


def test_the_doctor_finds_a_user_who_may_write_but_not_read(valkey):
    """Uploads work without that right, but the sweep must look at an object to delete it."""

    def blind(method, key, headers, body):
        looks = method in ("GET", "HEAD") and key.startswith("uploads/")
        return s3_error(403, "AccessDenied") if looks else None

    with Store(blind) as store:
        status, found = doctor(valkey.url, store.settings())
    assert (status, found["store rights"]["state"]) == (1, "failed")
    assert found["store rights"]["found"] == "put, but not stat: access denied"
    assert "policy.json" in found["store rights"]["hint"]


def test_the_doctor_deletes_the_versions_of_its_object(valkey):
    with Store() as store:
        store.versioned = True
        status, found = doctor(valkey.url, store.settings())
        assert (status, found["store rights"]["state"]) == (1, "ok")
        assert found["public writing"]["state"] == "failed"
        assert store.versions == {}


def test_the_doctor_warns_of_a_bucket_whose_versions_cannot_be_deleted(valkey):
    def locked(method, key, headers, body):
        return s3_error(403, "AccessDenied") if method == "DELETE" and "?" in key else None

    with Store(locked) as store:
        store.versioned = True
        _, found = doctor(valkey.url, store.settings())
    assert found["store rights"]["state"] == "warning"
    assert "DeleteObjectVersion" in found["store rights"]["hint"]
