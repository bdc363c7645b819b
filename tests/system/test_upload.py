"""Uploads through gunicorn to real servers: answers, refusals, limits, repeats."""

import hashlib
import http.client
import json
import re
import socket
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from deploy.local import servers
from tests.pictures import animated, mpo, padded, picture
from tests.system.raw import BOUNDARY, form
from tests.system.stack import HTTP, key_id, run

LIMIT = 15 * 1024 * 1024
PNG = picture()


def code(answer):
    """The code of a problem document, whose form is checked."""
    assert answer.headers["Content-Type"] == "application/problem+json", answer.data
    problem = answer.json()
    assert problem["status"] == answer.status
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    return problem["code"]


def stored_key(answer):
    assert answer.status == 200, answer.data
    return answer.json()["data"]["key"]


def test_an_upload_is_stored_byte_for_byte(service, seaweedfs, bucket, api_key):
    key = api_key()
    answer = service.upload(PNG, key, name="ä/über.png", X_Request_Id="abc-1")
    stored = stored_key(answer)
    assert json.loads(answer.data) == {"data": {"key": stored}}
    name = re.fullmatch(r"uploads/(.{36})\.png", stored)[1]
    assert uuid.UUID(name).version == 4
    assert seaweedfs.read(bucket, stored) == PNG
    found = seaweedfs.client.stat_object(bucket_name=bucket, object_name=stored)
    meta = {name.lower(): value for name, value in found.metadata.items()}
    assert found.content_type == "image/png"
    assert meta["cache-control"] == "public, max-age=31536000, immutable"
    assert meta["x-amz-meta-uploaded-by"] == key_id(key)
    assert meta["x-amz-meta-request-id"] == "abc-1"
    assert meta["x-amz-meta-sha256"] == hashlib.sha256(PNG).hexdigest()
    assert (meta["x-amz-meta-width"], meta["x-amz-meta-height"]) == ("32", "24")
    assert meta["x-amz-meta-original-filename"] == "%C3%BCber.png"


@pytest.mark.parametrize(
    ("file", "extension"),
    [
        (picture("JPEG"), "jpg"),
        (picture("JPEG", progressive=True), "jpg"),
        (mpo(), "jpg"),
        (picture("PNG"), "png"),
        (animated("PNG"), "png"),
        (picture("GIF"), "gif"),
        (animated("GIF"), "gif"),
        (picture("WEBP"), "webp"),
        (picture("WEBP", lossless=True), "webp"),
        (animated("WEBP"), "webp"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_bytes_decide_the_extension_of_the_object(service, api_key, file, extension):
    assert stored_key(service.upload(file, api_key(), name="x.png")).endswith(f".{extension}")


def test_a_file_name_with_a_path_does_not_change_the_key_of_the_object(
    service, seaweedfs, bucket, api_key
):
    stored = stored_key(service.upload(PNG, api_key(), name="../../etc/passwd"))
    assert re.fullmatch(r"uploads/[0-9a-f-]{36}\.png", stored)


def test_the_key_may_be_in_the_query(service, api_key):
    assert service.upload(PNG, None, query=f"?x-api-key={api_key()}").status == 200


def test_key_role_rate_and_form_are_checked_in_this_order(service, api_key):
    garbage = {"body": b"no form", "headers": {"Content-Type": "text/plain"}}
    url = f"{service.url}/upload/image"

    def post(key=None):
        headers = garbage["headers"] | ({"x-api-key": key} if key else {})
        return HTTP.request("POST", url, body=garbage["body"], headers=headers)

    assert code(post()) == "missing_api_key"
    assert code(post("nobody")) == "invalid_api_key"
    assert code(post(api_key(roles="reader"))) == "missing_role"
    limited = api_key(rate_limit="1/hour")
    assert code(post(limited)) == "not_multipart"
    assert code(post(limited)) == "rate_limited"


@pytest.mark.parametrize(
    "fields",
    [
        {"disabled": "yes"},
        {"expires_at": "2020-01-01"},
        {"rate_limit": "lots"},
        {"expires_at": "soon"},
    ],
    ids=str,
)
def test_a_key_that_grants_nothing_is_401(service, api_key, fields):
    answer = service.upload(PNG, api_key(**fields))
    assert answer.status == 401
    assert code(answer) == "invalid_api_key"
    assert answer.headers["WWW-Authenticate"] == 'ApiKey realm="uploader"'


def test_of_200_parallel_requests_at_60_a_minute_exactly_60_are_accepted(service, api_key):
    key = api_key(rate_limit=None)
    with ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(lambda _: service.upload(PNG, key), range(200)))
    statuses = [answer.status for answer in answers]
    assert (statuses.count(200), statuses.count(429)) == (60, 140)
    refused = next(answer for answer in answers if answer.status == 429)
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert refused.headers["RateLimit-Policy"] == '"requests";q=60;w=60'


def chunked(service, file, key):
    """Upload with chunks and without a Content-Length; the status and the JSON of the answer."""
    body = form(file)
    pieces = (body[i : i + 65536] for i in range(0, len(body), 65536))
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    headers = {"x-api-key": key, "Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    connection.request("POST", "/upload/image", pieces, headers, encode_chunked=True)
    answer = connection.getresponse()
    body = json.loads(answer.read())
    connection.close()
    return answer.status, body


@pytest.mark.parametrize(("length", "status"), [(LIMIT - 1, 200), (LIMIT, 200), (LIMIT + 1, 413)])
def test_a_file_of_exactly_the_limit_is_accepted_and_one_byte_more_is_413(
    service, api_key, length, status
):
    file = padded("PNG", length)
    key = api_key()
    answer = service.upload(file, key)
    assert answer.status == status
    chunked_status, body = chunked(service, file, key)
    assert chunked_status == status
    if status == 413:
        assert code(answer) == body["code"] == "file_too_large"
        assert answer.json()["limit"] == body["limit"] == LIMIT


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (b"", "empty_image"),
        (b"just text, no picture", "unsupported_format"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "unsupported_format"),
        (picture("JPEG")[:-100], "corrupt_image"),
        (PNG[:-100], "corrupt_image"),
    ],
    ids=["empty", "text", "heic", "cut jpeg", "cut png"],
)
def test_a_refused_file_leaves_nothing(service, seaweedfs, bucket, api_key, file, expected):
    before = seaweedfs.keys(bucket)
    answer = service.upload(file, api_key())
    assert (answer.status, code(answer)) == (400, expected)
    assert seaweedfs.keys(bucket) == before


def test_a_repeat_with_an_idempotency_key_stores_nothing_new(service, seaweedfs, bucket, api_key):
    key = api_key()
    first = service.upload(PNG, key, Idempotency_Key="order-1")
    before = seaweedfs.keys(bucket)
    again = service.upload(PNG, key, Idempotency_Key='"order-1"')
    assert stored_key(again) == stored_key(first)
    assert again.headers["Idempotency-Replayed"] == "true"
    other = service.upload(picture("GIF"), key, Idempotency_Key="order-1")
    assert (other.status, code(other)) == (422, "idempotency_mismatch")
    assert seaweedfs.keys(bucket) == before


def test_a_repeat_whose_object_was_deleted_stores_it_again(service, seaweedfs, bucket, api_key):
    key = api_key()
    first = stored_key(service.upload(PNG, key, Idempotency_Key="order-2"))
    seaweedfs.client.remove_object(bucket_name=bucket, object_name=first)
    again = service.upload(PNG, key, Idempotency_Key="order-2")
    assert "Idempotency-Replayed" not in again.headers
    assert stored_key(again) != first
    assert seaweedfs.read(bucket, stored_key(again)) == PNG
    third = service.upload(PNG, key, Idempotency_Key="order-2")
    assert third.headers["Idempotency-Replayed"] == "true"
    assert stored_key(third) == stored_key(again)


def test_parallel_repeats_store_one_object(service, seaweedfs, bucket, api_key):
    key = api_key()
    file = padded("PNG", 2_000_000)
    before = seaweedfs.keys(bucket)
    with ThreadPoolExecutor(8) as threads:
        answers = list(
            threads.map(lambda _: service.upload(file, key, Idempotency_Key="p"), range(8))
        )
    assert {answer.status for answer in answers} <= {200, 409}
    assert len({stored_key(answer) for answer in answers if answer.status == 200}) == 1
    assert len(seaweedfs.keys(bucket) - before) == 1


def test_the_limits_of_a_key_show_its_rate_and_what_is_left_of_it(service, api_key):
    key = api_key(rate_limit="7/hour", expires_at="2099-12-31")
    service.upload(PNG, key)
    data = HTTP.request("GET", f"{service.url}/upload/limits", headers={"x-api-key": key}).json()
    assert data["data"]["remaining"] == 6
    assert data["data"]["rate_limit"] == "7/hour"
    assert 1 <= data["data"]["reset"] <= 3600


def test_an_unknown_path_is_404_and_a_wrong_method_is_405(service):
    assert (service.get("/nothing").status, code(service.get("/nothing"))) == (404, "not_found")
    answer = service.get("/upload/image")
    assert (answer.status, code(answer)) == (405, "method_not_allowed")
    assert "POST" in answer.headers["Allow"]


def test_the_service_is_alive_and_ready(service):
    assert service.get("/healthz").status == 200
    answer = service.get("/readyz")
    assert answer.json() == {"status": "ready", "checks": {"redis": "ok", "storage": "ok"}}


@pytest.mark.parametrize(
    "request_line",
    [
        b"POST /upload/image?x-api-key=s3cr3t HTTP/9.9\r\n\r\n",
        b"POST /upload/image?x-api-key=s3cr3t\r\n\r\n",
        b"GET /?x-api-key=s3cr3t HTTP/1.1\r\nBad Header\r\n\r\n",
        b"GET /?x-api-key=s3cr3t" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: s3cr3t\r\n\r\n",
    ],
)
def test_broken_http_repeats_nothing_of_the_request(service, request_line):
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(request_line)
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 4")
    assert b"s3cr3t" not in answer
    assert "s3cr3t" not in service.log


def test_a_start_with_wrong_settings_names_all_of_them_and_fails():
    command = [str(servers.SCRIPTS / "gunicorn"), "-c", "deploy/gunicorn.conf.py", "wsgi:app"]
    wrong = {"PORT": "many", "REDIS_URL": "x://:s3cr3t@h", "RATE_LIMIT": "0/minute"}
    ended = run(command, timeout=30, **wrong)
    assert ended.returncode != 0
    output = ended.stdout + ended.stderr
    for variable in ("PORT", "REDIS_URL", "RATE_LIMIT"):
        assert f"{variable}: " in output
    assert "s3cr3t" not in output
    assert "Traceback" not in output


def test_eight_uploads_at_the_same_moment_are_all_stored(service, api_key):
    key = api_key()
    barrier = threading.Barrier(8)

    def send(_):
        barrier.wait()
        return service.upload(padded("PNG", 3_000_000), key).status

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(send, range(8))) == {200}
