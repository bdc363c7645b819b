"""The memory that libwebp takes for the prefix codes of a lossless WebP (RFC 9649, section 3).

libwebp makes lookup tables of all groups of prefix codes before it decodes a pixel: of 65,536 at
most, over a gigabyte, for which 0.3 MB of file can ask. How many there are stands in the entropy
image, behind the images of the transforms; these are read here, and no pixel of the picture.
"""

from array import array
from collections.abc import Iterable

from app.image.info import check_time, damaged

_Code = tuple[int, list[tuple[int, int]]]
"""How many bits to look at, and for each value of these: the bits to take, and the symbol."""

MAX_READS = 3_000_000
"""Numbers and symbols that are read in one file, about a second's work: in 15 MiB of photo there
are some 60,000."""

_MAPPED = 1000
"""Up to so many groups libwebp makes tables also of those that no pixel uses."""

_GROUP_BYTES = 600
_ENTRIES = 630 * 3 + 410
_GREEN_ENTRIES = (654, 656, 658, 662, 670, 686, 718, 782, 912, 1168, 1680, 2704)
"""Of libwebp's HTreeGroup, and the most entries (four bytes each) in the tables of its codes; those
of the first depend on the size of the colour cache (kTableSize in src/dec/vp8l_dec.c)."""

_PREDICTOR, _CROSS_COLOUR, _PALETTE = 0, 1, 3
_LITERALS, _LENGTHS, _DISTANCES = 256, 24, 40
_ORDER = (17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
_REPEATS = {16: (2, 3), 17: (3, 3), 18: (7, 11)}
"""Of the code length codes that repeat one: the bits of how often, and what is added to it."""

_NEAR = bytes.fromhex(
    "1807171928062729161a262a38053739151b363a252b48044749141c353b464a242c58454b343c035759131d56"
    "5a232d444c555b333d68026769121e666a222e545c434d656b323e78017779535d111f646c424e767a212f757b"
    "313f636d525e00747c414f1020626e30737d515f40727e616f50717f6070"
)
"""The neighbours that short distance codes mean: rows up, and 8 less the pixels to the right."""


class Bits:
    """The bits of a stream, least significant first.

    Raises ApiError after ``deadline``, behind the end, and after ``left`` reads.
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
        if not width:
            return table[0][1]
        used, symbol = table[self._peek() & (1 << width) - 1]
        self._skip(used)
        return symbol

    def count(self, prefix: int) -> int:
        """A length or a distance, of which ``prefix`` was read."""
        if prefix < 4:
            return prefix + 1
        extra = (prefix - 2) >> 1
        return ((2 + (prefix & 1)) << extra) + self.read(extra) + 1

    def _peek(self) -> int:
        if self._held < 32:
            check_time(self._deadline)
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
            raise damaged("WebP", "its prefix codes are longer than programs write them")


def _code(lengths: list[int]) -> _Code:
    """The canonical prefix code of symbols with these lengths, 0 for a symbol without a code."""
    used = sorted((length, symbol) for symbol, length in enumerate(lengths) if length)
    if len(used) == 1:
        return 0, [(0, used[0][1])]
    width = max(lengths)
    if not used or sum(1 << (width - length) for length, _ in used) != 1 << width:
        raise damaged("WebP", "a prefix code of its lossless data is impossible")
    table = [(0, 0)] * (1 << width)
    code = before = 0
    for length, symbol in used:
        code <<= length - before
        start = int(f"{code:0{length}b}"[::-1], 2)
        table[start :: 1 << length] = [(length, symbol)] * (1 << (width - length))
        code += 1
        before = length
    return width, table


def _read_code(bits: Bits, symbols: int) -> _Code:
    lengths = [0] * max(symbols, 256)
    if bits.read(1):  # simple: one symbol or two
        two = bits.read(1)
        lengths[bits.read(8 if bits.read(1) else 1)] = 1
        if two:
            lengths[bits.read(8)] = 1
        return _code(lengths)
    of_lengths = [0] * len(_ORDER)
    for at in _ORDER[: 4 + bits.read(4)]:
        of_lengths[at] = bits.read(3)
    outer = _code(of_lengths)
    tokens = 2 + bits.read(2 + 2 * bits.read(3)) if bits.read(1) else symbols
    at, last = 0, 8
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
        raise damaged("WebP", "a prefix code of its lossless data is impossible")
    return _code(lengths)


def _cache_bits(bits: Bits) -> int:
    size = bits.read(4) if bits.read(1) else 0
    if size > 11:
        raise damaged("WebP", "its colour cache is impossible")
    return size


def _image(bits: Bits, width: int, height: int) -> Iterable[int]:
    """The pixels of an image of a transform, or of the entropy image; one if all are equal."""
    cache_bits = _cache_bits(bits)
    cache = [0] * (1 << cache_bits)
    cached = 0
    green, red, blue, alpha, far = codes = [
        _read_code(bits, symbols)
        for symbols in (_LITERALS + _LENGTHS + (len(cache) if cache_bits else 0),
                        _LITERALS, _LITERALS, _LITERALS, _DISTANCES)
    ]  # fmt: skip
    size = width * height
    always = green[1][0][1] if not green[0] else 0
    if always >= _LITERALS + _LENGTHS:
        return [0]  # from the empty cache
    if not any(width for width, _ in codes[:4]) and always < _LITERALS:
        return [red[1][0][1] << 16 | always << 8]
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
                raise damaged("WebP", "its lossless data is impossible")
            start = len(pixels) - back
            piece = pixels[start : start + length]
            pixels += (piece * -(-length // back))[:length]
        else:
            bits.left -= len(pixels) - cached
            for pixel in pixels[cached:]:
                cache[(0x1E35A7BD * pixel & 0xFFFFFFFF) >> (32 - cache_bits)] = pixel
            cached = len(pixels)
            pixels.append(cache[first - _LITERALS - _LENGTHS])
    return pixels


def _distance(code: int, width: int) -> int:
    """How many pixels back a distance code points, in an image of ``width``."""
    if code > len(_NEAR):
        return code - len(_NEAR)
    near = _NEAR[code - 1]
    return max((near >> 4) * width + 8 - (near & 15), 1)


def _part(size: int, bits: int) -> int:
    """How many squares of 1 << ``bits`` pixels stand side by side in ``size``."""
    return (size + (1 << bits) - 1) >> bits


SMALL = 21_000_000
"""A picture that can ask for no more than this is not read: a frame of 16,000 pixels or less."""


def most(width: int, height: int) -> int:
    """The bytes of tables that a picture of this size can ask for."""
    squares = min(_part(width, 2) * _part(height, 2), 1 << 16)
    return max(squares, min(_MAPPED, width * height)) * _group_bytes(11)


def _group_bytes(cache_bits: int) -> int:
    return _GROUP_BYTES + 4 * (_ENTRIES + _GREEN_ENTRIES[cache_bits])


def asked(bits: Bits, width: int, height: int) -> int:
    """The bytes of tables that a picture asks for; ``bits`` go on behind its header."""
    coded = _transformed_width(bits, width, height)
    cache_bits = _cache_bits(bits)
    groups = 1
    if bits.read(1):
        scale = 2 + bits.read(3)
        numbers = {
            pixel >> 8 & 0xFFFF for pixel in _image(bits, _part(coded, scale), _part(height, scale))
        }
        groups = max(numbers) + 1
        if groups > min(_MAPPED, coded * height):
            groups = len(numbers)
    return groups * _group_bytes(cache_bits)


def _transformed_width(bits: Bits, width: int, height: int) -> int:
    """Read past the transforms; the width of what is coded, which a palette makes smaller."""
    seen = set()
    while bits.read(1):
        kind = bits.read(2)
        if kind in seen:
            raise damaged("WebP", "its transforms are impossible")
        seen.add(kind)
        if kind in (_PREDICTOR, _CROSS_COLOUR):
            scale = 2 + bits.read(3)
            _image(bits, _part(width, scale), _part(height, scale))
        elif kind == _PALETTE:
            colours = bits.read(8) + 1
            _image(bits, colours, 1)
            packed = (colours <= 2) + (colours <= 4) + (colours <= 16)
            width = _part(width, packed)
    return width
