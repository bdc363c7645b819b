"""Under a limit on memory no worker is killed: what does not fit waits, or is refused with 503."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import urllib3

from tests.pictures import encode, photo, picture
from tests.system.limits import Group


@pytest.fixture
def group():
    try:
        made = Group(512)
    except OSError as problem:
        pytest.skip(f"no control group can be made here, which needs root: {problem}")
    yield made
    made.remove()


def test_large_progressive_jpegs_kill_no_worker_in_512_mib(
    group, make_service, valkey, seaweedfs, bucket, api_key
):
    with group.entered():
        settings = seaweedfs.settings(bucket)
        service = make_service(valkey.url, settings, WEB_CONCURRENCY="1")
    try:
        assert "512 MiB of memory for 1 process" in service.log
        flat = photo(2000, 1500).resize((10_000, 9_800))
        data = encode(flat, "JPEG", quality=30, progressive=True)
        assert set(crowd(service, [api_key() for _ in range(6)], data, 18)) <= {200, 429, 503}
        assert service.upload(picture(), api_key()).status == 200
        assert "SIGKILL" not in service.log
    finally:
        service.stop()


def crowd(service, keys, data, uploads):
    """The statuses of so many uploads at once."""
    body, content_type = urllib3.encode_multipart_formdata({"image": ("photo.jpg", data)})
    client = urllib3.PoolManager(maxsize=uploads, retries=False, timeout=120)

    def upload(number):
        headers = {"Content-Type": content_type, "x-api-key": keys[number % len(keys)]}
        url = f"{service.url}/upload/image"
        return client.request("POST", url, body=body, headers=headers).status

    with ThreadPoolExecutor(uploads) as pool:
        return Counter(pool.map(upload, range(uploads)))
