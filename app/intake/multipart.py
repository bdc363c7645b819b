"""Finds the one file in a multipart/form-data body (RFC 7578), in memory and within bounds.

The whole body is received into one buffer, and the file is found there with
``bytes.find``: no copy of the file, no loop over its bytes, nothing on disk.
"""

import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import unquote

from app.errors import ApiError
from app.intake.body import Body, content_length
from app.intake.buffers import SMALLEST, BufferPool

FIELD = "image"
"""The name of the form field that holds the file."""

FRAMING = 256 * 1024
"""Bytes that a body may have beside the file: other fields, headers, boundaries."""

# The API reference names these two. Parts and text beside the image are of no use here.
_MOST_PARTS = 20
_MOST_TEXT = 64 * 1024
_MOST_HEADERS = 16 * 1024  # of one part: room for a long file name, percent-encoded
_LONGEST_BOUNDARY = 200  # RFC 2046 allows 70
_AHEAD_SECONDS = 2.0
"""A buffer grows by the bytes of this time at the speed so far, and at least to its double: few
copies for a fast client, little memory for a slow one."""
# White space may stand between a boundary and the end of its line (RFC 2046 section 5.1.1).
_PADDING = re.compile(rb"[ \t]{0,200}\r\n")
# A header goes on in the next line when that begins with white space (RFC 5322 section 2.2.3).
_FOLD = re.compile(rb"\r\n[ \t]+")
# One option of a header: ``; name="value"`` or ``; name=value``.
_OPTION = re.compile(r';\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;]*))')
_ESCAPED = re.compile(r'\\(["\\])')
_CHARSETS = ("utf-8", "iso-8859-1", "windows-1252")  # what ``filename*`` may be encoded in


@dataclass(slots=True)
class Form:
    """The file ``image`` and what the form says about it; ``with`` gives its buffer back.

    ``sha256`` holds the fields of that name, ``content_digest`` the header of the file's part.
    """

    image: memoryview
    filename: str | None
    sha256: list[str]
    content_digest: str | None
    _pool: BufferPool
    _buffer: bytearray

    def release(self) -> None:
        """Give the buffer back to the pool; ``image`` must not be used any more."""
        try:
            self.image.release()
        finally:
            self._pool.give_back(self._buffer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@dataclass(frozen=True, slots=True)
class _Part:
    name: str | None
    filename: str | None
    headers: dict[str, str]
    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class _Delimiter:
    """A line with the boundary: one part ends at ``start``, the next begins at ``end``."""

    start: int
    end: int
    closing: bool


def check_content_length(environ: dict[str, Any], max_file_size: int) -> None:
    """Raise the 413 when ``Content-Length`` already says that the file is too large."""
    length = content_length(environ)
    if length is not None and length > max_file_size + FRAMING:
        raise _too_large(max_file_size)


def receive(
    environ: dict[str, Any],
    *,
    pool: BufferPool,
    max_file_size: int,
    timeout: float,
    key: str = "",
    meanwhile: Callable[[], None] = lambda: None,
) -> Form:
    """Read the body and find its file; ``meanwhile`` is called after each piece.

    ``key`` is the id of the API key whose share of the pool the body takes. Call
    ``check_content_length`` before: it is separate so that other checks can go in between.

    Raises ApiError with the codes of the API reference: ``overloaded`` when the
    pool has no room, ``too_many_at_once`` when the key has its whole share of it,
    ``request_timeout`` after ``timeout`` seconds.
    """
    boundary = _boundary(environ)
    _check_encoding(environ.get("HTTP_CONTENT_ENCODING", ""))
    deadline = time.monotonic() + timeout
    buffer, size = _read(Body.of(environ), pool, key, max_file_size, deadline, meanwhile)
    try:
        parts = list(_parts(buffer, size, boundary))
        part = _image_part(parts, max_file_size)
        return Form(
            image=memoryview(buffer)[part.start : part.end],
            filename=part.filename or None,
            sha256=_texts(buffer, parts, "sha256"),
            content_digest=part.headers.get("content-digest"),
            _pool=pool,
            _buffer=buffer,
        )
    except BaseException:
        pool.give_back(buffer)
        raise


def _boundary(environ: dict[str, Any]) -> bytes:
    kind, options = _options(environ.get("CONTENT_TYPE", ""))
    boundary = options.get("boundary", "")
    if kind != "multipart/form-data" or not 0 < len(boundary) <= _LONGEST_BOUNDARY:
        raise ApiError(
            "not_multipart",
            "The request must be a form upload: Content-Type multipart/form-data with a"
            " boundary, as browsers and “curl -F image=@photo.jpg” send it.",
        )
    return boundary.encode("latin-1", "replace")


def _check_encoding(header: str) -> None:
    if (encoding := header.strip().lower()) not in ("", "identity"):
        raise _malformed(f"It is compressed (Content-Encoding: {encoding[:20]}). Send it as it is.")


def _read(
    body: Body,
    pool: BufferPool,
    key: str,
    max_file_size: int,
    deadline: float,
    meanwhile: Callable[[], None],
) -> tuple[bytearray, int]:
    """The whole body in a buffer of the pool, and its length.

    The buffer grows with the bytes that arrive, so that a slow client holds little memory.
    """
    if body.ended:
        raise _malformed("The request has no body.")
    size, most, begun = 0, max_file_size + FRAMING, time.monotonic()
    # Without a length, one byte more than allowed shows that the body is too large.
    whole_size = most + 1 if body.length is None else body.length
    buffer = pool.take(min(whole_size, SMALLEST), key)
    try:
        while not body.ended:
            if size > most:
                raise _too_large(max_file_size)
            if size == len(buffer):
                speed = size / max(time.monotonic() - begun, 0.001)
                ahead = max(size, int(speed * _AHEAD_SECONDS))
                buffer = pool.grow(buffer, min(whole_size, size + ahead))
            with memoryview(buffer) as whole, whole[size:] as free:
                size += body.read_into(free, deadline)
            meanwhile()
    except BaseException:
        pool.give_back(buffer)
        raise
    return buffer, size


def _parts(data: bytearray, size: int, boundary: bytes) -> Iterator[_Part]:
    """The parts of the body, in order, up to the closing delimiter."""
    delimiter = _first_delimiter(data, size, boundary)
    for _ in range(_MOST_PARTS + 1):  # once more, to see that the last part was the last
        if delimiter.closing:
            return
        headers, start = _headers(data, delimiter.end, size)
        # From two bytes before: the line end of the last header may be that of the delimiter,
        # where a part has no content.
        delimiter = _next_delimiter(data, start - 2, size, boundary)
        yield _part(headers, start, max(start, delimiter.start))
    raise _malformed(f"The form has more than {_MOST_PARTS} parts.")


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
        raise _malformed(what) from None


def _next_delimiter(data: bytearray, start: int, size: int, boundary: bytes) -> _Delimiter:
    delimiter = b"\r\n--" + boundary
    while (found := data.find(delimiter, start, size)) >= 0:
        start = found + len(delimiter)
        if line := _line(data, start, size):  # else a longer text that begins like the boundary
            return _Delimiter(found, *line)
    raise _malformed("It breaks off, or has no line with the boundary that Content-Type names.")


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
        raise _malformed("A part has no end of its headers, or more than 16 KiB of them.")
    headers: dict[str, str] = {}
    for line in _FOLD.sub(b" ", data[start:end]).split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if not colon or not name.strip():
            raise _malformed("A part has a header that cannot be read.")
        key, text = _decode(name.strip()).lower(), _decode(value.strip())
        # A header that comes twice is one list (RFC 9110 section 5.3).
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers, end + 4


def _decode(value: bytes | bytearray) -> str:
    """As UTF-8, which browsers send, else as Latin-1, which never fails."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _options(header: str) -> tuple[str, dict[str, str]]:
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


def _part(headers: dict[str, str], start: int, end: int) -> _Part:
    disposition, options = _options(headers.get("content-disposition", ""))
    # Other dispositions, "attachment" for one, name no field of the form.
    name = options.get("name") if disposition == "form-data" else None
    return _Part(name, _filename(options), headers, start, end)


def _image_part(parts: list[_Part], max_file_size: int) -> _Part:
    named = [part for part in parts if part.name == FIELD]
    # Browsers send filename="" and no bytes for "nothing chosen". FilePond sends its metadata as
    # a text part with the same name as the file's.
    images = [part for part in named if part.filename or (part.filename == "" and part.size)]
    texts = [part for part in parts if part.filename is None and (images or part.name != FIELD)]
    if sum(part.size for part in texts) > _MOST_TEXT:
        raise _malformed(f"The text fields have more than {_MOST_TEXT} bytes.")
    if len(images) > 1:
        raise ApiError(
            "multiple_images", "The form has several images. Send each in a request of its own."
        )
    if not images:
        detail = (
            "The form has no file in the field “image”. Choose a picture and send it as a file."
        )
        if any(part.filename is None and part.size for part in named):
            detail = (
                "The part “image” has no file name, and so it is text and no file. Send it with"
                ' one (filename="photo.jpg"), as “curl -F image=@photo.jpg” does.'
            )
        raise ApiError("missing_image", detail)
    if images[0].size > max_file_size:
        raise _too_large(max_file_size, images[0].size)
    if not images[0].size:
        raise ApiError(
            "empty_image", "The file is empty. Check it on your computer, and upload it again."
        )
    return images[0]


def _texts(data: bytearray, parts: list[_Part], name: str) -> list[str]:
    texts = (part for part in parts if part.name == name and part.filename is None)
    return [_decode(data[part.start : part.end]) for part in texts]


def _malformed(what: str) -> ApiError:
    return ApiError(
        "malformed_multipart",
        f"The form upload is broken. {what} Upload it again, or check the program that sent it.",
    )


def _too_large(limit: int, actual: int | None = None) -> ApiError:
    # Rounded up, so that a file just above the limit does not seem to have exactly the limit.
    size = f" It has {math.ceil(actual / 2**20 * 10) / 10} MiB." if actual else ""
    error = ApiError(
        "file_too_large",
        f"The file is too large: at most {limit // 2**20} MiB are allowed.{size}"
        " Export it smaller or with a stronger compression.",
        limit=limit,
    )
    if actual is not None:
        error.extra["actual"] = actual
    return error
