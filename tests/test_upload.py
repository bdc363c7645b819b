"""Uploads through Flask's test client, with a Redis and a store in memory."""

import hashlib
import io
import json
import re
import threading
import uuid
from base64 import b64encode
from datetime import UTC, datetime
from urllib.parse import urlencode

import pytest
import urllib3

from app import create_app
from app.config import Config, Rate
from app.errors import unavailable
from app.store import bucket
from tests.fakes import ID, KEY, RECORD, send
from tests.image import tagged
from tests.image.tagged import LATITUDE
from tests.pictures import padded, plain

# The pipelines that an upload sends to Redis, by their numbers: see FakeRedis.lost.
ADMISSION, DECISION = 1, 2
PNG = plain()
LOCATED = tagged.located_jpegs()["everything"]


@pytest.fixture
def client(redis, store):
    redis.hset(RECORD, mapping={"name": "Magazine CMS", "roles": "uploader"})
    config = Config(rate_limit=Rate(60, 60), log_format="json")
    return create_app(config, redis=redis, store=store).test_client()


def assert_problem(answer, status, code):
    """Check that an answer is a complete problem document."""
    assert (answer.status_code, answer.json["code"]) == (status, code), answer.json
    assert answer.content_type == "application/problem+json"
    assert answer.json["status"] == status
    assert answer.json["type"] == f"/docs#{code}"
    assert answer.json["request_id"] == answer.headers["X-Request-Id"]
    assert answer.json["title"]
    assert len(answer.json["detail"]) > 20
    assert KEY not in answer.text


def under_way(redis):
    """The names of all records about uploads under way."""
    return redis.keys("pending:*") + redis.keys("sweeping:*") + redis.keys("idempotency:*")


def usage(redis):
    """The usage counters."""
    found = {}
    for key in redis.keys("usage:*"):
        found |= {name.decode(): int(count) for name, count in redis.hgetall(key).items()}
    return found


def test_a_good_upload_answers_exactly_the_documented_body(client, store):
    answer = send(client, PNG)
    assert answer.status_code == 200
    assert answer.content_type == "application/json"
    assert list(answer.json) == ["data"]
    assert list(answer.json["data"]) == ["key"]
    name = re.fullmatch(r"uploads/(.*)\.png", answer.json["data"]["key"])[1]
    assert uuid.UUID(name).version == 4
    assert store.objects[answer.json["data"]["key"]][0] == PNG


@pytest.mark.parametrize(
    ("kind", "extension"), [("JPEG", "jpg"), ("PNG", "png"), ("GIF", "gif"), ("WEBP", "webp")]
)
def test_the_bytes_decide_the_format_and_never_the_name(client, store, kind, extension):
    answer = send(client, plain(kind), "photo.png.exe")
    key = answer.json["data"]["key"]
    assert key.endswith(f".{extension}")
    assert store.objects[key][1].content_type == f"image/{kind.lower()}"


def test_the_object_carries_its_metadata(client, store):
    answer = send(client, PNG, name="../../etc/pass wd", headers={"X-Request-Id": "r-1"})
    [(_, image)] = store.objects.values()
    assert answer.headers["X-Request-Id"] == "r-1"
    assert image.metadata == {
        "uploaded-by": ID,
        "request-id": "r-1",
        "sha256": hashlib.sha256(PNG).hexdigest(),
        "width": "8",
        "height": "6",
        "original-filename": "pass%20wd",
    }


def test_every_answer_carries_the_common_headers(client):
    for answer in (send(client, PNG), client.get("/nothing"), send(client, PNG, key=None)):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Request-Id"]


@pytest.mark.parametrize("sent", ["a b", "x" * 129, "ü", 'a"b'])
def test_an_invalid_request_id_is_replaced(client, sent):
    answer = send(client, PNG, headers={"X-Request-Id": sent})
    assert answer.headers["X-Request-Id"] != sent
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", answer.headers["X-Request-Id"])


def test_the_representation_comes_on_request(client):
    answer = send(client, PNG, headers={"Prefer": "respond-async, return=representation"})
    assert answer.headers["Preference-Applied"] == "return=representation"
    assert answer.json["data"] == {
        "key": answer.json["data"]["key"],
        "content_type": "image/png",
        "size": len(PNG),
        "width": 8,
        "height": 6,
        "frames": 1,
        "sha256": hashlib.sha256(PNG).hexdigest(),
        "metadata": "keep",
    }


@pytest.mark.parametrize(
    "prefer",
    [
        "return=minimal",
        "return=minimal, return=representation",
        'wait="1, return=representation, 2"',
        "re turn=representation",
    ],
)
def test_the_minimal_answer_is_the_default(client, prefer):
    answer = send(client, PNG, headers={"Prefer": prefer})
    assert "Preference-Applied" not in answer.headers
    assert list(answer.json["data"]) == ["key"]


# Who may upload


def test_a_key_in_the_query_works_like_one_in_the_header(client):
    data = {"image": (io.BytesIO(PNG), "a.png")}
    assert client.post(f"/upload/image?x-api-key={KEY}", data=data).status_code == 200


def test_a_key_with_non_ascii_letters_is_the_same_in_the_header_and_in_the_query(client, redis):
    key = "ключ-" + 40 * "x"
    redis.hset(f"apikey:{hashlib.sha256(key.encode()).hexdigest()}", "roles", "uploader")
    assert send(client, PNG, key=key.encode().decode("latin-1")).status_code == 200
    body, content_type = urllib3.encode_multipart_formdata({"image": ("photo.png", PNG)})
    address = f"/upload/image?{urlencode({'x-api-key': key})}"
    answer = client.post(address, data=body, headers={"Content-Type": content_type})
    assert answer.status_code == 200


def test_the_header_wins_over_the_query(client):
    data = {"image": (io.BytesIO(PNG), "a.png")}
    answer = client.post(f"/upload/image?x-api-key={KEY}", data=data, headers={"x-api-key": "no"})
    assert_problem(answer, 401, "invalid_api_key")


def test_an_empty_header_counts_as_absent(client):
    data = {"image": (io.BytesIO(PNG), "a.png")}
    answer = client.post(f"/upload/image?x-api-key={KEY}", data=data, headers={"x-api-key": ""})
    assert answer.status_code == 200


def test_an_upload_without_a_key_is_401(client):
    answer = send(client, PNG, key=None)
    assert_problem(answer, 401, "missing_api_key")
    assert answer.headers["WWW-Authenticate"] == 'ApiKey realm="uploader"'


def test_an_unknown_key_writes_nothing(client, redis):
    before = redis.keys()
    assert_problem(send(client, PNG, key="nobody's"), 401, "invalid_api_key")
    assert redis.keys() == before


def test_a_key_without_the_role_is_403(client, redis):
    redis.hset(RECORD, "roles", "admin, reader")
    assert_problem(send(client, PNG), 403, "missing_role")
    assert redis.keys("ratelimit:*") == []


def test_an_upload_over_the_rate_is_429(client, redis):
    redis.hset(RECORD, "rate_limit", "1/hour")
    assert send(client, PNG).status_code == 200
    answer = send(client, PNG)
    assert_problem(answer, 429, "rate_limited")
    assert 1 <= int(answer.headers["Retry-After"]) <= 3600
    assert answer.headers["RateLimit"].startswith('"requests";r=0;t=')
    assert usage(redis)["rate_limited"] == 1
    assert under_way(redis) == []


def test_the_rate_is_in_the_headers_of_accepted_and_refused_uploads(client):
    for answer, left in ((send(client, PNG), 59), (send(client, b"text"), 58)):
        assert answer.headers["RateLimit-Policy"] == '"requests";q=60;w=60'
        assert answer.headers["RateLimit"].startswith(f'"requests";r={left};t=')


def test_answers_before_the_role_check_have_no_rate_headers(client):
    assert "RateLimit" not in send(client, PNG, key="no").headers


# What is wrong with the request


@pytest.mark.parametrize(
    ("file", "code"),
    [
        (b"", "empty_image"),
        (b"hello, this is no picture at all", "unsupported_format"),
        (PNG[:-20], "corrupt_image"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00heicmif1", "unsupported_format"),
    ],
)
def test_a_file_that_is_not_a_whole_image_is_400(client, redis, store, file, code):
    assert_problem(send(client, file), 400, code)
    assert store.objects == {}
    assert under_way(redis) == []
    assert usage(redis) == {"rejected": 1}


def test_too_many_pixels_are_refused_with_the_limit(redis, store):
    redis.hset(RECORD, mapping={"roles": "uploader"})
    app = create_app(Config(max_image_pixels=40, log_format="json"), redis=redis, store=store)
    answer = send(app.test_client(), PNG)
    assert_problem(answer, 400, "too_many_pixels")
    assert (answer.json["limit"], answer.json["actual"]) == (40, 48)


def test_a_key_that_waits_for_its_large_files_is_429_and_its_small_ones_pass(redis, store):
    redis.hset(RECORD, mapping={"roles": "uploader"})
    app = create_app(Config(upload_timeout=3, log_format="json"), redis=redis, store=store)
    with app.extensions["uploader"].at_work.taken(f"{ID} large", 4):
        answer = send(app.test_client(), padded("PNG", 15 * 1024 * 1024))
        assert_problem(answer, 429, "too_many_at_once")
        assert send(app.test_client(), PNG).status_code == 200
    assert send(app.test_client(), padded("PNG", 15 * 1024 * 1024)).status_code == 200


def test_a_body_that_is_not_a_form_is_400(client):
    answer = client.post("/upload/image", data=PNG, headers={"x-api-key": KEY})
    assert_problem(answer, 400, "not_multipart")


def test_a_broken_form_is_400(client):
    headers = {"x-api-key": KEY, "Content-Type": "multipart/form-data; boundary=b"}
    answer = client.post("/upload/image", data=b"--b\r\nnonsense", headers=headers)
    assert_problem(answer, 400, "malformed_multipart")


def test_a_form_without_the_field_is_400(client):
    assert_problem(send(client, PNG, part="picture"), 400, "missing_image")


def test_text_in_the_field_is_400(client):
    answer = client.post(
        "/upload/image",
        data={"image": "x"},
        content_type="multipart/form-data",
        headers={"x-api-key": KEY},
    )
    assert_problem(answer, 400, "missing_image")


def test_two_images_are_400(client):
    data = {"image": [(io.BytesIO(PNG), "a.png"), (io.BytesIO(PNG), "b.png")]}
    answer = client.post("/upload/image", data=data, headers={"x-api-key": KEY})
    assert_problem(answer, 400, "multiple_images")


def test_a_file_that_is_too_large_is_413(client, redis):
    answer = send(client, PNG + bytes(15 * 1024 * 1024 - len(PNG) + 1))
    assert_problem(answer, 413, "file_too_large")
    assert answer.json["limit"] == 15 * 1024 * 1024
    assert usage(redis) == {"rejected": 1}


def test_a_file_of_exactly_the_limit_is_accepted(client):
    assert send(client, PNG + bytes(15 * 1024 * 1024 - len(PNG))).status_code == 200


def test_the_limit_is_in_the_setting_of_flask(client):
    assert client.application.config["MAX_CONTENT_LENGTH"] == 15 * 1024 * 1024


def test_other_fields_are_ignored(client):
    assert send(client, PNG, fields={"caption": "x", "other": ("f", b"1")}).status_code == 200


def test_a_digest_that_matches_is_accepted(client):
    assert send(client, PNG, fields={"sha256": hashlib.sha256(PNG).hexdigest()}).status_code == 200


def test_a_digest_that_does_not_match_is_400(client, store):
    assert_problem(send(client, PNG, fields={"sha256": "0" * 64}), 400, "digest_mismatch")
    assert store.objects == {}


def test_an_empty_checksum_counts_as_absent(client):
    assert send(client, PNG, fields={"sha256": ""}).status_code == 200


def test_a_content_digest_on_the_part_is_checked(client):
    digest = b64encode(hashlib.sha256(b"other").digest()).decode()
    body = (
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
        b"Content-Digest: sha-256=:" + digest.encode() + b":\r\n\r\n" + PNG + b"\r\n--b--\r\n"
    )
    headers = {"x-api-key": KEY, "Content-Type": "multipart/form-data; boundary=b"}
    assert_problem(client.post("/upload/image", data=body, headers=headers), 400, "digest_mismatch")


# Metadata by policy


def stored(store):
    """The bytes of the only object, and what was put with them."""
    [(data, image)] = store.objects.values()
    return data, image


@pytest.mark.parametrize("policy", ["no-location", "minimal", "MINIMAL"])
def test_the_stored_file_follows_the_policy_of_its_key(client, redis, store, policy):
    redis.hset(RECORD, "metadata", policy)
    answer = send(client, LOCATED, headers={"Prefer": "return=representation"}).json["data"]
    data, image = stored(store)
    assert LATITUDE.encode() in LOCATED
    assert LATITUDE.encode() not in data
    assert answer["metadata"] == policy.lower()
    assert answer["size"] == len(data) < len(LOCATED)
    sha256 = hashlib.sha256(data).hexdigest()
    assert answer["sha256"] == image.metadata["sha256"] == image.sha256 == sha256
    assert "sent_sha256" not in answer


def test_the_policy_of_the_service_applies_to_keys_without_one(redis, store):
    redis.hset(RECORD, mapping={"roles": "uploader"})
    app = create_app(Config(metadata="no-location"), redis=redis, store=store)
    answer = send(app.test_client(), LOCATED, headers={"Prefer": "return=representation"})
    assert answer.json["data"]["metadata"] == "no-location"
    assert LATITUDE.encode() not in stored(store)[0]
    redis.hset(RECORD, "metadata", "keep")
    kept = send(app.test_client(), LOCATED).json["data"]["key"]
    assert store.objects[kept][0] == LOCATED


@pytest.mark.parametrize("policy", ["", "no-location"])
def test_limits_name_the_policy_of_the_key(client, redis, policy):
    redis.hset(RECORD, "metadata", policy)
    answer = client.get("/upload/limits", headers={"x-api-key": KEY})
    assert answer.json["data"]["metadata"] == (policy or "keep")


def test_a_policy_that_cannot_be_read_grants_nothing(client, redis, store):
    redis.hset(RECORD, "metadata", "no-gps")
    assert_problem(send(client, PNG), 401, "invalid_api_key")
    assert not store.objects


def test_the_clients_digest_is_compared_with_the_file_as_sent(client, redis, store):
    redis.hset(RECORD, "metadata", "minimal")
    sent = hashlib.sha256(LOCATED).hexdigest()
    assert send(client, LOCATED, fields={"sha256": sent}).status_code == 200
    left = hashlib.sha256(stored(store)[0]).hexdigest()
    assert_problem(send(client, LOCATED, fields={"sha256": left}), 400, "digest_mismatch")


def test_a_repeat_is_compared_with_the_sent_file_and_answered_with_the_stored_one(
    client, redis, store
):
    redis.hset(RECORD, "metadata", "minimal")
    wanted = {"Idempotency-Key": "k1", "Prefer": "return=representation"}
    first = send(client, LOCATED, headers=wanted)
    again = send(client, LOCATED, headers=wanted)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json == first.json
    data, _ = stored(store)
    assert_problem(send(client, data, headers=wanted), 422, "idempotency_mismatch")


def test_a_repeat_has_the_policy_of_the_first_request(client, redis, store):
    send(client, LOCATED, headers={"Idempotency-Key": "k1"})
    redis.hset(RECORD, "metadata", "minimal")
    wanted = {"Idempotency-Key": "k1", "Prefer": "return=representation"}
    assert send(client, LOCATED, headers=wanted).json["data"]["metadata"] == "keep"
    assert len(store.objects) == 1


def test_the_name_of_the_file_is_kept_unless_the_policy_is_minimal(client, redis, store):
    for policy, kept in (("no-location", True), ("minimal", False)):
        redis.hset(RECORD, "metadata", policy)
        answer = send(client, PNG, "Home, 1 High Street.png")
        image = store.objects[answer.json["data"]["key"]][1]
        assert ("original-filename" in image.metadata) is kept


# Safe retries


def test_a_repeat_answers_the_first_result_and_stores_nothing_new(client, store):
    first = send(client, PNG, headers={"Idempotency-Key": "k1"})
    again = send(
        client, PNG, headers={"Idempotency-Key": '"k1"', "Prefer": "return=representation"}
    )
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json["data"]["key"] == first.json["data"]["key"]
    assert again.json["data"]["width"] == 8
    assert len(store.objects) == 1


def test_another_file_with_the_same_key_is_422(client, store):
    send(client, PNG, headers={"Idempotency-Key": "k1"})
    answer = send(client, plain("GIF"), headers={"Idempotency-Key": "k1"})
    assert_problem(answer, 422, "idempotency_mismatch")
    assert len(store.objects) == 1


def test_only_a_success_is_remembered(client):
    assert send(client, b"text", headers={"Idempotency-Key": "k1"}).status_code == 400
    answer = send(client, PNG, headers={"Idempotency-Key": "k1"})
    assert answer.status_code == 200
    assert "Idempotency-Replayed" not in answer.headers


def test_a_repeat_while_the_first_is_running_is_409(client, store):
    running, done = threading.Event(), threading.Event()
    put = store.put

    def slow_put(image, deadline):
        running.set()
        done.wait(5)
        put(image, deadline)

    store.put = slow_put
    first = []
    thread = threading.Thread(
        target=lambda: first.append(
            send(client.application.test_client(), PNG, headers={"Idempotency-Key": "k1"})
        )
    )
    thread.start()
    assert running.wait(5)
    answer = send(client, PNG, headers={"Idempotency-Key": "k1"})
    done.set()
    thread.join()
    assert_problem(answer, 409, "idempotency_conflict")
    assert int(answer.headers["Retry-After"]) >= 1
    assert first[0].status_code == 200


@pytest.mark.parametrize("sent", ["", "x" * 256])
def test_an_invalid_idempotency_key_is_400_and_costs_rate(client, sent):
    answer = send(client, PNG, headers={"Idempotency-Key": sent})
    assert_problem(answer, 400, "invalid_idempotency_key")
    assert answer.headers["RateLimit"].startswith('"requests";r=59')


def test_the_content_length_is_checked_before_the_idempotency_key(client, redis):
    headers, length = {"x-api-key": KEY, "Idempotency-Key": ""}, {"CONTENT_LENGTH": "99000000"}
    answer = client.post("/upload/image", headers=headers, environ_overrides=length)
    assert_problem(answer, 413, "file_too_large")
    assert answer.headers["RateLimit"].startswith('"requests";r=59')
    assert not under_way(redis)


# Failures of Redis and of the store


def test_a_redis_that_is_down_is_503_and_never_401(client, server):
    server.connected = False
    answer = send(client, PNG)
    assert_problem(answer, 503, "redis_unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    assert "RateLimit" not in answer.headers


def test_a_store_that_refuses_is_503_and_leaves_nothing(client, redis, store):
    store.failure = unavailable("storage_unavailable", "access denied")
    answer = send(client, PNG, headers={"Idempotency-Key": "k1"})
    assert_problem(answer, 503, "storage_unavailable")
    assert answer.headers["RateLimit"]
    assert under_way(redis) == []


def test_a_put_of_unknown_result_is_deleted_and_left_to_the_sweep(client, redis, store):
    store.failure = bucket.OutcomeUnknown("connection broken")
    assert_problem(send(client, PNG), 503, "storage_unavailable")
    assert [key.partition(b":")[0] for key in under_way(redis)] == [b"sweeping"]


def test_a_store_known_to_be_down_is_503_before_the_body(client, redis, store):
    store.down = unavailable("storage_unavailable", "known to be down")
    answer = client.post("/upload/image", data=b"never parsed", headers={"x-api-key": KEY})
    assert_problem(answer, 503, "storage_unavailable")
    assert under_way(redis) == []


def test_a_redis_that_dies_before_the_answer_is_503_and_deletes_the_object(
    client, redis, server, store
):
    store.during = lambda: setattr(server, "connected", False)
    assert_problem(send(client, PNG), 503, "redis_unavailable")
    assert store.objects == {}
    server.connected = True
    assert [key.partition(b":")[0] for key in under_way(redis)] == [b"pending"]


def test_a_result_whose_confirmation_by_redis_was_lost_answers_a_repeat(client, redis, store):
    redis.lost = DECISION
    again = {"Idempotency-Key": "k1"}
    lost = send(client, PNG, headers=again)
    assert_problem(lost, 503, "redis_unavailable")
    assert "Nothing was stored" not in lost.json["detail"]
    assert "with the same Idempotency-Key" in lost.json["detail"]
    answer = send(client, PNG, headers=again)
    assert answer.headers["Idempotency-Replayed"] == "true"
    assert list(store.objects) == [answer.json["data"]["key"]]


def test_without_an_idempotency_key_an_upload_of_lost_confirmation_leaves_nothing(
    client, redis, store
):
    redis.lost = DECISION
    lost = send(client, PNG)
    assert_problem(lost, 503, "redis_unavailable")
    assert "Nothing was stored" in lost.json["detail"]
    assert store.objects == {}
    assert [key.partition(b":")[0] for key in under_way(redis)] == [b"sweeping"]


def test_an_idempotency_key_is_free_when_the_answer_to_its_lock_was_lost(client, redis):
    redis.lost = ADMISSION
    again = {"Idempotency-Key": "k1"}
    assert_problem(send(client, PNG, headers=again), 503, "redis_unavailable")
    assert under_way(redis) == []
    assert send(client, PNG, headers=again).status_code == 200


def test_an_upload_stands_though_its_usage_could_not_be_counted(client, redis, store):
    redis.set(f"usage:{ID}:{datetime.now(UTC):%Y-%m-%d}", "no hash")
    answer = send(client, PNG)
    assert answer.status_code == 200
    assert list(store.objects) == [answer.json["data"]["key"]]


def test_an_unexpected_error_is_500_without_details_and_leaves_nothing(client, redis, store):
    store.failure = RuntimeError("secret detail")
    client.application.config["PROPAGATE_EXCEPTIONS"] = False
    answer = send(client, PNG)
    assert_problem(answer, 500, "internal_error")
    assert "secret" not in answer.text
    assert store.objects == {}


def test_usage_counts_uploads_and_bytes(client, redis):
    send(client, PNG)
    send(client, PNG)
    assert usage(redis) == {"uploads": 2, "bytes": 2 * len(PNG)}


# Other addresses


def test_an_unknown_address_is_404(client):
    assert_problem(client.get("/nothing"), 404, "not_found")


def test_another_method_is_405_with_allow(client):
    answer = client.get("/upload/image")
    assert_problem(answer, 405, "method_not_allowed")
    assert "POST" in answer.headers["Allow"]


def test_the_limits_of_a_key_show_its_record_and_the_bounds_of_the_service(client, redis):
    redis.hset(RECORD, mapping={"rate_limit": "2/day", "expires_at": "2099-01-31", "roles": "b a"})
    answer = client.get("/upload/limits", headers={"x-api-key": KEY})
    assert answer.status_code == 200
    data = answer.json["data"]
    names = ["id", "name", "roles", "expires_at", "rate_limit", "remaining", "reset", "formats"]
    assert sorted(data) == sorted([*names, "max_file_size", "max_image_pixels", "metadata"])
    assert (data["id"], data["name"], data["roles"]) == (ID, "Magazine CMS", ["a", "b"])
    assert data["expires_at"].startswith("2099-01-31T23:59:59")
    assert (data["rate_limit"], data["remaining"]) == ("2/day", 2)
    assert (data["max_file_size"], data["max_image_pixels"]) == (15_728_640, 100_000_000)
    assert redis.keys("ratelimit:*") == []


def test_limits_need_a_valid_key(client):
    assert_problem(client.get("/upload/limits"), 401, "missing_api_key")
    answer = client.get("/upload/limits", headers={"x-api-key": "no"})
    assert_problem(answer, 401, "invalid_api_key")


def test_a_problem_is_valid_json(client):
    answer = send(client, PNG, key="no")
    assert json.loads(answer.data)["title"]


def test_a_slash_at_the_end_of_the_address_makes_no_difference(client):
    answer = client.post("/upload/image/")
    assert answer.status_code == 401
    assert "Location" not in answer.headers
