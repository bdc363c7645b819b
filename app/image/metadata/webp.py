"""Metadata of a WebP: the RIFF chunks beside the picture, and within the frames."""

import struct
from collections.abc import Iterator

from app.image.info import ImageInfo, damaged
from app.image.metadata.blocks import Blocks
from app.image.metadata.edits import Edit, Effort
from app.image.webp import chunks_of, riff_end

_PICTURE = frozenset((b"ALPH", b"VP8 ", b"VP8L"))
_TO_SHOW = _PICTURE | {b"VP8X", b"ICCP", b"ANIM"}
_EXIF_FLAG, _XMP_FLAG = 8, 4
_WORD = struct.Struct("<I")
_FRAME_HEAD = 16


def edits(view: memoryview, info: ImageInfo, minimal: bool, effort: Effort) -> Iterator[Edit]:
    """The edits that leave of a WebP what the policy lets pass, and nothing after its end."""
    end = riff_end(view)
    found, flags, frames = _found(view, end, Blocks(info, effort, minimal=minimal))
    if max(frames, 1) != info.frames:  # libwebp, which counted them, trusts other lengths
        raise damaged("WebP", "the lengths of its frames contradict each other")
    if found:
        yield 4, 8, _WORD.pack(end - 8 - sum(b - a - len(new) for a, b, new in found))
        if bytes(view[12:16]) == b"VP8X":
            yield 20, 21, bytes((view[20] & ~(_EXIF_FLAG | _XMP_FLAG) | flags,))
        yield from found
    if end < len(view):
        yield end, len(view), b""


def _found(view: memoryview, end: int, blocks: Blocks) -> tuple[list[Edit], int, int]:
    """The edits to chunks, the flags of VP8X for the metadata that stays, and the frames."""
    found: list[Edit] = []
    flags = frames = 0
    after = 12
    for kind, start, stop in chunks_of(view, 12, end):
        blocks.effort.check_time()
        after = min(stop + (stop - start & 1), end)
        if kind == b"ANMF":
            inner = list(chunks_of(view, start + _FRAME_HEAD, stop))
            frames += any(each[0] in _PICTURE for each in inner)
            found += _frame(inner, start, stop, end)
        elif kind not in _TO_SHOW:
            new, flag = _left(kind, view, start, stop, blocks)
            flags |= flag
            if not new or new != view[start:stop]:
                _add(found, (start - 8, after, _chunk(kind, new)))
    if after < end:  # what is no chunk: behind a simple picture decoders look at nothing
        _add(found, (after, end, b""))
    return found, flags, frames


def _add(found: list[Edit], edit: Edit) -> None:
    """Add an edit; to the last one where both only remove, for they may be a million."""
    start, stop, new = edit
    if found and found[-1][1] == start and not new and not found[-1][2]:
        start = found.pop()[0]
    found.append((start, stop, new))


def _left(
    kind: bytes, view: memoryview, start: int, stop: int, blocks: Blocks
) -> tuple[bytes, int]:
    """What is left of a chunk's payload, and its flag in VP8X if anything is."""
    if kind == b"EXIF":
        new, flag = blocks.exif(bytes(view[start:stop])), _EXIF_FLAG
    elif kind == b"XMP ":
        new, flag = blocks.xmp(bytes(view[start:stop])), _XMP_FLAG
    else:
        new, flag = b"", 0
    return new, flag if new else 0


def _chunk(kind: bytes, payload: bytes) -> bytes:
    return (
        kind + _WORD.pack(len(payload)) + payload + b"\0" * (len(payload) & 1) if payload else b""
    )


def _frame(inner: list[tuple[bytes, int, int]], start: int, stop: int, end: int) -> Iterator[Edit]:
    """The edits that leave of a frame its picture alone, and the frame's length right.

    Nothing is left of a frame without a picture, which is shown nowhere.
    """
    padded = min(stop + (stop - start & 1), end)
    if not any(kind in _PICTURE for kind, _, _ in inner):
        yield start - 8, padded, b""
        return
    foreign = [
        (begin - 8, min(after + (after - begin & 1), stop), b"")
        for kind, begin, after in inner
        if kind not in _PICTURE
    ]
    if foreign:
        length = stop - start - sum(b - a for a, b, _ in foreign)
        yield start - 4, start, _WORD.pack(length)
        yield from foreign
        if padded - stop != length & 1:
            yield stop, padded, b"\0" * (length & 1)
