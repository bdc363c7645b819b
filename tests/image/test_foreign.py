"""Files of other formats are named, with what to do about them."""

import pytest

from tests.image.corpus import chunk, png
from tests.image.inspecting import refusal
from tests.pictures import encode, photo

FOREIGN = [
    (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC photo"),
    (b"\0\0\0\x1cftypmif1\0\0\0\0mif1miafheic", "a HEIC photo"),
    (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "an AVIF picture"),
    (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "an AVIF picture"),
    (b"\0\0\0\x18ftypcrx \0\0\0\0", "camera raw"),
    (b"\0\0\0\x18ftypisom\0\0\0\0", "a film (MP4)"),
    (b"\0\0\0\x14ftypqt  \0\0\0\0", "a QuickTime film"),
    (b"II*\0\x10\0\0\0CR\2\0", "camera raw file (Canon CR2)"),
    (b"II*\0\x08\0\0\0" + bytes(60), "a TIFF picture"),
    (b"MM\0*\0\0\0\x08" + bytes(60), "a TIFF picture"),
    (b"FUJIFILMCCD-RAW 0201", "camera raw file (Fujifilm RAF)"),
    (b"BM\x36\0\x0c\0\0\0\0\0\x36\0", "a BMP picture"),
    (b"8BPS\0\1", "a Photoshop document"),
    (b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0\x68\4\0\0\x16\0\0\0", "an icon"),
    (b"\0\0\2\0\0\0\0\0\0\0\0\0\x40\0\x20\0\x18\0" + bytes(9), "a TGA picture"),
    (b"OggS\0\2" + bytes(22) + b"\x80theora", "a film"),
    (b"\xff\xfe" + "<?xml version='1.0'?><svg>".encode("utf-16-le"), "an SVG drawing"),
    (b"<!-- x -->\n" * 99 + b"<svg:svg>", "an SVG drawing"),
    (
        b'<!DOCTYPE svg PUBLIC "-//W3C" "x.dtd" [\n<!ENTITY ns "http://x">\n]>\n<svg>',
        "an SVG drawing",
    ),
    (b"<!-- saved from url=(0014)about:internet -->\n<!DOCTYPE html>", "a web page"),
    (b"<!-- -->" * 999, "This is text"),
    (b"For free", "This is text"),
    (b"MZ is a magazine", "This is text"),
    (b"ID3 and icns are not BZh", "This is text"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51\0\x2f", "a JPEG 2000 picture"),
    (b"\xff\x0a\xfa\x1f", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
    (b"%PDF-1.7\n", "a PDF document"),
    (b"%!PS-Adobe-3.0", "a PostScript drawing"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
    (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- x -->\n<svg width='9'>", "an SVG drawing"),
    (b"<!DOCTYPE html><html>", "a web page"),
    (b"PK\3\4\x14\0" + bytes(40), "a ZIP archive"),
    (b"PK\3\4\x14\0" + bytes(24) + b"word/document.xml", "an Office document"),
    (b"\x1a\x45\xdf\xa3", "a film"),
    (b"iVBORw0KGgoAAAANSUhEUg", "Base64"),
    ("Grüße aus der Redaktion".encode(), "This is text"),
    ("Gr\u00fc\u00dfe aus der Redaktion".encode("latin-1"), "This is text"),
    ("\u65e5\u672c\u8a9e".encode() * 3000, "This is text"),
    (b"\xff" * 4000, "not a picture of a known format"),
    (b"/9j/ is how photos begin.", "This is text"),
    (b"data:image/ is a scheme", "This is text"),
    (b"data:image/png;base64,iVBORw0KGgo=", "Base64"),
    (bytes(4000), "holds only zeros"),
    (b"\x9c\1\2\3\4\5\6\7" * 9, "not a picture of a known format"),
]


@pytest.mark.parametrize(("data", "words"), FOREIGN, ids=[words for _, words in FOREIGN])
def test_other_formats_are_named_with_what_to_do(data, words):
    error = refusal(data)
    assert error.code == "unsupported_format"
    assert words in error.detail
    assert error.detail.count(". ") >= 1  # what it is, then what to do


@pytest.mark.parametrize(
    ("place", "value", "words"), [(-1, 12, "12-bit"), (4, 2, "2-channel")], ids=["12-bit", "2"]
)
def test_jpegs_that_browsers_cannot_show_are_named(place, value, words):
    data = bytearray(encode(photo(16, 16), "JPEG"))
    start = data.index(b"\xff\xc0") + 5
    data[start + place] = value
    if value == 2:
        del data[start + 5 : start + 8]
        data[start - 2] -= 3
    error = refusal(data)
    assert (error.code, words in error.detail) == ("unsupported_format", True)


@pytest.mark.parametrize("marker", [0xC3, 0xF7])
def test_a_lossless_jpeg_is_named(marker):
    data = encode(photo(16, 16), "JPEG").replace(b"\xff\xc0", bytes((0xFF, marker)), 1)
    error = refusal(data)
    assert (error.code, "lossless" in error.detail) == ("unsupported_format", True)


def test_a_png_for_iphone_apps_is_named():
    data = png(9, 9).replace(png(9, 9)[8:33], chunk(b"CgBI", b"\x50\0\x20\2") + png(9, 9)[8:33])
    error = refusal(data)
    assert (error.code, "iPhone apps" in error.detail) == ("unsupported_format", True)
