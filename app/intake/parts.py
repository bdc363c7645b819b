"""The parts of a multipart/form-data body (RFC 7578): its syntax, and nothing about images.

Boundaries are found with ``bytes.find``, and contents are given as positions: the bytes of a
file are neither copied nor looped over.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from app.errors import ApiError

_MOST_PARTS = 20  # the API reference names this bound: nobody needs more beside one image
_MOST_LOOKALIKES = 1000  # in one part: 15 MiB of a boundary of one letter took a second
_MOST_HEADERS = 16 * 1024  # of one part: room for a long file name, percent-encoded
# White space may stand between a boundary and the end of its line (RFC 2046 section 5.1.1).
_PADDING = re.compile(rb"[ \t]{0,200}\r\n")
# A header goes on in the next line when that begins with white space (RFC 5322 section 2.2.3).
_FOLD = re.compile(rb"\r\n[ \t]+")
# One option of a header: ``; name="value"`` or ``; name=value``.
_OPTION = re.compile(r';\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;]*))')
_ESCAPED = re.compile(r'\\(["\\])')
_CHARSETS = ("utf-8", "iso-8859-1", "windows-1252")  # what ``filename*`` may be encoded in


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a form: its content lies between ``start`` and ``end`` in the body.

    ``filename`` is None for a text field, and empty where a browser sends "nothing chosen".
    ``headers`` have their names in lower case.
    """

    name: str | None
    filename: str | None
    headers: dict[str, str]
    start: int
    end: int

    @property
    def size(self) -> int:
        """Of the content, in bytes."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class _Delimiter:
    """A line with the boundary: one part ends at ``start``, the next begins at ``end``."""

    start: int
    end: int
    closing: bool


def parts_of(data: bytearray, size: int, boundary: bytes) -> Iterator[Part]:
    """The parts of a body of ``size`` bytes, in order, up to the closing delimiter.

    Raises ``malformed_multipart``.
    """
    delimiter = _first_delimiter(data, size, boundary)
    for _ in range(_MOST_PARTS + 1):  # once more, to see that the last part was the last
        if delimiter.closing:
            return
        headers, start = _headers(data, delimiter.end, size)
        # From two bytes before: the line end of the last header may be that of the delimiter,
        # where a part has no content.
        delimiter = _next_delimiter(data, start - 2, size, boundary)
        yield _part(headers, start, max(start, delimiter.start))
    raise malformed(f"The form has more than {_MOST_PARTS} parts.")


def _first_delimiter(data: bytearray, size: int, boundary: bytes) -> _Delimiter:
    first = b"--" + boundary
    # Text may stand before the first boundary (RFC 2046 section 5.1.1), but hardly ever does.
    if data.startswith(first, 0, size) and (line := _line(data, len(first), size)):
        return _Delimiter(0, *line)
    try:
        return _next_delimiter(data, 0, size, boundary)
    except ApiError:
        # Two mistakes of hand-written clients, which a precise sentence helps to find.
        if data.startswith(first + b"\n", 0, size):
            what = "Its lines end with a line feed alone; each must end with CR and LF (\\r\\n)."
        elif boundary[:1] == b"'" and data.startswith(b"--" + boundary.strip(b"'"), 0, size):
            what = (
                "The boundary in Content-Type stands in single quotes: only double ones are quotes."
            )
        else:
            raise
        raise malformed(what) from None


def _next_delimiter(data: bytearray, start: int, size: int, boundary: bytes) -> _Delimiter:
    delimiter = b"\r\n--" + boundary
    for _ in range(_MOST_LOOKALIKES):
        found = data.find(delimiter, start, size)
        if found < 0:
            raise malformed(
                "It breaks off, or has no line with the boundary that Content-Type names."
            )
        start = found + len(delimiter)
        if line := _line(data, start, size):  # else a longer text that begins like the boundary
            return _Delimiter(found, *line)
    raise malformed("Its content looks like its boundary too often. Choose a longer boundary.")


def _line(data: bytearray, position: int, size: int) -> tuple[int, bool] | None:
    """Where the line of a boundary ends and whether it is the last; None for other text.

    ``position`` is behind the boundary. Two hyphens close the form; the file's own bytes may be
    the boundary and two hyphens too, so white space or the end of the body must follow.
    """
    if data.startswith(b"--", position, size):
        after = data[position + 2 : min(position + 3, size)]
        return None if after.strip() else (position + 2, True)
    padding = _PADDING.match(data, position, size)
    return (padding.end(), False) if padding else None


def _headers(data: bytearray, start: int, size: int) -> tuple[dict[str, str], int]:
    """The headers of a part, names in lower case, and where its content starts."""
    if data.startswith(b"\r\n", start, size):
        return {}, start + 2
    end = data.find(b"\r\n\r\n", start, min(size, start + _MOST_HEADERS))
    if end < 0:
        raise malformed("A part has no end of its headers, or more than 16 KiB of them.")
    headers: dict[str, str] = {}
    for line in _FOLD.sub(b" ", data[start:end]).split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if not colon or not name.strip():
            raise malformed("A part has a header that cannot be read.")
        key, text = decode(name.strip()).lower(), decode(value.strip())
        # A header that comes twice is one list (RFC 9110 section 5.3).
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers, end + 4


def decode(value: bytes | bytearray) -> str:
    """As UTF-8, which browsers send, else as Latin-1, which never fails."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def options_of(header: str) -> tuple[str, dict[str, str]]:
    """A header's value in lower case and its options, the first of each name.

    Accepts what clients really send: values without quotes, an open quote, a backslash that
    stands for itself, as in a Windows path.
    """
    options: dict[str, str] = {}
    for name, quoted, bare in _OPTION.findall(header):
        options.setdefault(name.lower(), _ESCAPED.sub(r"\1", quoted) or bare.strip().strip('"'))
    return header.partition(";")[0].strip().lower(), options


def _filename(options: dict[str, str]) -> str | None:
    """``filename*`` (RFC 8187) or ``filename``; None for a part that is no file."""
    charset, _, encoded = options.get("filename*", "").partition("'")
    _, quote, encoded = encoded.partition("'")
    if quote:
        charset = charset.lower()
        return unquote(encoded, charset if charset in _CHARSETS else "utf-8")
    name = options.get("filename", options.get("filename*"))
    return name and name.replace("%22", '"')  # browsers write a quote so (WHATWG HTML)


def _part(headers: dict[str, str], start: int, end: int) -> Part:
    disposition, options = options_of(headers.get("content-disposition", ""))
    # Other dispositions, "attachment" for one, name no field of the form.
    name = options.get("name") if disposition == "form-data" else None
    return Part(name, _filename(options), headers, start, end)


def malformed(what: str) -> ApiError:
    """The 400 ``malformed_multipart``; ``what`` is a sentence that says what is wrong."""
    return ApiError(
        "malformed_multipart",
        f"The form upload is broken. {what} Upload it again, or check the program that sent it.",
    )
