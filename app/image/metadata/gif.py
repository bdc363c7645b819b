"""Metadata of a GIF: comments, plain text, and application extensions.

Section numbers are those of CompuServe's GIF89a specification.
"""

from collections.abc import Iterator
from functools import partial

from app.image.gif import (
    CONTROL,
    DESCRIPTOR_SIZE,
    EXTENSION,
    IMAGE,
    TRAILER,
    end_of_blocks,
    first_block,
    palette_size,
)
from app.image.info import ImageInfo
from app.image.metadata import places
from app.image.metadata.blocks import Blocks
from app.image.metadata.edits import BLOCK_COST, Edit, Effort, readable

_COMMENT, _TEXT, _APPLICATION = 0xFE, 0x01, 0xFF
"""Labels of extensions (sections 24 to 26)."""

# The names of application extensions: identifier and authentication code, 11 bytes.
_TO_SHOW = frozenset((b"NETSCAPE2.0", b"ANIMEXTS1.0", b"ICCRGBG1012"))
"""The loop count, under two names, and the colour profile (ICC.1, annex B)."""

_IPTC = b"MGKIPTC0000"  # of ImageMagick
_RESOURCES = b"MGK8BIM0000"  # Photoshop's image resources, of ImageMagick
_XMP = b"XMP DataXMP"
_NAME_SIZE = len(_XMP)
_HEAD = 1 + _NAME_SIZE  # the sub-block with the name
_XMP_END = bytes((1, *range(0xFF, -1, -1), 0))
"""Follows an XMP packet, which is not in sub-blocks (XMP specification, part 3). A decoder that
takes a byte of the packet for a length lands in here, where each byte leads to the last one."""


def edits(view: memoryview, info: ImageInfo, minimal: bool, effort: Effort) -> Iterator[Edit]:
    """Yield the edits that apply the policy to a GIF, and remove all bytes after its trailer."""
    blocks = Blocks(info, effort, minimal=minimal)
    pos = first_block(view)
    while (kind := view[pos]) != TRAILER:
        start = pos
        if kind == EXTENSION:
            pos = end_of_blocks(view, start + 2)
            if view[start + 1] != CONTROL:
                yield from _extension(view, start, pos, blocks)
        elif kind == IMAGE:
            pos = start + DESCRIPTOR_SIZE + palette_size(view[start + DESCRIPTOR_SIZE - 1])
            pos = end_of_blocks(view, pos + 1)  # after the LZW code size
        else:
            pos += 1  # an extra block terminator
    if pos + 1 < len(view):
        yield pos + 1, len(view), b""


def _extension(view: memoryview, start: int, stop: int, blocks: Blocks) -> Iterator[Edit]:
    """Yield the edit to an extension, if there is one."""
    label = view[start + 1]
    name = b""
    if label == _APPLICATION and view[start + 2] == _NAME_SIZE:
        name = bytes(view[start + 3 : start + 3 + _NAME_SIZE])
    if name in _TO_SHOW:
        return
    if blocks.is_minimal or blocks.effort.left < 0:  # no need to copy what goes anyway
        yield start, stop, b""
        return
    data = bytes(view[start + 2 : stop])
    rest = readable(partial(_left, label, name, blocks), data, blocks.effort)
    if rest != data:
        yield start, stop, bytes((EXTENSION, label)) + rest if rest else b""


def _left(label: int, name: bytes, blocks: Blocks, data: bytes, effort: Effort) -> bytes:
    """What is left of an extension's sub-blocks, their terminator included."""
    effort.take(BLOCK_COST + len(data))
    if label in (_COMMENT, _TEXT):
        return b"" if places.in_text(_joined(data)) else data
    if name == _IPTC:
        return data
    if name == _XMP and data.endswith(_XMP_END):
        rest = blocks.xmp(data[_HEAD : -len(_XMP_END)])
        return data[:_HEAD] + rest + _XMP_END if rest else b""
    if name == _RESOURCES:
        resources = _joined(data[_HEAD:])
        rest = blocks.photoshop(resources)
        return data if rest == resources else data[:_HEAD] + _split(rest) if rest else b""
    return b""


def _joined(data: bytes) -> bytes:
    """The data in a chain of sub-blocks."""
    out = bytearray()
    pos = 0
    while length := data[pos]:
        out += data[pos + 1 : pos + 1 + length]
        pos += length + 1
    return bytes(out)


def _split(data: bytes) -> bytes:
    """The data as a chain of sub-blocks, with its terminator."""
    pieces = (data[at : at + 255] for at in range(0, len(data), 255))
    return b"".join(bytes((len(piece),)) + piece for piece in pieces) + b"\0"
