"""Objects in a store that a stand-in plays: what proves a PUT, and what a failure means."""

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import unquote

import pytest

from app.config import Config
from app.errors import ApiError
from app.store.breaker import Breaker
from app.store.bucket import ImageStore, OutcomeUnknown, StoredObject, encode_filename
from tests.system.stand_ins import LoginPage, Slowly, Store, s3_error


def image(data=b"a picture"):
    digest = hashlib.sha256(data).hexdigest()
    metadata = {"sha256": digest}
    return StoredObject("uploads/x.png", (data,), "image/png", digest, metadata)


def soon(seconds=20):
    return time.monotonic() + seconds


def refuse_puts(server, answer):
    server.refuse = lambda method, *_: answer if method == "PUT" else None


def put_three_times(server, store):
    """How many requests of each kind the server gets for three uploads."""
    for _ in range(3):
        store.put(image(), soon())
    return {"PUT": server.count("PUT"), "HEAD": server.count("HEAD")}


def connected(server):
    return ImageStore(Config.from_env(server.settings()))


def refused(store, seconds=20):
    """The code and the cause of a PUT that certainly left no object."""
    with pytest.raises(ApiError) as refusal:
        store.put(image(), soon(seconds))
    return refusal.value.code, refusal.value.cause


@pytest.fixture
def server():
    with Store() as server:
        yield server


def test_an_object_is_stored_byte_for_byte(server):
    connected(server).put(image(), soon())
    assert server.objects["uploads/x.png"][0] == b"a picture"


def test_only_the_first_object_of_a_process_is_looked_at(server):
    assert put_three_times(server, connected(server)) == {"PUT": 3, "HEAD": 1}


def test_a_store_that_echoes_no_checksum_is_believed_for_the_md5(server):
    server.echoes_checksum = False
    assert put_three_times(server, connected(server)) == {"PUT": 3, "HEAD": 1}


def test_an_object_whose_etag_is_not_its_md5_is_looked_at_each_time(server):
    """A store that encrypts answers so, for example: that alone proves nothing."""

    def answer(method, key, headers, body):
        if method != "PUT":
            return None
        server._put(key, headers, body)
        return 200, {"ETag": '"0123456789abcdef0123456789abcdef"'}, b""

    server.refuse = answer
    assert put_three_times(server, connected(server)) == {"PUT": 3, "HEAD": 3}


def test_a_login_page_is_no_store():
    with LoginPage() as server:
        store = connected(server)
        assert store.check() == "not an answer of an S3 store"
        with pytest.raises(OutcomeUnknown, match="not an answer of an S3 store"):
            store.put(image(), soon())
        with pytest.raises(ApiError):
            store.ensure_open()


@pytest.mark.parametrize("otherwise", [200, 404])
def test_a_server_that_repeats_the_headers_of_a_request_is_no_store(server, otherwise):
    """Servers for debugging do so: the checksum comes back, too."""

    def echo(method, key, headers, body):
        return (
            (200 if method == "PUT" else otherwise),
            {**dict(headers), "Content-Length": "0"},
            b"",
        )

    server.refuse = echo
    with pytest.raises(OutcomeUnknown, match="not an answer of an S3 store"):
        connected(server).put(image(), soon())


def test_a_store_that_loses_an_object_is_found_out(server):
    def forget(method, key, headers, body):
        answer = server._put(key, headers, body) if method == "PUT" else None
        server.objects.clear()
        return answer

    server.refuse = forget
    with pytest.raises(OutcomeUnknown):
        connected(server).put(image(), soon())


def test_another_checksum_than_the_one_sent_is_no_success(server):
    store = connected(server)
    store.put(image(), soon())
    wrong = {"x-amz-checksum-sha256": "x", "ETag": '"x"'}
    refuse_puts(server, (200, wrong, b""))
    server.objects.clear()
    with pytest.raises(OutcomeUnknown):
        store.put(image(), soon())


TOO_LARGE = (413, {"Content-Type": "text/html"}, b"<h1>413 Request Entity Too Large</h1>")


@pytest.mark.parametrize(
    ("refusal", "cause"),
    [
        (TOO_LARGE, "object refused: too large for a proxy in between"),
        (s3_error(400, "EntityTooLarge"), "object refused: too large for the store"),
        (s3_error(400, "InvalidArgument"), "object refused: InvalidArgument"),
        (s3_error(400, "XMinioAdminBucketQuotaExceeded"), "quota used up"),
        (s3_error(403, "QuotaExceeded"), "quota used up"),
    ],
    ids=["proxy", "store", "argument", "quota", "quota of another"],
)
def test_a_refused_object_is_503_once_and_others_are_stored(server, refusal, cause, caplog):
    store = connected(server)
    refuse_puts(server, refusal)
    for _ in range(5):
        store.ensure_open()
        assert refused(store) == ("storage_unavailable", cause)
    assert server.count("PUT") == 5, "an object that was refused is not tried again"
    assert {record.levelname for record in caplog.records} == {"CRITICAL"}
    server.refuse = lambda *_: None
    store.ensure_open()
    store.put(image(), soon())


@pytest.mark.parametrize(
    "refusal", [s3_error(403, "AccessDenied"), s3_error(503, "SlowDown")], ids=["setup", "passing"]
)
def test_a_failure_that_every_put_would_meet_opens_the_breaker(server, refusal):
    store = connected(server)
    refuse_puts(server, refusal)
    for _ in range(3):
        store.ensure_open()
        with pytest.raises((ApiError, OutcomeUnknown)):
            store.put(image(), soon())
    with pytest.raises(ApiError) as closed:
        store.ensure_open()
    assert closed.value.cause.startswith("known to be down: ")


def test_a_put_that_has_no_time_left_is_not_sent_and_is_not_the_stores_fault(server):
    store = connected(server)
    store.put(image(), soon())
    for _ in range(5):
        assert refused(store, seconds=0.5) == ("overloaded", "no time is left to store it")
    assert server.count("PUT") == 1
    assert store.breaker.fresh()


@pytest.mark.thorough
def test_a_put_that_runs_out_of_its_upload_s_time_is_not_the_stores_fault(server):
    def slowly(method, *_):
        if method == "PUT":
            time.sleep(1.3)
            return s3_error(503, "SlowDown")
        return None

    server.refuse = slowly
    store = connected(server)
    for _ in range(3):
        with pytest.raises((ApiError, OutcomeUnknown)):
            store.put(image(), soon(1.1))
    assert not store.breaker.open


def test_a_store_that_may_write_and_not_read_is_believed(server, caplog):
    server.refuse = lambda method, *_: s3_error(403, "AccessDenied") if method != "PUT" else None
    assert put_three_times(server, connected(server)) == {"PUT": 3, "HEAD": 1}
    assert "could not be looked at: access denied" in caplog.text


UNKNOWN_HEADER = s3_error(400, "InvalidArgument", "Unsupported header 'x-amz-checksum-sha256'")


@pytest.mark.parametrize(
    "refusal", [UNKNOWN_HEADER, s3_error(501, "NotImplemented")], ids=["400", "501"]
)
def test_a_store_that_refuses_the_checksum_gets_none_from_then_on(server, refusal, caplog):
    def refuse(method, key, headers, body):
        return refusal if "x-amz-checksum-sha256" in headers else None

    server.refuse, server.echoes_checksum = refuse, False
    store = connected(server)
    assert put_three_times(server, store) == {"PUT": 4, "HEAD": 1}
    assert caplog.text.count("PUTs are sent without it from now on") == 1
    assert store.breaker.fresh()


def test_damaged_bytes_are_not_taken_for_an_unknown_header(server):
    damaged = s3_error(400, "XAmzContentChecksumMismatch", "The SHA256 checksum does not match")
    refuse_puts(server, damaged)
    assert refused(connected(server)) == (
        "storage_unavailable",
        "object refused: XAmzContentChecksumMismatch",
    )
    assert server.count("PUT") == 1


@pytest.mark.parametrize(
    ("refusal", "cause"),
    [
        (s3_error(403, "AccessDenied"), "access denied"),
        (s3_error(507, "XMinioStorageFull"), "disk full"),
        (s3_error(400, "XMinioAdminBucketQuotaExceeded"), "quota used up"),
        (s3_error(400, "KMS.DisabledException"), "encryption key not usable"),
        (s3_error(403, "AllAccessDisabled"), "account suspended"),
    ],
    ids=["rights", "disk", "quota", "key", "account"],
)
def test_the_store_is_not_ready_from_a_refused_put_until_one_works(server, refusal, cause, caplog):
    store = connected(server)
    refuse_puts(server, refusal)
    assert store.ready() is None
    with pytest.raises((ApiError, OutcomeUnknown)):
        store.put(image(), soon())
    assert store.ready() == cause
    assert "CRITICAL" in {record.levelname for record in caplog.records}
    server.refuse = lambda *_: None
    store.put(image(), soon())
    assert store.ready() is None


def test_a_process_that_gets_no_uploads_finds_out_by_itself_that_puts_work_again(server):
    store = connected(server)
    refuse_puts(server, s3_error(403, "AccessDenied"))
    for _ in range(3):
        refused(store)
    sent = server.count("PUT")
    assert [store.ready() for _ in range(3)] == ["access denied"] * 3
    assert server.count("PUT") == sent + 1, "one rehearsal in ten seconds"
    server.refuse = lambda *_: None
    store._next_rehearsal = 0
    assert store.ready() is None
    assert store.breaker.fresh()
    assert server.objects == {}


@pytest.mark.parametrize(
    "refusal", [TOO_LARGE, s3_error(403, "QuotaExceeded")], ids=["too large", "quota"]
)
def test_files_refused_for_themselves_leave_the_store_ready(server, refusal):
    def too_large(method, key, headers, body):
        return refusal if method == "PUT" and len(body) > 1000 else None

    server.refuse = too_large
    store = connected(server)
    for _ in range(3):
        with pytest.raises(ApiError):
            store.put(image(b"x" * 2000), soon())
        assert store.ready() is None
    assert server.count("PUT") == 4, "one rehearsal in ten seconds"


def test_a_store_that_refuses_every_file_for_itself_is_not_ready(server):
    store = connected(server)
    refuse_puts(server, TOO_LARGE)
    refused(store)
    assert store.ready() == "object refused: too large for a proxy in between"


def test_a_rehearsal_takes_its_version_away(server):
    server.versioned = True
    assert connected(server).rehearse("uploads/.x", 5) == ""
    assert server.versions == {}


def test_a_rehearsal_that_cannot_delete_says_so_and_hides_what_it_wrote(server):
    def locked(method, key, headers, body):
        return s3_error(403, "AccessDenied") if method == "DELETE" and "?" in key else None

    server.versioned, server.refuse = True, locked
    assert connected(server).rehearse("uploads/.x", 5) == "access denied"
    assert list(server.versions) == ["1"]
    assert server.objects == {}


@pytest.mark.thorough
def test_eight_puts_at_once_and_the_ninth_waits_for_its_turn(server):
    server.refuse = Slowly(0.2, "PUT")
    store = connected(server)
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda _: store.put(image(), soon()), range(20)))
    assert server.refuse.most == 8


def test_a_put_whose_turn_does_not_come_in_time_is_overloaded(server):
    going = threading.Event()
    server.refuse = lambda method, *_: going.wait(5) and None
    store = connected(server)
    with ThreadPoolExecutor(8) as pool:
        others = [pool.submit(store.put, image(), soon()) for _ in range(8)]
        try:
            while server.count("PUT") < 8:
                time.sleep(0.01)
            assert refused(store, seconds=1.2) == ("overloaded", "no time is left to store it")
        finally:
            going.set()
        assert [each.result() for each in others] == [None] * 8


@pytest.mark.thorough
def test_puts_that_wait_for_a_dead_store_are_not_let_in_one_by_one(server):
    def slowly(method, *_):
        if method == "PUT":
            time.sleep(0.5)
            return s3_error(503, "SlowDown")
        return s3_error(503, "SlowDown")

    server.refuse = slowly
    store = connected(server)

    def attempt(_):
        with pytest.raises((ApiError, OutcomeUnknown)):
            store.put(image(), soon())

    with ThreadPoolExecutor(24) as pool:
        list(pool.map(attempt, range(24)))
    assert server.count("PUT") < 24, "eight with a second try each, and few others"


def test_a_store_that_answers_but_cannot_be_written_is_refused_before_the_body(server, clock):
    store = connected(server)
    store.breaker = Breaker(clock)
    for _ in range(3):
        store.ensure_open()
        store.breaker.failed("disk full")
    with pytest.raises(ApiError) as refusal:
        store.ensure_open()
    assert refusal.value.code == "storage_unavailable"
    clock.now += 2
    store.ensure_open()  # the probe, which is to put


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("photo.png", "photo.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\photo.png", "photo.png"),
        ("Über uns.png", "%C3%9Cber%20uns.png"),
        ("a\r\nb", "a%0D%0Ab"),
        ("dir/", ""),
        ("\udcff", "%3F"),
    ],
)
def test_the_last_path_component_is_percent_encoded(sent, stored):
    assert encode_filename(sent) == stored


@pytest.mark.parametrize("character", ["a", "é", "漢", "😀"])
def test_a_long_name_is_cut_between_characters(character):
    encoded = encode_filename(character * 300)
    assert 243 < len(encoded) <= 255
    assert set(unquote(encoded)) == {character}
