"""Every command line of docs/keys.md and key-care.md, run by bash, with Valkey and with Redis."""

import json
import os
import re
import secrets
import shutil
import subprocess

import pytest

from deploy.local import servers
from tests.pictures import picture
from tests.system.stack import ROOT, Valkey, key_id, record_name, wait_until

PAGE = "".join((ROOT / "docs" / name).read_text() for name in ("keys.md", "key-care.md"))
REDIS = (ROOT / "docs" / "redis.md").read_text()
# The shortest way to a key, for an administrator without the program.
TWO_LINES = """\
key=$(openssl rand -hex 32)
redis-cli HSET "apikey:$(printf %s "$key" | sha256sum | cut -d' ' -f1)" name "Magazine CMS" \
roles "uploader"
"""
NEXT = "--- next line ---"


@pytest.fixture(
    params=[
        pytest.param("valkey", marks=pytest.mark.needs_program("redis-cli")),
        pytest.param("redis", marks=pytest.mark.needs_program("redis-server", "redis-cli")),
    ]
)
def server(request, tmp_path):
    server = Valkey(tmp_path / "server", kind=request.param)
    yield server
    server.kill()


@pytest.fixture
def shell(server, tmp_path):
    """A function that runs lines in one bash, and returns the output of each."""

    def run(lines):
        script = [redis_cli(server.port), *(f"{line}\necho '{NEXT}'" for line in lines)]
        (tmp_path / "key.txt").write_text(secrets.token_hex(32) + "\n")
        for part in ("app", "wsgi.py"):
            if not (tmp_path / part).exists():
                (tmp_path / part).symlink_to(ROOT / part)
        done = subprocess.run(
            ["bash", "-c", "\n".join(script)],
            cwd=tmp_path,
            env=os.environ
            | {"REDIS_URL": server.url, "PATH": f"{servers.SCRIPTS}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,  # some lines of the page end with a status on purpose
        )
        *shown, rest = done.stdout.split(f"{NEXT}\n")
        assert rest == ""
        return shown

    return run


def redis_cli(port):
    """A shell function: redis-cli at the server's port, with the output of a terminal.

    Without a terminal redis-cli prints raw values, as it does in ``$(...)`` on a terminal too.
    """
    program = f"{shutil.which('redis-cli')} -p {port}"
    return (
        f'redis-cli() {{ if [ "$BASH_SUBSHELL" = 0 ]; then {program} --no-raw "$@";'
        f' else {program} "$@"; fi; }}'
    )


def steps(page):
    """The command lines of a page, each with the output that the page gives for it."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(([line[2:]], []))
            elif line.startswith("> "):
                found[-1][0].append(line[2:])
            else:
                found[-1][1].append(line)
    return [("\n".join(typed), "".join(f"{each}\n" for each in shown)) for typed, shown in found]


def alike(text):
    """The text without what differs in each run: keys, ids and times."""
    text = re.sub(r"upl_[0-9A-Za-z]{44}", "<key>", text)
    text = re.sub(r"\b[0-9a-f]{12}\b", "<id>", text)
    return re.sub(r"\b\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\dZ)?", "<time>", text)


def with_usage(line):
    """The line, after today's usage of the page's key was written where the line shows it."""
    counts = "uploads 42 bytes 88080384 rejected 3"
    seed = f'(redis-cli HSET "usage:$id:$(date -u +%Y-%m-%d)" {counts}) > /dev/null; '
    return seed + line if "usage" in line else line


def test_every_line_of_the_pages_runs_and_prints_what_the_page_says(shell):
    page = steps(PAGE)
    shown = shell([with_usage(line) for line, _ in page])
    for (line, said), actual in zip(page, shown, strict=True):
        assert alike(actual) == alike(said), line


def test_the_pages_have_ten_tasks_each_with_redis_cli_and_with_flask():
    tasks = re.split(r"^## \d+\. ", PAGE, flags=re.MULTILINE)[1:]
    assert len(tasks) == 10
    for task in tasks:
        lines = [line for line, _ in steps(task)]
        for program in ("redis-cli", "flask keys"):
            assert any(program in line for line in lines), (program, task)


def test_the_lines_of_the_pages_leave_these_records(shell, server):
    shell([with_usage(line) for line, _ in steps(PAGE)])
    names = set(server.client.scan_iter("apikey:*"))
    assert all(re.fullmatch(rb"apikey:[0-9a-f]{64}", name) for name in names)
    left = sorted(server.client.hget(name, "name").decode() for name in names)
    assert left == [
        *("Magazine CMS", "Picture desk", "Print archive", "Readers' photos", "Web shop"),
    ]


def test_the_two_lines_with_redis_cli_make_a_key_that_uploads(
    shell, server, make_service, seaweedfs, bucket
):
    service = make_service(server.url, seaweedfs.settings(bucket))
    made, key, listed = shell([TWO_LINES, 'echo "$key"', "flask keys list --name Magazine"])
    key = key.strip()
    assert made == "(integer) 2\n"
    assert key_id(key) in listed
    answer = service.upload(picture(), key)
    assert answer.status == 200
    assert answer.json()["data"]["key"].startswith("uploads/")


def test_an_active_key_needs_no_more_memory_than_the_page_says(
    server, make_service, seaweedfs, bucket
):
    service = make_service(server.url, seaweedfs.settings(bucket))
    key = secrets.token_hex(32)
    fields = {"name": "Magazine CMS", "roles": "uploader", "rate_limit": "120/minute"}
    fields |= {"expires_at": "2099-12-31", "metadata": "no-location"}
    server.client.hset(record_name(key), mapping=fields)
    assert service.upload(picture(), key, Idempotency_Key="article-1234").status == 200
    wait_until(lambda: list(server.client.scan_iter("lastused:*")))
    for prefix, most in (
        ("apikey", 248),
        ("ratelimit", 1608),
        ("usage", 152),
        ("lastused", 104),
        ("idempotency", 520),
    ):
        assert f"{most:,}" in REDIS
        (name,) = server.client.scan_iter(f"{prefix}:*")
        assert server.client.memory_usage(name, samples=0) <= most, name


def test_a_key_uploads_again_after_a_redis_that_lost_everything_was_restored(
    shell, server, make_service, seaweedfs, bucket
):
    service = make_service(server.url, seaweedfs.settings(bucket))
    lines = ("flask keys create CMS --role uploader --json", "flask keys export keys.jsonl")
    made, exported = shell(lines)
    key = json.loads(made)["key"]
    assert exported == "1 keys exported.\n"
    server.client.flushall()
    assert service.upload(picture(), key).status == 401
    *_, kept, restored = shell(["flask keys export keys.jsonl", "flask keys import keys.jsonl"])
    assert "nothing was written" in kept
    assert restored.endswith("1 keys read: 1 added.\n")
    assert service.upload(picture(), key).status == 200


def test_redis_cli_and_flask_see_the_changes_that_the_other_made(shell, server):
    *_, first, second = shell(
        [
            "id=$(flask keys create CMS --role uploader --json | cut -d'\"' -f4)",
            'record=$(redis-cli --scan --pattern "apikey:$id*")',
            'redis-cli HSET "$record" disabled yes rate_limit 5/day',
            'flask keys show "$id"',
            'flask keys enable "$id" && redis-cli HGET "$record" disabled',
        ]
    )
    assert re.search(r"^state: +disabled$", first, re.MULTILINE)
    assert re.search(r"^rate limit: +5/day$", first, re.MULTILINE)
    assert second.splitlines()[-1] == '"0"'
