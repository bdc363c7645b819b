"""The image upload service. Each folder is a wing; the modules above them join the wings."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.wiring import create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> Any:
    """Load ``create_app`` when it is asked for, so that importing one wing loads no other."""
    if name != "create_app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from app.wiring import create_app

    return create_app
