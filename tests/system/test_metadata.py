"""Metadata by policy through real servers: what is stored, told, and shown by Chromium."""

import hashlib
import json

import pytest

from tests.image import judge as exiftool
from tests.image.tagged import app1, exif, jpeg, located
from tests.system.judge import judge, pixels_shown

LOCATED = located()
EVERYTHING = LOCATED["jpeg-everything"]
DENSE = jpeg(
    app1(exif(location=False, more_exif=[(0xA002, 3, (16,)), (0xA003, 3, (12,))]).replace(
        b"\x2c\x01\0\0\1\0\0\0", b"\x20\x01\0\0\1\0\0\0"))
)  # fmt: skip
"""64 x 48 pixels at 288 to an inch: browsers show it in 16 x 12."""


@pytest.fixture(scope="module")
def page():
    with judge() as opened:
        yield opened


def upload(service, key, file, **headers):
    answer = service.upload(file, key, Prefer="return=representation", **headers)
    assert answer.status == 200, answer.data
    return answer.json()["data"]


@pytest.mark.needs_program("chromium", "exiftool")
@pytest.mark.parametrize("policy", ["no-location", "minimal"])
def test_what_is_stored_tells_no_position_and_is_shown_as_it_was_sent(
    service, seaweedfs, bucket, api_key, page, policy, tmp_path
):
    key = api_key(metadata=policy)
    for name, sent in (LOCATED | {"dense": DENSE}).items():
        told = upload(service, key, sent)
        data = seaweedfs.read(bucket, told["key"])
        extension = told["key"].rpartition(".")[2]
        (tmp_path / f"{name}.{extension}").write_bytes(data)
        assert told["metadata"] == policy
        assert (told["size"], told["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert pixels_shown(page, data) == pixels_shown(page, sent), name
    assert exiftool.positions(tmp_path) == {}


@pytest.mark.needs_program("chromium")
def test_a_picture_is_shown_in_the_size_that_its_resolution_says(page):
    assert json.loads(pixels_shown(page, DENSE))[:2] == [12, 16]  # it is turned


def test_a_key_without_a_policy_has_the_services(make_service, valkey, seaweedfs, bucket, api_key):
    strict = make_service(valkey.url, seaweedfs.settings(bucket), METADATA="minimal")
    for own, policy in ((None, "minimal"), ("keep", "keep")):
        key = api_key(metadata=own)
        told = upload(strict, key, EVERYTHING)
        limits = strict.get("/upload/limits", **{"x-api-key": key}).json()["data"]
        assert told["metadata"] == limits["metadata"] == policy
        assert (seaweedfs.read(bucket, told["key"]) == EVERYTHING) is (policy == "keep")


def test_a_repeat_of_an_upload_is_known_by_what_was_sent(service, api_key):
    key = api_key(metadata="no-location")
    first = upload(service, key, EVERYTHING, Idempotency_Key="article-1")
    assert upload(service, key, EVERYTHING, Idempotency_Key="article-1") == first
    other = service.upload(EVERYTHING + b"!", key, Idempotency_Key="article-1")
    assert other.json()["code"] == "idempotency_mismatch"


def test_a_file_that_is_large_is_stored_in_its_pieces(service, seaweedfs, bucket, api_key):
    key = api_key(metadata="no-location")
    sent = EVERYTHING + bytes(9_000_000)
    data = seaweedfs.read(bucket, upload(service, key, sent)["key"])
    assert EVERYTHING[-500:] == data[-500:]
    assert len(data) < len(EVERYTHING)
