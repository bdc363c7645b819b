"""Metadata of a WebP (RFC 9649, section 2.7): RIFF chunks beside the image, and inside frames."""

import struct
from collections.abc import Iterator

from app.image.info import ImageInfo, damaged
from app.image.metadata.blocks import Blocks
from app.image.metadata.edits import Edit, Effort
from app.image.webp import EXIF_FLAG, FIRST_CHUNK, FRAME_HEAD, XMP_FLAG, chunks_of, riff_end

_PICTURE = frozenset((b"ALPH", b"VP8 ", b"VP8L"))
_TO_SHOW = _PICTURE | {b"VP8X", b"ICCP", b"ANIM"}
_WORD = struct.Struct("<I")
_CONTRADICTION = "the lengths of its frames contradict each other"
_FLAGS_AT = FIRST_CHUNK + 8
"""The position of VP8X's flags, where VP8X is the first chunk."""


def edits(view: memoryview, info: ImageInfo, minimal: bool, effort: Effort) -> Iterator[Edit]:
    """Yield the edits that apply the policy to a WebP, and remove all bytes after its end."""
    end = riff_end(view)
    found, flags, frames = _found(view, end, Blocks(info, effort, minimal=minimal))
    # libwebp counted the frames in ``info``. It finds the end of a frame by the lengths of the
    # chunks in it: where the frame's own length differs, the file cannot be edited safely.
    if max(frames, 1) != info.frames:
        raise damaged("WebP", _CONTRADICTION)
    if found:
        yield 4, 8, _WORD.pack(end - 8 - sum(b - a - len(new) for a, b, new in found))
        if bytes(view[FIRST_CHUNK : FIRST_CHUNK + 4]) == b"VP8X":
            kept = view[_FLAGS_AT] & ~(EXIF_FLAG | XMP_FLAG)
            yield _FLAGS_AT, _FLAGS_AT + 1, bytes((kept | flags,))
        yield from found
    if end < len(view):
        yield end, len(view), b""


def _found(view: memoryview, end: int, blocks: Blocks) -> tuple[list[Edit], int, int]:
    """The edits to chunks, the flags of VP8X for the metadata that stays, and how many frames."""
    found: list[Edit] = []
    flags = frames = 0
    seen: set[bytes] = set()
    after = FIRST_CHUNK
    for kind, start, stop in chunks_of(view, FIRST_CHUNK, end):
        blocks.effort.check_time()
        after = _padded(start, stop, end)
        if kind == b"ANMF":
            inner = list(chunks_of(view, start + FRAME_HEAD, stop))
            frames += any(each[0] in _PICTURE for each in inner)
            found += _frame(inner, start, stop, end)
        elif kind not in _TO_SHOW:
            # Viewers read the first EXIF. If that one goes, a later one must not turn the picture.
            new, flag = (b"", 0) if kind in seen else _left(kind, view, start, stop, blocks)
            seen.add(kind)
            flags |= flag
            if not new or new != view[start:stop]:
                _add(found, (start - 8, after, _chunk(kind, new)))
    if after < end:  # bytes that form no chunk, which decoders do not read
        _add(found, (after, end, b""))
    return found, flags, frames


def _padded(start: int, stop: int, end: int) -> int:
    """The end of a chunk with its padding byte, if its payload is of odd length."""
    return min(stop + (stop - start & 1), end)


def _add(found: list[Edit], edit: Edit) -> None:
    """Add an edit, or extend the last one where both only remove: a file may ask for many."""
    start, stop, new = edit
    if found and found[-1][1] == start and not new and not found[-1][2]:
        start = found.pop()[0]
    found.append((start, stop, new))


def _left(
    kind: bytes, view: memoryview, start: int, stop: int, blocks: Blocks
) -> tuple[bytes, int]:
    """What is left of a chunk's payload, and its flag in VP8X if anything is."""
    if kind == b"EXIF":
        new, flag = blocks.exif(bytes(view[start:stop])), EXIF_FLAG
    elif kind == b"XMP ":
        new, flag = blocks.xmp(bytes(view[start:stop])), XMP_FLAG
    else:
        new, flag = b"", 0
    return new, flag if new else 0


def _chunk(kind: bytes, payload: bytes) -> bytes:
    """A chunk with its padding; nothing for an empty payload."""
    padding = b"\0" * (len(payload) & 1)
    return kind + _WORD.pack(len(payload)) + payload + padding if payload else b""


def _frame(inner: list[tuple[bytes, int, int]], start: int, stop: int, end: int) -> Iterator[Edit]:
    """Yield the edits that leave only its picture in a frame, and correct the frame's length.

    A frame without a picture, which no decoder shows, is removed whole. Raises ``corrupt_image``
    where its chunks do not end with the frame: libwebp would go on after the chunks.
    """
    last = _padded(*inner[-1][1:], stop) if inner else start + FRAME_HEAD
    if last != stop:
        raise damaged("WebP", _CONTRADICTION)
    padded = _padded(start, stop, end)
    if not any(kind in _PICTURE for kind, _, _ in inner):
        yield start - 8, padded, b""
        return
    foreign = [
        (begin - 8, _padded(begin, after, stop), b"")
        for kind, begin, after in inner
        if kind not in _PICTURE
    ]
    if foreign:
        length = stop - start - sum(b - a for a, b, _ in foreign)
        yield start - 4, start, _WORD.pack(length)
        yield from foreign
        if padded - stop != length & 1:
            yield stop, padded, b"\0" * (length & 1)
