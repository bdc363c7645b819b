"""What is shipped for deployment says the same as the application."""

import json
import re
from dataclasses import fields
from pathlib import Path

from app.config import MAX_FILE_SIZE, Config
from app.errors import CODES

ROOT = Path(__file__).parents[1]
SITE = (ROOT / "deploy" / "nginx" / "uploader.conf").read_text()
VARIABLES = {field.metadata["variable"] for field in fields(Config)}


def block(name):
    """The body of the site's ``map $uri $name``."""
    return re.search(rf"map \$uri \${name} {{(.*?)\n}}", SITE, re.DOTALL)[1]


def test_nginx_has_the_applications_titles_for_the_same_codes():
    titles = dict(re.findall(r'/problem/(\w+) +"(.*)";', block("uploader_title")))
    assert titles == {code: CODES[code][1] for code in titles}
    assert re.findall(r"/problem/(\w+) ", block("uploader_detail")) == list(titles)


def test_every_error_page_of_nginx_has_the_applications_status():
    pages = re.findall(r"error_page ([\d ]+?)(?: =(\d+))? /problem/(\w+);", SITE)
    assert len(pages) > 10
    for statuses, override, code in pages:
        sent = {int(override)} if override else {int(each) for each in statuses.split()}
        assert sent == {CODES[code][0]}


def test_nginx_names_the_applications_limit():
    assert f'"limit":{MAX_FILE_SIZE}' in SITE
    assert "client_max_body_size   16m;" in SITE
    assert MAX_FILE_SIZE < 16 * 1024 * 1024


def test_app_json_sets_only_variables_that_exist():
    environ = json.loads((ROOT / "app.json").read_text())["env"]
    assert set(environ) <= VARIABLES
    Config.from_env({name: entry["value"] for name, entry in environ.items() if entry.get("value")})
