"""The image upload service: one folder a wing, and above them what puts the wings together."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.wiring import create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> Any:
    """``create_app``, loaded when it is asked for: an import of one wing loads no other."""
    if name != "create_app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from app.wiring import create_app

    return create_app
