"""Receives a form upload into one buffer and finds its image: in memory, and within bounds.

How a form is written is in ``app.intake.parts``; what an upload's form must hold is here.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from app.errors import ApiError
from app.intake.body import Body, content_length
from app.intake.buffers import SMALLEST, BufferPool
from app.intake.parts import Part, decode, malformed, options_of, parts_of

FIELD = "image"
"""The name of the form field that holds the file."""

FRAMING = 256 * 1024
"""Bytes that a body may have beside the file: other fields, headers, boundaries."""

_MOST_TEXT = 64 * 1024  # the API reference names this bound: other fields are of no use here
_LONGEST_BOUNDARY = 200  # RFC 2046 allows 70
_AHEAD_SECONDS = 2.0
"""A buffer grows by the bytes of this time at the speed so far, and at least to its double: few
copies for a fast client, little memory for a slow one."""


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
        parts = list(parts_of(buffer, size, boundary))
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
    kind, options = options_of(environ.get("CONTENT_TYPE", ""))
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
        raise malformed(f"It is compressed (Content-Encoding: {encoding[:20]}). Send it as it is.")


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
        raise malformed("The request has no body.")
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


def _image_part(parts: list[Part], max_file_size: int) -> Part:
    """The one part that is the file; raises the 400 or 413 of a form that does not have one."""
    named = [part for part in parts if part.name == FIELD]
    # Browsers send filename="" and no bytes for "nothing chosen". FilePond sends its metadata as
    # a text part with the same name as the file's.
    images = [part for part in named if part.filename or (part.filename == "" and part.size)]
    # A long text "image" and no file is a file without a name: ``missing_image`` says more.
    texts = [part for part in parts if part.filename is None and (images or part.name != FIELD)]
    if sum(part.size for part in texts) > _MOST_TEXT:
        raise malformed(f"The text fields have more than {_MOST_TEXT} bytes.")
    if len(images) > 1:
        raise ApiError(
            "multiple_images", "The form has several images. Send each in a request of its own."
        )
    if not images:
        raise _missing(named)
    if images[0].size > max_file_size:
        raise _too_large(max_file_size, images[0].size)
    if not images[0].size:
        raise ApiError(
            "empty_image", "The file is empty. Check it on your computer, and upload it again."
        )
    return images[0]


def _missing(named: list[Part]) -> ApiError:
    detail = "The form has no file in the field “image”. Choose a picture and send it as a file."
    if any(part.filename is None and part.size for part in named):
        detail = (
            "The part “image” has no file name, and so it is text and no file. Send it with"
            ' one (filename="photo.jpg"), as “curl -F image=@photo.jpg” does.'
        )
    return ApiError("missing_image", detail)


def _texts(data: bytearray, parts: list[Part], name: str) -> list[str]:
    texts = (part for part in parts if part.name == name and part.filename is None)
    return [decode(data[part.start : part.end]) for part in texts]


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
