"""Metadata of a PNG: ancillary chunks, among them texts and ImageMagick's profiles in texts.

Section numbers are those of the W3C's PNG specification, third edition.
"""

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

# mDCv and cLLi are older names of mDCV and cLLI.
_TO_SHOW = frozenset((
    *(b"IHDR", b"PLTE", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT", b"tRNS", b"bKGD", b"pHYs"),
    *(b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"mDCV", b"mDCv", b"cLLI", b"cLLi", b"sBIT"),
))  # fmt: skip
_STANDARD = _TO_SHOW | {b"tIME", b"hIST", b"sPLT", b"oFFs", b"sCAL", b"sTER"}
"""The chunks that ``no-location`` keeps, besides texts and EXIF: those of the specification and its
registered extensions. All others are removed: nobody can tell what is in a private chunk."""

_TEXTS = frozenset((b"tEXt", b"zTXt", b"iTXt"))  # section 11.3.3
_XMP = b"XML:com.adobe.xmp"  # the keyword of XMP (XMP specification, part 3)
_PROFILE = b"Raw profile type "  # the keyword of ImageMagick's profiles, before their name
_COLOURS = frozenset((b"icc", b"icm"))
_RAW = re.compile(rb"\s*(\S+)\s+(\d+)\s+([0-9a-fA-F\s]*)")
_LINE = 72  # digits in a line, as ImageMagick writes them


class _Text(NamedTuple):
    """A text chunk: ``head`` is all before the text; ``packed`` says that the text is deflated."""

    keyword: bytes
    head: bytes
    text: bytes
    packed: bool


def edits(view: memoryview, info: ImageInfo, minimal: bool, effort: Effort) -> Iterator[Edit]:
    """Yield the edits that apply the policy to a PNG, and remove all bytes after its IEND."""
    blocks = Blocks(info, effort, minimal=minimal)
    stays = _TO_SHOW if minimal else _STANDARD
    end = len(view)
    exif_seen = False
    for kind, start, stop in chunks_of(view):
        end = stop + 4  # after the checksum
        if kind in stays:
            continue
        # Viewers read the first eXIf. If that one goes, a later one must not turn the picture.
        repeated = kind == b"eXIf" and exif_seen
        exif_seen |= kind == b"eXIf"
        new = b"" if repeated else _left(kind, view, start, stop, blocks)
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
    """What is left of the payload of a text chunk."""
    # Under ``minimal`` a profile may hold EXIF with the orientation; no other text stays.
    if kind not in _TEXTS or (blocks.is_minimal and not payload.startswith(_PROFILE)):
        return b""
    effort.take(BLOCK_COST + len(payload))
    text_chunk = _READERS[kind](payload, effort)
    rest = _left_of_text(text_chunk, blocks)
    if rest == text_chunk.text:
        return payload
    return text_chunk.head + (zlib.compress(rest) if text_chunk.packed else rest) if rest else b""


def _left_of_text(text_chunk: _Text, blocks: Blocks) -> bytes:
    if text_chunk.keyword.startswith(_PROFILE):
        name = text_chunk.keyword.removeprefix(_PROFILE)
        return text_chunk.text if name in _COLOURS else _profile(text_chunk.text, blocks)
    if text_chunk.keyword == _XMP:
        return blocks.xmp(text_chunk.text)
    keyword = text_chunk.keyword.decode("latin-1")
    tells = (
        "location" in keyword.lower() or places.in_name(keyword) or places.in_text(text_chunk.text)
    )
    return b"" if tells or blocks.is_minimal else text_chunk.text


def _profile(text: bytes, blocks: Blocks) -> bytes:
    """What is left of a block that ImageMagick writes as text: name, length, hexadecimal digits."""
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


# The readers of section 11.3.3: a keyword, a zero, and for iTXt the compression flag and method, a
# language and a translated keyword, each with a zero after it.


def _plain(payload: bytes, _: Effort) -> _Text:
    keyword, text = payload.split(b"\0", 1)
    return _Text(keyword, keyword + b"\0", text, packed=False)


def _deflated(payload: bytes, effort: Effort) -> _Text:
    keyword, rest = payload.split(b"\0", 1)
    # The first byte is the compression method, of which only zlib exists.
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
    """Inflate a text; UnreadableError where it is longer than may still be read."""
    inflater = zlib.decompressobj()
    text = inflater.decompress(data, max(effort.left, 1))
    effort.take(len(text))
    if not inflater.eof:
        raise UnreadableError("a text that is too long, or cut off")
    return text
