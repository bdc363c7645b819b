"""What is logged: one line per request, and warnings with the same request id.

Never a query string, a body, or a header other than a sane ``X-Request-Id``: each may hold a key.
"""

import json
import logging
import os
import re
import sys
import time
from datetime import UTC, datetime
from typing import Any, TextIO

from flask import Flask, Response, g, has_request_context, request

from app.config import Config

log = logging.getLogger("uploader.requests")

QUIET = ("/healthz", "/readyz")
"""Addresses that monitoring polls: logged only at ``debug``."""

_LONGEST_PATH = 200  # our own are under 40; the rest is what scanners try
# JSON in ASCII: control characters, and those that change the direction of text, stay escaped.
_encode = json.JSONEncoder(default=str).encode
# A path is logged up to anything like a query (some clients encode the question mark) or a key:
# 16 letters and digits in a row, or 24 with signs between, like a UUID.
_NOT_IN_PATHS = re.compile(r"[?=&;#%]|[A-Za-z0-9_]{16}|[A-Za-z0-9_+~-]{24}")


def logging_config(config: Config) -> dict[str, Any]:
    """Settings for ``logging.config.dictConfig``: all lines on standard output, in one form."""
    form = config.log_format or ("text" if sys.stdout.isatty() else "json")
    line: dict[str, Any] = {"()": JsonFormatter if form == "json" else TextFormatter}
    if _on_journal(sys.stdout):
        line = {"()": JournalFormatter, "line": line["()"]()}
    level = config.log_level.upper()
    # Without propagate False the root logger would write each line a second time.
    plain = {"level": level, "handlers": ["stdout"], "propagate": False}
    # gunicorn's debug lines have the path as it was sent, and with it a key in the query.
    gunicorn = plain | {"level": max("INFO", level, key=logging.getLevelName)}
    return {
        "version": 1,
        "disable_existing_loggers": False,  # modules have made theirs at import
        "formatters": {"line": line},
        "filters": {"request": {"()": RequestFilter}},
        "handlers": {
            "stdout": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stdout",
                "formatter": "line",
                "filters": ["request"],
            }
        },
        # Libraries: warnings only, whatever LOG_LEVEL is, unless it is higher still.
        "root": {"level": max("WARNING", level, key=logging.getLevelName), "handlers": ["stdout"]},
        "loggers": {"uploader": plain, "gunicorn.error": gunicorn},
    }


class RequestFilter(logging.Filter):
    """Adds the id of the current request to each record."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the id, where there is a request; no record is dropped."""
        if has_request_context() and "request_id" in g:
            record.request_id = g.request_id
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's own fields, then the request's."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := getattr(record, "request_id", None):
            line["request_id"] = request_id
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encode(line)


class TextFormatter(logging.Formatter):
    """For people at a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Time, level, message, then the fields as name=value."""
        when = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        fields = {**getattr(record, "fields", {})}
        if request_id := getattr(record, "request_id", None):
            fields["request_id"] = request_id
        shown = "".join(f" {name}={json.dumps(value)}" for name, value in fields.items())
        text = f"{when} {record.levelname.lower():8} {_printable(record.getMessage())}{shown}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class JournalFormatter(logging.Formatter):
    """Marks each line with its level, so that ``journalctl -p warning`` works (sd-daemon(3))."""

    def __init__(self, line: logging.Formatter) -> None:
        super().__init__()
        self._line = line

    def format(self, record: logging.LogRecord) -> str:
        """The other formatter's text, with ``<4>`` or the like before each line."""
        levels = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}
        prefix = f"<{levels.get(record.levelname, 6)}>"
        return prefix + self._line.format(record).replace("\n", f"\n{prefix}")


def _on_journal(stream: TextIO) -> bool:
    """Whether this output is systemd's journal: JOURNAL_STREAM names its file (systemd.exec(5))."""
    try:
        file = os.fstat(stream.fileno())
    except (OSError, ValueError):  # not a file, or closed
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{file.st_dev}:{file.st_ino}"


def _printable(text: str) -> str:
    """The text with unprintable characters escaped as in Python: a terminal obeys some of them."""
    return "".join(
        each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in text
    )


def init_app(app: Flask) -> None:
    """Log one line per request: 404, 405 and 500 too, health checks at ``debug``."""
    app.before_request(_start)
    app.after_request(_line)


def _start() -> None:
    g.started, g.stages = time.perf_counter(), {}


def _line(response: Response) -> Response:
    level = logging.DEBUG if request.path in QUIET else logging.INFO
    if log.isEnabledFor(level):
        log.log(level, "request", extra={"fields": _fields(response)})
    return response


def answered(response: Response) -> int:
    """The status for logs and metrics: 499, nginx's number, when the client closed first."""
    return 499 if g.get("disconnected") else response.status_code


def _fields(response: Response) -> dict[str, Any]:
    image = g.get("image")
    fields = {
        "method": request.method,
        "path": _NOT_IN_PATHS.split(request.path, maxsplit=1)[0][:_LONGEST_PATH],
        "status": answered(response),
        "code": g.get("error_code", "ok"),
        "key_id": g.get("key_id"),
        "client": request.remote_addr,
        "bytes": g.get("image_size"),
        "format": image and image.format,
        "width": image and image.width,
        "height": image and image.height,
        "object_key": g.get("object_key"),
        "trace_id": g.get("trace_id"),
    }
    milliseconds = {name: round(seconds * 1000, 1) for name, seconds in g.stages.items()}
    # Of the application alone: the answer is not sent yet.
    milliseconds["total"] = round((time.perf_counter() - g.started) * 1000, 1)
    return {name: value for name, value in fields.items() if value is not None} | {
        "ms": milliseconds
    }
