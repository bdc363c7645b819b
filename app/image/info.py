"""What the walks over JPEG, PNG, GIF and WebP files share: their result and their refusals.

A walk follows the structure of a file to its end without building a pixel. It loops over blocks,
never over bytes, and takes about a third of a millisecond per megabyte.
"""

import time
from dataclasses import dataclass, field

from app.errors import ApiError, unavailable

EXTENSIONS = ("jpg", "png", "gif", "webp")
"""The file extensions of stored images, one for each format."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What an image is: ``width`` and ``height`` in pixels as stored, before EXIF orientation.

    ``segments`` are those of a JPEG (marker, start, end): finding them again takes long.
    """

    format: str
    extension: str
    content_type: str
    width: int
    height: int
    frames: int
    segments: tuple[tuple[int, int, int], ...] = field(default=(), compare=False, repr=False)


class Truncated(ApiError):
    """The file ends too early; ``fraction`` of the image (0 to 1) is there, where known."""

    def __init__(self, kind: str, fraction: float | None = None) -> None:
        if fraction is not None and fraction >= 1:
            detail = (
                f"The {kind} file has no end mark, though all of the picture is there: some "
                "cameras and programs write such files. Open it in an image program (Preview, "
                "Paint, GIMP), save it again and upload that."
            )
        else:
            where = f"The {kind} file ends before its picture does"
            if fraction is not None:
                # Not "after 0 %": a few bytes of the picture are there in most cases.
                where = f"The file ends after {max(int(fraction * 100), 1)} % of the picture"
            detail = (
                f"{where}: it was probably cut off while it was copied. Copy or export it again."
            )
        super().__init__("corrupt_image", detail)
        self.kind = kind


def damaged(kind: str, where: str, cause: str | None = None) -> ApiError:
    """The refusal of a file that breaks the rules of its format; ``cause`` is for the log."""
    detail = f"The {kind} file is damaged: {where}. Export it again from the original."
    return ApiError("corrupt_image", detail, cause=cause)


MAX_FRAMES = 10_000
"""In an animation. Each frame costs time, however few pixels it has. Real animations have far
fewer: with the default limit of pixels, 10,000 frames are at most 100 x 100 each."""


def check_frames(kind: str, frames: int) -> None:
    """Refuse more frames than any program writes."""
    if frames > MAX_FRAMES:
        raise damaged(kind, f"it has more than {MAX_FRAMES:,} frames")


def check_time(deadline: float) -> None:
    """Raise ``overloaded`` after ``deadline`` (of ``time.monotonic()``), when the upload ends."""
    if time.monotonic() > deadline:
        raise unavailable("overloaded", "no time left to decode all of an image")


def check_pixels(width: int, height: int, frames: int, max_pixels: int, more: str = "") -> None:
    """Refuse too many pixels; ``more`` says that ``frames`` counts only the frames so far."""
    pixels = width * height * frames
    if pixels > max_pixels:
        times = f" x {frames} frames{more}" if frames > 1 else ""
        raise ApiError(
            "too_many_pixels",
            f"The picture has {width} x {height}{times} = {pixels:,} pixels; at most "
            f"{max_pixels:,} are accepted. Export it smaller.",
            limit=max_pixels,
            actual=pixels,
        )
