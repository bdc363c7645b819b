"""The limit that the service runs under is read, and what a process holds is lowered to fit."""

import pytest

from app.config import Config
from app.ops import memory

MIB = 2**20


def limit(own, groups, **settings):
    return memory.limit(Config.from_env(settings), own, groups)


def written(folder, **texts):
    for name, text in texts.items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"memory.{name}").write_text(text)


def test_the_limit_of_the_own_group_counts(tmp_path):
    written(tmp_path / "system.slice/uploader.service", max="536870912\n", high="max\n")
    assert limit("0::/system.slice/uploader.service\n", tmp_path) == 512 * MIB


def test_the_limit_of_a_group_above_counts_too(tmp_path):
    written(tmp_path / "system.slice", max=str(300 * MIB))
    written(tmp_path / "system.slice/uploader.service", max=str(512 * MIB))
    assert limit("0::/system.slice/uploader.service\n", tmp_path) == 300 * MIB


def test_above_the_high_mark_processes_are_slowed_down_so_it_counts(tmp_path):
    written(tmp_path / "a", max=str(512 * MIB), high=str(400 * MIB))
    assert limit("0::/a\n", tmp_path) == 400 * MIB


def test_the_first_version_of_control_groups_is_read(tmp_path):
    written(tmp_path / "memory/dyno", limit_in_bytes=f"{512 * MIB}\n")
    written(tmp_path / "memory", limit_in_bytes="9223372036854771712\n")
    assert limit("4:memory:/dyno\n0::/\n", tmp_path) == 512 * MIB


def test_a_container_sees_its_own_group_as_the_base(tmp_path):
    written(tmp_path, max=str(256 * MIB))
    assert limit("0::/docker/not-to-be-seen-here\n", tmp_path) == 256 * MIB


def test_without_a_limit_it_is_the_machines_memory(tmp_path):
    written(tmp_path, max="max\n")
    assert limit("0::/\n", tmp_path) == limit("", tmp_path) > 256 * MIB


def test_the_setting_counts_where_it_is_less_than_the_groups_limit(tmp_path):
    written(tmp_path / "a", max=str(512 * MIB))
    assert limit("0::/a\n", tmp_path, MEMORY_LIMIT=str(300 * MIB)) == 300 * MIB
    assert limit("0::/a\n", tmp_path, MEMORY_LIMIT=str(2**50)) == 512 * MIB


def test_where_there_is_memory_enough_a_process_holds_all_it_ever_does():
    plenty = 64 * 1024 * MIB
    assert memory.plan(2, plenty) == memory.WHOLE
    assert memory.lowered(2, plenty) == ""


@pytest.mark.parametrize(("processes", "megabytes"), [(1, 512), (2, 1024), (1, 256), (8, 2048)])
def test_all_processes_together_take_less_than_the_limit(processes, megabytes):
    planned = memory.plan(processes, megabytes * MIB)
    assert processes * planned.most < megabytes * MIB
    assert planned.largest > 0
    assert planned.bodies >= 32 * MIB


def test_what_was_lowered_is_said():
    said = memory.lowered(1, 512 * MIB)
    assert said.startswith("512 MiB of memory for 1 process:")
    assert "pixels in decode" in said
