"""Metadata of a PNG: ancillary chunks, texts and ImageMagick's profiles among them."""

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from app.image.info import ImageInfo
from app.image.metadata import places
from app.image.metadata.blocks import Blocks
from app.image.metadata.edits import BLOCK_COST, Edit, Effort, UnreadableError, readable
from app.image.png import chunks_of

_TO_SHOW = frozenset((
    *(b"IHDR", b"PLTE", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT", b"tRNS", b"bKGD", b"pHYs"),
    *(b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"mDCV", b"mDCv", b"cLLI", b"cLLi", b"sBIT"),
))  # fmt: skip
_STANDARD = _TO_SHOW | {b"tIME", b"hIST", b"sPLT", b"oFFs", b"sCAL", b"sTER"}
"""Left out are all others: nobody can tell what is in a chunk of one program's own."""

_TEXTS = frozenset((b"tEXt", b"zTXt", b"iTXt"))
_XMP = b"XML:com.adobe.xmp"
_PROFILE = b"Raw profile type "
_COLOURS = frozenset((b"icc", b"icm"))
_RAW = re.compile(rb"\s*(\S+)\s+(\d+)\s+([0-9a-fA-F\s]*)")
_LINE = 72


class _Text(NamedTuple):
    """A text chunk: ``head`` is all before the text, which is deflated where ``packed``."""

    keyword: bytes
    head: bytes
    text: bytes
    packed: bool


def edits(view: memoryview, info: ImageInfo, minimal: bool, effort: Effort) -> Iterator[Edit]:
    """The edits that leave of a PNG what the policy lets pass, and nothing after its IEND."""
    blocks = Blocks(info, effort, minimal=minimal)
    stays = _TO_SHOW if minimal else _STANDARD
    end = len(view)
    for kind, start, stop in chunks_of(view):
        end = stop + 4
        if kind not in stays:
            new = _left(kind, view, start, stop, blocks)
            if new is not None:
                yield start - 8, end, new
    if end < len(view):
        yield end, len(view), b""


def _left(kind: bytes, view: memoryview, start: int, stop: int, blocks: Blocks) -> bytes | None:
    """What is left of a chunk, its length and checksum included; None where it stays."""
    payload = bytes(view[start:stop]) if kind in _TEXTS or kind == b"eXIf" else b""
    if kind == b"eXIf":
        rest = blocks.exif(payload)
    else:
        rest = readable(partial(_text, kind, blocks), payload, blocks.effort)
    if payload and rest == payload:
        return None
    return _chunk(kind, rest) if rest else b""


def _chunk(kind: bytes, payload: bytes) -> bytes:
    body = kind + payload
    return struct.pack(">I", len(payload)) + body + struct.pack(">I", zlib.crc32(body))


def _text(kind: bytes, blocks: Blocks, payload: bytes, effort: Effort) -> bytes:
    """A text chunk without what its text may not tell."""
    if kind not in _TEXTS or (blocks.is_minimal and not payload.startswith(_PROFILE)):
        return b""
    effort.take(BLOCK_COST + len(payload))
    each = _READERS[kind](payload, effort)
    rest = _left_of_text(each, blocks)
    if rest == each.text:
        return payload
    return each.head + (zlib.compress(rest) if each.packed else rest) if rest else b""


def _left_of_text(each: _Text, blocks: Blocks) -> bytes:
    if each.keyword.startswith(_PROFILE):
        name = each.keyword.removeprefix(_PROFILE)
        return each.text if name in _COLOURS else _profile(each.text, blocks)
    if each.keyword == _XMP:
        return blocks.xmp(each.text)
    keyword = each.keyword.decode("latin-1")
    tells = "location" in keyword.lower() or places.in_name(keyword) or places.in_text(each.text)
    return b"" if tells or blocks.is_minimal else each.text


def _profile(text: bytes, blocks: Blocks) -> bytes:
    """A block that ImageMagick writes as text: its name, its length, and hexadecimal digits."""
    match = _RAW.fullmatch(text)
    if match is None:
        raise UnreadableError("no profile in hexadecimal digits")
    data = bytes.fromhex(match[3].decode())
    rest = blocks.named(data)
    if rest == data:
        return text
    digits = rest.hex().encode()
    lines = (digits[at : at + _LINE] for at in range(0, len(digits), _LINE))
    return b"\n%s\n%8d\n%s\n" % (match[1], len(rest), b"\n".join(lines)) if rest else b""


def _plain(payload: bytes, _: Effort) -> _Text:
    keyword, text = payload.split(b"\0", 1)
    return _Text(keyword, keyword + b"\0", text, packed=False)


def _deflated(payload: bytes, effort: Effort) -> _Text:
    keyword, rest = payload.split(b"\0", 1)
    return _Text(keyword, keyword + b"\0" + rest[:1], _inflate(rest[1:], effort), packed=True)


def _international(payload: bytes, effort: Effort) -> _Text:
    keyword, rest = payload.split(b"\0", 1)
    text = rest[2:].split(b"\0", 2)[2]
    head = payload[: len(payload) - len(text)]
    packed = rest[0] == 1
    return _Text(keyword, head, _inflate(text, effort) if packed else text, packed=packed)


_READERS: dict[bytes, Callable[[bytes, Effort], _Text]] = {
    b"tEXt": _plain,
    b"zTXt": _deflated,
    b"iTXt": _international,
}


def _inflate(data: bytes, effort: Effort) -> bytes:
    """A deflated text, as long as there is room for it."""
    inflater = zlib.decompressobj()
    text = inflater.decompress(data, max(effort.left, 1))
    effort.take(len(text))
    if not inflater.eof:
        raise UnreadableError("a text that is too long, or cut off")
    return text
