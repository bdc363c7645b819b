import hashlib
import json
import re
from datetime import UTC, datetime, timedelta

import pytest

from app import create_app
from app.config import Config
from app.records.keys import new_key


@pytest.fixture
def run(redis, store):
    app = create_app(Config(log_format="json"), redis=redis, store=store)
    runner = app.test_cli_runner()

    def run(*arguments, status=0, typed=None):
        result = runner.invoke(args=["keys", *arguments], input=typed)
        assert result.exit_code == status, result.output
        assert "Traceback" not in result.output
        return result

    return run


def answer_of(run, *arguments, **options):
    return json.loads(run(*arguments, "--json", **options).stdout)


def digest(key):
    return hashlib.sha256(key.encode()).hexdigest()


def add(redis, key="k" * 40, **fields):
    """Write a record as an administrator does with redis-cli."""
    redis.hset(f"apikey:{digest(key)}", mapping={"name": "Magazine CMS", **fields})
    return digest(key)


def record(redis, key_digest):
    fields = redis.hgetall(f"apikey:{key_digest}")
    return {name.decode(): value.decode() for name, value in fields.items()}


def dump(redis):
    return {name: redis.dump(name) for name in redis.keys()}


def stamp(later):
    return f"{datetime.now(UTC) + later:%Y-%m-%dT%H:%M:%SZ}"


def day(back=0):
    return f"{datetime.now(UTC) - timedelta(days=back):%Y-%m-%d}"


def test_create_prints_the_key_once_and_keeps_only_its_hash(run, redis):
    output = run(
        *("create", "Magazine CMS", "--role", "uploader", "--role", "reader"),
        *("--rate-limit", "120/minute", "--expires-at", "2999-01-31"),
        *("--metadata", "no-location"),
    ).stdout
    key_id, key = re.fullmatch(r"id:  ([0-9a-f]{12})\nkey: (upl_\w{44})\n", output).groups()
    assert digest(key)[:12] == key_id
    assert redis.keys() == [f"apikey:{digest(key)}".encode()]
    assert record(redis, digest(key)) == {
        "name": "Magazine CMS",
        "roles": "uploader reader",
        "rate_limit": "120/minute",
        "expires_at": "2999-01-31",
        "metadata": "no-location",
    }


def test_create_answers_a_script_in_json(run, redis):
    answer = answer_of(run, "create", "CMS", "--role", "uploader")
    assert list(answer) == ["id", "key"]
    assert record(redis, digest(answer["key"])) == {"name": "CMS", "roles": "uploader"}


def test_create_warns_about_a_key_without_a_role(run):
    assert "no role" in run("create", "CMS").stderr
    assert "no role" not in run("create", "CMS", "--role", "uploader").stderr


def test_a_key_without_a_name_is_possible(run, redis):
    key = answer_of(run, "create", "")["key"]
    assert record(redis, digest(key)) == {"name": ""}


def test_create_takes_a_key_from_standard_input_and_does_not_repeat_it(run, redis):
    key = "f" * 64
    output = run("create", "CMS", "--stdin", "--role", "uploader", typed=f"{key}\n").output
    assert key not in output
    assert output == f"id:  {digest(key)[:12]}\n"
    assert record(redis, digest(key)) == {"name": "CMS", "roles": "uploader"}


def test_create_does_not_change_an_existing_key(run, redis):
    add(redis, "f" * 64, roles="reader")
    before = dump(redis)
    output = run("create", "X", "--stdin", "--role", "uploader", typed="f" * 64, status=1).output
    assert "there already" in output
    assert dump(redis) == before


def test_create_refuses_a_key_whose_id_another_key_has(run, redis):
    shared = digest("f" * 64)[:12]
    redis.hset(f"apikey:{shared}{'0' * 52}", mapping={"roles": "uploader"})
    before = dump(redis)
    output = run("create", "X", "--stdin", "--role", "uploader", typed="f" * 64, status=1).output
    assert f"Another key has the id {shared}" in output
    assert dump(redis) == before


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("", "32 to 1024"),
        ("\n", "32 to 1024"),
        ("short", "32 to 1024"),
        ("x" * 1025, "32 to 1024"),
        ("upl_" + "0" * 44, "checksum"),
        ("ключ" * 10, "ASCII"),
        ("two words " * 10, "ASCII"),
        ("x" * 40 + "\0", "ASCII"),
        (b"\xff" * 40, "ASCII"),
    ],
)
def test_create_refuses_keys_that_no_client_could_send(run, redis, typed, says):
    output = run("create", "CMS", "--stdin", typed=typed, status=1).output
    assert says in output
    assert redis.keys() == []


@pytest.mark.parametrize(
    "option",
    [
        ("--rate-limit", "lots"),
        ("--rate-limit", "0/minute"),
        ("--expires-at", "soon"),
        ("--expires-at", "2027-02-29"),
    ],
)
def test_create_refuses_values_that_the_service_could_not_read(run, redis, option):
    assert "must be like" in run("create", "CMS", *option, status=2).output
    assert redis.keys() == []


def test_list_shows_the_keys_by_name(run, redis):
    add(redis, "a" * 40, name="Web shop", roles="uploader", rate_limit="5/day")
    add(redis, "b" * 40, name="archive", roles="reader,uploader", expires_at="2020-01-01")
    add(redis, "c" * 40, name="Magazine", disabled="yes", metadata="Minimal")
    redis.set(f"lastused:{digest('c' * 40)[:12]}", "2026-07-01T10:00:00Z")
    redis.hset(f"usage:{digest('a' * 40)[:12]}:{day()}", "uploads", 7)
    lines = run("list").stdout.splitlines()
    headings = "NAME ID ROLES RATE METADATA EXPIRES LAST USED TODAY STATE"
    ids = [digest(letter * 40)[:12] for letter in "bca"]
    assert [" ".join(line.split()) for line in lines] == [
        headings,
        f"archive {ids[0]} reader uploader 60/minute keep 2020-01-01 0 expired",
        f"Magazine {ids[1]} 60/minute minimal 2026-07-01T10:00:00Z 0 disabled",
        f"Web shop {ids[2]} uploader 5/day keep 7 good",
    ]


def test_list_finds_by_name_and_by_role(run, redis):
    add(redis, "a" * 40, name="Web shop", roles="uploader")
    add(redis, "b" * 40, name="Magazine", roles="reader uploader")
    add(redis, "c" * 40, name="Webcam", roles="uploaders")

    def names(*options):
        return [row["name"] for row in answer_of(run, "list", *options)]

    assert names() == ["Magazine", "Web shop", "Webcam"]
    assert names("--name", "WEB") == ["Web shop", "Webcam"]
    assert names("--role", "uploader") == ["Magazine", "Web shop"]
    assert names("--name", "web", "--role", "uploader") == ["Web shop"]
    assert names("--name", "*") == []
    assert "No keys." in run("list", "--name", "nobody").stderr


def test_list_reads_more_keys_than_one_round_trip_holds(run, redis):
    for number in range(1201):
        add(redis, f"{number:040}", name=f"{number:04}")
    rows = answer_of(run, "list")
    assert [row["name"] for row in rows] == [f"{number:04}" for number in range(1201)]


def test_list_shows_unreadable_records_and_skips_other_names(run, redis):
    add(redis, "a" * 40, name="A", rate_limit="lots")
    add(redis, "b" * 40, name=b"B\xff")
    redis.set(f"apikey:{digest('c' * 40)}", "text")
    redis.set("apikey:plain", "text")
    redis.set(b"apikey:\xff", "text")
    states = {row["name"]: row["state"] for row in answer_of(run, "list")}
    assert states == {
        "A": "unreadable: rate_limit",
        "B\N{REPLACEMENT CHARACTER}": "unreadable: name",
        "": "unreadable: not a hash",
    }


def test_tables_hold_no_characters_that_move_the_cursor(run, redis):
    key_digest = add(redis, name="\x1b[2J\rA\nB", roles="\x1b]0;x\x07")
    redis.set(f"lastused:{key_digest[:12]}", "\x1b[1A")
    for arguments in (["list"], ["show", key_digest[:12]], ["delete", key_digest, "--yes"]):
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", run(*arguments).output)


def test_show_prints_every_field_of_a_key(run, redis):
    key_digest = add(redis, roles="uploader", rate_limit="5/day", expires_at="2999-01-31")
    assert run("show", key_digest[:12]).stdout.splitlines() == [
        "name:          Magazine CMS",
        f"id:            {key_digest[:12]}",
        "roles:         uploader",
        "rate limit:    5/day",
        "metadata:      keep",
        "expires at:    2999-01-31",
        "last used at:",
        "uploads today: 0",
        "state:         good",
    ]
    assert answer_of(run, "show", key_digest[:12]) == answer_of(run, "list")[0]


def test_ids_may_be_shortened_as_long_as_they_are_unique(run, redis):
    digests = {add(redis, f"{number:040}", name=f"{number}") for number in range(30)}
    one = min(digests)
    shortest = next(
        one[:length]
        for length in range(1, 65)
        if sum(each.startswith(one[:length]) for each in digests) == 1
    )
    for key_id in (shortest, one[:12], one):
        assert answer_of(run, "show", key_id)["id"] == one[:12]
    heads = [each[0] for each in digests]
    shared = max(heads, key=heads.count)
    says = f"{heads.count(shared)} keys have ids that start with {shared}."
    assert says in run("show", shared, status=1).output


@pytest.mark.parametrize("key_id", ["*", "?", "", "[0-9]", "xyz", "0" * 65, "0\n", "ABC", "é"])
@pytest.mark.parametrize("command", ["show", "disable", "enable", "rotate", "delete", "usage"])
def test_an_id_is_hex_digits_and_nothing_else(run, redis, command, key_id):
    add(redis)
    before = dump(redis)
    assert "digits 0-9 and a-f" in run(command, key_id, status=1).output
    assert dump(redis) == before


@pytest.mark.parametrize("command", ["show", "disable", "enable", "rotate", "delete", "usage"])
def test_an_unknown_id_is_an_error(run, redis, command):
    redis.set("apikey:0123 a plain key put in by mistake", "x")
    redis.set(b"apikey:0123\xff", "x")
    assert "No key has the id 0123" in run(command, "0123", status=1).output


def test_disable_and_enable_change_what_redis_cli_made(run, redis):
    key_digest = add(redis, roles="uploader")
    run("disable", key_digest[:12])
    assert record(redis, key_digest)["disabled"] == "1"
    assert answer_of(run, "show", key_digest[:12])["state"] == "disabled"
    redis.hset(f"apikey:{key_digest}", "disabled", "no")
    assert answer_of(run, "show", key_digest[:12])["state"] == "good"
    redis.hset(f"apikey:{key_digest}", "disabled", "yes")
    run("enable", key_digest[:12])
    assert answer_of(run, "show", key_digest[:12])["state"] == "good"


def test_rotate_makes_a_successor_and_lets_the_old_key_expire(run, redis):
    old = add(redis, roles="uploader,reader", rate_limit="5/day", last_used_at=stamp(-timedelta(1)))
    earliest = stamp(timedelta(hours=24))
    answer = answer_of(run, "rotate", old[:12])
    expected = {"name": "Magazine CMS", "roles": "uploader,reader", "rate_limit": "5/day"}
    assert record(redis, digest(answer["key"])) == expected
    expires_at = record(redis, old)["expires_at"]
    assert earliest <= expires_at <= stamp(timedelta(hours=24))


def test_rotate_copies_all_fields_but_disabled_and_last_used_at(run, redis):
    fields = {"name": "CMS", "roles": "uploader", "metadata": "minimal", "x-owner": "Ann"}
    old = add(redis, **fields, disabled="no", rate_limit="")
    assert record(redis, digest(answer_of(run, "rotate", old[:12])["key"])) == fields


@pytest.mark.parametrize(
    ("overlap", "later"),
    [
        ("30m", timedelta(minutes=30)),
        ("2h", timedelta(hours=2)),
        ("7d", timedelta(days=7)),
        ("0m", timedelta()),
    ],
)
def test_rotate_takes_the_overlap(run, redis, overlap, later):
    old, earliest = add(redis), stamp(later)
    run("rotate", old[:12], "--overlap", overlap)
    assert earliest <= record(redis, old)["expires_at"] <= stamp(later)


@pytest.mark.parametrize("overlap", ["", "soon", "24", "-1h", "1w", "1.5h", "1 h", "٣h"])
def test_rotate_refuses_any_other_overlap(run, redis, overlap):
    old = add(redis)
    assert "must be like" in run("rotate", old[:12], "--overlap", overlap, status=2).output
    assert len(redis.keys()) == 1


def test_rotate_gives_the_successor_the_expiry_and_never_prolongs_the_old_key(run, redis):
    soon = stamp(timedelta(hours=1))
    old = add(redis, expires_at=soon)
    key = answer_of(run, "rotate", old[:12])["key"]
    assert record(redis, old)["expires_at"] == soon
    assert record(redis, digest(key))["expires_at"] == soon


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"roles": b"uploader \xff"}, "unreadable: roles"),
        ({"disabled": "maybe"}, "unreadable: disabled"),
        ({"disabled": "yes"}, "disabled"),
        ({"expires_at": "2020-01-01"}, "expired"),
    ],
)
def test_rotate_gives_no_successor_to_a_key_that_is_not_good(run, redis, fields, state):
    old = add(redis, **fields)
    before = dump(redis)
    assert f"is {state}" in run("rotate", old[:12], status=1).output
    assert dump(redis) == before


def test_rotate_does_not_touch_a_name_that_is_not_a_hash(run, redis):
    redis.set(f"apikey:{digest('a')}", "text")
    assert "not a hash" in run("rotate", digest("a")[:12], status=1).output
    assert len(redis.keys()) == 1


def test_disable_does_not_touch_a_name_that_is_not_a_hash(run, redis):
    redis.set(f"apikey:{digest('a')}", "text")
    assert "not a hash" in run("disable", digest("a")[:12], status=1).output


def test_a_usage_record_written_by_hand_does_not_stop_the_list(run, redis):
    one, other = add(redis, "a" * 40), add(redis, "b" * 40)
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    redis.set(f"usage:{one[:12]}:{day}", "text")
    redis.hset(f"usage:{other[:12]}:{day}", mapping={"uploads": "many", "bytes": 5})
    assert len(answer_of(run, "list")) == 2
    assert answer_of(run, "usage", other[:12])[0]["bytes"] == 5


def test_create_warns_about_an_empty_role(run):
    assert "has no role" in run("create", "CMS", "--role", "").output


def test_delete_asks_first(run, redis):
    key_digest = add(redis)
    refused = run("delete", key_digest[:12], typed="n\n", status=1)
    assert "Magazine CMS" in refused.output
    assert redis.exists(f"apikey:{key_digest}")
    redis.set(f"lastused:{key_digest[:12]}", "2026-07-01T10:00:00Z")
    run("delete", key_digest[:12], typed="y\n")
    assert redis.keys() == []


def test_delete_does_not_ask_a_script(run, redis):
    key_digest = add(redis)
    assert run("delete", key_digest[:12], "--yes").stdout == f"{key_digest[:12]}: deleted\n"
    assert redis.keys() == []


def test_check_finds_nothing_wrong_with_good_keys(run, redis):
    add(redis, "a" * 40, roles="uploader", expires_at="2999-01-31")
    assert run("check").stdout == "All records can be read.\n"


def test_check_warns_about_keys_that_expire_soon_or_have_no_role(run, redis):
    expires_at = stamp(timedelta(days=3))
    soon = add(redis, "a" * 40, roles="uploader", expires_at=expires_at)
    none = add(redis, "b" * 40)
    lines = set(run("check").stdout.splitlines())
    assert lines == {
        f"warning: {soon[:12]}: expires soon, at {expires_at}",
        f"warning: {none[:12]}: no roles: every upload is refused",
        "All records can be read.",
    }


def test_check_finds_unreadable_records_and_plain_keys(run, redis):
    plain = new_key()
    redis.hset(f"apikey:{plain}", mapping={"roles": "uploader"})
    redis.set("apikey:\x1b[2J", "x")
    redis.set(f"apikey:{digest('string')}", "x")
    wrong = add(redis, rate_limit="lots")
    mistyped = add(redis, "m" * 40, roles="uploader", Disabled="1")
    good = add(redis, "g" * 40, **{"roles": "uploader", "x-owner": "Ann", "metadata": "Minimal"})
    output = run("check", status=1).stdout
    assert f"error: {wrong[:12]}: the field rate_limit cannot be read" in output
    assert f"error: {mistyped[:12]}: the field Disabled is not known" in output
    assert f"error: {digest('string')[:12]}: not a hash" in output
    assert "error: apikey:upl_…: not a SHA-256" in output
    assert output.count("not a SHA-256") == 2
    assert good[:12] not in output
    assert plain not in output
    assert "\x1b" not in output


def test_check_finds_ids_that_two_keys_share(run, redis):
    good = add(redis, "g" * 40, roles="uploader")
    for rest in ("0", "1", "2"):
        redis.hset(f"apikey:0123456789ab{rest * 52}", mapping={"roles": "uploader"})
    for number in range(1000):  # more than one batch
        add(redis, f"{number:040}", roles="uploader")
    output = run("check", status=1).stdout
    assert output == "error: 0123456789ab: 3 keys have this id, and share rate and usage\n"
    assert good[:12] not in output


def test_check_counts_a_name_that_scan_returns_twice_once(run, redis, monkeypatch):
    add(redis, roles="uploader")
    names = list(redis.scan_iter()) * 2
    monkeypatch.setattr(redis, "scan_iter", lambda **_: iter(names))
    assert run("check").stdout == "All records can be read.\n"


def test_check_shows_the_expiry_in_utc(run, redis):
    noon = datetime.now(UTC).replace(hour=12, minute=0, second=0) + timedelta(days=3)
    add(redis, roles="uploader", expires_at=f"{noon:%Y-%m-%dT%H:%M:%S}+02:00")
    assert f"expires soon, at {noon:%Y-%m-%d}T10:00:00Z" in run("check").stdout


def test_usage_prints_one_line_per_day(run, redis):
    key_digest = add(redis)
    for back, uploads in ((0, 3), (2, 5), (40, 9)):
        name = f"usage:{key_digest[:12]}:{day(back)}"
        redis.hset(name, mapping={"uploads": uploads, "bytes": 1000, "rejected": 1})
    rows = answer_of(run, "usage", key_digest[:12])
    assert rows == [
        {"day": day(back), "uploads": uploads} | {"bytes": 1000, "rejected": 1, "rate_limited": 0}
        for back, uploads in ((0, 3), (2, 5))
    ]
    assert len(answer_of(run, "usage", key_digest[:12], "--days", "90")) == 3
    lines = run("usage", key_digest[:12]).stdout.splitlines()
    assert lines[0].split() == ["DAY", "UPLOADS", "BYTES", "REJECTED", "RATE", "LIMITED"]
    assert lines[1].split() == [day(), "3", "1000", "1", "0"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "CMS"),
        ("list",),
        ("check",),
        *((command, "abc") for command in ("show", "disable", "enable", "rotate", "usage")),
        ("delete", "abc", "--yes"),
    ],
)
def test_redis_that_is_down_is_one_line_and_exit_status_1(run, server, arguments):
    server.connected = False
    output = run(*arguments, status=1).output
    assert output.startswith("Error: Temporarily unavailable: ")
    assert output.count("\n") == 1


def test_output_that_is_no_terminal_has_no_colours(run, redis):
    add(redis, disabled="1", rate_limit="lots")
    for arguments, status in ((["list"], 0), (["check"], 1), (["create", "CMS"], 0)):
        assert "\x1b" not in run(*arguments, status=status).output
