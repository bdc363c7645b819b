"""The rules of the house that a reviewer would otherwise have to keep in mind."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def imports(path):
    """Every module that a file imports, by its full name, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{each.name}" for each in node.names)


def named(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", TESTS, ids=named)
def test_the_tests_share_modules_by_their_full_names_and_never_a_conftest(path):
    shared = {each.stem for each in TESTS}
    for module in imports(path):
        parts = module.split(".")
        assert parts[0] not in {"bench", *shared}, module
        assert "conftest" not in parts, module


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "system").glob("*.py")), ids=named)
def test_what_talks_to_real_servers_knows_nothing_of_the_program(path):
    assert not [module for module in imports(path) if module.split(".")[0] in ("app", "wsgi")]
