import json
import logging.config
import os
import sys

import pytest

from app import create_app
from app.config import Config
from app.ops.logs import (
    JournalFormatter,
    JsonFormatter,
    RequestFilter,
    TextFormatter,
    logging_config,
)
from tests.fakes import ID, KEY, RECORD
from tests.pictures import plain
from tests.wire import CONTENT_TYPE, form, part

HOSTILE = "a\x1b[2J\x9b1m\u202eb\u2028c\x00d"


@pytest.fixture
def lines(redis, store):
    """All lines that one request writes into the JSON log."""
    redis.hset(RECORD, mapping={"roles": "uploader"})
    config = Config(log_format="json", log_level="debug", trusted_proxies=1)
    client = create_app(config, redis=redis, store=store).test_client()
    written = []

    class Collector(logging.Handler):
        def emit(self, record):
            written.append(self.format(record))

    collector = Collector()
    collector.setFormatter(JsonFormatter())
    collector.addFilter(RequestFilter())
    logger = logging.getLogger("uploader")
    before = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(collector)

    def lines(method, path, **options):
        written.clear()
        client.open(path, method=method, **options)
        return [json.loads(line) for line in written]

    yield lines
    logger.removeHandler(collector)
    logger.setLevel(before)


def record(message, *args, level=logging.WARNING, fields=None, exc_info=None):
    made = logging.LogRecord("uploader.test", level, "", 0, message, args, exc_info)
    if fields:
        made.fields = fields
    return made


def post(lines, file, **headers):
    headers = {"x-api-key": KEY, "Content-Type": CONTENT_TYPE, **headers}
    return lines("POST", "/upload/image", data=form(part(file)), headers=headers)


def test_an_upload_is_one_line_with_all_its_fields(lines):
    (line,) = post(lines, plain(), **{"X-Request-Id": "r1"})
    milliseconds = line.pop("ms")
    assert set(milliseconds) == {"auth", "receive", "inspect", "store", "total"}
    assert line.pop("object_key").startswith("uploads/")
    assert line.pop("bytes") == len(plain())
    del line["time"]
    assert line == {
        "level": "info",
        "logger": "uploader.requests",
        "message": "request",
        "request_id": "r1",
        "method": "POST",
        "path": "/upload/image",
        "status": 200,
        "code": "ok",
        "key_id": ID,
        "client": "127.0.0.1",
        "format": "PNG",
        "width": 8,
        "height": 6,
    }


def test_a_refusal_names_its_code_and_warnings_carry_the_same_request_id(lines, redis):
    assert post(lines, b"text")[-1]["code"] == "unsupported_format"
    redis.hset(RECORD, "rate_limit", "lots")
    warning, line = post(lines, b"text", **{"X-Request-Id": "r2"})
    assert (warning["level"], warning["request_id"]) == ("warning", "r2")
    assert "field rate_limit" in warning["message"]
    assert (line["status"], line["code"], line["request_id"]) == (401, "invalid_api_key", "r2")


@pytest.mark.parametrize(
    ("path", "logged"),
    [
        ("/nowhere", "/nowhere"),
        (f"/upload/image?x-api-key={KEY}", "/upload/image"),
        (f"/upload/image%3Fx-api-key={KEY}", "/upload/image"),
        (f"/upload/image;x-api-key={KEY}", "/upload/image"),
        (f"/upload/image&x-api-key={KEY}", "/upload/image"),
        (f"/upload/image%23x-api-key={KEY}", "/upload/image"),
        (f"/upload/image%2525{KEY}", "/upload/image"),
        (f"/{KEY}", "/"),
        (f"/upload/{KEY}/image", "/upload/"),
        ("/keys/" + "0123456789abcdef" * 4, "/keys/"),
        ("/keys/58853e25-ae5e-4471-92ee-37c91a501c08", "/keys/"),
        ("/keys/Zm9v-YmFy_YmF6-cXV4-cXV1eA", "/keys/"),
        ("/" + "a/" * 300, "/" + "a/" * 99 + "a"),
        ("/schön", "/schön"),
    ],
)
def test_a_path_is_logged_only_up_to_what_may_be_a_key(lines, path, logged):
    (line,) = lines("GET", path)
    assert line["path"] == logged
    assert KEY not in json.dumps(line)


def test_no_header_and_no_query_is_in_any_line(lines):
    secret = "s3cret-" * 3
    headers = {"x-api-key": secret, "X-Forwarded-For": secret, "User-Agent": secret}
    headers |= {"Referer": secret, "X-Request-Id": f"{secret}:", "Idempotency-Key": secret}
    found = lines("POST", f"/upload/image?x-api-key={secret}&{secret}", headers=headers)
    assert found
    assert secret not in json.dumps(found)


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_checks_are_logged_at_debug(lines, path):
    (line,) = lines("GET", path)
    assert line["level"] == "debug"


def test_a_json_line_is_always_ascii(lines):
    line = JsonFormatter().format(record("%s", HOSTILE, fields={"path": HOSTILE}))
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["message"] == json.loads(line)["path"] == HOSTILE


def test_a_text_line_escapes_control_characters():
    line = TextFormatter().format(record("%s ü\n2", HOSTILE, fields={"path": HOSTILE}))
    assert line.replace("\n", "").isprintable()
    assert r"\x1b[2J\x9b1m\u202eb" in line
    assert "ü\n2" in line


@pytest.mark.parametrize("formatter", [JsonFormatter, TextFormatter])
def test_an_unexpected_error_is_logged_with_its_traceback(formatter):
    try:
        raise ValueError("why")
    except ValueError:
        text = formatter().format(record("failed", exc_info=sys.exc_info()))
    assert "Traceback" in text
    assert "ValueError: why" in text


@pytest.mark.parametrize(("form_", "formatter"), [("json", JsonFormatter), ("text", TextFormatter)])
def test_every_logger_writes_in_one_form_to_standard_output(form_, formatter):
    config = logging_config(Config(log_format=form_, log_level="error"))
    assert config["formatters"] == {"line": {"()": formatter}}
    assert config["handlers"]["stdout"]["stream"] == "ext://sys.stdout"
    assert {each["level"] for each in config["loggers"].values()} == {"ERROR"}


def test_gunicorns_debug_lines_with_the_path_are_never_written():
    config = logging_config(Config(log_format="json", log_level="debug"))
    assert config["loggers"]["gunicorn.error"]["level"] == "INFO"
    assert config["loggers"]["uploader"]["level"] == "DEBUG"


def formatter_of(config):
    return logging.config.DictConfigurator(config).configure_formatter(config["formatters"]["line"])


def test_only_on_a_journal_does_a_line_begin_with_its_level(tmp_path, monkeypatch):
    with (tmp_path / "journal").open("w") as journal:
        file = os.fstat(journal.fileno())
        monkeypatch.setattr(sys, "stdout", journal)
        monkeypatch.setenv("JOURNAL_STREAM", f"{file.st_dev}:{file.st_ino}")
        line = formatter_of(logging_config(Config(log_format="json")))
        monkeypatch.setenv("JOURNAL_STREAM", f"{file.st_dev}:{file.st_ino + 1}")
        elsewhere = formatter_of(logging_config(Config(log_format="json")))
    for level, prefix in (("DEBUG", 7), ("INFO", 6), ("WARNING", 4), ("ERROR", 3), ("CRITICAL", 2)):
        record = logging.makeLogRecord({"levelname": level, "msg": "text"})
        assert line.format(record).startswith(f'<{prefix}>{{"time": ')
        assert json.loads(line.format(record)[3:]) == json.loads(elsewhere.format(record))


def test_on_a_journal_every_line_of_a_traceback_has_its_level(tmp_path):
    try:
        raise ValueError
    except ValueError:
        record = logging.makeLogRecord({"levelname": "ERROR", "exc_info": sys.exc_info()})
    lines = JournalFormatter(TextFormatter()).format(record).splitlines()
    assert len(lines) > 2
    assert all(line.startswith("<3>") for line in lines)
