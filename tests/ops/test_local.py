import fcntl

import pytest

from app.ops.local import settings_of_stack

HELD = {"REDIS_URL": "redis://127.0.0.1:6379/0", "S3_SECRET_KEY": "a=b"}


@pytest.fixture
def var(tmp_path):
    text = "".join(f"{name}={value}\n" for name, value in HELD.items())
    (tmp_path / "env").write_text(text)
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield tmp_path


def test_the_settings_of_a_running_stack_are_found(var):
    assert settings_of_stack(var, {"PATH": "/bin", "LOG_LEVEL": "debug"}) == HELD


@pytest.mark.parametrize("name", HELD)
def test_an_environment_that_names_a_server_is_used_alone(var, name):
    assert settings_of_stack(var, {name: "another"}) == {}


def test_the_settings_of_a_stack_that_was_killed_are_ignored(var):
    (var / "lock").unlink()
    assert settings_of_stack(var, {}) == {}
    (var / "lock").touch()
    assert settings_of_stack(var, {}) == {}


def test_without_a_stack_there_are_no_settings(tmp_path):
    assert settings_of_stack(tmp_path, {}) == {}
