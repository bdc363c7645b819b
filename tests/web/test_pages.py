import json
import re
from pathlib import Path

import pytest

from app import create_app
from app.config import Config
from app.errors import CODES
from app.web.pages import description

ROOT = Path(__file__).parents[2]
APP = ROOT / "app" / "web"


@pytest.fixture
def client(redis):
    config = Config(log_format="json")
    return create_app(config, redis=redis).test_client()


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_have_a_strict_policy_and_load_nothing_from_elsewhere(client, path):
    answer = client.get(path)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert not re.search(r'(src|href)="(https?:)?//', answer.text)
    assert not re.search(
        r"<script(?![^>]*(src=|application/json))|<style| style=| on\w+=", answer.text
    )


@pytest.mark.parametrize(
    ("accepted", "language"), [("de-AT,de;q=0.9", "de"), ("en-GB", "en"), ("fr", "en"), ("", "en")]
)
def test_the_page_speaks_the_readers_language(client, accepted, language):
    assert (
        f'<html lang="{language}">' in client.get("/", headers={"Accept-Language": accepted}).text
    )


def test_every_language_has_the_same_texts():
    texts = [json.loads(path.read_text()) for path in (APP / "languages").glob("*.json")]
    assert len(texts) == 2
    assert set(texts[0]) == set(texts[1])


def test_every_text_that_templates_and_scripts_use_exists():
    texts = json.loads((APP / "languages" / "en.json").read_text())
    sources = [*(APP / "templates").glob("*.html"), *(APP / "static").glob("*.js")]
    used = {name for path in sources for name in re.findall(r"texts\.(\w+)", path.read_text())}
    assert used == set(texts)


def test_an_unknown_address_is_a_page_for_people_and_a_problem_for_programs(client):
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    page = client.get("/nothing", headers=browser)
    assert (page.status_code, page.mimetype) == (404, "text/html")
    for accept in ("", "*/*", "application/json", "text/html;q=0.1, application/json"):
        answer = client.get("/nothing", headers={"Accept": accept})
        assert (answer.status_code, answer.json["code"]) == (404, "not_found")
    assert client.post("/nothing", headers=browser).json["code"] == "not_found"


def test_an_address_with_two_slashes_is_a_404_and_not_redirected(client):
    answer = client.post("/upload//image?x-api-key=secret")
    assert (answer.status_code, answer.json["code"]) == (404, "not_found")
    assert "secret" not in f"{answer.headers}{answer.text}"


def test_every_code_has_a_paragraph_that_its_type_leads_to(client):
    page = client.get("/docs").text
    for code, (status, _) in CODES.items():
        assert f'id="{code}"' in page
        assert f"<code>{code}</code> ({status})" in page


def test_the_page_of_errors_has_every_error_as_the_reference_has_it():
    page = " ".join((ROOT / "docs" / "errors.md").read_text().split())
    for error in description()["x-errors"]:
        assert "- **{status} `{code}`**: {cause} {cure}".format(**error) in page
    assert page.count("- **") == len(description()["x-errors"])


def test_the_samples_name_the_readers_own_host(client):
    page = client.get("/docs", headers={"Host": "pictures.example.org"}).text
    assert page.count("http://pictures.example.org/upload/image") == 4
    assert "HOST/upload" not in page


def test_the_description_is_served_with_this_address(client):
    answer = client.get("/openapi.json", headers={"Host": "pictures.example.org"})
    assert answer.json["openapi"] == "3.1.0"
    assert answer.json["servers"] == [{"url": "http://pictures.example.org"}]


def test_robots_are_excluded_and_there_is_an_icon(client):
    assert "Disallow: /" in client.get("/robots.txt").text
    with client.get("/favicon.ico") as icon:
        assert icon.mimetype == "image/svg+xml"
