"""Blocks by what they begin with, wherever a format puts them."""

from functools import partial

from app.image.info import ImageInfo
from app.image.metadata import exif, photoshop, xmp
from app.image.metadata.edits import Effort, readable

EXIF = b"Exif\0"
XMP = b"http://ns.adobe.com/xap/1.0/\0"
PHOTOSHOP = b"Photoshop 3.0\0"
_TIFF = (b"II*\0", b"MM\0*")
_IPTC = b"\x1c"


class Blocks:
    """What a policy leaves of the blocks of one picture; nothing of one that cannot be read."""

    def __init__(self, info: ImageInfo, effort: Effort, *, minimal: bool) -> None:
        self.effort = effort
        self.is_minimal = minimal
        # Whatever else stands in a file: how the picture is turned is read in any case.
        self._exif_effort = effort.another()
        self._minimal_exif = partial(exif.minimal, size=(info.width, info.height))

    def exif(self, data: bytes) -> bytes:
        """EXIF, with or without its name in front."""
        head = data[:6] if data.startswith(EXIF) else b""
        block_filter = self._minimal_exif if self.is_minimal else exif.without_location
        rest = readable(block_filter, data[len(head) :], self._exif_effort)
        return head + rest if rest else b""

    def xmp(self, packet: bytes) -> bytes:
        """An XMP packet."""
        return b"" if self.is_minimal else readable(xmp.without_location, packet, self.effort)

    def photoshop(self, data: bytes) -> bytes:
        """Photoshop's image resources."""
        return b"" if self.is_minimal else readable(photoshop.without_location, data, self.effort)

    def named(self, data: bytes) -> bytes:
        """A block that says what it is in its first bytes, as in ImageMagick's profiles."""
        if data.startswith((EXIF, *_TIFF)):
            return self.exif(data)
        if data.startswith(_IPTC):
            return b"" if self.is_minimal else data
        for head, block_filter in ((XMP, self.xmp), (PHOTOSHOP, self.photoshop)):
            if data.startswith(head):
                rest = block_filter(data[len(head) :])
                return head + rest if rest else b""
        return self.photoshop(data) if data.startswith(b"8BIM") else self.xmp(data)
