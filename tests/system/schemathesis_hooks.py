"""What no schema can say: which files are pictures, and what goes with them."""

import schemathesis
from hypothesis import strategies

from tests.pictures import picture

# One for all: an Idempotency-Key that is generated twice goes with the same file.
PHOTO = picture()

for kind in ("jpeg", "png", "gif", "webp"):
    schemathesis.openapi.media_type(f"image/{kind}", strategies.just(PHOTO))


@schemathesis.hook
def filter_case(context, case):
    """A checksum of another file is well formed, and refused."""
    meant_well = case.meta.generation.mode == schemathesis.GenerationMode.POSITIVE
    return not (meant_well and isinstance(case.body, dict) and "sha256" in case.body)
