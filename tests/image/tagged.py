"""Pictures with a position in their metadata, as cameras, phones, drones and programs write it.

The position occurs nowhere else: it is ``LATITUDE`` in texts and ``DEGREES`` in EXIF.
"""

import base64
import hashlib
import struct
import zlib

from PIL import ImageCms

from tests.image.corpus import SIGNATURE, apng, chunk, resized, riff, segment, vp8x
from tests.pictures import drawing, encode, photo

LATITUDE = "48.1372288"
DEGREES = (4813722, 99991)
CREDIT = "Photo: Agency/Jane Doe"
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
IPTC = b"".join(
    b"\x1c\x02" + bytes((number,)) + struct.pack(">H", len(text)) + text
    for number, text in ((80, b"Jane Doe"), (90, b"Munich"), (110, b"Agency"), (120, b"A caption"))
)

# EXIF


def tiff(order: str, *directories: list[tuple[int, int, object]], thumbnail: bytes = b"") -> bytes:
    """A TIFF structure: fields are (tag, type, value); a value that is a list is a directory."""
    image, *rest = directories
    if thumbnail:
        rest = [[(0x103, 3, (6,)), (0x201, 4, thumbnail), (0x202, 4, (len(thumbnail),))]]
    out = bytearray((b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8))
    following = _directory(out, order, image)
    for each in rest:
        struct.pack_into(order + "I", out, following, len(out))
        following = _directory(out, order, each)
    return bytes(out)


def _directory(out: bytearray, order: str, fields) -> int:
    """Append a directory and its values; return the position of the link to the next one."""
    at = len(out)
    out += struct.pack(order + "H", len(fields)) + bytes(12 * len(fields) + 4)
    for number, (tag, kind, value) in enumerate(fields):
        inner = isinstance(value, list)
        data = b"" if inner else _value(order, kind, value)
        size = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 10: 8}[kind]
        count = 1 if inner or tag == 0x201 else len(data) // size
        if inner or len(data) > 4:
            place = struct.pack(order + "I", len(out))
            if inner:
                _directory(out, order, value)
            out += data + bytes(len(data) & 1)
        else:
            place = data.ljust(4, b"\0")
        struct.pack_into(order + "HHI4s", out, at + 2 + 12 * number, tag, kind, count, place)
    return at + 2 + 12 * len(fields)


def _value(order: str, kind: int, value) -> bytes:
    if isinstance(value, bytes):
        return value
    form = {1: "B", 3: "H", 4: "I", 5: "I", 10: "i"}[kind]
    return struct.pack(f"{order}{len(value)}{form}", *value)


def gps(order: str) -> list:
    degrees = (*DEGREES, 0, 1, 0, 1)
    return [(1, 2, b"N\0"), (2, 5, degrees), (3, 2, b"E\0"), (4, 5, degrees), (5, 1, (0,)),
            (6, 5, DEGREES), (29, 2, b"2026:11:25\0")]  # fmt: skip


def maker_note(order: str) -> bytes:
    """A maker's private directory, with a position in it."""
    return b"Maker\0" + tiff(order, [(0x100, 2, f"lat={LATITUDE}\0".encode()), *gps(order)])


def exif(order="<", *, orientation=6, location=True, thumbnail=b"", more=(), more_exif=()) -> bytes:
    """EXIF as a camera writes it: GPS last, after the maker note."""
    camera = [
        (0x829A, 5, (1, 125)), (0x9003, 2, b"2026:11:25 10:00:00\0"),
        (0x9286, 7, b"ASCII\0\0\0Hi!"), *([(0x927C, 7, maker_note(order))] if location else []),
        (0xA001, 3, (1,)), (0xA005, 4, [(1, 2, b"R98\0"), (2, 7, b"0100")]),
        (0xA434, 2, b"A lens\0"), *more_exif,
    ]  # fmt: skip
    image = [
        (0x10E, 2, b"A caption\0"), (0x10F, 2, b"Maker\0"), (0x110, 2, b"Model\0"),
        (0x112, 3, (orientation,)), (0x11A, 5, (300, 1)), (0x11B, 5, (300, 1)), (0x128, 3, (2,)),
        (0x132, 2, b"2026:11:25 10:00:00\0"), (0x13B, 2, b"Jane Doe\0"), (0x8298, 2, b"Agency\0"),
        (0x8769, 4, camera), *([(0x8825, 4, gps(order))] if location else []), *more,
    ]  # fmt: skip
    return tiff(order, image, thumbnail=thumbnail)


def app1(data: bytes) -> bytes:
    return segment(0xE1, b"Exif\0\0" + data)


# XMP

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
SCHEMAS = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "xmpNote": "http://ns.adobe.com/xmp/note/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "drone-dji": "http://www.dji.com/drone-dji/1.0/",
    "MiCamera": "http://ns.xiaomi.com/photos/1.0/camera/",
    "GCamera": "http://ns.google.com/photos/1.0/camera/",
    "Container": "http://ns.google.com/photos/1.0/container/",
    "Item": "http://ns.google.com/photos/1.0/container/item/",
    "hdrgm": "http://ns.adobe.com/hdr-gain-map/1.0/",
    "geo": "http://www.w3.org/2003/01/geo/wgs84_pos#",
}


def xmp(attributes="", elements="", *, wrapped=True) -> bytes:
    names = " ".join(
        f'xmlns:{name}="{uri}"'
        for name, uri in SCHEMAS.items()
        if f"{name}:" in attributes + elements
    )
    text = (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}">'
        f'<rdf:Description rdf:about="" {names} {attributes}>{elements}</rdf:Description>'
        "</rdf:RDF></x:xmpmeta>"
    )
    if wrapped:
        text = f'<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>{text}' + " " * 200
        text += '<?xpacket end="w"?>'
    return text.encode()


CREDITS = (
    f"<photoshop:Credit>{CREDIT}</photoshop:Credit>"
    "<dc:creator><rdf:Seq><rdf:li>Jane Doe</rdf:li></rdf:Seq></dc:creator>"
    '<dc:description><rdf:Alt><rdf:li xml:lang="x-default">A &lt;caption&gt;</rdf:li></rdf:Alt>'
    "</dc:description>"
)
LOCATED = xmp(
    f'exif:GPSLatitude="{LATITUDE}N" drone-dji:GpsLongtitude="{LATITUDE}" photoshop:City="Munich"',
    f"<geo:empty geo:long='{LATITUDE}'/>{CREDITS}<exif:GPSLongitude>{LATITUDE}E</exif:GPSLongitude>"
    f"<exif:MakerNote>{base64.b64encode(maker_note('<')).decode()}</exif:MakerNote>"
    f"<!-- was {LATITUDE} -->"
    f"<geo:lat>{LATITUDE}</geo:lat><geo:none></geo:none>"
    f'<MiCamera:XMPMeta>&lt;place lat="{LATITUDE}"/&gt;</MiCamera:XMPMeta>'
    "<Iptc4xmpExt:LocationCreated><rdf:Bag><rdf:li rdf:parseType='Resource'>"
    f"<Iptc4xmpExt:City>Munich</Iptc4xmpExt:City><exif:GPSLatitude>{LATITUDE}N</exif:GPSLatitude>"
    "</rdf:li></rdf:Bag></Iptc4xmpExt:LocationCreated>",
)
XMP = b"http://ns.adobe.com/xap/1.0/\0"


def extended_xmp(packet: bytes, *, split=300, elements=CREDITS) -> list[bytes]:
    """The segment of a packet that names an extended one, and the segments of that one."""
    guid = hashlib.md5(packet, usedforsecurity=False).hexdigest().upper()
    first = xmp(f'xmpNote:HasExtendedXMP="{guid}"', elements)
    parts = [
        b"http://ns.adobe.com/xmp/extension/\0" + guid.encode()
        + struct.pack(">II", len(packet), at) + packet[at : at + split]
        for at in range(0, len(packet), split)
    ]  # fmt: skip
    return [segment(0xE1, XMP + first), *(segment(0xE1, part) for part in parts)]


# Photoshop


def resource(number: int, data: bytes) -> bytes:
    return b"8BIM" + struct.pack(">HHI", number, 0, len(data)) + data + bytes(len(data) & 1)


def irb(*resources: bytes) -> bytes:
    return segment(0xED, b"Photoshop 3.0\0" + b"".join(resources))


# Files


def jpeg(*segments: bytes, image=None, tail=b"") -> bytes:
    plain = encode(image or photo(64, 48), "JPEG", quality=90)
    return plain[:20] + b"".join(segments) + plain[20:] + tail


def located_jpegs() -> dict[str, bytes]:
    small = encode(photo(32, 24), "JPEG")
    telling = jpeg(app1(exif()), image=photo(32, 24))
    profile = segment(0xE2, b"ICC_PROFILE\0\1\1" + PROFILE)
    long_text = "".join(f"<dc:rights>{i} {'x' * 90}</dc:rights>" for i in range(30))
    far = xmp(f'exif:GPSLatitude="{LATITUDE}"', long_text, wrapped=False)
    everything = [app1(exif(thumbnail=small)), segment(0xE1, XMP + LOCATED), profile,
                  irb(resource(0x404, IPTC))]  # fmt: skip
    return {
        "little-endian": jpeg(app1(exif("<"))),
        "big-endian": jpeg(app1(exif(">"))),
        "everything": jpeg(*everything),
        "progressive": _progressive(everything),
        "thumbnail-with-exif": jpeg(app1(exif(thumbnail=telling))),
        "xmp-in-exif": jpeg(app1(exif(location=False, more=[(0x2BC, 1, LOCATED)]))),
        "gps-in-the-wrong-directory": jpeg(app1(exif(location=False, more_exif=gps("<")))),
        "gps-nobody-points-to": jpeg(app1(exif(location=False) + maker_note("<"))),
        "gps-in-a-comment-field": jpeg(app1(exif(location=False, more_exif=[
            (0x9286, 7, f'ASCII\0\0\0{{"lat": {LATITUDE}}}'.encode())]))),
        "two-exifs": jpeg(app1(exif(location=False)), app1(exif())),
        "exif-in-two-segments": jpeg(app1(exif()[:400]), app1(exif()[400:])),
        "extended-xmp": jpeg(*extended_xmp(far)),
        "extended-xmp-alone": jpeg(*extended_xmp(far)[1:]),
        "flir": jpeg(segment(0xE1, b"FLIR\0\1\0\0" + maker_note("<"))),
        "makers-segments": jpeg(*(segment(n, b"Maker\0" + exif()) for n in range(0xE3, 0xED))),
        "comment": jpeg(segment(0xFE, f"Camera, latitude: {LATITUDE}".encode())),
        "comment-longer-than-it-says": _short_comment(),
        "photoshop": jpeg(irb(
            resource(0x404, IPTC), resource(0x422, exif()), resource(0x424, LOCATED),
            resource(0x40C, bytes(28) + telling), resource(0x404, IPTC))),
        "photoshop-in-two-segments": _split_photoshop(),
        "mpo": _mpo(),
        "ultra-hdr": _ultra_hdr(),
        "motion-photo": _motion_photo(),
        "metadata-between-scans": _between_scans(),
    }  # fmt: skip


def _progressive(segments) -> bytes:
    plain = encode(photo(64, 48), "JPEG", progressive=True)
    return plain[:20] + b"".join(segments) + plain[20:]


def _between_scans() -> bytes:
    plain = _progressive([])
    scan = plain.index(b"\xff\xda", plain.index(b"\xff\xda") + 2)
    scan = plain.rindex(b"\xff\xc4", 0, scan)
    return plain[:scan] + app1(exif(orientation=1)) + segment(0xE1, XMP + LOCATED) + plain[scan:]


def _short_comment() -> bytes:
    comment = segment(0xFE, b"Camera, ")
    return jpeg(comment + f"latitude: {LATITUDE}".encode())


def _split_photoshop() -> bytes:
    whole = resource(0x404, IPTC) + resource(0x422, exif()) + resource(0x3F3, bytes(9))
    return jpeg(irb(whole[:150]), irb(whole[150:]))


def _mpf(first: bytes, second: bytes) -> bytes:
    """The segment that announces a second picture (CIPA DC-007)."""
    entries = struct.pack("<IIIHH", 0x30000, len(first), 0, 0, 0)
    entries += struct.pack("<IIIHH", 0, len(second), len(first), 0, 0)
    return segment(0xE2, b"MPF\0" + tiff("<", [(0xB000, 7, b"0100"), (0xB001, 4, (2,)),
                                               (0xB002, 7, entries)]))  # fmt: skip


def _mpo() -> bytes:
    second = jpeg(app1(exif(orientation=1)))
    return jpeg(app1(exif()), _mpf(jpeg(), second), tail=second)


def _ultra_hdr() -> bytes:
    gain = jpeg(app1(exif(orientation=1)), segment(0xE1, XMP + xmp('hdrgm:Version="1.0"')))
    gain_map = f'Item:Semantic="GainMap" Item:Length="{len(gain)}"'
    items = "".join(
        f'<rdf:li rdf:parseType="Resource"><Container:Item {attributes} Item:Mime="image/jpeg"/>'
        "</rdf:li>"
        for attributes in ('Item:Semantic="Primary"', gain_map)
    )
    directory = f"<Container:Directory><rdf:Seq>{items}</rdf:Seq></Container:Directory>"
    announced = segment(0xE1, XMP + xmp('hdrgm:Version="1.0"', CREDITS + directory))
    iso = segment(0xE2, b"urn:iso:std:iso:ts:21496:-1\0" + bytes(4))
    return jpeg(app1(exif()), announced, iso, _mpf(jpeg(), gain), tail=gain)


def _motion_photo() -> bytes:
    place = f"+{LATITUDE}+011.5755/".encode()
    xyz = struct.pack(">I4sHH", 12 + len(place), b"\xa9xyz", len(place), 0x15C7) + place
    udta = struct.pack(">I4s", 8 + len(xyz), b"udta") + xyz
    moov = struct.pack(">I4s", 8 + len(udta), b"moov") + udta
    film = struct.pack(">I4s4sI", 16, b"ftyp", b"mp42", 0) + moov
    announced = xmp('GCamera:MotionPhoto="1" GCamera:MicroVideoOffset="99"', CREDITS)
    return jpeg(app1(exif()), segment(0xE1, XMP + announced), tail=film)


def text(keyword: str, value: bytes) -> bytes:
    return chunk(b"tEXt", keyword.encode() + b"\0" + value)


def packed_text(keyword: str, value: bytes) -> bytes:
    return chunk(b"zTXt", keyword.encode() + b"\0\0" + zlib.compress(value))


def international(keyword: str, value: bytes, *, packed=False) -> bytes:
    head = keyword.encode() + b"\0" + bytes((packed, 0)) + b"\0\0"
    return chunk(b"iTXt", head + (zlib.compress(value) if packed else value))


def raw_profile(name: str, data: bytes) -> bytes:
    """A profile as ImageMagick writes it into a text."""
    digits = data.hex().encode()
    lines = b"\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    return b"\n%s\n%8d\n%s\n" % (name.encode(), len(data), lines)


def located_pngs() -> dict[str, bytes]:
    profile = chunk(b"iCCP", b"sRGB\0\0" + zlib.compress(PROFILE))
    density = chunk(b"pHYs", struct.pack(">IIB", 2835, 2835, 1))
    shown = chunk(b"gAMA", struct.pack(">I", 45455)) + chunk(b"sBIT", b"\x08\x08\x08") + density
    shown += chunk(b"tIME", struct.pack(">HBBBBB", 2026, 11, 25, 10, 0, 0))
    marked = (b"Exif\0\0" + exif(">")).hex()
    unreadable = raw_profile("exif", b"Exif\0\0" + exif().replace(b"Maker\0II", b"Maker\0??"))
    profiles = {
        "exif": raw_profile("exif", bytes.fromhex(marked)),
        "APP1": raw_profile("generic", XMP + LOCATED),
        "xmp": raw_profile("xmp", LOCATED),
        "8bim": raw_profile("8bim", resource(0x404, IPTC) + resource(0x422, exif())),
        "iptc": raw_profile("iptc", resource(0x404, IPTC) + resource(0x424, LOCATED)),
    }
    return {
        "exif": _png(chunk(b"eXIf", exif(">")) + shown),
        "exif-after": _png(b"", chunk(b"eXIf", exif("<"))),
        "xmp": _png(international("XML:com.adobe.xmp", LOCATED) + profile),
        "xmp-packed": _png(international("XML:com.adobe.xmp", LOCATED, packed=True)),
        **{f"profile-{name}": _png(packed_text(f"Raw profile type {name}", data))
           for name, data in profiles.items()},
        "profile-plain": _png(text("Raw profile type exif", profiles["exif"])),
        "maker-note-unreadable": _png(text("Raw profile type exif", unreadable)),
        "named-texts": _png(text("exif:GPSLatitude", LATITUDE.encode()) + text("Author", b"Jane")
                            + text("Shoot Location", f"{LATITUDE}, 11.5".encode())),
        "text-of-json": _png(packed_text("Comment", f'{{"lat": {LATITUDE}}}'.encode())),
        "unknown-chunk": _png(chunk(b"maKr", maker_note("<"))),
        "broken-profile": _png(chunk(b"iCCP", b"sRGB\0\0no stream") + chunk(b"eXIf", exif())),
        "apng": _tagged_apng(),
        "tail": _png(b"") + jpeg(app1(exif())),
    }  # fmt: skip


def _png(before: bytes, after: bytes = b"") -> bytes:
    plain = encode(photo(64, 48), "PNG")
    data = plain.index(b"IDAT") - 4
    return plain[:data] + before + plain[data:-12] + after + plain[-12:]


def _tagged_apng() -> bytes:
    plain = apng(3, 3)
    at = len(SIGNATURE) + 25
    return (
        plain[:at]
        + chunk(b"eXIf", exif())
        + plain[at:-12]
        + text("Place", b"gps=1,2")
        + plain[-12:]
    )


def located_gifs() -> dict[str, bytes]:
    end = bytes((1, *range(255, -1, -1), 0))
    plain = _animation("GIF")
    resources = resource(0x404, IPTC) + resource(0x422, exif())
    return {
        "xmp": _gif(plain, b"XMP DataXMP", LOCATED + end),
        "xmp-without-its-end": _gif(plain, b"XMP DataXMP", sub_blocks(LOCATED)),
        "comment": _with(plain, b"!\xfe" + sub_blocks(f"lon={LATITUDE}".encode())),
        "makers": _gif(plain, b"GPSMAKER1.0", sub_blocks(LATITUDE.encode())),
        "8bim": _gif(plain, b"MGK8BIM0000", sub_blocks(resources)),
        "tail": plain + jpeg(app1(exif())),
    }  # fmt: skip


def sub_blocks(data: bytes) -> bytes:
    pieces = (data[at : at + 255] for at in range(0, len(data), 255))
    return b"".join(bytes((len(piece),)) + piece for piece in pieces) + b"\0"


def _gif(plain: bytes, name: bytes, data: bytes) -> bytes:
    return _with(plain, b"!\xff\x0b" + name + data)


def _with(plain: bytes, extension: bytes) -> bytes:
    at = 13 + (3 << (plain[10] & 7) + 1)
    return plain[:at] + extension + plain[at:-1] + extension + plain[-1:]


def _animation(kind: str) -> bytes:
    frames = [drawing(48, 32, "RGB", step=3 * i) for i in range(4)]
    return encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=40, loop=3)


def located_webps() -> dict[str, bytes]:
    tags = {"exif": b"Exif\0\0" + exif(), "xmp": LOCATED, "icc_profile": PROFILE}
    frames = [drawing(48, 32, "RGB", step=3 * i) for i in range(4)]
    lossy = encode(photo(64, 48), "WEBP")
    return {
        "lossy": encode(photo(64, 48), "WEBP", **tags),
        "alpha": encode(drawing(64, 48), "WEBP", **tags),
        "animated": encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], **tags),
        "odd-exif": encode(photo(64, 48), "WEBP", exif=exif(">") + b"\0"),
        "unknown-chunk": _appended(lossy, b"GPSD", maker_note("<") + b"\0"),
        "exif-without-header": _appended(lossy, b"EXIF", exif()),
        "unknown-chunk-in-a-frame": _frame_with_more(),
        "tail": encode(photo(64, 48), "WEBP", **tags) + jpeg(app1(exif())),
    }


def _appended(data: bytes, kind: bytes, payload: bytes) -> bytes:
    more = kind + struct.pack("<I", len(payload)) + payload + bytes(len(payload) & 1)
    return resized(data + more)


def _frame_with_more() -> bytes:
    picture = encode(photo(16, 16), "WEBP")[12:]
    head = struct.pack("<HBHBHBHBHBB", 0, 0, 0, 0, 15, 0, 15, 0, 40, 0, 0)
    more = b"GPSD" + struct.pack("<I", 11) + LATITUDE.encode() + b"!"
    return riff((b"VP8X", vp8x(16, 16, flags=2)), (b"ANIM", struct.pack("<IH", 0, 0)),
                (b"ANMF", head + picture + more), (b"ANMF", head + picture))  # fmt: skip


def located() -> dict[str, bytes]:
    """All files with a position, by name."""
    kinds = {"jpeg": located_jpegs(), "png": located_pngs(), "gif": located_gifs(),
             "webp": located_webps()}  # fmt: skip
    return {f"{kind}-{name}": data for kind, files in kinds.items() for name, data in files.items()}
