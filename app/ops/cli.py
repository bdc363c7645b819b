"""What the command groups share: one-line failures, ``--json``, text that is safe to print."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from app.errors import ApiError
from app.records.client import redis_errors

as_json = click.option("--json", "as_json", is_flag=True, help="JSON for scripts.")


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Report a failure of Redis or the store in one line, with exit status 1 and no traceback."""

    @wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        try:
            with redis_errors():
                try:
                    return function(*args, **options)
                except BrokenPipeError as error:
                    # An OSError: redis_errors would report it as a failure of Redis.
                    end_of_output = error
        except ApiError as error:
            raise click.ClickException(f"{error.title}: {error.cause or error.detail}") from error
        raise end_of_output  # `| head`: Click ends quietly

    return run


def printable(text: str) -> str:
    """The text without control characters, which could move a terminal's cursor."""
    return "".join(each if each.isprintable() else "?" for each in text)
