"""Names for the files that people send instead of a picture, and what to do about each.

Only the first bytes are compared with patterns; nothing is parsed.
"""

import codecs
import re

from app.errors import ApiError

_ACCEPTED = "JPEG, PNG, GIF and WebP pictures are accepted"
_AS_JPEG = "Export it as JPEG and upload that."
_AS_PNG = "Export it as PNG and upload that."
_DEVELOPED = "Export it as JPEG from your photo editor and upload that."
_STILL = "Save a single picture from it as JPEG and upload that."
_UNPACKED = "Unpack it and upload the pictures one by one."
_SOMETHING_ELSE = "Choose a picture and upload that."

# What may stand before the root of an XML or HTML document. The possessive quantifiers (*+) keep
# the match linear: without them, other text would be tried in every way it can be divided.
_MISC = rb"\s|<\?.*?\?>|<!--.*?-->"
_PROLOG = rb"(?:" + _MISC + rb"|<!DOCTYPE(?:[^>\[]|\[.*?\]\s*)*+>)*+"
_DOCTYPE = rb"(?:" + _MISC + rb")*+<!DOCTYPE "
_TIFF = rb"(?:II\*\x00|MM\x00\*)"

# The first pattern that matches wins: a specific one stands before a general one.
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    # ISO base media files (ISO 14496-12): the length of a box, its type, and a major brand.
    (rb"....ftyp(?:hei[cxms]|hev[cxms])", "a HEIC photo, as iPhones take them", _AS_JPEG),
    (rb"....ftypavi[fs]", "an AVIF picture", _AS_JPEG),
    (rb"....ftypcrx ", "a camera raw file (Canon CR3)", _DEVELOPED),
    # These brands do not tell AVIF from HEIC: the compatible brands do (ISO 23008-12).
    (rb"....ftyp(?:mif1|msf1|miaf|1pic).{8}(?:....)*?avi[fs]", "an AVIF picture", _AS_JPEG),
    (rb"....ftyp(?:mif1|msf1|miaf|1pic)", "a HEIC photo, as iPhones take them", _AS_JPEG),
    (rb"....ftyp(?:jp2|jpx|jpm)|\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 picture",
     _AS_JPEG),
    (rb"\x00\x00\x00\x0cJXL |\xff\x0a", "a JPEG XL picture", _AS_JPEG),
    (rb"II\xbc\x01", "a JPEG XR picture", _AS_JPEG),
    (rb"....ftypM4A", "a sound file", _SOMETHING_ELSE),
    (rb"....ftypqt  |\x00...(?:moov|mdat|wide|free|skip)", "a QuickTime film (MOV)", _STILL),
    (rb"....ftyp", "a film (MP4)", _STILL),
    # Most camera raw files are TIFFs, with the maker's name in the first directory.
    (rb"II\*\x00.{4}CR", "a camera raw file (Canon CR2)", _DEVELOPED),
    (rb"II.{4}HEAPCCDR", "a camera raw file (Canon CRW)", _DEVELOPED),
    (_TIFF + rb".{0,1024}NIKON", "a camera raw file (Nikon NEF) or a TIFF", _DEVELOPED),
    (_TIFF + rb".{0,1024}SONY", "a camera raw file (Sony ARW) or a TIFF", _DEVELOPED),
    (rb"FUJIFILMCCD-RAW", "a camera raw file (Fujifilm RAF)", _DEVELOPED),
    (rb"IIU\x00", "a camera raw file (Panasonic RW2)", _DEVELOPED),
    (rb"IIR[OS]|MMOR", "a camera raw file (Olympus ORF)", _DEVELOPED),
    (rb"FOVb", "a camera raw file (Sigma X3F)", _DEVELOPED),
    (rb"\x00MRM", "a camera raw file (Minolta MRW)", _DEVELOPED),
    (rb"II[*+]\x00|MM\x00[*+]", "a TIFF picture or a camera raw file", _AS_JPEG),
    (rb"BM.{4}\x00\x00\x00\x00", "a BMP picture", _AS_PNG),
    (rb"8BP[SB]", "a Photoshop document (PSD)", _AS_JPEG),
    (rb"gimp xcf", "a GIMP document (XCF)", _AS_JPEG),
    # ICO and CUR: type, count, and the first entry with its reserved byte.
    (rb"\x00\x00[\x01\x02]\x00[^\x00]\x00...\x00.{8}..\x00\x00", "an icon (ICO)",
     _AS_PNG),
    # TGA has no signature: colour map, image type, depth and flags must all be plausible.
    (rb".[\x00\x01][\x01-\x03\x09-\x0b].{5}.{8}[\x08\x0f\x10\x18\x20][\x00-\x3f]", "a TGA picture",
     _AS_PNG),
    (rb"icns\x00", "an icon (ICNS)", _AS_PNG),
    (rb"qoif", "a QOI picture", _AS_PNG),
    (rb"DDS ", "a DDS texture", _AS_PNG),
    (rb"\x8a[MJ]NG\r\n|\x8bJNG\r\n", "an MNG animation", _AS_PNG),
    (rb"\x0a[\x00\x02-\x05]\x01[\x01\x02\x04\x08]", "a PCX picture", _AS_PNG),
    (rb"P[1-7]\s+[\d#]|P7\nWIDTH", "a Netpbm picture (PPM)", _AS_PNG),
    (rb"%PDF", "a PDF document", "Export its page as JPEG or PNG and upload that."),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript drawing (EPS)", _AS_PNG),
    (rb"\xd7\xcd\xc6\x9a|\x01\x00\x00\x00.{36} EMF", "a Windows metafile", _AS_PNG),
    # The name of the first file in the archive, or the older OLE container.
    (rb"PK\x03\x04.{26,64}(?:word|xl|ppt)/|\xd0\xcf\x11\xe0", "an Office document",
     "Save the picture from it and upload that."),
    (rb"PK[\x03\x05]", "a ZIP archive (or a document that is one inside)",
     _UNPACKED),
    (rb"Rar!\x1a|7z\xbc\xaf|\x1f\x8b|BZh\d1AY|\xfd7zXZ|.{257}ustar", "a compressed archive",
     _UNPACKED),
    # Matroska, AVI, Flash, MPEG, Windows Media, Ogg, and MPEG-TS in packets of 188 bytes.
    ((rb"\x1a\x45\xdf\xa3|RIFF.{4}AVI |FLV\x01|\x00\x00\x01[\xba\xb3]|\x30\x26\xb2\x75"
     rb"|OggS.{20,80}(?:theora|video)|(?:\x47.{187}){2}\x47"), "a film", _STILL),
    (rb"RIFF.{4}WAVE|ID3[\x02-\x04]|OggS|fLaC|\xff[\xfb\xf3\xf2]", "a sound file",
     _SOMETHING_ELSE),
    # "MZ" alone may begin a text: a program has a zero byte soon after it.
    (rb"\x7fELF|MZ(?=.{0,62}\x00)", "a program", _SOMETHING_ELSE),
    # The first bytes of a JPEG, PNG, GIF and RIFF file in Base64, with more of it after them.
    (rb"data:image/[\w.+-]+;base64,|(?:/9j/|iVBORw0KGgo|R0lGOD|UklGR)[A-Za-z0-9+/=\r\n]{8}",
     "a picture written as text (Base64)",
     "Send the bytes of the picture itself."),
    (_PROLOG + rb"<(?:\w+:)?svg[\s>]|" + _DOCTYPE + rb"svg", "an SVG drawing", _AS_PNG),
    (_PROLOG + rb"(?:<html|<head|<body)|" + _DOCTYPE + rb"html", "a web page (HTML)",
     "Open the page, save the picture itself and upload that."),
)  # fmt: skip
# Only markup ignores case: in the other patterns it would match more of ordinary text.
_KNOWN = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE if b"<" in pattern else re.DOTALL), what, advice)
    for pattern, what, advice in _SIGNATURES
)
_TEXT = re.compile(rb"[\t\n\r\x20-\x7e\x80-\xff]*")  # no control characters but white space
_FOREIGN_LETTERS = 0.3
"""Up to this fraction of a text in an old encoding (Latin-1) is not ASCII. Binary data has more."""

_HEAD = 8192
"""Bytes of a file that are compared. Some editors write long comments before the root of an SVG."""
_UTF_8_MARK = b"\xef\xbb\xbf"
_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def unsupported(data: memoryview) -> ApiError:
    """The refusal of a file in none of the four formats, with the name of its format if known."""
    head = bytes(data[:_HEAD]).removeprefix(_UTF_8_MARK)
    if head.startswith(_UTF_16_MARKS):
        head = head.decode("utf-16", "ignore").encode("utf-8", "ignore")
    for pattern, what, advice in _KNOWN:
        if pattern.match(head):
            return ApiError("unsupported_format", f"This is {what}. {advice}")
    return ApiError("unsupported_format", _unknown(head))


def _unknown(head: bytes) -> str:
    if not head.strip(b"\0"):
        return "This file holds only zeros: it was not copied properly. Copy or export it again."
    if _is_text(head):
        return f"This is text, not a picture. {_ACCEPTED}."
    return f"This is not a picture of a known format. {_ACCEPTED}: export it as one of those."


def _is_text(head: bytes) -> bool:
    if not _TEXT.fullmatch(head):
        return False
    try:
        # Incremental: the head may end in the middle of a character.
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return sum(byte >= 0x80 for byte in head) <= _FOREIGN_LETTERS * len(head)
    return True
