"""``flask keys export`` and ``import``: the same records come back, and none is lost."""

import json

import pytest

from app import create_app
from app.config import Config
from tests.fakes import DIGEST, ID, KEY, RECORD

OTHER = "ab" * 32


@pytest.fixture
def run(redis, store):
    runner = create_app(Config(), redis=redis, store=store).test_cli_runner()

    def run(*arguments, status=0):
        result = runner.invoke(args=["keys", *map(str, arguments)])
        assert result.exit_code == status, result.output
        assert "Traceback" not in result.output
        return result

    return run


@pytest.fixture
def records(redis):
    redis.hset(RECORD, mapping={"name": "Magazine CMS", "roles": "uploader", "disabled": "1"})
    redis.hset(f"apikey:{OTHER}", mapping={"name": b"Stra\xdfe", "rate_limit": "lots", "x-n": "é"})
    return dump(redis)


def dump(redis):
    return {name: redis.hgetall(name) for name in redis.keys("apikey:*")}


def test_an_import_restores_every_exported_record(run, redis, records, tmp_path):
    file = tmp_path / "keys.jsonl"
    assert run("export", file).stderr == "2 keys exported.\n"
    redis.flushall()
    imported = run("import", file)
    assert dump(redis) == records
    assert set(imported.stdout.splitlines()) == {f"{ID}: added", f"{OTHER[:12]}: added"}
    assert imported.stderr == "2 keys read: 2 added.\n"


def test_standard_output_has_the_same_lines(run, records, tmp_path):
    run("export", tmp_path / "file")
    assert run("export").stdout == (tmp_path / "file").read_text()


def test_an_export_is_json_lines_that_only_their_owner_reads_and_without_a_key(
    run, records, tmp_path
):
    file = tmp_path / "keys.jsonl"
    run("export", file)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {line["record"] for line in lines} == {RECORD, f"apikey:{OTHER}"}
    assert file.stat().st_mode & 0o777 == 0o600
    assert KEY not in file.read_text()


def test_a_plain_key_put_in_by_mistake_is_not_exported(run, redis, records):
    redis.hset(f"apikey:{KEY}", "name", "by mistake")
    redis.set(f"apikey:{'cd' * 32}", "no hash")
    exported = run("export")
    assert KEY not in exported.output
    assert len(exported.stdout.splitlines()) == 2


def test_an_export_without_a_record_keeps_the_old_file(run, redis, records, tmp_path):
    file = tmp_path / "keys.jsonl"
    run("export", file)
    good = file.read_bytes()
    redis.flushall()
    refused = run("export", file, status=1)
    assert "no key to export" in refused.stderr
    assert file.read_bytes() == good
    assert list(tmp_path.iterdir()) == [file]


def test_an_export_that_breaks_off_keeps_the_old_file(run, redis, server, records, tmp_path):
    file = tmp_path / "keys.jsonl"
    file.write_text("last night")
    server.connected = False
    run("export", file, status=1)
    assert file.read_text() == "last night"
    assert list(tmp_path.iterdir()) == [file]


def test_a_second_import_changes_nothing(run, records, redis, tmp_path):
    run("export", tmp_path / "f")
    imported = run("import", tmp_path / "f")
    assert (imported.stdout, imported.stderr) == ("", "2 keys read: nothing to change.\n")
    assert dump(redis) == records


def test_a_record_that_differs_is_reported_and_replaced_only_on_request(
    run, redis, records, tmp_path
):
    redis.hdel(RECORD, "disabled")
    run("export", tmp_path / "f")
    redis.hset(RECORD, mapping={"disabled": "1", "roles": "reader"})
    told = run("import", tmp_path / "f")
    assert told.stdout == f"{ID}: left as it is, differs in disabled, roles\n"
    assert redis.hget(RECORD, "disabled") == b"1"
    replaced = run("import", tmp_path / "f", "--replace")
    assert replaced.stdout == f"{ID}: replaced, differs in disabled, roles\n"
    assert redis.hgetall(RECORD) == {b"name": b"Magazine CMS", b"roles": b"uploader"}


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "7",
        "{}",
        json.dumps({"record": RECORD, "fields": {}}),
        json.dumps({"record": RECORD, "fields": {"name": 7}}),
        json.dumps({"record": RECORD, "fields": ["name"]}),
        json.dumps({"record": RECORD, "fields": {"name": "\ud800"}}),
        json.dumps({"record": f"apikey:{KEY}", "fields": {"name": "a"}}),
        json.dumps({"record": DIGEST, "fields": {"name": "a"}}),
        "[" * 100_000,
    ],
)
def test_a_file_with_an_unreadable_line_changes_nothing(run, redis, tmp_path, line):
    good = json.dumps({"record": f"apikey:{OTHER}", "fields": {"name": "a"}})
    (tmp_path / "f").write_text(f"{good}\n{line}\n")
    refused = run("import", tmp_path / "f", status=1)
    assert "line 2 is not the record of a key; nothing was changed" in refused.stderr
    assert redis.keys() == []


def test_records_of_several_round_trips_are_all_restored(run, redis, tmp_path):
    for number in range(1201):
        redis.hset(f"apikey:{number:064x}", "name", str(number))
    before = dump(redis)
    run("export", tmp_path / "f")
    redis.flushall()
    run("import", tmp_path / "f")
    assert dump(redis) == before
