"""Metadata of a GIF: comments, and extensions of applications."""

from collections.abc import Iterator
from functools import partial

from app.image.gif import end_of_blocks, palette_size
from app.image.info import ImageInfo
from app.image.metadata import places
from app.image.metadata.blocks import Blocks
from app.image.metadata.edits import BLOCK_COST, Edit, Effort, readable

_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B
_CONTROL, _COMMENT, _TEXT, _APPLICATION = 0xF9, 0xFE, 0x01, 0xFF
_TO_SHOW = frozenset((b"NETSCAPE2.0", b"ANIMEXTS1.0", b"ICCRGBG1012"))
"""The loop count, twice, and the colour profile."""

_IPTC = b"MGKIPTC0000"
_RESOURCES = b"MGK8BIM0000"
_XMP = b"XMP DataXMP"
_XMP_END = bytes((1, *range(0xFF, -1, -1), 0))
"""Makes sub-blocks end for a reader who takes each byte of the packet for a length."""


def edits(view: memoryview, info: ImageInfo, minimal: bool, effort: Effort) -> Iterator[Edit]:
    """The edits that leave of a GIF what the policy lets pass, and nothing after its trailer."""
    blocks = Blocks(info, effort, minimal=minimal)
    pos = 13 + palette_size(view[10])
    while (kind := view[pos]) != _TRAILER:
        start = pos
        if kind == _EXTENSION:
            pos = end_of_blocks(view, start + 2)
            if view[start + 1] != _CONTROL:
                yield from _extension(view, start, pos, blocks)
        elif kind == _IMAGE:
            pos = end_of_blocks(view, start + 11 + palette_size(view[start + 9]))
        else:
            pos += 1  # a stray end of blocks
    if pos + 1 < len(view):
        yield pos + 1, len(view), b""


def _extension(view: memoryview, start: int, stop: int, blocks: Blocks) -> Iterator[Edit]:
    """The edit to an extension that does not stay as it is."""
    label = view[start + 1]
    name = b""
    if label == _APPLICATION and view[start + 2] == len(_XMP):
        name = bytes(view[start + 3 : start + 14])
    if name in _TO_SHOW:
        return
    if blocks.is_minimal or blocks.effort.left < 0:
        yield start, stop, b""
        return
    data = bytes(view[start + 2 : stop])
    rest = readable(partial(_left, label, name, blocks), data, blocks.effort)
    if rest != data:
        yield start, stop, bytes((_EXTENSION, label)) + rest if rest else b""


def _left(label: int, name: bytes, blocks: Blocks, data: bytes, effort: Effort) -> bytes:
    """What is left of an extension's sub-blocks, their end included."""
    effort.take(BLOCK_COST + len(data))
    if label in (_COMMENT, _TEXT):
        return b"" if places.in_text(_joined(data)) else data
    if name == _IPTC:
        return data
    if name == _XMP and data.endswith(_XMP_END):
        rest = blocks.xmp(data[12 : -len(_XMP_END)])
        return data[:12] + rest + _XMP_END if rest else b""
    if name == _RESOURCES:
        resources = _joined(data[12:])
        rest = blocks.photoshop(resources)
        return data if rest == resources else data[:12] + _split(rest) if rest else b""
    return b""


def _joined(data: bytes) -> bytes:
    """What sub-blocks hold."""
    out = bytearray()
    pos = 0
    while length := data[pos]:
        out += data[pos + 1 : pos + 1 + length]
        pos += length + 1
    return bytes(out)


def _split(data: bytes) -> bytes:
    pieces = (data[at : at + 255] for at in range(0, len(data), 255))
    return b"".join(bytes((len(piece),)) + piece for piece in pieces) + b"\0"
