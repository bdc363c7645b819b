"""One hostile key, or none at all, harms nobody else: every upload of a victim beside it is 200."""

import time

import pytest

from tests.pictures import picture
from tests.system.attacks import FILES, at_once, largest, silent

PHOTO = picture("JPEG", (320, 240))
# One process with little room and little patience: what it withstands with two dozen at once, two
# with the defaults withstand with the sixty of a minute.
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
    """A function that uploads a photo twice a second while a condition holds; the statuses."""
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
def test_beside_two_dozen_large_pictures_at_once_every_upload_of_another_key_is_200(
    small, api_key, victim, name
):
    with at_once(FILES[name](), 24)(small.url, api_key(rate_limit=None)) as attack:
        statuses = victim(attack)
    assert set(statuses) == {200}
    assert set(attack.statuses) <= {200, 400, 429, 503}
    assert small.get("/readyz").status == 200


def test_bodies_that_fall_silent_leave_room_for_those_of_another_key(small, api_key, victim):
    with silent(1, 0, 30)(small.url, api_key(rate_limit=None)) as attack:
        statuses = victim(attack)
    assert set(statuses) == {200}


def test_a_client_that_sends_eight_at_once_is_never_told_that_these_are_too_many(service, api_key):
    with at_once(largest(), 8)(service.url, api_key(rate_limit=None)) as eight:
        pass
    assert eight.statuses == {200: 8}
