"""Under a memory limit no worker is killed: uploads that do not fit wait, or get a 503."""

import pytest

from tests.pictures import encode, photo, picture
from tests.system.limits import Group
from tests.system.stack import upload_at_once


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
    with group.entered():  # the service starts in the group, its servers are outside
        settings = seaweedfs.settings(bucket)
        service = make_service(valkey.url, settings, WEB_CONCURRENCY="1")
    try:
        assert "512 MiB of memory for 1 process" in service.log
        # 98 megapixels: libjpeg keeps 2 bytes of each component of a pixel while it decodes.
        flat = photo(2000, 1500).resize((10_000, 9_800))
        data = encode(flat, "JPEG", quality=30, progressive=True)
        keys = [api_key() for _ in range(6)]
        assert set(upload_at_once(service, keys, data, 18)) <= {200, 429, 503}
        assert service.upload(picture(), api_key()).status == 200
        assert "SIGKILL" not in service.log
    finally:
        service.stop()
