"""The memory that libwebp needs for the prefix codes of a lossless WebP (RFC 9649, section 3).

libwebp builds lookup tables for all groups of prefix codes before it decodes a pixel. There can be
65,536 groups, which take over a gigabyte, and a file of 0.3 MB can ask for them. Their number
follows from the entropy image, which stands after the images of the transforms. This module reads
these small images and no pixel of the image itself.
"""

from array import array
from collections.abc import Iterable

from app.image.info import check_time, damaged

_Code = tuple[int, list[tuple[int, int]]]
"""How many bits to peek at, and for each value of them the bits to consume and the symbol."""

MAX_READS = 3_000_000
"""The most numbers and symbols that are read in one file, about a second of work. In a photo of 15
MiB there are some 60,000."""

_MAPPED = 1000
"""Up to this many groups libwebp builds tables even for groups that no pixel uses (ReadHuffmanCodes
in src/dec/vp8l_dec.c)."""

_GROUP_BYTES = 600  # of libwebp's HTreeGroup, rounded up
_ENTRIES = 630 * 3 + 410
_GREEN_ENTRIES = (654, 656, 658, 662, 670, 686, 718, 782, 912, 1168, 1680, 2704)
"""The most entries, of four bytes each, in the tables of a group: of red, blue and alpha, of
distance, and of green by the bits of the colour cache (kTableSize in src/dec/vp8l_dec.c)."""

_MAX_CACHE_BITS = len(_GREEN_ENTRIES) - 1
_CACHE_MULTIPLIER = 0x1E35A7BD  # of the colour cache's hash (section 3.6)
_PREDICTOR, _CROSS_COLOUR, _PALETTE = 0, 1, 3
"""The transforms that carry an image (section 3.5); 2, subtract green, carries none."""

_LITERALS, _LENGTHS, _DISTANCES = 256, 24, 40
"""The sizes of the alphabets (section 3.7): colours, prefixes of lengths, prefixes of distances."""

# The order in which the lengths of the code length code are stored (section 3.7).
_ORDER = (17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
_REPEATS = {16: (2, 3), 17: (3, 3), 18: (7, 11)}
"""The code lengths that stand for a repetition: the bits of its count, and what is added to that.
16 repeats the last length, 17 and 18 repeat zero."""

_NEAR = bytes.fromhex(
    "1807171928062729161a262a38053739151b363a252b48044749141c353b464a242c58454b343c035759131d56"
    "5a232d444c555b333d68026769121e666a222e545c434d656b323e78017779535d111f646c424e767a212f757b"
    "313f636d525e00747c414f1020626e30737d515f40727e616f50717f6070"
)
"""The neighbours that the distance codes 1 to 120 mean (section 3.6): in the high four bits the
rows up, in the low four bits 8 less the pixels to the right."""

_BAD_CODE = "a prefix code of its lossless data is not valid"


class Bits:
    """Reads the bits of a stream, least significant first.

    Raises ApiError after ``deadline``, after the end of the stream, and after ``left`` reads.
    """

    def __init__(self, view: memoryview, left: int, deadline: float) -> None:
        self._view = view
        self._deadline = deadline
        self._pos = self._value = self._held = 0
        self.left = left

    def read(self, count: int) -> int:
        """The number in the next ``count`` bits, at most 32."""
        value = self._peek() & (1 << count) - 1
        self._skip(count)
        return value

    def symbol(self, code: _Code) -> int:
        """The next symbol of a prefix code."""
        width, table = code
        if not width:  # the only symbol takes no bits
            return table[0][1]
        used, symbol = table[self._peek() & (1 << width) - 1]
        self._skip(used)
        return symbol

    def count(self, prefix: int) -> int:
        """The length or distance of this prefix, whose extra bits come next (section 3.6)."""
        if prefix < 4:
            return prefix + 1
        extra = (prefix - 2) >> 1
        return ((2 + (prefix & 1)) << extra) + self.read(extra) + 1

    def _peek(self) -> int:
        if self._held < 32:
            check_time(self._deadline)
            # One refill may reach past the end: bits that are only peeked at need not exist.
            if self._pos > len(self._view):
                raise damaged("WebP", "its lossless data ends too early")
            more = self._view[self._pos : self._pos + 64]
            self._value |= int.from_bytes(more, "little") << self._held
            self._held += 512
            self._pos += 64
        return self._value

    def _skip(self, count: int) -> None:
        self._value >>= count
        self._held -= count
        self.left -= 1
        if self.left < 0:
            raise damaged("WebP", "its prefix codes are longer than any program writes")


def _code(lengths: list[int]) -> _Code:
    """The canonical prefix code of symbols with these lengths; length 0 means an unused symbol."""
    used = sorted((length, symbol) for symbol, length in enumerate(lengths) if length)
    if len(used) == 1:
        return 0, [(0, used[0][1])]
    width = max(lengths)
    # Kraft's equality: the codes must fill the tree, no more and no less.
    if not used or sum(1 << (width - length) for length, _ in used) != 1 << width:
        raise damaged("WebP", _BAD_CODE)
    table = [(0, 0)] * (1 << width)
    code = before = 0
    for length, symbol in used:
        code <<= length - before
        # Codes are stored from their highest bit on: reversed, as Bits reads the lowest bit first.
        start = int(f"{code:0{length}b}"[::-1], 2)
        table[start :: 1 << length] = [(length, symbol)] * (1 << (width - length))
        code += 1
        before = length
    return width, table


def _read_code(bits: Bits, symbols: int) -> _Code:
    """Read a prefix code of an alphabet of ``symbols`` symbols (section 3.7)."""
    if not bits.read(1):
        return _code(_read_lengths(bits, symbols))
    lengths = [0] * 256  # a simple code, of one symbol or two
    two = bits.read(1)
    lengths[bits.read(8 if bits.read(1) else 1)] = 1
    if two:
        lengths[bits.read(8)] = 1
    return _code(lengths)


def _read_lengths(bits: Bits, symbols: int) -> list[int]:
    """Read the lengths of a normal code, which are coded by a prefix code themselves."""
    lengths = [0] * symbols
    of_lengths = [0] * len(_ORDER)
    for at in _ORDER[: 4 + bits.read(4)]:
        of_lengths[at] = bits.read(3)
    outer = _code(of_lengths)
    tokens = 2 + bits.read(2 + 2 * bits.read(3)) if bits.read(1) else symbols
    at, last = 0, 8  # 8 is what code 16 repeats before any other length
    while at < symbols and tokens:
        tokens -= 1
        length = bits.symbol(outer)
        if length in _REPEATS:
            extra, least = _REPEATS[length]
            stop = at + least + bits.read(extra)
            lengths[at:stop] = [last if length == 16 else 0] * (stop - at)
            at = stop
        else:
            lengths[at] = length
            last = length or last
            at += 1
    if at > symbols:
        raise damaged("WebP", _BAD_CODE)
    return lengths


def _cache_bits(bits: Bits) -> int:
    size = bits.read(4) if bits.read(1) else 0
    if size > _MAX_CACHE_BITS:
        raise damaged("WebP", "its colour cache is not valid")
    return size


def _image(bits: Bits, width: int, height: int) -> Iterable[int]:
    """The pixels (ARGB) of a transform's image or of the entropy image; one if all are equal."""
    cache_bits = _cache_bits(bits)
    with_cache = 1 << cache_bits if cache_bits else 0
    alphabets = (_LITERALS + _LENGTHS + with_cache, _LITERALS, _LITERALS, _LITERALS, _DISTANCES)
    codes = [_read_code(bits, symbols) for symbols in alphabets]
    green, red, *_ = codes
    always = green[1][0][1] if not green[0] else 0
    # No bit is read for a pixel of such images, and they may be large: build one pixel only. Only
    # red and green count here: together they are the number of a group.
    if always >= _LITERALS + _LENGTHS:
        return [0]  # each pixel comes from the cache, which holds only zeros
    if not any(width for width, _ in codes[:4]) and always < _LITERALS:
        return [red[1][0][1] << 16 | always << 8]
    return _pixels(bits, codes, width, width * height, cache_bits)


def _pixels(
    bits: Bits, codes: list[_Code], width: int, size: int, cache_bits: int
) -> Iterable[int]:
    """Decode ``size`` pixels: literals, copies of earlier pixels, and cached colours."""
    green, red, blue, alpha, far = codes
    cache = [0] * (1 << cache_bits)
    cached = 0  # how many of the pixels are in the cache
    pixels = array("I")
    while len(pixels) < size:
        first = bits.symbol(green)
        if first < _LITERALS:
            pixels.append(
                bits.symbol(red) << 16 | first << 8 | bits.symbol(blue) | bits.symbol(alpha) << 24
            )
        elif first < _LITERALS + _LENGTHS:
            length = bits.count(first - _LITERALS)
            back = _distance(bits.count(bits.symbol(far)), width)
            if back > len(pixels) or length > size - len(pixels):
                raise damaged("WebP", "its lossless data is not valid")
            start = len(pixels) - back
            piece = pixels[start : start + length]
            # A copy longer than its distance repeats what it has just written.
            pixels += (piece * -(-length // back))[:length]
        else:
            # Pixels enter the cache together when it is next used: so copies stay fast.
            bits.left -= len(pixels) - cached
            for pixel in pixels[cached:]:
                cache[(_CACHE_MULTIPLIER * pixel & 0xFFFFFFFF) >> (32 - cache_bits)] = pixel
            cached = len(pixels)
            pixels.append(cache[first - _LITERALS - _LENGTHS])
    return pixels


def _distance(code: int, width: int) -> int:
    """How many pixels back a distance code points, in an image of ``width``."""
    if code > len(_NEAR):
        return code - len(_NEAR)
    near = _NEAR[code - 1]
    # In a narrow image this can be less than 1, which counts as 1.
    return max((near >> 4) * width + 8 - (near & 15), 1)


def _squares(size: int, bits: int) -> int:
    """How many squares with sides of 1 << ``bits`` pixels it takes to cover ``size`` pixels."""
    return (size + (1 << bits) - 1) >> bits


SMALL = 21_000_000
"""Bytes. An image that cannot ask for more is not read: a frame of 16,000 pixels or less."""


def most_table_bytes(width: int, height: int) -> int:
    """The most bytes of tables that an image of this size can ask for."""
    # The entropy image has a pixel for each square of 4 x 4 pixels at least, of 16 bits.
    squares = min(_squares(width, 2) * _squares(height, 2), 1 << 16)
    return max(squares, min(_MAPPED, width * height)) * _group_bytes(_MAX_CACHE_BITS)


def _group_bytes(cache_bits: int) -> int:
    return _GROUP_BYTES + 4 * (_ENTRIES + _GREEN_ENTRIES[cache_bits])


def table_bytes(bits: Bits, width: int, height: int) -> int:
    """The bytes of tables that an image asks for; ``bits`` stand after the header of its stream."""
    coded = _transformed_width(bits, width, height)
    cache_bits = _cache_bits(bits)
    groups = 1
    if bits.read(1):  # an entropy image: red and green of its pixels are the numbers of groups
        scale = 2 + bits.read(3)
        entropy = _image(bits, _squares(coded, scale), _squares(height, scale))
        numbers = {pixel >> 8 & 0xFFFF for pixel in entropy}
        groups = max(numbers) + 1
        if groups > min(_MAPPED, coded * height):
            groups = len(numbers)  # libwebp maps the numbers and skips the unused groups
    return groups * _group_bytes(cache_bits)


def _transformed_width(bits: Bits, width: int, height: int) -> int:
    """Read past the transforms, and return the width of the coded image.

    A palette of up to 16 colours makes it smaller: several pixels are packed into one.
    """
    seen = set()
    while bits.read(1):
        kind = bits.read(2)
        if kind in seen:  # each transform may be used once (section 3.5)
            raise damaged("WebP", "its transforms are not valid")
        seen.add(kind)
        if kind in (_PREDICTOR, _CROSS_COLOUR):
            scale = 2 + bits.read(3)
            _image(bits, _squares(width, scale), _squares(height, scale))
        elif kind == _PALETTE:
            colours = bits.read(8) + 1
            _image(bits, colours, 1)
            packed = (colours <= 2) + (colours <= 4) + (colours <= 16)  # 8, 4 or 2 pixels in one
            width = _squares(width, packed)
    return width
