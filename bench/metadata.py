"""The time it takes to remove metadata, by policy, compared with the walk of the gate.

    python -m bench.metadata

Processor time in ms, the best of many runs: for photos of three sizes with EXIF and its thumbnail,
XMP, IPTC and a profile, and for files made to be slow. The SHA-256 of the result is not counted.
"""

import time
from collections.abc import Callable
from functools import partial

from app.config import POLICIES
from app.image import metadata
from app.image.gate import walk
from app.image.info import ImageInfo
from tests.image import tagged
from tests.image.corpus import chunk, gif_of, png, segment
from tests.pictures import encode, photo

LIMIT = 15 << 20
SECONDS = 60.0
"""The deadline: far above the time of any file."""


def best(function: Callable[[], object], runs: int) -> float:
    """Milliseconds of the fastest run."""
    times = []
    for _ in range(runs):
        begun = time.process_time()
        function()
        times.append(time.process_time() - begun)
    return 1000 * min(times)


def photos() -> dict[str, bytes]:
    profile = segment(0xE2, b"ICC_PROFILE\0\1\1" + tagged.PROFILE)
    thumbnail = encode(photo(160, 120), "JPEG")
    blocks = (
        tagged.app1(tagged.exif(thumbnail=thumbnail)),
        segment(0xE1, tagged.XMP + tagged.LOCATED),
        tagged.irb(tagged.resource(0x404, tagged.IPTC)),
        profile,
    )
    sizes = ((1200, 800), (4000, 3000), (6000, 4000))
    return {f"JPEG {w} x {h}": tagged.jpeg(*blocks, image=photo(w, h)) for w, h in sizes}


def slow() -> dict[str, bytes]:
    """Files with as many small blocks as 15 MB hold and the gate accepts."""
    tags = b'<x:x xmlns:x="adobe:ns:meta/">' + b"<x:a/>" * 10_900 + b"</x:x>"
    packet = segment(0xE1, tagged.XMP + tags)
    return {
        "PNG of empty chunks": png(8, 8, before=chunk(b"abCd") * 99_000),
        "PNG of texts": png(8, 8, before=chunk(b"tEXt", b"a\0" + b"b" * 140) * 99_000),
        "GIF of comments": gif_of(8, 8, 1)[:-1]
        + (b"!\xfe\x90" + b"c" * 144 + b"\0") * 99_000
        + b";",
        "JPEG of XMP": tagged.jpeg(*[packet] * (LIMIT // len(packet) - 1)),
    }


def stripped(view: memoryview, info: ImageInfo, policy: str) -> object:
    return metadata.pieces_of(view, info, policy, time.monotonic() + SECONDS)


def main() -> None:
    print(f"{'':24}{'MB':>6}{'walk':>10}" + "".join(f"{policy:>14}" for policy in POLICIES))
    for name, data, runs in (
        *((name, data, 100) for name, data in photos().items()),
        *((name, data, 1) for name, data in slow().items()),
    ):
        view = memoryview(data)
        info = walk(view, 100_000_000)
        ways = [partial(stripped, view, info, policy) for policy in POLICIES]
        walked = best(partial(walk, view, 100_000_000), min(runs, 5))
        times = "".join(f"{best(way, runs):14.3f}" for way in ways)
        print(f"{name:24}{len(data) / 1e6:6.1f}{walked:10.2f}{times}")


if __name__ == "__main__":
    main()
