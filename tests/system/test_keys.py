"""API keys with real servers: only a valid key is accepted, and Redis never holds a usable one."""

import hashlib
import http.client
import json
import os
import pty
import re
import secrets
import subprocess
import termios
import time

import pytest

from deploy.local import servers
from tests.pictures import picture
from tests.system.raw import BOUNDARY, form
from tests.system.stack import (
    HTTP,
    ROOT,
    Valkey,
    everything_in,
    flask,
    key_id,
    record_name,
    wait_until,
)

PNG = picture()
BODY = form(PNG)


def post(service, headers=(), query=b""):
    """Upload with headers and a query of any bytes; a header may be given twice."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    connection.putrequest("POST", "/upload/image", skip_accept_encoding=True)
    # http.client refuses such values, so they are written to its buffer.
    connection._buffer[0] = b"POST /upload/image" + query + b" HTTP/1.1"
    connection.putheader("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
    connection.putheader("Content-Length", str(len(BODY)))
    connection._buffer += [name + b": " + value for name, value in headers]
    connection.endheaders(BODY)
    answer = connection.getresponse()
    answer.body = answer.read()
    connection.close()
    return answer


def with_header(service, value):
    return post(service, [(b"x-api-key", value)])


def code(answer):
    return answer.status, json.loads(answer.body).get("code")


@pytest.fixture(scope="module")
def known(valkey):
    """A valid key. It begins with an "a", for which Cyrillic has a look-alike."""
    key = "a" + secrets.token_hex(32)[1:]
    valkey.client.hset(record_name(key), mapping={"name": "Good", "roles": "uploader"})
    return key


def hostile(key):
    """Values that are not the key but close to it, or that could be taken for code."""
    digest = hashlib.sha256(key.encode()).hexdigest()
    return {
        "its own hash": digest,
        "its own hash, upper case": digest.upper(),
        "the record's name": f"apikey:{digest}",
        "the id": digest[:12],
        "a star": "*",
        "a pattern": "[0-9a-f]*",
        "the hash with a wildcard": digest[:-1] + "?",
        "a prefix with a star": key[:-1] + "*",
        "cut": key[:-1],
        "one more": key + "0",
        "upper case": key.upper(),
        "twice": key + key,
        "a list": f"{key}, {key}",
        "10 kB": "k" * 10_240,
        "10 kB of itself": key * 160,
        "other scripts": "ключ-鍵-🔑",
        "look-alike": key.replace("a", "а"),  # noqa: RUF001 -- the Cyrillic letter
        "a path": "../apikey",
        "a shell": "$(id)",
        "SQL": "' OR 1=1 --",
        "format": "%s%n%x{0}",
        "null": "null",
    }


KINDS = sorted(hostile("0" * 64))


@pytest.mark.parametrize("kind", KINDS)
def test_a_header_that_is_not_the_key_is_refused(service, known, kind):
    answer = with_header(service, hostile(known)[kind].encode())
    # gunicorn refuses headers over 8,190 bytes before the application sees them.
    refused = (401, 400, 431) if kind.startswith("10 kB") else (401,)
    assert answer.status in refused
    assert known.encode() not in answer.body
    if answer.status == 401:
        assert json.loads(answer.body)["code"] == "invalid_api_key"
        assert answer.getheader("WWW-Authenticate") == 'ApiKey realm="uploader"'


@pytest.mark.parametrize("kind", KINDS)
def test_a_query_that_is_not_the_key_is_refused(service, known, kind):
    value = "".join(f"%{byte:02x}" for byte in hostile(known)[kind].encode())
    answer = post(service, query=f"?x-api-key={value}".encode())
    # The same for request lines, by limit_request_line.
    refused = (401, 400, 414) if kind.startswith("10 kB") else (401,)
    assert answer.status in refused
    assert known.encode() not in answer.body


@pytest.mark.parametrize(
    "added", ["%0a", "%0d%0a", "%00", "%20", "%09", "%ff", "%ed%a0%80", "%c0%80", "%e2%80%8b"]
)
def test_a_valid_key_with_one_more_character_in_the_query_is_refused(service, known, added):
    for value in (known + added, added + known):
        assert code(post(service, query=f"?x-api-key={value}".encode())) == (401, "invalid_api_key")


@pytest.mark.parametrize("value", [b"\xff\xfe", b"\xed\xa0\x80", b"\xc3\x28", b"\x80" * 100])
def test_header_bytes_that_are_not_utf_8_are_refused(service, value):
    assert code(with_header(service, value)) == (401, "invalid_api_key")


@pytest.mark.parametrize("added", [b"\0", b"\n", b"\r", b"\n\n", b"\r\nx: y", b"\x0b", b"\x7f"])
def test_control_characters_in_the_header_never_cause_a_500(service, known, added):
    """gunicorn refuses most of them; a line break begins another header, which does no harm."""
    answer = with_header(service, b"x" + known.encode() + added)
    assert answer.status in (400, 401)
    assert known.encode() not in answer.body


def test_the_same_header_twice_is_refused(service, known):
    key = known.encode()
    for values in ((key, key), (key, b"other"), (b"other", key)):
        answer = post(service, [(b"x-api-key", each) for each in values])
        assert code(answer) == (401, "invalid_api_key")


def test_a_header_with_underscores_in_its_name_is_ignored(service, known):
    assert code(post(service, [(b"x_api_key", known.encode())])) == (401, "missing_api_key")


def test_the_name_of_the_header_may_have_capital_letters(service, known):
    assert post(service, [(b"X-API-KEY", known.encode())]).status == 200


def test_with_keys_in_both_places_the_header_wins(service, known):
    good = known.encode()
    assert post(service, [(b"x-api-key", good)], b"?x-api-key=wrong").status == 200
    wrong = post(service, [(b"x-api-key", b"wrong")], b"?x-api-key=" + good)
    assert code(wrong) == (401, "invalid_api_key")


def test_an_empty_header_counts_as_absent(service, known):
    assert post(service, [(b"x-api-key", b"")], b"?x-api-key=" + known.encode()).status == 200
    assert post(service, [(b"x-api-key", b"  ")], b"?x-api-key=" + known.encode()).status == 200
    assert code(post(service, [(b"x-api-key", b"")])) == (401, "missing_api_key")


def test_of_two_keys_in_the_query_the_first_counts(service, known):
    query = f"?x-api-key=wrong&x-api-key={known}".encode()
    assert code(post(service, query=query)) == (401, "invalid_api_key")


def test_a_key_in_the_form_or_in_another_header_is_ignored(service, known):
    answer = service.upload(PNG, None, fields={"x-api-key": known}, authorization=f"Bearer {known}")
    assert answer.status == 401
    assert answer.json()["code"] == "missing_api_key"


@pytest.mark.parametrize(
    ("roles", "status"),
    [
        ("\t uploader\r\n", 200),
        (",uploader,,", 200),
        ("reader\u00a0uploader", 200),
        ("", 403),
        (" \t\r\n ", 403),
        (",,,", 403),
        (None, 403),
        ("Uploader", 403),
        ("up loader", 403),
        ("uploader\0", 403),
        ("uploader\u200b", 403),
        ("*", 403),
        ("admin", 403),
        (b"uploader \xff", 401),
    ],
)
def test_roles_are_split_at_white_space_and_commas_and_must_match_exactly(
    service, api_key, roles, status
):
    assert service.upload(PNG, api_key(roles=roles)).status == status


@pytest.mark.parametrize(
    "fields",
    [
        {"rate_limit": "lots"},
        {"rate_limit": "0/minute"},
        {"rate_limit": "60/ſecond"},  # noqa: RUF001 -- an old s, which is not an s
        {"rate_limit": "60/mınute"},  # noqa: RUF001 -- an i without its dot
        {"rate_limit": b"\xff"},
        {"expires_at": "soon"},
        {"expires_at": "2027-02-29"},
        {"expires_at": "2020-01-01"},
        {"disabled": "maybe"},
        {"disabled": "YES"},
        {"name": b"\xed\xa0\x80"},
    ],
)
def test_records_that_are_unreadable_expired_or_disabled_grant_nothing(service, api_key, fields):
    answer = service.upload(PNG, api_key(**fields))
    assert (answer.status, answer.json()["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("kind", ["string", "list", "set", "zset", "stream"])
def test_a_record_of_another_type_grants_nothing(service, redis_client, kind):
    key = secrets.token_hex(32)
    name = record_name(key)
    {
        "string": lambda: redis_client.set(name, "roles uploader"),
        "list": lambda: redis_client.rpush(name, "roles", "uploader"),
        "set": lambda: redis_client.sadd(name, "roles", "uploader"),
        "zset": lambda: redis_client.zadd(name, {"uploader": 1}),
        "stream": lambda: redis_client.xadd(name, {"roles": "uploader"}),
    }[kind]()
    try:
        answer = service.upload(PNG, key)
        assert (answer.status, answer.json()["code"]) == (401, "invalid_api_key")
    finally:
        redis_client.delete(name)


def test_a_change_counts_from_the_next_request(service, api_key, redis_client):
    key = api_key()
    assert service.upload(PNG, key).status == 200
    redis_client.hset(record_name(key), "disabled", "1")
    assert service.upload(PNG, key).status == 401
    redis_client.hdel(record_name(key), "disabled")
    assert service.upload(PNG, key).status == 200
    redis_client.hset(record_name(key), "roles", "reader")
    assert service.upload(PNG, key).status == 403
    redis_client.delete(record_name(key))
    assert service.upload(PNG, key).status == 401


def test_changes_by_the_commands_count_from_the_next_request(service, valkey):
    def keys(*arguments):
        done = flask("keys", *arguments, REDIS_URL=valkey.url)
        assert done.returncode == 0, done.stderr
        return done.stdout

    made = json.loads(keys("create", "Magazine CMS", "--role", "uploader", "--json"))
    assert service.upload(PNG, made["key"]).status == 200
    successor = json.loads(keys("rotate", made["id"], "--overlap", "1h", "--json"))
    assert service.upload(PNG, made["key"]).status == 200
    assert service.upload(PNG, successor["key"]).status == 200
    keys("disable", made["id"])
    assert service.upload(PNG, made["key"]).status == 401
    keys("delete", successor["id"], "--yes")
    assert service.upload(PNG, successor["key"]).status == 401


def test_unknown_keys_write_nothing(make_service, valkey_alone, store_settings):
    service = make_service(valkey_alone.url, store_settings)
    before = set(valkey_alone.client.scan_iter())
    for number in range(20):
        assert service.upload(PNG, f"unknown {number}").status == 401
        assert service.get("/upload/limits", **{"x-api-key": f"{number}"}).status == 401
    after = set(valkey_alone.client.scan_iter())
    assert after - BY_THE_SERVICE == before - BY_THE_SERVICE


BY_THE_SERVICE = {b"sweep:turn", b"ready:check"}
"""Names that the service writes without a request."""


@pytest.fixture(scope="module")
def valkey_alone(tmp_path_factory):
    server = Valkey(tmp_path_factory.mktemp("valkey-alone"))
    yield server
    server.kill()


@pytest.fixture(scope="module")
def store_settings(seaweedfs, bucket):
    return seaweedfs.settings(bucket)


def test_a_dump_of_redis_holds_no_key_and_only_records_never_expire(
    make_service, valkey_alone, store_settings
):
    client = valkey_alone.client
    service = make_service(valkey_alone.url, store_settings)
    good, slow, reader = (secrets.token_hex(32) for _ in range(3))
    client.hset(record_name(good), mapping={"name": "CMS", "roles": "uploader"})
    client.hset(record_name(slow), mapping={"roles": "uploader", "rate_limit": "2/day"})
    client.hset(record_name(reader), mapping={"roles": "reader"})
    presented = [good, slow, reader, *(secrets.token_hex(32) for _ in range(10))]

    statuses = [service.upload(PNG, key).status for key in presented for _ in range(4)]
    assert set(statuses) == {200, 401, 403, 429}
    for number in range(6):
        answer = service.upload(PNG, good, Idempotency_Key=f"article-{number % 3}")
        assert answer.status == 200
    assert service.upload(b"no image", good).status == 400
    assert service.upload(PNG, good, fields={"sha256": "0" * 64}).status == 400
    assert service.upload(PNG, None, query=f"?x-api-key={good}").status == 200
    assert service.get("/upload/limits", **{"x-api-key": good}).status == 200
    assert service.get("/readyz").status == 200

    wait_until(lambda: client.hget(usage_name(good), "rejected") == b"2")
    dump = repr(everything_in(client)) + repr([client.dump(name) for name in client.scan_iter()])
    for key in presented:
        assert key not in dump
    lasting = [name for name in client.scan_iter() if client.ttl(name) == -1]
    assert {name.partition(b":")[0] for name in lasting} == {b"apikey"}
    assert len(lasting) == 3
    assert set(client.hgetall(record_name(reader))) == {b"roles"}
    assert set(client.hgetall(record_name(good))) == {b"name", b"roles"}


def test_usage_counts_each_answer_in_its_field(service, api_key, redis_client):
    key = api_key(rate_limit="5/day")
    image = picture(size=(40, 30))
    answers = [
        service.upload(image, key),
        service.upload(image, key, Idempotency_Key="again"),
        service.upload(image, key, Idempotency_Key="again"),
        service.upload(b"text", key),
        service.upload(picture(), key, Idempotency_Key="again"),
        service.upload(image, key),
    ]
    assert [each.status for each in answers] == [200, 200, 200, 400, 422, 429]
    expected = {b"uploads": 3, b"bytes": 3 * len(image), b"rejected": 2, b"rate_limited": 1}
    expected = {name: str(count).encode() for name, count in expected.items()}
    wait_until(lambda: redis_client.hgetall(usage_name(key)) == expected)
    assert 89 * 86400 < redis_client.ttl(usage_name(key)) <= 90 * 86400


def test_the_time_of_the_last_use_is_stored_beside_the_record(service, api_key, redis_client):
    key = api_key()
    record = redis_client.hgetall(record_name(key))
    assert service.upload(PNG, key).status == 200
    name = f"lastused:{key_id(key)}"
    noted = wait_until(lambda: redis_client.get(name)).decode()
    assert re.fullmatch(time.strftime(r"%Y-%m-%dT\d\d:\d\d:\d\dZ", time.gmtime()), noted)
    assert redis_client.ttl(name) > 399 * 86400
    assert redis_client.hgetall(record_name(key)) == record


def test_the_service_logs_the_id_and_never_the_key(service, api_key):
    key = api_key(rate_limit="lots")
    secret = secrets.token_hex(32)
    assert service.upload(PNG, key).status == 401
    assert service.upload(PNG, None, query=f"?x-api-key={secret}").status == 401
    assert HTTP.request("GET", f"{service.url}/nowhere?x-api-key={secret}").status == 404
    wait_until(lambda: key_id(key) in service.log and "rate_limit" in service.log)
    wait_until(lambda: "/nowhere" in service.log)
    assert key not in service.log
    assert secret not in service.log


def usage_name(key):
    return f"usage:{key_id(key)}:{time.strftime('%Y-%m-%d', time.gmtime())}"


def on_a_terminal(url, columns, *arguments):
    """The output of ``flask keys`` on a terminal of this width."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    environ = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    with subprocess.Popen(
        [servers.SCRIPTS / "flask", "keys", *arguments],
        cwd=ROOT,
        env=environ | {"REDIS_URL": url, "FLASK_APP": "wsgi"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ):
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:
            pass  # EIO: how a terminal ends on Linux
    os.close(ours)
    return shown.decode()


@pytest.mark.parametrize("columns", [80, 200])
def test_tables_on_a_terminal_are_coloured_and_not_cut_to_its_width(valkey_alone, columns):
    name = record_name(secrets.token_hex(32))
    record = {
        "name": "The web shop of the printing house " * 4,
        "roles": "uploader, reader, proof-reader",
        "rate_limit": "120/minute",
        "expires_at": "2999-01-31T12:00:00+02:00",
        "disabled": "perhaps",
    }
    valkey_alone.client.hset(name, mapping=record)
    shown = on_a_terminal(valkey_alone.url, columns, "list", "--name", "web shop")
    valkey_alone.client.delete(name)
    assert "\x1b[1m" in shown
    after_progress = shown.rpartition("\r\x1b[K")[2]
    rows = re.sub(r"\x1b\[\d*m", "", after_progress).splitlines()
    assert [row.split()[0] for row in rows] == ["NAME", "The"]
    assert record["name"].strip() in rows[1]
    assert name.removeprefix("apikey:")[:12] in rows[1]
    assert "2999-01-31T" in rows[1]
