"""Who may import what: docs/architecture.md has the reasons. Its page is compared too."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
APP = sorted((ROOT / "app").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
WINGS = ("image", "intake", "records", "store", "web")
ONLY_IMPORTERS = {
    "image": ("PIL", "simplejpeg", "pyvips"),
    "intake": ("gunicorn", "gevent"),
    "records": ("redis",),
    "store": ("minio", "urllib3"),
}


@cache
def imports(path):
    """The full name of everything that a file imports, at its top or in a function."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{each.name}" for each in node.names]
    return found


def named(path):
    """The path in the repository, which is the id of the test."""
    return str(path.relative_to(ROOT))


def wing_of(path):
    """The folder of ``app`` that has the file; None for a module in ``app`` itself."""
    first, *rest = path.relative_to(ROOT / "app").parts
    return first if rest else None


def inside(module, allowed):
    """Whether a module is one of these, or a part of one."""
    return any(f"{module}.".startswith(f"{name}.") for name in allowed)


@pytest.mark.parametrize("path", [each for each in APP if wing_of(each) in WINGS], ids=named)
def test_a_wing_imports_only_errors_settings_and_itself(path):
    allowed = ("app.errors", "app.config", f"app.{wing_of(path)}")
    assert not [
        each for each in imports(path) if inside(each, ["app"]) and not inside(each, allowed)
    ]


@pytest.mark.parametrize("path", APP, ids=named)
def test_each_foreign_library_is_imported_by_one_wing(path):
    others = [
        name for wing, names in ONLY_IMPORTERS.items() if wing != wing_of(path) for name in names
    ]
    assert not [each for each in imports(path) if inside(each, others)]


@pytest.mark.parametrize(
    "path",
    [each for each in APP if wing_of(each) not in ("web", "ops")],
    ids=named,
)
def test_beside_web_and_ops_only_four_modules_import_flask(path):
    above = ("wiring.py", "upload.py", "access.py", "service.py")
    knows = [each for each in imports(path) if inside(each, ["flask", "werkzeug", "jinja2"])]
    assert not knows or (wing_of(path) is None and path.name in above)


@pytest.mark.parametrize(
    ("wing", "unwanted"),
    [
        ("image.gate", "flask redis minio urllib3 gunicorn gevent"),
        ("intake.multipart", "flask redis minio urllib3 PIL"),
        ("records.journal", "flask minio urllib3 gunicorn gevent PIL"),
        ("store.bucket", "flask redis gunicorn gevent PIL"),
        ("errors", "flask redis minio urllib3 gunicorn gevent PIL"),
    ],
)
def test_importing_one_wing_loads_no_other(wing, unwanted):
    script = f"import app.{wing}, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert f"app.{wing}" in done.stdout.split()
    assert not set(unwanted.split()) & set(done.stdout.split())


@pytest.mark.parametrize("path", TESTS, ids=named)
def test_tests_import_shared_modules_by_their_full_names_and_never_a_conftest(path):
    shared = {each.stem for each in TESTS}
    for module in imports(path):
        parts = module.split(".")
        assert parts[0] not in {"bench", *shared}, module
        assert "conftest" not in parts, module


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "system").glob("*.py")), ids=named)
def test_system_tests_import_nothing_of_the_app(path):
    assert not [each for each in imports(path) if inside(each, ["app", "wsgi"])]


def test_the_page_on_architecture_names_existing_files_and_every_script_of_redis():
    page = (ROOT / "docs" / "architecture.md").read_text()
    files = set(re.findall(r"`((?:app|deploy|tests)/[\w./]*)`", page))
    assert len(files) > 20
    assert not [each for each in files if not (ROOT / each).exists()]
    for path in APP:
        for name in re.findall(r'^(_\w+) = """\n[^"]*redis\.call', path.read_text(), re.MULTILINE):
            assert f"`{name}` in `{named(path)}`" in page
