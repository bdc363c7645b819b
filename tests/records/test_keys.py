"""Records of keys: which values are read or refused, and that nothing else grants access."""

# ruff: noqa: RUF001 -- characters that look alike are tried here
import hashlib
import logging
import re
from datetime import UTC, datetime, timedelta

import pytest

from app.config import Rate
from app.errors import ApiError
from app.records.keys import (
    KEY_PREFIX,
    LONGEST_KEY,
    ApiKey,
    KeyStore,
    UnreadableError,
    digest_of,
    looks_mistyped,
    new_key,
    read_record,
    read_records,
)
from tests.fakes import DIGEST, KEY, RECORD

DEFAULT = Rate(60, 60)


@pytest.fixture
def store(redis):
    return KeyStore(redis, DEFAULT)


def parse(**fields):
    record = {
        name.encode(): value if isinstance(value, bytes) else value.encode()
        for name, value in fields.items()
    }
    return ApiKey.parse(DIGEST, record, DEFAULT)


def refusal(store, presented):
    with pytest.raises(ApiError) as refused:
        store.authenticate(presented)
    assert refused.value.status == 401
    assert refused.value.headers == {"WWW-Authenticate": 'ApiKey realm="uploader"'}
    return refused.value.code


def utc(*parts):
    return datetime(*parts, tzinfo=UTC)


def test_an_empty_record_is_a_key_without_any_rights():
    key = parse()
    assert key == ApiKey(DIGEST, "", frozenset(), DEFAULT, None, disabled=False, metadata=None)
    assert key.usable(utc(9999, 1, 1))
    with pytest.raises(ApiError) as refused:
        key.require("uploader")
    assert (refused.value.status, refused.value.code) == (403, "missing_role")


def test_empty_and_blank_fields_count_as_absent():
    blank = parse(name="", roles=" ", rate_limit="\t", expires_at="\n", disabled="  ", metadata="")
    assert blank == parse()


@pytest.mark.parametrize(
    "field",
    [
        *("Disabled", "DISABLED", "disable", "disabled ", " disabled", "disabled\0", "dіsabled"),
        *("expire_at", "expires-at", "Roles", "rate", "colour", "0", "", "x", "x_note", "X-note"),
    ],
)
@pytest.mark.parametrize("value", ["1", ""])
def test_a_field_of_another_name_makes_a_record_unreadable(field, value):
    with pytest.raises(UnreadableError) as unreadable:
        ApiKey.parse(DIGEST, {field.encode(): value.encode(), b"roles": b"uploader"}, DEFAULT)
    assert str(unreadable.value) in (field, ascii(field)[1:-1])
    assert unreadable.value.problem == "is not known"


def test_the_name_of_an_unknown_field_is_shown_without_control_characters():
    for field in (b"\x1b[2J", b"\xff", "\u202e\u0085".encode(), b"long" * 1000):
        with pytest.raises(UnreadableError) as unreadable:
            ApiKey.parse(DIGEST, {field: b"1"}, DEFAULT)
        assert str(unreadable.value).isprintable()
        assert 0 < len(str(unreadable.value)) <= 160


def test_fields_for_notes_change_nothing():
    record = {b"x-": b"", b"x-owner": b"Ann", b"x-disabled": b"1", b"x-\xff": b"\xff"}
    assert ApiKey.parse(DIGEST, record, DEFAULT) == parse()


def test_the_field_last_used_at_of_earlier_versions_is_ignored():
    assert parse(last_used_at="2026-07-01T10:00:00Z") == parse()


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        *(("keep", "keep"), ("no-location", "no-location"), ("minimal", "minimal")),
        *(("KEEP", "keep"), (" No-Location ", "no-location"), ("", None)),
    ],
)
def test_the_policy_for_metadata_is_one_of_three_words(text, policy):
    assert parse(metadata=text).metadata == policy


def test_the_id_is_the_start_of_the_digest():
    assert parse().id == DIGEST[:12]


def test_names_may_be_in_any_script():
    assert parse(name=" Журнал 雑誌 ").name == "Журнал 雑誌"


@pytest.mark.parametrize(
    "text",
    [
        "uploader",
        " uploader ",
        "reader uploader",
        "reader,uploader",
        ",,reader ,\t uploader,\n",
        "uploader uploader",
        "\r\nuploader\r\n",
        "reader\vuploader\freader",
        "reader\u00a0uploader",
        "\u3000uploader",
    ],
)
def test_roles_are_names_between_spaces_and_commas(text):
    key = parse(roles=text)
    key.require("uploader")
    assert key.roles <= {"uploader", "reader"}


@pytest.mark.parametrize(
    "text",
    [
        "Uploader",
        "UPLOADER",
        "uploaders",
        "up loader",
        "uploader;reader",
        "uploader\0",
        "\0uploader",
        "uploader\u200b",
        "\ufeffuploader",
        "*",
        "admin",
        ".*",
        "up*",
        '["uploader"]',
        "ｕploader",
    ],
)
def test_only_the_very_name_of_a_role_grants_it(text):
    with pytest.raises(ApiError) as refused:
        parse(roles=text).require("uploader")
    assert refused.value.status == 403


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1/second", Rate(1, 1)),
        ("120/minute", Rate(120, 60)),
        ("5/HOUR", Rate(5, 3600)),
        (" 10 / Day ", Rate(10, 86400)),
        ("007/minute", Rate(7, 60)),
        ("999999999/second", Rate(999_999_999, 1)),
    ],
)
def test_rates_are_a_number_per_one_of_four_words(text, rate):
    assert parse(rate_limit=text).rate == rate


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2027-01-31", utc(2027, 1, 31, 23, 59, 59, 999_999)),
        ("2028-02-29", utc(2028, 2, 29, 23, 59, 59, 999_999)),
        ("2027-01-31T12:00:00Z", utc(2027, 1, 31, 12)),
        ("2027-01-31t12:00:00z", utc(2027, 1, 31, 12)),
        ("2027-01-31 12:00:00Z", utc(2027, 1, 31, 12)),
        ("2027-01-31T12:00:00+02:00", utc(2027, 1, 31, 10)),
        ("2027-01-31T12:00:00-00:30", utc(2027, 1, 31, 12, 30)),
        ("2027-01-31T12:00:00.5Z", utc(2027, 1, 31, 12, 0, 0, 500_000)),
        ("2027-01-31T12:00:00.123456789Z", utc(2027, 1, 31, 12, 0, 0, 123_456)),
        ("2026-12-31T23:59:60Z", utc(2027, 1, 1)),
        (" 2027-01-31 ", utc(2027, 1, 31, 23, 59, 59, 999_999)),
    ],
)
def test_expiry_is_a_date_or_a_date_time_of_rfc_3339(text, moment):
    assert parse(expires_at=text).expires_at == moment


def test_a_key_works_until_its_expiry_and_no_longer():
    key = parse(expires_at="2027-01-31")
    assert key.usable(utc(2027, 1, 31, 23, 59, 59))
    assert not key.usable(utc(2027, 2, 1))
    key = parse(expires_at="2027-01-31T12:00:00Z")
    assert key.usable(utc(2027, 1, 31, 11, 59, 59))
    assert not key.usable(utc(2027, 1, 31, 12))


@pytest.mark.parametrize(
    ("text", "usable"),
    [
        ("0001-01-01", False),
        ("0001-01-01T00:00:00+23:59", False),
        ("9999-12-31", True),
        ("9999-12-31T23:59:59-23:59", True),
    ],
)
def test_the_ends_of_the_calendar_are_dates_like_others(text, usable):
    assert parse(expires_at=text).usable(datetime.now(UTC)) is usable


@pytest.mark.parametrize("text", ["1", "true", "yes", "TRUE", "Yes", " 1 "])
def test_disabled_words_disable(text):
    assert not parse(disabled=text).usable(utc(2027, 1, 1))


@pytest.mark.parametrize("text", ["0", "false", "no", "FALSE", "No", ""])
def test_the_opposite_words_do_not_disable(text):
    assert parse(disabled=text).usable(utc(2027, 1, 1))


UNREADABLE = {
    "rate_limit": [
        *("lots", "maybe", "0/minute", "000/day", "-1/minute", "+1/minute", "1.5/minute"),
        *("1e3/minute", "60", "60/", "/minute", "60/min", "60/minutes", "60 per minute"),
        *("60/minute\0", "60/minute 5", "6 0/minute", "１２/minute", "٣/minute", "0x10/minute"),
        *("60/ſecond", "60/mınute", "60/mİnute", "60\u00a0/minute", "1" * 5000 + "/day"),
    ],
    "expires_at": [
        *("soon", "never", "0", "1798675200", "2027", "2027-01", "20270131", "2027-W05-7"),
        *("2027-02-29", "2027-13-01", "2027-00-10", "0000-01-01", "31.01.2027", "01/31/2027"),
        *("2027-1-31", "+12027-01-31", "12027-01-31", "-2027-01-31", "2027-01-31Z"),
        *("2027-01-31T12:00:00", "2027-01-31T12:00Z", "2027-01-31T12:00:00+0200"),
        *("2027-01-31T25:00:00Z", "2027-01-31T12:61:00Z", "2027-01-31T12:00:00+24:00"),
        *("2027-01-31T12:00:61Z", "2027-01-31T12:00:00+05:60", "9999-12-31T23:59:60Z"),
        *("2027-01-31T12:00:00.Z", "2027-01-31T12:00:00,5Z", "2027-01-31T12:00:00 Z"),
        *("2027-01-31T12:00:00[UTC]", "٢٠٢٧-01-31", "2027-01-31\0", "2027-01-31\n2028-01-31"),
    ],
    "disabled": ["maybe", "2", "01", "on", "off", "null", "-1", "falſe", "no\0", "１"],
    "metadata": ["none", "strip", "no location", "no_location", "keep minimal"],
}
NOT_UTF8 = [b"\xff", b"uploader \xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, text) for field, texts in UNREADABLE.items() for text in texts),
        *((field, data) for field in ("name", "roles", *UNREADABLE) for data in NOT_UTF8),
    ],
    ids=lambda each: ascii(each)[:30],
)
def test_any_other_value_is_unreadable_and_the_error_names_the_field(field, value):
    with pytest.raises(UnreadableError, match=rf"^{field}$"):
        parse(**{field: value})


def test_a_key_of_any_role_is_authenticated(store, redis):
    redis.hset(RECORD, mapping={"name": "CMS", "roles": "reader"})
    assert store.authenticate(KEY).name == "CMS"


@pytest.mark.parametrize("presented", [None, ""])
def test_a_missing_key_has_another_code_than_a_wrong_one(store, presented):
    assert refusal(store, presented) == "missing_api_key"


HOSTILE = [
    *(DIGEST, DIGEST.upper(), RECORD, f"apikey:{KEY}", DIGEST[:12]),
    *("*", "?", "[a-z]*", "apikey:*", f"{DIGEST[:-1]}?", f"{DIGEST[:-1]}*", KEY[:-1] + "*"),
    *(KEY + "\n", "\n" + KEY, KEY + "\r\n", KEY + " ", " " + KEY, KEY + "\t"),
    *(KEY + "\0", "\0" + KEY, "\0", KEY + "\0" + KEY, f"{KEY},{KEY}", f"{KEY}, {KEY}"),
    *(KEY[:-1], KEY + "k", KEY.swapcase(), KEY * 2, "upl_", " ", "\n"),
    *("ключ", "鍵" * 40, "🔑", "ｕpl_" + "k" * 44, KEY + "\u0301", KEY + "\u200b"),
    *("\ud800", "\udfff", "\udcff", KEY + "\udc80", "\ud83d", "\udcc3\udca9"),
    *("k" * 10_240, KEY * 1024, "鍵" * 10_240, "\ud800" * 10_240),
    *("../apikey", "$(id)", "' OR 1=1 --", "\r\nDEL apikey:x\r\n", "__proto__", "null", "0"),
]


@pytest.mark.parametrize("presented", HOSTILE, ids=lambda each: ascii(each)[:30])
def test_nothing_but_the_key_itself_is_accepted_and_nothing_is_written(store, redis, presented):
    redis.hset(RECORD, mapping={"roles": "uploader"})
    before = {name: redis.dump(name) for name in redis.keys()}
    assert refusal(store, presented) == "invalid_api_key"
    assert {name: redis.dump(name) for name in redis.keys()} == before


class Counting:
    """A client that remembers its calls."""

    def __init__(self, redis):
        self.redis = redis
        self.asked = []

    def hgetall(self, name):
        self.asked.append(name)
        return self.redis.hgetall(name)


def test_an_unknown_key_costs_one_read_and_a_key_that_is_too_long_none(redis):
    counting = Counting(redis)
    store = KeyStore(counting, DEFAULT)
    refusal(store, "x" * LONGEST_KEY)
    assert counting.asked == [f"apikey:{digest_of('x' * LONGEST_KEY)}"]
    refusal(store, "x" * (LONGEST_KEY + 1))
    assert len(counting.asked) == 1


def test_a_key_is_read_again_for_each_request(store, redis):
    redis.hset(RECORD, mapping={"roles": "uploader"})
    store.authenticate(KEY)
    redis.hset(RECORD, "disabled", "1")
    assert refusal(store, KEY) == "invalid_api_key"
    redis.hset(RECORD, "disabled", "0")
    store.authenticate(KEY)
    redis.delete(RECORD)
    assert refusal(store, KEY) == "invalid_api_key"


@pytest.mark.parametrize(
    "fields",
    [
        {"disabled": "yes"},
        {"expires_at": "2020-01-01"},
        {"expires_at": f"{datetime.now(UTC) - timedelta(seconds=1):%Y-%m-%dT%H:%M:%SZ}"},
        {"disabled": "perhaps"},
    ],
)
def test_expired_disabled_and_unreadable_keys_look_like_unknown_ones(store, redis, fields):
    redis.hset(RECORD, mapping={"roles": "uploader", **fields})
    with pytest.raises(ApiError) as refused:
        store.authenticate(KEY)
    with pytest.raises(ApiError) as unknown:
        store.authenticate("unknown")
    assert refused.value.problem("id") == unknown.value.problem("id")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("rate_limit", "lots"), ("expires_at", "soon"), ("roles", b"\xff"), ("disabled", "2")),
        *(("metadata", "strip"), ("Disabled", "1"), ("expire_at", "2020-01-01")),
    ],
)
def test_the_log_names_the_id_and_the_field_of_an_unreadable_record(
    store, redis, caplog, field, value
):
    redis.hset(RECORD, mapping={"roles": "uploader", field: value})
    assert refusal(store, KEY) == "invalid_api_key"
    assert [each.levelno for each in caplog.records] == [logging.WARNING]
    assert DIGEST[:12] in caplog.text
    assert f"field {field}" in caplog.text
    assert KEY not in caplog.text
    assert DIGEST not in caplog.text


def wrong_types(redis):
    return {
        "string": lambda: redis.set(RECORD, "roles uploader"),
        "list": lambda: redis.rpush(RECORD, "roles", "uploader"),
        "set": lambda: redis.sadd(RECORD, "roles", "uploader"),
        "sorted set": lambda: redis.zadd(RECORD, {"roles": 1}),
        "stream": lambda: redis.xadd(RECORD, {"roles": "uploader"}),
    }


@pytest.mark.parametrize("kind", ["string", "list", "set", "sorted set", "stream"])
def test_a_record_of_another_type_grants_nothing(store, redis, caplog, kind):
    wrong_types(redis)[kind]()
    assert refusal(store, KEY) == "invalid_api_key"
    assert f"{DIGEST[:12]} cannot be read: it is no hash" in caplog.text


def test_many_records_are_read_as_one_is(redis):
    redis.hset(RECORD, mapping={"roles": "uploader"})
    redis.set("apikey:string", "x")
    digests = ["none", DIGEST, "string"]
    assert read_records(redis, digests) == [{}, {b"roles": b"uploader"}, {}]
    assert read_records(redis, digests) == [read_record(redis, each) for each in digests]
    assert read_records(redis, []) == []


def test_redis_that_is_down_is_a_503(redis):
    redis.server.connected = False
    for call in (
        lambda: KeyStore(redis, DEFAULT).authenticate(KEY),
        lambda: read_records(redis, [DIGEST]),
    ):
        with pytest.raises(ApiError) as refused:
            call()
        assert (refused.value.status, refused.value.code) == (503, "redis_unavailable")


def test_the_digest_is_that_of_sha256sum():
    assert digest_of("abc") == ("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    assert digest_of("ключ") == hashlib.sha256("ключ".encode()).hexdigest()


def test_a_new_key_has_a_prefix_226_bits_and_a_checksum():
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    for key in keys:
        assert re.fullmatch(rf"{KEY_PREFIX}[0-9A-Za-z]{{44}}", key)
        assert not looks_mistyped(key)
    assert 62**38 > 2**226


def test_a_typo_in_a_new_key_is_seen_without_redis():
    key = new_key()
    for place in range(len(KEY_PREFIX), len(key)):
        wrong = "x" if key[place] != "x" else "y"
        assert looks_mistyped(key[:place] + wrong + key[place + 1 :])
    assert looks_mistyped(key[:-1])
    assert looks_mistyped(key + "0")
    assert looks_mistyped(KEY_PREFIX)
    assert not looks_mistyped("a key that was made elsewhere")
