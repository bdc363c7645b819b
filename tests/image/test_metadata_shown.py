"""Chromium shows damaged pictures in the same way before and after a policy."""

import pytest

from app.config import MINIMAL, NO_LOCATION
from app.errors import ApiError
from tests.image.mutate_metadata import checked, stripped, tagged_mutants
from tests.system.judge import judge, pixels_shown

MUTANTS = 1_500
LARGEST_SIDE = 32_767  # of a VideoFrame, which Chromium's ImageDecoder makes


@pytest.mark.thorough
@pytest.mark.needs_program("chromium")
def test_a_mutant_is_shown_as_before():
    compared = 0
    with judge() as page:
        for name, data in tagged_mutants(seed=3, files=MUTANTS):
            try:
                info = checked(data)
                left = {policy: stripped(data, info, policy) for policy in (NO_LOCATION, MINIMAL)}
            except ApiError:
                continue
            if max(info.width, info.height) > LARGEST_SIDE:
                continue
            before = pixels_shown(page, data)
            for policy, less in left.items():
                assert pixels_shown(page, less) == before, (name, policy)
                compared += 1
    assert compared > MUTANTS / 4
