"""The pages for people: short, within the window, with a reader in mind, and linked rightly."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from app.config import Config
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
    return str(path.relative_to(ROOT))


def anchors(page):
    """What GitHub makes of the headings, for links into the page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def is_there(target, folder):
    """Whether a link from a page in that folder leads somewhere."""
    file, _, anchor = target.partition("#")
    path = (folder / file).resolve()
    return path.exists() and (not anchor or anchor in anchors(path))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_page_is_read_in_a_few_minutes(page):
    assert len(page.read_text().splitlines()) < 150


@pytest.mark.parametrize("page", GUIDES, ids=named)
def test_a_guide_begins_with_whom_it_is_for(page):
    title, _, first, *_ = page.read_text().splitlines()
    assert title.startswith("# ")
    assert first.startswith("For ")


@pytest.mark.parametrize("page", LINKED, ids=named)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page):
    text = page.read_text()
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    targets += re.findall(r"^\[[^\]]+\]: (\S+)$", text, re.MULTILINE)
    local = [each for each in targets if "://" not in each]
    assert not [
        each
        for each in local
        if not is_there(each if not each.startswith("#") else page.name + each, page.parent)
    ]


def test_every_page_that_the_sources_name_is_there():
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
def test_every_file_that_a_page_names_is_there(page):
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
