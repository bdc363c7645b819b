"""Stores on bad days, and what is no store at all: never a 200 for nothing."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.pictures import padded, picture
from tests.system.stack import doctor
from tests.system.stand_ins import LoginPage, Store

PNG = picture()
PHOTO = padded("PNG", 2_000_000)
NO_STORE = "not an answer of an S3 store"


def told(answer):
    return answer.status, answer.json().get("code", "ok")


def test_what_answers_200_to_everything_stores_nothing(make_service, valkey, api_key):
    with LoginPage() as page:
        service = make_service(valkey.url, page.settings(), WEB_CONCURRENCY="1")
        key = api_key()
        for _ in range(5):
            assert told(service.upload(PNG, key)) == (503, "storage_unavailable")
        ready = service.get("/readyz")
        assert (ready.status, ready.json()["checks"]["storage"]) == (503, NO_STORE)
        status, found = doctor(valkey.url, page.settings())
        assert (status, found["store"]["state"], found["store"]["found"]) == (1, "failed", NO_STORE)
        assert "S3_ENDPOINT" in found["store"]["hint"]
        service.stop()


@pytest.mark.parametrize("status", [413, 403])
def test_files_that_the_store_refuses_shut_nobody_else_out(make_service, valkey, api_key, status):
    """As a proxy in front of the store does, with its limit or with its filter."""

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
                yield told(service.upload(PHOTO, refused_key))

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
