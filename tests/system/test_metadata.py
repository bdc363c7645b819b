"""Metadata policies with real servers: the stored bytes, the answer, and the image in Chromium."""

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
"""64 x 48 pixels at 288 per inch by its EXIF: browsers show it at 16 x 12."""


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
def test_the_stored_image_has_no_position_and_looks_as_it_was_sent(
    service, seaweedfs, bucket, api_key, page, policy, tmp_path
):
    key = api_key(metadata=policy)
    for name, sent in (LOCATED | {"dense": DENSE}).items():
        answer = upload(service, key, sent)
        data = seaweedfs.read(bucket, answer["key"])
        extension = answer["key"].rpartition(".")[2]
        (tmp_path / f"{name}.{extension}").write_bytes(data)
        assert answer["metadata"] == policy
        assert (answer["size"], answer["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert pixels_shown(page, data) == pixels_shown(page, sent), name
    assert exiftool.positions(tmp_path) == {}


@pytest.mark.needs_program("chromium")
def test_the_browser_scales_an_image_by_its_resolution(page):
    """Else the test above could not see whether the resolution was kept."""
    assert json.loads(pixels_shown(page, DENSE))[:2] == [12, 16]  # turned by its orientation


def test_a_key_without_a_policy_has_that_of_the_service(
    make_service, valkey, seaweedfs, bucket, api_key
):
    strict = make_service(valkey.url, seaweedfs.settings(bucket), METADATA="minimal")
    for own, policy in ((None, "minimal"), ("keep", "keep")):
        key = api_key(metadata=own)
        answer = upload(strict, key, EVERYTHING)
        limits = strict.get("/upload/limits", **{"x-api-key": key}).json()["data"]
        assert answer["metadata"] == limits["metadata"] == policy
        assert (seaweedfs.read(bucket, answer["key"]) == EVERYTHING) is (policy == "keep")


def test_a_repeat_is_recognized_by_the_file_as_it_was_sent(service, api_key):
    key = api_key(metadata="no-location")
    first = upload(service, key, EVERYTHING, Idempotency_Key="article-1")
    assert upload(service, key, EVERYTHING, Idempotency_Key="article-1") == first
    other = service.upload(EVERYTHING + b"!", key, Idempotency_Key="article-1")
    assert other.json()["code"] == "idempotency_mismatch"


def test_a_large_file_is_stored_without_its_metadata_and_trailing_bytes(
    service, seaweedfs, bucket, api_key
):
    key = api_key(metadata="no-location")
    sent = EVERYTHING + bytes(9_000_000)
    data = seaweedfs.read(bucket, upload(service, key, sent)["key"])
    assert EVERYTHING[-500:] == data[-500:]
    assert len(data) < len(EVERYTHING)
