"""XMP (ISO 16684-1): an XML packet, and how to cut some of its properties out of it.

The packet is edited as bytes, so that the rest stays as it was. Expat only finds the places to cut.
It reads no external entity here, and expands no entity: a packet with a document type, which XMP
forbids, is not read at all.
"""

import re
from collections.abc import Iterator
from xml.parsers import expat

from app.image.metadata import places
from app.image.metadata.edits import Effort, UnreadableError

_ADOBE = "http://ns.adobe.com/"
_KNOWN = frozenset((
    "http://www.w3.org/2000/01/rdf-schema#",
    "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "http://www.w3.org/XML/1998/namespace",
    "adobe:ns:meta/",
    "http://purl.org/dc/elements/1.1/",
    "http://purl.org/dc/terms/",
    "http://creativecommons.org/ns#",
    "http://cipa.jp/exif/1.0/",
    "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/",
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "http://ns.useplus.org/ldf/xmp/1.0/",
    "http://prismstandard.org/namespaces/basic/2.0/",
    "http://prismstandard.org/namespaces/prismusagerights/2.1/",
    "http://prismstandard.org/namespaces/prl/2.1/",
    "http://prismstandard.org/namespaces/pmi/2.2/",
    "http://www.metadataworkinggroup.com/schemas/regions/",
    "http://www.metadataworkinggroup.com/schemas/keywords/",
    "http://xmp.gettyimages.com/gift/1.0/",
    "http://ns.camerabits.com/photomechanic/1.0/",
    "http://www.digikam.org/ns/1.0/",
    "http://ns.acdsee.com/iptc/1.0/",
    "http://ns.iview-multimedia.com/mediapro/1.0/",
    "http://ns.microsoft.com/expressionmedia/1.0/",
    "http://ns.extensis.com/extensis/1.0/",
    "http://ns.optimasc.com/dex/1.0/",
    "http://ns.microsoft.com/photo/1.0/",
    "http://ns.microsoft.com/photo/1.0",
    "http://ns.microsoft.com/photo/1.2/",
    "http://ns.microsoft.com/photo/1.2/t/RegionInfo#",
    "http://ns.microsoft.com/photo/1.2/t/Region#",
    "http://ns.google.com/photos/1.0/panorama/",
    *(
        _ADOBE + path
        for path in (
            *("xap/1.0/", "xap/1.0/rights/", "xap/1.0/mm/", "xap/1.0/bj/", "xap/1.0/t/pg/"),
            *("xap/1.0/g/", "xap/1.0/sType/ResourceEvent#", "xap/1.0/sType/ResourceRef#"),
            *("xap/1.0/sType/Version#", "xap/1.0/sType/Dimensions#", "xap/1.0/sType/Font#"),
            *("xap/1.0/sType/Job#", "xmp/sType/Area#", "xmp/note/", "xmp/1.0/DynamicMedia/"),
            *("xmp/Identifier/qual/1.0/", "iX/1.0/", "exif/1.0/", "exif/1.0/aux/", "tiff/1.0/"),
            *("xap/1.0/sType/ManifestItem#", "photoshop/1.0/camera-profile", "hdr-metadata/1.0/"),
            "camera-raw-embedded-lens-profile/1.0/",
            *("photoshop/1.0/", "camera-raw-settings/1.0/", "lightroom/1.0/", "pdf/1.3/"),
        )
    ),
))  # fmt: skip
"""Schemas (namespaces) whose properties are known. The schemas of phones, drones and gain maps are
not among them: they have many names for positions and for pictures after the end of the image."""

_BARE = frozenset(("about", "ID", "nodeID", "parseType", "resource", "datatype"))
"""Attributes of RDF that older programs write without a prefix."""

_COST = 100
"""Bytes charged for each tag and attribute."""

# As expat gives names: namespace, space, local name.
_EXTENDED = f"{_ADOBE}xmp/note/ HasExtendedXMP"
_ATTRIBUTE = re.compile(rb"\s+([^\s=<>/\"']+)\s*=\s*(\"[^\"]*\"|'[^']*')")
_START_TAG = re.compile(rb"<[^\s<>/]+((?:%s)*)\s*/?>" % _ATTRIBUTE.pattern.replace(b"(", b"(?:"))


def without_location(packet: bytes, effort: Effort) -> bytes:
    """A packet without positions, maker notes, and properties of unknown schemas."""
    return _cut(packet, effort, extended=False)


def announcing(packet: bytes, effort: Effort) -> bytes:
    """As ``without_location``, but keeps the property that names the extended packet of a JPEG."""
    return _cut(packet, effort, extended=True)


def _cut(packet: bytes, effort: Effort, *, extended: bool) -> bytes:
    body = packet.rstrip(b"\0")
    # A tag or an attribute takes expat and the handlers far longer than the bytes of a value do.
    effort.take(len(body) + _COST * (body.count(b"<") + body.count(b"=")))
    cuts = _Cuts(body, extended=extended).places
    if not cuts:
        return packet
    # The gaps between cuts stay. The padding of zeros goes.
    edges = [0, *(edge for cut in cuts for edge in cut), len(body)]
    return b"".join(body[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True))


class _Cuts:
    """Finds the ``places`` (start, stop) to cut out of a packet, in order."""

    def __init__(self, packet: bytes, *, extended: bool) -> None:
        self._packet = packet
        self._extended = extended
        self._depth = 0
        # The element that is being cut out: depth, start, and its stop if it is an empty tag.
        self._removing: tuple[int, int, int] | None = None
        self.places: list[tuple[int, int]] = []
        # A fixed encoding: in another one the byte positions would not be those of the packet.
        self._parser = parser = expat.ParserCreate("UTF-8", " ")
        parser.ordered_attributes = True
        parser.StartElementHandler = self._started
        parser.EndElementHandler = self._ended
        parser.CommentHandler = lambda _: self._markup(b"-->")
        parser.ProcessingInstructionHandler = self._instruction
        parser.StartCdataSectionHandler = self._refused
        parser.StartDoctypeDeclHandler = self._refused
        try:
            parser.Parse(packet, True)
        finally:
            # The parser refers to this object. Without the cycle both are freed at once, not by
            # the garbage collector some time later.
            del self._parser

    def _started(self, name: str, attributes: list[str]) -> None:
        self._depth += 1
        if self._removing is not None:
            return
        at = self._parser.CurrentByteIndex
        tag = _START_TAG.match(self._packet, at)
        if tag is None:
            raise UnreadableError("a tag that the pattern does not match")
        if not self._stays(name):
            if self._depth == 1:  # nothing would be left
                raise UnreadableError("no XMP")
            self._removing = self._depth, at, tag.end() if tag[0].endswith(b"/>") else 0
        elif tag[1]:
            self._check_attributes(iter(attributes[::2]), tag)

    def _check_attributes(self, names: Iterator[str], tag: re.Match[bytes]) -> None:
        """Cut attributes out of a tag that stays. ``names`` are expat's, without xmlns."""
        for match in _ATTRIBUTE.finditer(self._packet, tag.start(1), tag.end(1)):
            if match[1] == b"xmlns" or match[1].startswith(b"xmlns:"):
                # An address with an entity in it cannot be compared. The names that use it are.
                stays = b"&" in match[2] or match[2][1:-1].decode() in _KNOWN
            else:
                name = next(names, "")  # an attribute that expat does not report goes
                stays = name in _BARE or self._stays(name)
            if not stays:
                self.places.append(match.span())

    def _stays(self, name: str) -> bool:
        if name == _EXTENDED:
            return self._extended
        schema, _, local = name.rpartition(" ")
        return schema in _KNOWN and not places.in_name(local)

    def _ended(self, _name: str) -> None:
        if self._removing is not None and self._removing[0] == self._depth:
            start, stop = self._removing[1:]
            # At an end tag, the current position is that of its "<".
            end = stop or self._packet.index(b">", self._parser.CurrentByteIndex) + 1
            self.places.append((start, end))
            self._removing = None
        self._depth -= 1

    def _instruction(self, target: str, text: str) -> None:
        """Keep XMP's own packet markers, unless one has swallowed a part of the packet."""
        if target != "xpacket" or "<" in text:
            self._markup(b"?>")

    def _markup(self, end: bytes) -> None:
        """Cut out a comment or an instruction: it may hold deleted properties."""
        if self._removing is None:
            at = self._parser.CurrentByteIndex
            self.places.append((at, self._packet.index(end, at) + len(end)))

    @staticmethod
    def _refused(*_: object) -> None:
        raise UnreadableError("markup that XMP does not allow")
