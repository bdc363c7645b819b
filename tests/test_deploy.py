"""The files for deployment agree with the application."""

import json
import re
from dataclasses import fields
from pathlib import Path

from app.config import MAX_FILE_SIZE, Config
from app.errors import CODES

ROOT = Path(__file__).parents[1]
SITE = (ROOT / "deploy" / "nginx" / "uploader.conf").read_text()
VARIABLES = {field.metadata["variable"] for field in fields(Config)}


REFUSALS = [
    (int(status), json.loads(f"{{{members}}}"))
    for status, members in re.findall(r"/problem:(\d+) '(.*)';", SITE)
]
"""nginx's own answers: the status, and the members of the problem document."""


def test_nginx_has_the_same_titles_and_statuses_as_the_application_for_its_codes():
    assert len(REFUSALS) == 7
    for status, document in REFUSALS:
        assert (status, document["title"]) == CODES[document["code"]]
        assert document["detail"].endswith(".")


def test_every_error_page_of_nginx_has_a_problem_document():
    pages = re.findall(r"error_page ([\d ]+?)(?: =(\d+))? /problem;", SITE)
    assert len(pages) == SITE.count("error_page ") == 4
    sent = {override or status for each, override in pages for status in each.split()}
    assert sent == {str(status) for status, _ in REFUSALS}


def test_nginx_names_the_applications_limit_and_leaves_it_to_the_application():
    [limit] = [document["limit"] for status, document in REFUSALS if status == 413]
    assert limit == MAX_FILE_SIZE
    gibibytes = int(re.search(r"client_max_body_size +(\d+)g;", SITE)[1])
    assert gibibytes * 1024**3 > 10 * MAX_FILE_SIZE


def test_nginx_waits_longer_for_a_body_than_the_application():
    waits = int(re.search(r"client_body_timeout +(\d+)s;", SITE)[1])
    assert waits > Config().body_timeout


def test_app_json_sets_only_variables_that_exist():
    environ = json.loads((ROOT / "app.json").read_text())["env"]
    assert set(environ) <= VARIABLES
    Config.from_env({name: entry["value"] for name, entry in environ.items() if entry.get("value")})
