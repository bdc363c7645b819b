"""Blocks of EXIF, XMP, IPTC and Photoshop, wherever a format puts them."""

from functools import partial

from app.image.info import ImageInfo
from app.image.metadata import exif, photoshop, xmp
from app.image.metadata.edits import Effort, readable

# How blocks begin in a JPEG's segments.
EXIF = b"Exif\0"  # and a byte of padding after it (CIPA DC-008, APP1)
XMP = b"http://ns.adobe.com/xap/1.0/\0"  # XMP specification, part 3
PHOTOSHOP = b"Photoshop 3.0\0"
_EXIF_HEAD = len(EXIF) + 1
_TIFF = (b"II*\0", b"MM\0*")  # little and big endian (TIFF 6.0, section 2)
_IPTC = b"\x1c"  # the tag marker of a dataset (IPTC-NAA IIM 4.2)
_RESOURCE = b"8BIM"  # the signature of a Photoshop resource


class Blocks:
    """Applies a policy to the blocks of one image.

    Each method returns what is left of a block: nothing of one that cannot be read.
    """

    def __init__(self, info: ImageInfo, effort: Effort, *, minimal: bool) -> None:
        self.effort = effort
        self.is_minimal = minimal
        # EXIF has its own limit: other metadata, however much, must not hide the orientation.
        self._exif_effort = effort.another()
        self._minimal_exif = partial(exif.minimal, size=(info.width, info.height))

    def exif(self, data: bytes) -> bytes:
        """EXIF, with or without its name in front."""
        head = data[:_EXIF_HEAD] if data.startswith(EXIF) else b""
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
        """A block that is known by its first bytes, as in ImageMagick's profiles."""
        if data.startswith((EXIF, *_TIFF)):
            return self.exif(data)
        if data.startswith(_IPTC):
            return b"" if self.is_minimal else data
        for head, block_filter in ((XMP, self.xmp), (PHOTOSHOP, self.photoshop)):
            if data.startswith(head):
                rest = block_filter(data[len(head) :])
                return head + rest if rest else b""
        return self.photoshop(data) if data.startswith(_RESOURCE) else self.xmp(data)
