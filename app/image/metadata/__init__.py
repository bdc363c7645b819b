"""Metadata of pictures by policy: what nobody should see goes, and no pixel is touched.

``strip()`` finds the blocks of a file that its policy does not let pass, and gives the file anew
in pieces: the coded data is the same memory as before, never a copy. Each format has a module
that knows where blocks stand (``jpeg``, ``png``, ``gif``, ``webp``), each kind of block one that
knows what stands in it (``exif``, ``xmp``, ``photoshop``). What cannot be read is left out whole:
in doubt nothing stays. docs/privacy.md has the table.
"""

from collections.abc import Callable, Iterator

from app.config import KEEP, MINIMAL
from app.image.info import ImageInfo
from app.image.metadata import gif, jpeg, png, webp
from app.image.metadata.edits import Edit, Effort, Piece, applied

__all__ = ["Piece", "strip"]

_FORMATS: dict[str, Callable[[memoryview, ImageInfo, bool, Effort], Iterator[Edit]]] = {
    "JPEG": jpeg.edits,
    "PNG": png.edits,
    "GIF": gif.edits,
    "WEBP": webp.edits,
}


def strip(view: memoryview, info: ImageInfo, policy: str, deadline: float) -> tuple[Piece, ...]:
    """The file ``view``, which the gate found to be ``info``, as ``policy`` lets it pass.

    Gives ``(view,)`` itself where nothing has to go. Raises ``overloaded`` after ``deadline``
    (of ``time.monotonic()``), and nothing else for any file that passed the gate.
    """
    if policy == KEEP:
        return (view,)
    effort = Effort(deadline)
    return applied(view, _FORMATS[info.format](view, info, policy == MINIMAL, effort), effort)
