"""Redis or the store fails in every way that the proxy knows, and in some more.

Each time the client soon gets a 503, no object stays behind, and the service recovers by itself.
"""

import time

import pytest

from deploy.local import servers
from tests.pictures import padded, picture
from tests.system.proxy import Proxy
from tests.system.stack import Valkey, listed, object_names, outcome, record_name, wait_until

PNG = picture()
PHOTO = padded("PNG", 3_000_000)
KEY = "k" * 64
FAULTS = ("refuse", "black_hole", "delay", "throttle", "cut", "cut_answer", "garbage")


@pytest.fixture(scope="module")
def valkey(tmp_path_factory):
    """Not shared with other modules, whose services would sweep these uploads too."""
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    yield server
    server.kill()


@pytest.fixture(scope="module")
def redis_proxy(valkey):
    proxy = Proxy(("127.0.0.1", valkey.port))
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def store_proxy(seaweedfs):
    """One for the whole module, because ``fragile`` is."""
    proxy = Proxy(("127.0.0.1", seaweedfs.port))
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def fragile(make_service, redis_proxy, store_proxy, seaweedfs, bucket):
    """The service with a proxy in front of each server."""
    settings = seaweedfs.settings(bucket) | {
        "S3_ENDPOINT": f"http://127.0.0.1:{store_proxy.port}",
        "SWEEP_INTERVAL": "2",
    }
    return make_service(f"redis://127.0.0.1:{redis_proxy.port}/0", settings)


def bounded(call):
    """The result of a call, which must come within 10 s, and 2 s more for a busy machine."""
    start = time.monotonic()
    result = call()
    assert time.monotonic() - start < 12, "the client waited too long for its answer"
    return result


def assert_recovers(service, key, seconds=5):
    """Upload until one succeeds; the key of its object."""
    return wait_until(lambda: service.upload(PNG, key).json()["data"]["key"], seconds + 3)


def assert_nothing_is_left(seaweedfs, bucket, before, good, redis_client, seconds=30):
    """Every new object is one of a 200 (``good``), or its name is on the sweep's list."""

    def settled():
        return object_names(seaweedfs.keys(bucket) - before - good) <= listed(redis_client)

    wait_until(settled, seconds)


@pytest.mark.parametrize("mode", FAULTS)
def test_uploads_are_503_in_time_while_redis_fails_and_then_go_on(
    fragile, redis_proxy, seaweedfs, bucket, redis_client, api_key, mode
):
    key = api_key()
    assert fragile.upload(PNG, key).status == 200
    before = seaweedfs.keys(bucket)
    redis_proxy.cut_after = 200
    redis_proxy.mode = mode
    try:
        answers = [bounded(lambda: fragile.upload(PNG, key)) for _ in range(2)]
    finally:
        redis_proxy.mode = "pass"
    for answer in answers:
        if mode == "throttle" and answer.status == 200:
            continue  # 2 kB/s may be enough for a few hundred bytes
        assert outcome(answer) == (503, "redis_unavailable")
        assert int(answer.headers["Retry-After"]) >= 1
    good = {each.json()["data"]["key"] for each in answers if each.status == 200}
    good.add(assert_recovers(fragile, key))
    assert_nothing_is_left(seaweedfs, bucket, before, good, redis_client)


@pytest.mark.parametrize("mode", FAULTS)
@pytest.mark.parametrize("file", [PNG, PHOTO], ids=["small", "photo"])
def test_uploads_are_503_in_time_and_leave_nothing_while_the_store_fails(
    fragile, store_proxy, seaweedfs, bucket, redis_client, api_key, mode, file
):
    key = api_key()
    assert_recovers(fragile, key)
    before = seaweedfs.keys(bucket)
    store_proxy.cut_after = 1000
    store_proxy.mode = mode
    try:
        answers = [bounded(lambda: fragile.upload(file, key)) for _ in range(2)]
    finally:
        store_proxy.mode = "pass"
    for answer in answers:
        if answer.status == 200:
            assert mode in ("delay", "throttle")  # slow, but within the timeouts
            continue
        assert outcome(answer) == (503, "storage_unavailable")
        assert int(answer.headers["Retry-After"]) >= 1
    good = {each.json()["data"]["key"] for each in answers if each.status == 200}
    assert good <= seaweedfs.keys(bucket)
    assert_nothing_is_left(seaweedfs, bucket, before, good, redis_client)
    assert_recovers(fragile, key)


def test_an_object_whose_put_was_not_answered_is_swept(
    fragile, store_proxy, seaweedfs, bucket, redis_client, api_key
):
    """The store keeps the object, its answer is lost, and then the store works again."""
    key = api_key()
    assert_recovers(fragile, key)
    before = seaweedfs.keys(bucket)
    store_proxy.mode = "cut_answer"
    answer = fragile.upload(PNG, key)
    store_proxy.mode = "pass"
    assert outcome(answer) == (503, "storage_unavailable")
    wait_until(lambda: seaweedfs.keys(bucket) <= before, 30)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"S3_BUCKET": "no-such-bucket"}, "no such bucket"),
        ({"S3_SECRET_KEY": "wrong"}, "wrong credentials: the secret key does not match"),
        ({"S3_ACCESS_KEY": "nobody"}, "wrong credentials: the access key is not known"),
    ],
    ids=["bucket", "secret", "access key"],
)
def test_a_failure_that_needs_a_person_is_logged_as_critical_and_named_in_readyz(
    make_service, valkey, seaweedfs, bucket, api_key, change, cause
):
    service = make_service(valkey.url, seaweedfs.settings(bucket) | change, WEB_CONCURRENCY="1")
    try:
        assert outcome(service.upload(PNG, api_key())) == (503, "storage_unavailable")
        ready = service.get("/readyz")
        assert ready.status == 503
        assert ready.json()["checks"] == {"redis": "ok", "storage": cause}
        assert '"level": "critical"' in service.log
    finally:
        service.stop()


def test_the_service_starts_without_redis_and_uses_it_once_it_is_there(
    make_service, tmp_path, seaweedfs, bucket
):
    port = servers.free_port()
    service = make_service(f"redis://127.0.0.1:{port}/0", seaweedfs.settings(bucket))
    assert service.get("/healthz").status == 200
    assert outcome(service.upload(PNG, KEY)) == (503, "redis_unavailable")
    redis = Valkey(tmp_path / "valkey", port)
    try:
        wait_until(lambda: service.upload(PNG, KEY).status == 401, 5)
    finally:
        redis.kill()
        service.stop()


def test_uploads_go_on_after_redis_was_killed_and_started_again(
    make_service, tmp_path, seaweedfs, bucket
):
    options = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
    redis = Valkey(tmp_path / "valkey", options=options)
    service = make_service(redis.url, seaweedfs.settings(bucket))
    try:
        redis.client.hset(record_name(KEY), mapping={"roles": "uploader"})
        assert service.upload(PNG, KEY).status == 200
        redis.kill()
        assert outcome(bounded(lambda: service.upload(PNG, KEY))) == (503, "redis_unavailable")
        redis.start()
        wait_until(lambda: service.upload(PNG, KEY).status == 200, 10)
    finally:
        redis.kill()
        service.stop()


@pytest.mark.parametrize("trouble", ["full", "read-only", "no permission"])
def test_uploads_are_503_when_redis_answers_with_errors(
    make_service, tmp_path, seaweedfs, bucket, trouble
):
    redis = Valkey(tmp_path / "valkey")
    service = make_service(redis.url, seaweedfs.settings(bucket), WEB_CONCURRENCY="1")
    try:
        redis.client.hset(record_name(KEY), mapping={"roles": "uploader"})
        assert service.upload(PNG, KEY).status == 200
        match trouble:
            case "full":
                redis.client.config_set("maxmemory", "1")
            case "read-only":
                redis.client.replicaof("127.0.0.1", "1")
            case _:
                redis.client.execute_command("ACL", "SETUSER", "default", "-@write", "-@scripting")
        assert outcome(service.upload(PNG, KEY)) == (503, "redis_unavailable")
        # /readyz repeats an answer for a second.
        wait_until(lambda: service.get("/readyz").status == 503, 5)
        assert service.get("/readyz").json()["checks"]["redis"] != "ok"
    finally:
        redis.kill()
        service.stop()


def test_readyz_answers_in_time_when_redis_and_the_store_do_not(
    fragile, redis_proxy, store_proxy, api_key
):
    redis_proxy.mode = store_proxy.mode = "black_hole"
    try:
        start = time.monotonic()
        answer = fragile.get("/readyz")
        assert answer.status in (200, 503)  # 200 where it repeats the answer of a second ago
        wait_until(lambda: fragile.get("/readyz").status == 503, 8)
        assert time.monotonic() - start < 10
    finally:
        redis_proxy.mode = store_proxy.mode = "pass"
    wait_until(lambda: fragile.get("/readyz").status == 200, 8)
