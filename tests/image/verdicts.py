"""What the image gate says of files, for tests that import nothing of the program.

python -m tests.image.verdicts FOLDER

Prints a JSON object: file name to [[width, height, frames] or null, sentence], for each check.
"""

import json
import sys
from pathlib import Path

from app.errors import ApiError
from app.image.gate import ImageInspector
from tests.image.inspecting import inspector

CHECKS = {check: inspector(check) for check in ("decode", "structure")}


def verdict(gate: ImageInspector, data: bytes) -> tuple[list[int] | None, str]:
    try:
        info = gate.inspect(data)
    except ApiError as refusal:
        return None, f"{refusal.code}: {refusal.detail}"
    return [info.width, info.height, info.frames], ""


if __name__ == "__main__":
    files = sorted(Path(sys.argv[1]).iterdir())
    found = {
        path.name: {check: verdict(gate, path.read_bytes()) for check, gate in CHECKS.items()}
        for path in files
    }
    print(json.dumps(found))
