"""Accepted means shown: the verdicts of the image gate compared with Chromium, file by file."""

import pytest

from tests.image.corpus import jpeg_of_a_gap, made_up, not_shown, png_without_checksum, valid
from tests.image.mutants import mutants
from tests.pictures import installed
from tests.system.judge import all_shown, judge, judged

pytestmark = pytest.mark.needs_program("chromium")

SEED = 2
MUTANTS = 1_000
"""The number of each format; bench/browser.py tests ten times as many."""


@pytest.fixture(scope="module")
def page():
    with judge() as opened:
        yield opened


def test_every_valid_image_is_accepted_and_shown(page, tmp_path):
    files = {sample.name: sample.data for sample in valid()}
    for name, verdicts, seen in judged(page, files, tmp_path):
        for size, reason in verdicts.values():
            assert size, (name, reason)
            assert all_shown(size, seen), (name, size, seen)


def test_files_that_break_a_rule_are_neither_accepted_nor_shown_whole(page, tmp_path):
    for name, verdicts, seen in judged(page, not_shown(), tmp_path):
        assert [size for size, _ in verdicts.values()] == [None, None], name
        assert seen["error"] or seen["frames"] < 2, (name, seen)


def test_files_of_which_chromium_makes_up_a_part_are_not_accepted(page, tmp_path):
    files = made_up() | {"png-without-checksum": png_without_checksum()}
    for name, verdicts, seen in judged(page, files, tmp_path):
        assert verdicts["decode"][0] is None, name
        assert not seen["error"], name


def test_a_gap_that_only_a_decoder_finds_is_neither_accepted_nor_shown(page, tmp_path):
    files = {str(zeros): jpeg_of_a_gap(zeros) for zeros in (8, 600)}
    for name, verdicts, seen in judged(page, files, tmp_path):
        assert verdicts["decode"][0] is None, name
        assert seen["error"], name


def test_real_images_are_accepted_and_shown(page, tmp_path):
    files = {str(path): path.read_bytes() for path in installed()}
    assert files
    for name, verdicts, seen in judged(page, files, tmp_path):
        for size, reason in verdicts.values():
            assert size, (name, reason)
            assert all_shown(size, seen), (name, size, seen)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_every_frame_of_an_accepted_mutant_is_shown(page, tmp_path, kind):
    files = dict(mutants(seed=SEED, files=MUTANTS, kinds=(kind,)))
    accepted = 0
    for name, verdicts, seen in judged(page, files, tmp_path):
        if (size := verdicts["decode"][0]) is not None:
            accepted += 1
            assert all_shown(size, seen), f"seed {SEED}, {name}: {size}, {seen}"
    assert accepted > MUTANTS / 20, "too few mutants are accepted for a meaningful test"
