"""The pages for people: short, of 100 columns at most, with links and facts that are right."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from app.config import Config
from app.intake.buffers import ROOM_SECONDS
from app.intake.connection import (
    HEAD_BYTES,
    HEAD_SECONDS,
    LINGER_BYTES,
    SEND_SECONDS,
)
from app.intake.input import MOST_CHUNKS
from app.ops.memory import WHOLE
from app.records.client import CALL_SECONDS, CALLS_AT_ONCE
from app.service import LARGE_FILE, LARGE_OF_A_KEY, SMALL_OF_A_KEY
from app.store.bucket import PUTS_AT_ONCE
from app.store.client import CHECK_SECONDS
from app.wiring import create_app

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
GUIDES = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, *GUIDES]
LINKED = [*PAGES, *ROOT.glob("[CS]*.md"), ROOT / "bench" / "README.md"]
FOLDERS = ("app", "bench", "deploy", "tests")
SUFFIXES = {".conf", ".html", ".json", ".md", ".py", ".service", ".yaml", ".yml"}
SOURCES = [
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.suffix in SUFFIXES and path != Path(__file__)
]

NOT_OURS = ("AWS_", "MINIO_", "OTEL_", "CHAOS_", "REQUIRE_ALL")
"""Variables of other programs and of the tests begin with these."""


def named(path):
    """The path in the repository, which is the id of the test."""
    return str(path.relative_to(ROOT))


def anchors(page):
    """The anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def is_there(target, folder):
    """Whether a link from a page in that folder leads somewhere."""
    file, _, anchor = target.partition("#")
    path = (folder / file).resolve()
    return path.exists() and (not anchor or anchor in anchors(path))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_page_has_fewer_than_150_lines(page):
    assert len(page.read_text().splitlines()) < 150


@pytest.mark.parametrize("page", [*PAGES, *ROOT.glob("[CS]*.md")], ids=named)
def test_a_page_is_at_most_100_columns_wide(page):
    text = page.read_text()
    # The rows of this table are as long as the texts of the code, which test_config.py compares.
    text = re.sub(r"<!-- settings -->.*<!-- /settings -->", "", text, flags=re.DOTALL)
    assert not [line for line in text.splitlines() if len(line) > 100]


@pytest.mark.parametrize("page", GUIDES, ids=named)
def test_a_guide_begins_with_the_readers_that_it_is_for(page):
    title, _, first, *_ = page.read_text().splitlines()
    assert title.startswith("# ")
    assert first.startswith("For ")


@pytest.mark.parametrize("page", LINKED, ids=named)
def test_every_link_leads_to_a_file_and_a_heading_that_exist(page):
    text = page.read_text()
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    targets += re.findall(r"^\[[^\]]+\]: (\S+)$", text, re.MULTILINE)
    local = [each for each in targets if "://" not in each]
    assert not [
        each
        for each in local
        if not is_there(each if not each.startswith("#") else page.name + each, page.parent)
    ]


def test_every_page_that_the_sources_name_exists():
    named_pages = {
        (named(path), target)
        for path in SOURCES
        for target in re.findall(r"\bdocs/[\w-]+\.md(?:#[\w-]+)?", path.read_text())
    }
    assert len(named_pages) > 20
    assert not [(path, target) for path, target in named_pages if not is_there(target, ROOT)]


def test_the_readme_leads_to_every_guide():
    assert not [named(page) for page in GUIDES if named(page) not in README.read_text()]


@pytest.mark.parametrize("page", LINKED, ids=named)
def test_every_file_that_a_page_names_exists(page):
    paths = re.findall(r"`((?:app|bench|deploy|docs|tests)/[\w./-]*\w)/?`", page.read_text())
    assert not [path for path in paths if not (ROOT / path).exists()]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_setting_that_a_page_names_exists(page):
    there = {each.metadata["variable"] for each in fields(Config)}
    names = re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]+)(?:=[^`]*)?`", page.read_text())
    assert not [name for name in names if name not in there and not name.startswith(NOT_OURS)]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_that_a_page_names_exists(page):
    groups = create_app(Config()).cli.commands
    commands = re.findall(r"\b(?:flask|uploader) (keys|uploads) ([a-z]+)", page.read_text())
    assert not [(group, name) for group, name in commands if name not in groups[group].commands]


KIB, MIB = 2**10, 2**20
DEFAULTS = Config()
OF_A_KEY = f"{LARGE_OF_A_KEY} of {LARGE_FILE // MIB} MiB or more, {SMALL_OF_A_KEY} smaller"
BOUNDS = {
    "the head of a request": f"{HEAD_BYTES // KIB} KiB, {HEAD_SECONDS:.0f} s",
    "the bytes of all bodies": f"{WHOLE.bodies // MIB} MiB * | waits {ROOM_SECONDS:.0f} s",
    "the chunks of one body": f"{MOST_CHUNKS:,} ",
    "pixels being decoded": f"{WHOLE.pixels:,} * ",
    "calls to Redis at once": f"{CALLS_AT_ONCE} ",
    "PUTs at once": f"{PUTS_AT_ONCE} ",
    "an answer that the client does not read": f"{SEND_SECONDS:.0f} s ",
    "a client that still sends after its answer": f"{LINGER_BYTES // MIB} MiB or",
    "uploads being checked and stored": f"no bound | {OF_A_KEY} ",
    "objects being written": f"{PUTS_AT_ONCE} | {OF_A_KEY} ",
    "receiving a body": f"`BODY_TIMEOUT`, {DEFAULTS.body_timeout:.0f} s",
    "everything after the body": f"`UPLOAD_TIMEOUT`, {DEFAULTS.upload_timeout:.0f} s",
    "a call to Redis": f"{CALL_SECONDS} s,",
    "a PUT with its second try": f"`S3_PUT_TIMEOUT`, {DEFAULTS.s3_put_timeout:.0f} s",
    "looking at or deleting an object, the bucket check": f"{CHECK_SECONDS:.0f} s ",
}
"""The rows of docs/limits.md and docs/failures.md whose figures are constants or defaults."""


@pytest.mark.parametrize(("what", "bound"), BOUNDS.items())
def test_the_pages_have_the_bounds_of_the_code(what, bound):
    pages = "".join((ROOT / "docs" / name).read_text() for name in ("limits.md", "failures.md"))
    assert f"\n| {what} | {bound}" in pages
