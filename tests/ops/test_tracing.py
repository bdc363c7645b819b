import logging
import sys

import pytest
from flask import Flask

from app.ops import tracing

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    "environ",
    [
        ENDPOINT,
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"},
        {"OTEL_TRACES_EXPORTER": "otlp"},
        ENDPOINT | {"OTEL_SDK_DISABLED": "false"},
    ],
)
def test_an_endpoint_or_an_exporter_switches_tracing_on(environ):
    assert tracing.is_on(environ)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_SERVICE_NAME": "uploader"},
        ENDPOINT | {"OTEL_SDK_DISABLED": "true"},
        ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_other_variables_do_not_switch_tracing_on(environ):
    assert not tracing.is_on(environ)


def test_tracing_without_its_packages_is_one_log_line(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    app = Flask("test")
    with caplog.at_level(logging.ERROR):
        tracing.init_app(app, ENDPOINT)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "requirements-tracing.txt" in caplog.text
    assert "tracing" not in app.extensions
