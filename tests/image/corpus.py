"""The files that the gate is tested with: valid ones of every accepted kind, and hostile ones.

They are generated from seeds, so that no file has to be shipped. Only the five JPEGs that no
Python library writes (arithmetic coding, rare samplings) are stored here; we made them with cjpeg.
"""

import base64
import itertools
import random
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image, PngImagePlugin

from tests.pictures import drawing, encode, photo


@dataclass(frozen=True)
class Sample:
    """A valid file: the picture ends at ``end``; the bytes after that are not part of it."""

    name: str
    data: bytes
    format: str
    size: tuple[int, int]
    frames: int
    end: int


def valid() -> list[Sample]:
    """All valid files: most have a few kilobytes, the largest a few hundred."""
    return [*jpegs(), *pngs(), *apngs(), *gifs(), *webps()]


def _sample(name, data, kind, size, frames=1, tail=b"") -> Sample:
    return Sample(f"{kind}-{name}", data + tail, kind, size, frames, len(data))


# JPEG

_CJPEG = {
    "arithmetic": (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABsSFBcUERsXFhceHBsgKEIrKCUlKFE6PTBCYFVlZF9VXVtqeJmBanGQ"
        "c1tdhbWGkJ6jq62rZ4C8ybqmx5moq6T/2wBDARweHigjKE4rK06kbl1upKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSk"
        "pKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKT/yQARCAAgACgDASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIR"
        "AxEAPwB6SO1Cleyq83FOhFnlX6eQAyoNedLVzomATgdFW4Bk0i4X+ZrjBaAn9qzVxF46+zNtbKymvxLpjEopKASq"
        "ZkZIJKyAAfQuzwbupQiIdinHmomVJt90qKsfDwicyMjPkJOIwkon9PtboJTtn1UzCBd571SErbDd1CY8KXUjseIg"
        "/9k="
    ),
    "arithmetic-progressive": (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABsSFBcUERsXFhceHBsgKEIrKCUlKFE6PTBCYFVlZF9VXVtqeJmBanGQ"
        "c1tdhbWGkJ6jq62rZ4C8ybqmx5moq6T/2wBDARweHigjKE4rK06kbl1upKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSk"
        "pKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKT/ygARCAAgACgDASIAAhEBAxEB/8wABgAQARD/2gAMAwEAAhADEAAA"
        "AQL4DJT/zAAEEAX/2gAIAQEAAQUCsP/MAAQRBf/aAAgBAwEBPwHA/8wABBEF/9oACAECAQE/AcD/zAAEEAX/2gAI"
        "AQEABj8CsP/MAAQQBf/aAAgBAQABPyH2auPfpiT30TX0Zp4/RrMYbSD/2gAMAwEAAgADAAAAEAhHImyg/8wABBEF"
        "/9oACAEDAQE/EPM8PO7A/8wABBEF/9oACAECAQE/EBhd4P/MAAQQBf/aAAgBAQABPxAkvt23A52EhyCh1jhQSPCH"
        "zYIxdtRsCY3VPl1fIw82IwB2S2nVYwK3yxpMe4cBbQciy85At1MZeuDaCfSvE76bV5CArHZjQ1IYhf3AqG4YW1ND"
        "umh038fzVAb/2Q=="
    ),
    "four-to-one-chroma": (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wCDEAAoABwAHgAjAB4AGQAoACMAIQAjAC0AKwAoADAAPABkAEEAPAA3ADcA"
        "PAB7AFgAXQBJAGQAkQCAAJkAlgCPAIAAjACKAKAAtADmAMMAoACqANoArQCKAIwAyAERAMsA2gDuAPUBAgEEAQIA"
        "mwDBARsBLwEYAPoBLADmAP0BAgD4/9sAQwErLS08NTx2QUF2+KWMpfj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4"
        "+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4/8EAEQgAIAAoAwFCAAIRAQMRAf/EABYAAQEBAAAAAAAAAAAAAAAAAAAB"
        "Av/EAB4QAAMAAgIDAQAAAAAAAAAAAAABESExQVFxgZFh/8QAFQEBAQAAAAAAAAAAAAAAAAAAAAH/xAAWEQEBAQAA"
        "AAAAAAAAAAAAAAAAESH/2gAMAwEAAhEDEQA/AD29hZWH7DqwtTkLKjFlqa6QxePIctuUEuZ8ATE2wAE/fNAAXR77"
        "/Rd3aJFZPppXv4TMfAnLiE15F4oQ0s7AAm30ACFf/9k="
    ),
    "one-scan-a-component": (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wCDEAAoABwAHgAjAB4AGQAoACMAIQAjAC0AKwAoADAAPABkAEEAPAA3ADcA"
        "PAB7AFgAXQBJAGQAkQCAAJkAlgCPAIAAjACKAKAAtADmAMMAoACqANoArQCKAIwAyAERAMsA2gDuAPUBAgEEAQIA"
        "mwDBARsBLwEYAPoBLADmAP0BAgD4/9sAQwErLS08NTx2QUF2+KWMpfj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4"
        "+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4/8EAEQgAIAAoAwEiAAIRAQMRAf/EABYAAQEBAAAAAAAAAAAAAAAAAAAB"
        "Av/EAB4QAAICAgMBAQAAAAAAAAAAAAERADEhQVFxkYFh/9oACAEBAAA/ABs3AyMH7BYwKW4GQjCwrMNNgjgRh67g"
        "pt5EAbXkA/duDfP7Dt2JEGl7NB8+SUM3GUdQtlCFXcPThWeJ/8QAFQEBAQAAAAAAAAAAAAAAAAAAAAH/xAAUEQEA"
        "AAAAAAAAAAAAAAAAAAAA/9oACAECEQA/AAAj/8QAFAEBAAAAAAAAAAAAAAAAAAAAAP/EABYRAQEBAAAAAAAAAAAA"
        "AAAAAAAhMf/aAAgBAxEAPwAFAx//2Q=="
    ),
    "three-to-one-chroma": (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wCDEAAoABwAHgAjAB4AGQAoACMAIQAjAC0AKwAoADAAPABkAEEAPAA3ADcA"
        "PAB7AFgAXQBJAGQAkQCAAJkAlgCPAIAAjACKAKAAtADmAMMAoACqANoArQCKAIwAyAERAMsA2gDuAPUBAgEEAQIA"
        "mwDBARsBLwEYAPoBLADmAP0BAgD4/9sAQwErLS08NTx2QUF2+KWMpfj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4"
        "+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4+Pj4/8EAEQgAIAAoAwExAAIRAQMRAf/EABYAAQEBAAAAAAAAAAAAAAAAAAAB"
        "Av/EAB4QAAMAAgIDAQAAAAAAAAAAAAABESExQVFxgZFh/8QAFQEBAQAAAAAAAAAAAAAAAAAAAAH/xAAWEQEBAQAA"
        "AAAAAAAAAAAAAAAAARH/2gAMAwEAAhEDEQA/AD29hZWH7DqwtTkAsqMTE2wIFlqa6QxePIctuUAS5nwJ++aAuaPf"
        "f6Lu7RIrJ9CNK9/CaWdgGyGY+BOXEJryAvFE2+gQr//Z"
    ),
}
_CJPEG_SIZE = (40, 32)


def segment(marker: int, payload: bytes) -> bytes:
    """A JPEG segment with its marker and length."""
    return bytes((0xFF, marker)) + struct.pack(">H", len(payload) + 2) + payload


def _with_segments(data: bytes, *segments: bytes) -> bytes:
    return data[:2] + b"".join(segments) + data[2:]


def jpegs() -> Iterator[Sample]:
    for size in ((1, 1), (7, 9), (8, 8), (17, 33), (100, 3), (3, 100), (320, 200)):
        image = photo(*size)
        options = itertools.product((0, 1, 2), ({}, {"progressive": True}, {"optimize": True}))
        for subsampling, extra in options:
            name = f"{size[0]}x{size[1]}-{subsampling}-{''.join(extra)}"
            data = encode(image, "JPEG", quality=75, subsampling=subsampling, **extra)
            yield _sample(name, data, "JPEG", size)
    for mode in ("L", "CMYK"):
        for progressive in (False, True):
            data = encode(photo(61, 47, mode), "JPEG", progressive=progressive)
            yield _sample(f"{mode}-{progressive}", data, "JPEG", (61, 47))
    for name, text in _CJPEG.items():
        yield _sample(name, base64.b64decode(text), "JPEG", _CJPEG_SIZE)
    scans = base64.b64decode(_CJPEG["one-scan-a-component"])
    table, scan = _last_table_and_scan(scans)
    filled = scans[:table] + b"\xff\xd3\xff" + scans[table:scan] + b"\xff\xff" + scans[scan:]
    yield _sample("fill-bytes-between-scans", filled, "JPEG", _CJPEG_SIZE)
    yield from _odd_jpegs()


def odd_headers() -> dict[str, bytes]:
    """Whole JPEGs with headers that phones and programs write, and of which libjpeg warns."""
    plain = encode(photo(160, 120), "JPEG")
    cmyk = encode(photo(160, 120, "CMYK"), "JPEG")
    selection = plain.index(b"\xff\xda") + 11
    version = plain.index(b"JFIF\0") + 5
    transform = cmyk.index(b"Adobe") + 11
    return {
        "samsung": plain[:selection] + bytes(3) + plain[selection + 3 :],
        "jfif-version": plain[:version] + b"\0\2" + plain[version + 2 :],
        "adobe-transform": cmyk[:transform] + b"\3" + cmyk[transform + 1 :],
    }


def _last_table_and_scan(data: bytes) -> tuple[int, int]:
    scan = data.rindex(b"\xff\xda")
    return data.rindex(b"\xff\xc4", 0, scan), scan


def jpegs_not_shown() -> dict[str, bytes]:
    """Sequential JPEGs in several scans, with stray bytes that only libjpeg skips."""
    plain = base64.b64decode(_CJPEG["one-scan-a-component"])
    table, scan = _last_table_and_scan(plain)
    return {
        "jpeg-stray-before-a-later-table": plain[:table] + b"\0" + plain[table:],
        "jpeg-stray-before-a-later-scan": plain[:scan] + b"\1\2" + plain[scan:],
    }


def strays() -> dict[str, bytes]:
    """Whole JPEGs with stray bytes, as webcams, network cameras and toy cameras write them.

    libjpeg goes on to the next marker, and decodes the same pixels as without these bytes.
    """
    image = photo(160, 120)
    plain = encode(image, "JPEG", comment=b"a comment")
    table, comment, frame, scan = (
        plain.index(bytes((0xFF, kind))) for kind in (0xDB, 0xFE, 0xC0, 0xDA)
    )

    def at(place: int, what: bytes, into: bytes = plain) -> bytes:
        return into[:place] + what + into[place:]

    restarts = encode(image, "JPEG", restart_marker_rows=1)
    marks = [each.start() for each in re.finditer(rb"\xff[\xd0-\xd7]", restarts)]
    turned = bytearray(restarts)
    for mark in marks:
        turned[mark + 1] = 0xD0 | (turned[mark + 1] + 4) & 7
    progressive = encode(image, "JPEG", progressive=True)
    second = progressive.index(b"\xff\xc4", progressive.index(b"\xff\xda"))
    return {
        "byte-before-a-table": at(table, b"\0"),
        "zeros-before-the-comment": at(comment, bytes(600)),
        "text-before-the-frame": at(frame, b"Camera 3.1\r\n"),
        "byte-before-the-scan": at(scan, b"\x2a"),
        "comment-longer-than-it-says": plain[: comment + 3] + b"\5" + plain[comment + 4 :],
        "comment-of-length-0": plain[: comment + 2] + b"\0\0" + plain[comment + 4 :],
        "restart-mark-before-a-table": at(table, b"\xff\xd3"),
        "byte-before-a-restart-mark": at(marks[2], b"\x2a", restarts),
        "zeros-before-restart-marks": at(marks[1], bytes(64), at(marks[4], bytes(99), restarts)),
        "restart-marks-four-on": bytes(turned),
        "restart-mark-before-the-end": restarts[:-2] + b"\xff\xd6" + restarts[-2:],
        "zeros-between-scans": at(second, bytes(600), progressive),
    }


def made_up() -> dict[str, bytes]:
    """JPEGs that libjpeg decodes, but with a part that it makes up."""
    restarts = encode(photo(160, 120), "JPEG", restart_marker_rows=1)
    marks = [each.start() for each in re.finditer(rb"\xff[\xd0-\xd7]", restarts)]
    first, last = marks[1] + 2, marks[2]
    noise = random.Random(4).randbytes(99).replace(b"\xff", b"?")
    swapped = bytearray(restarts)
    swapped[marks[2] + 1], swapped[marks[3] + 1] = swapped[marks[3] + 1], swapped[marks[2] + 1]
    return {
        "interval-missing": restarts[: marks[1]] + restarts[marks[2] :],
        "interval-too-many": restarts[: marks[2]] + restarts[marks[1] :],
        "restart-marks-swapped": bytes(swapped),
        "interval-of-zeros": restarts[:first] + bytes(last - first) + restarts[last:],
        "noise-before-the-end": restarts[:-2] + noise + restarts[-2:],
        "noise-before-a-restart-mark": restarts[: marks[1]] + noise + restarts[marks[1] :],
    }


def _odd_jpegs() -> Iterator[Sample]:
    size = (160, 120)
    image = photo(*size)
    plain = encode(image, "JPEG")
    cmyk = encode(photo(*size, "CMYK"), "JPEG")
    adobe = cmyk.index(b"Adobe") + 11
    ycck = cmyk[:adobe] + b"\2" + cmyk[adobe + 1 :]
    profile = random.Random(2).randbytes(150_000)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    xmp = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"<x:xmpmeta/>" * 400)
    thumbnail = segment(0xE1, b"Exif\0\0" + encode(photo(64, 48), "JPEG"))
    many = [segment(0xE1, b"Exif\0\0" + bytes(65_000))] * 20
    zeros = plain[:-2] + bytes(700) + plain[-2:]
    for name, data in odd_headers().items():
        yield _sample(name, data, "JPEG", size)
    yield _sample("ycck", ycck, "JPEG", size)
    for name, data in strays().items():
        yield _sample(name, data, "JPEG", size)
    yield _sample("rgb", encode(image, "JPEG", keep_rgb=True), "JPEG", size)
    yield _sample("icc", encode(image, "JPEG", icc_profile=profile), "JPEG", size)
    yield _sample("exif", encode(image, "JPEG", exif=exif), "JPEG", size)
    yield _sample("xmp", _with_segments(plain, xmp), "JPEG", size)
    yield _sample("thumbnail", _with_segments(plain, thumbnail), "JPEG", size)
    yield _sample("huge-exif", _with_segments(plain, *many), "JPEG", size)
    yield _sample("comment", encode(image, "JPEG", comment=b"\xff\xd9 and so on"), "JPEG", size)
    yield _sample("fill-bytes", plain[:2] + b"\xff" * 9 + plain[2:], "JPEG", size)
    yield _sample("fill-before-end", plain[:-2] + b"\xff\xff\xff\xff" + plain[-1:], "JPEG", size)
    yield _sample("stray-before-end", plain[:-2] + b"\1\2\3" + plain[-2:], "JPEG", size)
    yield _sample("zeros-before-end", zeros, "JPEG", size)
    yield _sample("tail", plain, "JPEG", size, tail=b"\0" * 999 + plain[:500])
    for rows in (1, 3):
        data = encode(image, "JPEG", restart_marker_rows=rows)
        yield _sample(f"restart-{rows}", data, "JPEG", size)
    data = encode(image, "JPEG", restart_marker_blocks=1, progressive=True)
    yield _sample("restart-progressive", data, "JPEG", size)
    mpo = encode(image, "MPO", save_all=True, append_images=[photo(*size, seed=4)])
    first = mpo.index(b"\xff\xd9\xff\xd8") + 2
    yield _sample("mpo", mpo[:first], "JPEG", size, tail=mpo[first:])


# PNG

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
          (0, 1, 1, 2))  # fmt: skip


def chunk(kind: bytes, payload: bytes = b"") -> bytes:
    """A PNG chunk with its length and checksum."""
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(
        ">I", zlib.crc32(kind + payload)
    )  # fmt: skip


def header(width: int, height: int, depth: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    """An IHDR chunk."""
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))


def rows(width: int, height: int, depth: int, colour: int, interlace: int, seed: int = 1) -> bytes:
    """Filtered rows of random samples, each with a random filter, as PNG stores them."""
    rng = random.Random(seed)
    bits = depth * _CHANNELS[colour]
    out = bytearray()
    for x, y, across, down in _ADAM7 if interlace else ((0, 0, 1, 1),):
        wide, high = -(-(width - x) // across), -(-(height - y) // down)
        if wide > 0 and high > 0:
            for _ in range(high):
                out += bytes((rng.randrange(5),)) + rng.randbytes(-(-wide * bits // 8))
    return bytes(out)


def png(width, height, depth=8, colour=2, interlace=0, *, pieces=1, before=b"", after=b"") -> bytes:
    """A PNG of random samples; ``before`` and ``after`` are chunks around its image data."""
    packed = zlib.compress(rows(width, height, depth, colour, interlace))
    step = -(-len(packed) // pieces)
    data = b"".join(chunk(b"IDAT", packed[i : i + step]) for i in range(0, len(packed), step))
    palette = chunk(b"PLTE", bytes(range(3 * (1 << min(depth, 4))))) if colour == 3 else b""
    start = SIGNATURE + header(width, height, depth, colour, interlace)
    return start + palette + before + data + after + chunk(b"IEND")


def pngs() -> Iterator[Sample]:
    kinds = [(colour, depth) for colour, depths in _DEPTHS.items() for depth in depths]
    for (colour, depth), interlace in itertools.product(kinds, (0, 1)):
        for size in ((1, 1), (5, 3), (33, 17)):
            name = f"{colour}-{depth}-{interlace}-{size[0]}x{size[1]}"
            yield _sample(name, png(*size, depth, colour, interlace), "PNG", size)
    size = (64, 48)
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", "words " * 500, zip=True)
    text.add_itxt("Author", "Ä" * 500, "de", "Autor", zip=True)
    profile = random.Random(3).randbytes(60_000)
    trns = chunk(b"tRNS", b"\0\x7f\xff")
    yield _sample("text", encode(photo(*size), "PNG", pnginfo=text), "PNG", size)
    yield _sample("icc", encode(photo(*size), "PNG", icc_profile=profile), "PNG", size)
    yield _sample("transparent-palette", png(*size, 8, 3, before=trns), "PNG", size)
    yield _sample("many-pieces", png(*size, pieces=3000), "PNG", size)
    yield _sample("empty-piece", png(*size, before=chunk(b"IDAT")), "PNG", size)
    yield _sample("unknown-chunk", png(*size, after=chunk(b"prVt", b"x" * 99)), "PNG", size)
    yield _sample("background", png(*size, 8, 3, before=chunk(b"bKGD", b"\0")), "PNG", size)
    yield _sample("background-empty", png_palette_after(chunk(b"bKGD")), "PNG", (16, 8))
    for name, colours in cicps().items():
        yield _sample(name, png(*size, before=colours), "PNG", size)
    yield _sample("tail", png(*size), "PNG", size, tail=b"after the end" * 50)
    yield _sample("alpha", encode(drawing(*size), "PNG"), "PNG", size)
    yield _sample("photo", encode(photo(320, 200), "PNG"), "PNG", (320, 200))


def png_palette_after(*chunks: bytes) -> bytes:
    """A PNG of 16 x 8 with a palette, which stands after these chunks."""
    whole = png(16, 8, 8, 3)
    at = whole.index(b"PLTE") - 4
    return whole[:at] + b"".join(chunks) + whole[at:]


def cicps() -> dict[str, bytes]:
    """Chunks cICP with which browsers show a picture: good ones, and those that they skip."""
    good, unused = chunk(b"cICP", b"\1\x0d\0\1"), chunk(b"cICP", b"\1\x0d\1\1")
    return {
        "cicp-full-range": good,
        "cicp-narrow-range": chunk(b"cICP", b"\x09\x10\0\0"),
        "cicp-second": good + unused,
        "cicp-of-3-bytes": chunk(b"cICP", b"\1\x0d\1"),
        "cicp-after-the-palette": chunk(b"PLTE", bytes(6)) + unused,
    }


def pngs_not_shown() -> dict[str, bytes]:
    """PNGs with an ancillary chunk for which browsers refuse the whole picture."""
    matrix, of_3_bytes = chunk(b"cICP", b"\1\x0d\1\1"), chunk(b"cICP", b"\1\x0d\1")
    return {
        "png-background-before-palette": png_palette_after(chunk(b"bKGD", b"\0")),
        "png-cicp-matrix": png(16, 8, before=matrix),
        "png-cicp-matrix-after-short": png(16, 8, before=of_3_bytes + matrix),
        "png-cicp-range-2": png(16, 8, before=chunk(b"cICP", b"\1\x0d\0\2")),
    }


def frame_control(sequence: int, width: int, height: int, left: int = 0, top: int = 0) -> bytes:
    """An fcTL chunk."""
    return chunk(b"fcTL", struct.pack(">IIIIIHHBB", sequence, width, height, left, top, 1, 9, 0, 0))


def apng(declared: int, real: int, size=(16, 8), *, hidden: bool = False, plays: int = 0) -> bytes:
    """An APNG that declares some frames and has others; ``hidden``: after a still picture."""
    still = zlib.compress(rows(*size, 8, 2, 0))
    out = SIGNATURE + header(*size) + chunk(b"acTL", struct.pack(">II", declared, plays))
    sequence = 0
    if not hidden:
        out += frame_control(0, *size)
        sequence, real = 1, real - 1
    out += chunk(b"IDAT", still)
    part = zlib.compress(rows(8, 4, 8, 2, 0, seed=7))
    for _ in range(real):
        out += frame_control(sequence, 8, 4, 2, 1)
        out += chunk(b"fdAT", struct.pack(">I", sequence + 1) + part[:9])
        out += chunk(b"fdAT", struct.pack(">I", sequence + 2) + part[9:])
        sequence += 3
    return out + chunk(b"IEND")


def _apng_of(*middle: bytes, size=(16, 8)) -> bytes:
    return SIGNATURE + header(*size) + b"".join(middle) + chunk(b"IEND")


def _apng_parts(size=(16, 8)) -> tuple[bytes, bytes]:
    """The IDAT of the picture, and the data of a frame of 8 x 4."""
    still = chunk(b"IDAT", zlib.compress(rows(*size, 8, 2, 0)))
    return still, zlib.compress(rows(8, 4, 8, 2, 0, seed=7))


def apng_control_last() -> bytes:
    """An APNG whose acTL stands after its first fcTL: their order is free."""
    still, part = _apng_parts()
    control = chunk(b"acTL", struct.pack(">II", 2, 0))
    second = chunk(b"fdAT", struct.pack(">I", 2) + part)
    return _apng_of(frame_control(0, 16, 8), control, still, frame_control(1, 8, 4), second)


def apngs_not_shown() -> dict[str, bytes]:
    """APNGs that break a rule: browsers show nothing of them, or too few frames."""
    still, part = _apng_parts()
    control = chunk(b"acTL", struct.pack(">II", 2, 0))

    def second(dispose: int = 0, blend: int = 0, data: bytes = part) -> bytes:
        fields = struct.pack(">IIIIIHHBB", 1, 8, 4, 0, 0, 1, 9, dispose, blend)
        return chunk(b"fcTL", fields) + chunk(b"fdAT", struct.pack(">I", 2) + data)

    first = frame_control(0, 16, 8)
    return {
        "apng-dispose-3": _apng_of(control, first, still, second(dispose=3)),
        "apng-blend-2": _apng_of(control, first, still, second(blend=2)),
        "apng-first-frame-smaller": _apng_of(control, frame_control(0, 8, 4), still, second()),
        "apng-first-frame-moved": _apng_of(control, frame_control(0, 15, 8, 1), still, second()),
        "apng-two-controls-first": _apng_of(
            control, first, frame_control(1, 16, 8), still, second()
        ),
        "apng-no-acTL": _apng_of(first, still, second()),
        "apng-data-first": _apng_of(chunk(b"fdAT", struct.pack(">I", 0) + part), still),
        "apng-acTL-last": _apng_of(first, still, second(), control),
        "apng-2**31-times": apng(2, 2, plays=1 << 31),
    }


def png_without_checksum(missing: int = 4) -> bytes:
    """A PNG whose zlib stream lacks its last bytes, in valid chunks."""
    return png_of(9, 9, zlib.compress(rows(9, 9, 8, 2, 0))[:-missing])


def apngs() -> Iterator[Sample]:
    yield _sample("animated", apng(5, 5), "PNG", (16, 8), 5)
    yield _sample("animated-hidden", apng(3, 3, hidden=True), "PNG", (16, 8), 3)
    yield _sample("animated-control-last", apng_control_last(), "PNG", (16, 8), 2)
    yield _sample("animated-one", apng(1, 1), "PNG", (16, 8), 1)
    yield _sample("animated-2**31-1-times", apng(2, 2, plays=(1 << 31) - 1), "PNG", (16, 8), 2)
    frames = [drawing(60, 40, step=i) for i in range(6)]
    data = encode(frames[0], "PNG", save_all=True, append_images=frames[1:], duration=50)
    yield _sample("animated-pillow", data, "PNG", (60, 40), 6)


# GIF


def _first_frame(gif: bytes) -> int:
    """Where the first frame of Pillow's GIF begins: at the first comma after the palette."""
    return gif.index(b",", 13 + 3 * (2 << (gif[10] & 7)))


def gifs() -> Iterator[Sample]:
    for size in ((1, 1), (3, 7), (64, 48), (200, 150)):
        for colours in (2, 3, 16, 200, 256):
            image = photo(*size).quantize(colours)
            for interlace in (0, 1):
                name = f"{size[0]}x{size[1]}-{colours}-{interlace}"
                yield _sample(name, encode(image, "GIF", interlace=interlace), "GIF", size)
    size = (90, 60)
    clear = drawing(*size).convert("P")
    plain = encode(photo(*size, "P"), "GIF")
    yield _sample("transparent", encode(clear, "GIF", transparency=0), "GIF", size)
    yield _sample("comment", encode(clear, "GIF", comment=b"; and , and !" * 90), "GIF", size)
    yield _sample("stray-zero", plain[:-1] + b"\0\0;", "GIF", size)
    for name, block in (
        ("other-application-empty", b"\x21\xff\x0bABCDEFGH1.0\0"),
        ("loop-of-1-byte", b"\x21\xff\x0bNETSCAPE2.0\1\1\0"),
    ):
        at = _first_frame(plain)
        yield _sample(name, plain[:at] + block + plain[at:], "GIF", size)
    empty_loop = plain[:-1] + b"\x21\xff\x0bNETSCAPE2.0\0;"
    yield _sample("empty-loop-last", empty_loop, "GIF", size)
    yield _sample("no-canvas", plain[:6] + bytes(4) + plain[10:], "GIF", size)
    yield _sample("tail", plain, "GIF", size, tail=b"\0" * 77)
    yield from gifs_on_odd_canvases()
    frames = [drawing(*size, "RGB", step=2 * i) for i in range(8)]
    for disposal in (0, 1, 2, 3):
        options = {"append_images": frames[1:], "duration": 40, "loop": 0, "disposal": disposal}
        data = encode(frames[0], "GIF", save_all=True, **options)
        yield _sample(f"animated-{disposal}", data, "GIF", size, 8)
    photos = [photo(*size, seed=i).quantize(64) for i in range(4)]
    data = encode(photos[0], "GIF", save_all=True, append_images=photos[1:], optimize=False)
    yield _sample("animated-local-palettes", data, "GIF", size, 4)


def _gif_of_bits(code_size: int, codes: int) -> bytes:
    """A GIF of two pixels, black and white; its LZW codes, the first one in the lowest bits."""
    canvas = b"GIF89a" + struct.pack("<HHBBB", 2, 1, 0x80, 0, 0) + bytes(3) + b"\xff" * 3
    picture = struct.pack("<cHHHHBBB", b",", 0, 0, 2, 1, 0, code_size, 2)
    return canvas + picture + codes.to_bytes(2, "little") + b"\0;"


def gifs_not_shown() -> dict[str, bytes]:
    """GIFs that break a rule: browsers show nothing of them, or too few frames."""
    plain = encode(photo(90, 60, "P"), "GIF")
    image = _first_frame(plain)
    code_size = image + 10
    two = encode(
        drawing(90, 60, "RGB"),
        "GIF",
        save_all=True,
        append_images=[drawing(90, 60, "RGB", 4)],
        duration=9,
    )
    control = two.rindex(b"\x21\xf9\x04")
    loop, animexts = (b"\x21\xff\x0b%s\0" % name for name in (b"NETSCAPE2.0", b"ANIMEXTS1.0"))
    return {
        "gif-zero-before-the-picture": plain[:image] + b"\0" + plain[image:],
        "gif-zero-between-frames": two[:control] + b"\0" + two[control:],
        "gif-control-of-3-bytes": two[: control + 2] + b"\3" + two[control + 4 :],
        "gif-control-without-end": two[: control + 7] + b"\1" + two[control + 7 :],
        "gif-empty-loop": plain[:image] + loop + plain[image:],
        "gif-empty-loop-between-frames": two[:control] + loop + two[control:],
        "gif-empty-loop-animexts": plain[:image] + animexts + plain[image:],
        "gif-code-size-11": plain[:code_size] + b"\x0b" + plain[code_size + 1 :],
        "gif-code-size-1": _gif_of_bits(1, 0b11_01_10_00_10),
    }


def gifs_on_odd_canvases() -> Iterator[Sample]:
    """GIFs with frames outside their canvas: it grows for the first one, and crops the others."""
    frame = encode(Image.new("L", (9, 5)), "GIF")
    picture = frame[_first_frame(frame) : -1]
    moved = picture[:1] + struct.pack("<HH", 4, 3) + picture[5:]
    for name, size, first, second in (
        ("first-frame-larger", (2, 3), picture, picture),
        ("first-frame-moved", (9, 5), moved, picture),
        ("second-frame-larger", (9, 5), picture, moved),
    ):
        canvas = frame[:6] + struct.pack("<HH", *size) + frame[10 : frame.index(picture)]
        shown = (max(size[0], 13), max(size[1], 8)) if first is moved else (9, 5)
        yield _sample(name, canvas + first + second + b";", "GIF", shown, 2)
    # Clear, black, white, end: 3 bits each.
    yield _sample("code-size-2", _gif_of_bits(2, 0b101_001_000_100), "GIF", (2, 1))


# WebP


def webps() -> Iterator[Sample]:
    for size in ((1, 1), (3, 5), (16, 16), (161, 121)):
        for lossless, alpha, method in itertools.product((False, True), (False, True), (0, 4)):
            image = drawing(*size) if alpha else photo(*size)
            data = encode(image, "WEBP", lossless=lossless, method=method)
            name = f"{size[0]}x{size[1]}-{lossless}-{alpha}-{method}"
            yield _sample(name, data, "WEBP", size)
    size = (80, 60)
    exif = Image.Exif()
    exif[0x0112] = 6
    extra = {"exif": exif, "icc_profile": random.Random(5).randbytes(9001), "xmp": b"<x/>" * 300}
    plain = encode(photo(*size), "WEBP")
    yield _sample("metadata", encode(photo(*size), "WEBP", **extra), "WEBP", size)
    yield _sample("alpha-metadata", encode(drawing(*size), "WEBP", **extra), "WEBP", size)
    yield _sample("tail", plain, "WEBP", size, tail=b"after" * 9)
    for lossless, mixed in ((False, False), (True, False), (False, True)):
        frames = [drawing(*size, step=2 * i) for i in range(9)]
        options = {"lossless": lossless, "allow_mixed": mixed, "append_images": frames[1:]}
        data = encode(frames[0], "WEBP", save_all=True, duration=40, **options)
        yield _sample(f"animated-{lossless}-{mixed}", data, "WEBP", size, 9)


def webps_not_shown() -> dict[str, bytes]:
    """WebPs that break a rule: libwebp and browsers show nothing of them."""
    size = (80, 60)
    lossy = encode(photo(*size), "WEBP")[20:]
    alpha = encode(drawing(*size), "WEBP")
    moving = webp_animation(*size, 2)
    canvas = vp8x(*size)
    flagged = vp8x(*size, flags=0x40)
    picture = alpha.index(b"VP8 ")
    anim = moving.index(b"ANIM")
    return {
        "webp-no-padding": resized(
            riff((b"VP8X", canvas), (b"VP8 ", lossy), (b"EXIF", b"odd"))[:-1]
        ),
        "webp-reserved-flag": riff((b"VP8X", flagged), (b"VP8 ", lossy)),
        "webp-chunk-before-the-picture-of-an-alpha-channel": resized(
            alpha[:picture] + b"JUNK\2\0\0\0??" + alpha[picture:]
        ),
        "webp-anim-of-4-bytes": resized(
            moving[: anim + 4] + struct.pack("<I", 4) + moving[anim + 10 :]
        ),
        "webp-anim-of-0-bytes": resized(moving[: anim + 4] + bytes(4) + moving[anim + 14 :]),
        "webp-picture-after-frames": resized(moving + riff((b"VP8 ", lossy))[12:]),
        "webp-two-pictures": riff((b"VP8X", canvas), (b"VP8 ", lossy), (b"VP8 ", lossy)),
    }


def jpeg_of_a_gap(zeros: int = 600) -> bytes:
    """A sequential JPEG in several scans with zeros after the coded data of one of them."""
    data = base64.b64decode(_CJPEG["one-scan-a-component"])
    gap = data.index(b"\xff\xc4", data.index(b"\xff\xda"))
    return data[:gap] + bytes(zeros) + data[gap:]


def not_shown() -> dict[str, bytes]:
    """Files that a browser does not show, or only in part, though their coded data is valid."""
    pngs = pngs_not_shown() | apngs_not_shown()
    return jpegs_not_shown() | pngs | gifs_not_shown() | webps_not_shown()


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP file of these chunks."""
    pieces = [b"RIFF\0\0\0\0WEBP"]
    for kind, payload in chunks:
        pieces += (kind, struct.pack("<I", len(payload)), payload, b"\0" * (len(payload) & 1))
    return resized(b"".join(pieces))


def resized(file: bytes) -> bytes:
    """A WebP file with the size of its container made right."""
    return file[:4] + struct.pack("<I", len(file) - 8) + file[8:]


def vp8x(width: int, height: int, *, flags: int = 0) -> bytes:
    """The payload of a VP8X chunk; flags are 2 for an animation, 0x10 for alpha."""
    return struct.pack("<IHBHB", flags, width - 1, 0, height - 1, 0)


class _Bits:
    """Collects bits as VP8L stores them: the least significant one of each number first."""

    def __init__(self) -> None:
        self._text: list[str] = []

    def put(self, *fields: tuple[int, int]) -> None:
        """Append numbers, each with its number of bits."""
        self._text += [f"{value:0{count}b}"[::-1] for value, count in fields]

    def tobytes(self) -> bytes:
        text = "".join(self._text)
        return int(text[::-1] or "0", 2).to_bytes(-(-len(text) // 8), "little")


_ONE_SYMBOL = ((1, 1), (0, 1), (0, 1), (0, 1))
_ALL_256 = ((0, 1), (8, 4), *[(0, 3)] * 11, (1, 3), (1, 1), (3, 3), (254, 8))
"""Two prefix codes: one whose only symbol is 0, and one of 256 symbols with eight bits each."""


def _lossless(groups: int, side: int) -> bytes:
    """A black VP8L stream, without its header, with this many groups of prefix codes.

    Each square of 4 x 4 pixels uses the next group, as far as there are squares.
    """
    bits = _Bits()
    bits.put((0, 1), (0, 1), (1, 1), (0, 3), (0, 1))  # no transform, no cache; entropy image: 4 x 4
    bits.put(*_ALL_256, *_ALL_256, *_ONE_SYMBOL * 3)
    reverse = [int(f"{byte:08b}"[::-1], 2) for byte in range(256)]
    for square in range((side // 4) ** 2):
        high, low = divmod(square % groups, 256)
        bits.put((reverse[low], 8), (reverse[high], 8))
    bits.put(*_ONE_SYMBOL * 5 * groups)
    return bits.tobytes()


def webp_of_groups(groups: int, side: int) -> bytes:
    """A lossless WebP with this many groups of prefix codes."""
    size = side - 1 | side - 1 << 14
    return riff((b"VP8L", b"\x2f" + struct.pack("<I", size) + _lossless(groups, side)))


def webp_alpha_of_groups(groups: int, side: int) -> bytes:
    """A lossy WebP whose alpha channel has this many groups of prefix codes."""
    lossy = encode(Image.new("RGB", (side, side)), "WEBP")[20:]
    canvas = vp8x(side, side, flags=0x10)
    alpha = b"\x01" + _lossless(groups, side)
    return riff((b"VP8X", canvas), (b"ALPH", alpha), (b"VP8 ", lossy))


# Hostile files


def _bomb(size: int) -> bytes:
    """``size`` zeros, deflated to a thousandth; the zlib stream does not end."""
    packer = zlib.compressobj(9)
    start = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    piece = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + piece * (size >> 20)


def bombs() -> dict[str, bytes]:
    """Pictures with a gigabyte in their metadata or after their rows, which is never inflated."""
    bomb = _bomb(1 << 30)
    small = zlib.compress(rows(4, 4, 8, 2, 0))[:-4]
    after = SIGNATURE + header(4, 4) + chunk(b"IDAT", small) + chunk(b"IDAT", bomb)
    return {
        "png-ztxt": png(8, 8, before=chunk(b"zTXt", b"Title\0\0" + bomb)),
        "png-iccp": png(8, 8, before=chunk(b"iCCP", b"name\0\0" + bomb)),
        "png-itxt": png(8, 8, after=chunk(b"iTXt", b"Title\0\1\0\0\0" + bomb)),
        "png-data-behind-the-rows": png_of(4, 4, bomb),
        "png-more-pieces-behind-the-rows": after + chunk(b"IEND"),
    }


def png_pieces_behind_the_end(pieces: int, size: int = 12) -> bytes:
    """A PNG whose zlib stream ends a row too early, with this many chunks after it."""
    start = SIGNATURE + header(1, 2) + chunk(b"IDAT", zlib.compress(bytes(4)))
    return start + chunk(b"IDAT", bytes(size)) * pieces + chunk(b"IEND")


def png_cut(megabytes: int, side: int, announced: int = 13) -> bytes:
    """A cut PNG of ``side`` x ``side`` whose header announces ``announced`` bytes.

    Its image data is a thousandth of the ``megabytes`` to which it inflates.
    """
    start = bytearray(SIGNATURE + header(side, side))
    struct.pack_into(">I", start, len(SIGNATURE), announced)
    return bytes(start) + chunk(b"IDAT", _bomb(megabytes << 20))


def packed_rows(width: int, height: int, *, bits: int, interlaced: bool) -> bytes:
    """The zlib stream of black rows, as small as possible."""
    packer = zlib.compressobj(9)
    packed = b""
    for x, y, across, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        wide, high = -(-(width - x) // across), -(-(height - y) // down)
        row = bytes(1 + -(-wide * bits // 8))
        packed += b"".join(packer.compress(row) for _ in range(high))
    return packed + packer.flush()


def png_of(width, height, packed: bytes, *, depth=8, colour=2, interlace=0) -> bytes:
    """A PNG whose zlib stream is ``packed``, valid or not."""
    start = SIGNATURE + header(width, height, depth, colour, interlace)
    return start + chunk(b"IDAT", packed) + chunk(b"IEND")


def gif_of(width: int, height: int, frames: int, size: tuple[int, int] = (1, 1)) -> bytes:
    """A GIF of ``frames`` equal frames of one colour on a canvas."""
    image = encode(Image.new("L", size), "GIF")
    start = _first_frame(image)
    canvas = b"GIF89a" + struct.pack("<HH", width, height) + image[10:start]
    return canvas + image[start:-1] * frames + b";"


def webp_animation(width: int, height: int, frames: int) -> bytes:
    """A WebP animation of 1 x 1 frames on a canvas."""
    picture = encode(Image.new("RGB", (1, 1)), "WEBP", lossless=True)[12:]
    frames_ = [(b"ANMF", bytes(16) + picture)] * frames
    return riff((b"VP8X", vp8x(width, height, flags=2)), (b"ANIM", bytes(6)), *frames_)


def _frame_for_the_picture() -> bytes:
    """An APNG whose only valid rows are in a frame before the picture, which has no valid data."""
    rows_ = struct.pack(">I", 0) + zlib.compress(rows(16, 8, 8, 2, 0))
    return b"".join((
        SIGNATURE, header(16, 8), chunk(b"acTL", struct.pack(">II", 1, 0)), chunk(b"fdAT", rows_),
        frame_control(0, 16, 8), chunk(b"IDAT", b"no zlib stream"), chunk(b"IEND"),
    ))  # fmt: skip


def _plain_gif() -> tuple[bytes, bytes]:
    """A GIF of one pixel, divided before its frame."""
    plain = encode(Image.new("L", (1, 1)), "GIF")
    at = _first_frame(plain)
    return plain[:at], plain[at:]


def gif_of_blocks(count: int) -> bytes:
    """A GIF with this many empty comments."""
    start, rest = _plain_gif()
    return start + b"\x21\xfe\0" * count + rest


def gif_of_pieces(count: int) -> bytes:
    """A GIF whose comment has this many sub-blocks of one byte."""
    start, rest = _plain_gif()
    return start + b"\x21\xfe" + b"\1?" * count + b"\0" + rest


def png_of_chunks(count: int) -> bytes:
    """A PNG with this many empty chunks."""
    return png(8, 8, after=chunk(b"prVt") * count)


def webp_of_chunks(count: int) -> bytes:
    """A WebP with this many empty chunks."""
    picture = encode(Image.new("RGB", (8, 8)), "WEBP")[20:]
    file = riff((b"VP8X", vp8x(8, 8)), (b"VP8 ", picture))
    return resized(file + b"JUNK\0\0\0\0" * count)


def jpeg_of_segments(count: int) -> bytes:
    """A JPEG with this many empty comments."""
    return _with_segments(encode(Image.new("L", (8, 8)), "JPEG"), segment(0xFE, b"") * count)


def jpeg_of_strays(size: int) -> bytes:
    """A JPEG with this many bytes between its segments that look almost like markers."""
    return _with_segments(encode(Image.new("L", (8, 8)), "JPEG"), b"\xff\0" * (size // 2))


def jpeg_of_intervals(count: int) -> bytes:
    """A JPEG of this many restart intervals, with a stray byte at the end of one of them."""
    side = 8 * int(count**0.5)
    data = encode(photo(side, side, "L"), "JPEG", restart_marker_blocks=1)
    third = [each.start() for each in re.finditer(rb"\xff[\xd0-\xd7]", data)][2]
    return data[:third] + b"?" + data[third:]


def hostile() -> dict[str, tuple[str, bytes]]:
    """Files that ask for too much or lie, each with the code of its refusal."""
    jpeg = encode(photo(64, 64), "JPEG")
    sof = jpeg.index(b"\xff\xc0") + 5
    sos = jpeg.index(b"\xff\xda")
    wide = struct.pack(">HH", 65500, 65500)
    tables = jpeg[:sof] + struct.pack(">HH", 9000, 9000) + jpeg[sof + 4 : sos]
    scan = jpeg[sos:-2]
    vp8l = b"\x2f" + struct.pack("<I", 16382 | 16382 << 14) + bytes(64)
    vp8x = struct.pack("<I", 0) + b"\xff\xff\xff" * 2
    some = apng(3, 3)
    comments = jpeg[:2] + segment(0xFE, b"") * 3_900_000 + jpeg[2:]
    return {
        "jpeg-65500": ("too_many_pixels", jpeg[:sof] + wide + jpeg[sof + 4 :]),
        "jpeg-thousand-scans": ("corrupt_image", tables + scan * 1000 + b"\xff\xd9"),
        "jpeg-empty-scan": ("corrupt_image", tables + scan[:14] + b"\xff\xd9"),
        "jpeg-many-comments": ("corrupt_image", comments),
        "png-2147483647": ("too_many_pixels", png_of(2**31 - 1, 2**31 - 1, b"")),
        "png-no-rows": ("corrupt_image", png_of(9000, 9000, zlib.compress(b""))),
        "png-zeros-too-few": ("corrupt_image", png_of(10000, 10000, _bomb(1 << 28))),
        "png-filters": ("corrupt_image", png_of(9, 9, zlib.compress(b"\x09" * 252))),
        "apng-million": ("too_many_pixels", apng(1_000_000, 2)),
        "apng-fewer": ("corrupt_image", apng(5, 4)),
        "apng-more": ("corrupt_image", apng(2, 5)),
        "apng-none": ("corrupt_image", apng(0, 1)),
        "apng-out-of-sequence": (
            "corrupt_image",
            some.replace(frame_control(1, 8, 4, 2, 1), frame_control(9, 8, 4, 2, 1)),
        ),
        "apng-outside": (
            "corrupt_image",
            some.replace(frame_control(1, 8, 4, 2, 1), frame_control(1, 8, 4, 12, 1)),
        ),
        "apng-frame-for-the-picture": ("corrupt_image", _frame_for_the_picture()),
        "apng-data-without-control": (
            "corrupt_image",
            apng(1, 1)[:-12] + chunk(b"fdAT", struct.pack(">I", 1) + b"?") + chunk(b"IEND"),
        ),
        "text-of-comments": ("unsupported_format", b"<!-- a -->\n" * 700 + b"<!doctype html>"),
        "gif-frames": ("too_many_pixels", gif_of(5000, 5000, 50_000)),
        "gif-65535": ("too_many_pixels", gif_of(65535, 65535, 1)),
        "gif-frame-outside": ("too_many_pixels", gif_of(1, 1, 1, (9, 9)).replace(
            b",\0\0\0\0\x09\0\x09\0", b",\xff\xff\xff\xff\xff\xff\xff\xff")),
        "gif-short-frame": ("corrupt_image", gif_of(9, 9, 1, (9, 9)).replace(
            b",\0\0\0\0\x09\0\x09\0", b",\0\0\0\0\x00\x20\x00\x20")),
        "webp-16383": ("too_many_pixels", riff((b"VP8L", vp8l))),
        "webp-canvas": ("too_many_pixels", riff((b"VP8X", vp8x), (b"VP8L", vp8l))),
        "webp-frames": ("too_many_pixels", webp_animation(4096, 4096, 200_000)),
        "webp-empty-lossless": (
            "corrupt_image",
            riff((b"VP8L", b"\x2f" + struct.pack("<I", 9000 | 9000 << 14) + bytes(64))),
        ),
        "webp-no-beginning": (
            "corrupt_image",
            webp_animation(64, 64, 3).replace(b"ANIM", b"JUNK"),
        ),
        "webp-groups": ("corrupt_image", webp_of_groups(65_536, 1024)),
        "webp-alpha-groups": ("corrupt_image", webp_alpha_of_groups(65_536, 1024)),
        "webp-no-frames": ("corrupt_image", webp_animation(64, 64, 0)),
    }  # fmt: skip
