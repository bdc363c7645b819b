"""The image gate compared with a browser, on damaged pictures and on real ones.

    python -m bench.browser                          10,000 mutants of each format
    python -m bench.browser --mutants 1000 --seed 7
    python -m bench.browser FOLDER                   the pictures in a folder, and below it

Prints both kinds of difference: files that are accepted and not shown (or not every frame, or in
another size), and files that are refused though something is shown, by the reason. The browser is
Chromium.
"""

import argparse
import re
import tempfile
from collections import Counter
from pathlib import Path

from tests.image.mutants import mutants
from tests.system.judge import all_shown, judge, judged

KINDS = ("JPEG", "PNG", "GIF", "WEBP")


def compare(page, files: dict[str, bytes], check: str) -> None:
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for name, verdicts, seen in judged(page, files, Path(folder)):
            size, reason = verdicts[check]
            if size is not None and all_shown(size, seen):
                counts["both accept"] += 1
            elif size is not None:
                counts["ACCEPTED, NOT SHOWN"] += 1
                print(f"  accepted, not shown: {name}: {size}, {seen}")
            elif seen["error"]:
                counts["both refuse"] += 1
            else:
                counts["refused, shown"] += 1
                reasons[re.sub(r"[0-9,]+", "N", reason)] += 1
    print(f"  {dict(counts)}")
    for reason, count in reasons.most_common(12):
        print(f"  {count:6}  refused, shown: {reason[:120]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--mutants", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--check", choices=("decode", "structure"), default="decode")
    asked = parser.parse_args()
    with judge() as page:
        if asked.folder:
            kinds = (".png", ".jpg", ".jpeg", ".gif", ".webp")
            paths = [path for path in asked.folder.rglob("*") if path.suffix.lower() in kinds]
            compare(page, {str(path): path.read_bytes() for path in paths}, asked.check)
            return
        for kind in KINDS:
            print(f"{asked.mutants} mutants of {kind}, seed {asked.seed}:", flush=True)
            compare(page, dict(mutants(asked.seed, asked.mutants, (kind,))), asked.check)


if __name__ == "__main__":
    main()
