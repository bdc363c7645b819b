"""A hostile key does no harm to another one, whose uploads are all answered 200 meanwhile."""

import time

import pytest

from tests.pictures import picture
from tests.system.attacks import FILES, at_once, largest, silent

PHOTO = picture("JPEG", (320, 240))
# One process with half a GiB and a short timeout, attacked with 24 uploads at once. That is to its
# size as the 60 uploads of a minute's rate are to the two processes that bench/hostile.py attacks.
SMALL = {
    "WEB_CONCURRENCY": "1",
    "UPLOAD_TIMEOUT": "10",
    "MEMORY_LIMIT": str(512 * 1024 * 1024),
}


@pytest.fixture(scope="module")
def small(make_service, valkey, seaweedfs, bucket):
    return make_service(valkey.url, seaweedfs.settings(bucket), **SMALL)


@pytest.fixture
def victim(small, api_key):
    """A function that uploads a photo twice a second during an attack; the statuses."""
    key = api_key(rate_limit=None)

    def upload(attack, seconds=6):
        statuses = []
        end = time.monotonic() + seconds
        while not statuses or (attack.going_on and time.monotonic() < end):
            statuses.append(small.upload(PHOTO, key).status)
            time.sleep(0.5)
        return statuses

    return upload


@pytest.mark.parametrize("name", FILES)
def test_another_key_gets_only_200s_while_one_uploads_24_expensive_files_at_once(
    small, api_key, victim, name
):
    with at_once(FILES[name](), 24)(small.url, api_key(rate_limit=None)) as attack:
        statuses = victim(attack)
    assert set(statuses) == {200}
    assert set(attack.statuses) <= {200, 400, 429, 503}
    assert small.get("/readyz").status == 200


def test_another_key_gets_only_200s_while_the_bodies_of_one_stop_coming(small, api_key, victim):
    with silent(1, 0, 30)(small.url, api_key(rate_limit=None)) as attack:
        statuses = victim(attack)
    assert set(statuses) == {200}


def test_one_key_may_send_eight_uploads_at_once(service, api_key):
    with at_once(largest(), 8)(service.url, api_key(rate_limit=None)) as eight:
        pass
    assert eight.statuses == {200: 8}
