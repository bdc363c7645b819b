"""The metrics of one process; tests/system/test_metrics.py tests the listener."""

import json
import re
from pathlib import Path

import pytest

from app import create_app
from app.config import Config
from app.errors import CODES
from app.ops.sweep import Swept
from tests.fakes import ID, KEY, RECORD, send
from tests.pictures import plain

PNG = plain()
DASHBOARD = Path(__file__).parents[2] / "deploy" / "monitoring" / "dashboard.json"


@pytest.fixture
def make(redis, store):
    redis.hset(RECORD, mapping={"roles": "uploader"})

    def make(**settings):
        config = Config(log_format="json", metrics_port=9100, **settings)
        return create_app(config, redis=redis, store=store)

    return make


@pytest.fixture
def app(make):
    return make()


def value(app, name, **labels):
    return app.extensions["metrics"].registry.get_sample_value(f"uploader_{name}", labels)


def test_every_code_begins_at_zero(app):
    for code, (status, _) in CODES.items():
        assert value(app, "uploads_total", status=str(status), code=code) == 0
    assert value(app, "uploads_total", status="200", code="ok") == 0


def test_an_upload_is_counted_with_its_bytes_format_and_stages(app):
    assert send(app.test_client(), PNG).status_code == 200
    assert value(app, "uploads_total", status="200", code="ok") == 1
    assert value(app, "upload_bytes_total") == len(PNG)
    assert value(app, "stored_images_total", format="png") == 1
    assert value(app, "upload_size_bytes_count") == 1
    for stage in ("auth", "receive", "inspect", "store", "total"):
        assert value(app, "stage_seconds_count", stage=stage) == 1


def test_a_refusal_is_counted_by_its_code_and_stores_no_bytes(app):
    send(app.test_client(), b"no picture")
    assert value(app, "uploads_total", status="400", code="unsupported_format") == 1
    assert value(app, "upload_bytes_total") == 0
    assert value(app, "stage_seconds_count", stage="store") is None


def test_an_upload_is_in_progress_only_while_it_is_served(app, store):
    seen = []
    store.during = lambda: seen.append(value(app, "uploads_in_progress"))
    send(app.test_client(), PNG)
    assert seen == [1]
    assert value(app, "uploads_in_progress") == 0


def test_unknown_addresses_share_one_series(app):
    client = app.test_client()
    client.get("/nothing"), client.get("/another")
    assert value(app, "requests_total", method="other", route="none", status="404") == 2


def test_a_failure_of_redis_is_counted_by_its_kind_alone(app, server):
    server.connected = False
    send(app.test_client(), PNG)
    assert value(app, "dependency_failures_total", dependency="redis", cause="ConnectionError") == 1


def test_keys_are_counted_only_if_the_setting_says_so(make):
    app = make()
    send(app.test_client(), PNG)
    assert value(app, "key_uploads_total", key_id=ID, code="ok") is None
    app = make(metrics_per_key=True)
    send(app.test_client(), PNG)
    assert value(app, "key_uploads_total", key_id=ID, code="ok") == 1
    assert value(app, "key_upload_bytes_total", key_id=ID) == len(PNG)
    assert KEY not in str(list(app.extensions["metrics"].registry.collect()))


def test_a_sweep_is_counted(app):
    app.extensions["metrics"].count_swept(Swept(names=9, deleted=2, failed=1))
    assert value(app, "swept_objects_total") == 2
    assert value(app, "sweep_failures_total") == 1


def test_every_metric_has_a_panel_on_the_dashboard(app):
    families = app.extensions["metrics"].registry.collect()
    panels = json.loads(DASHBOARD.read_text())["panels"]
    shown = " ".join(target["expr"] for panel in panels for target in panel.get("targets", []))
    named = {
        re.sub("_(total|bucket|sum)$", "", each) for each in re.findall(r"uploader_\w+", shown)
    }
    assert {family.name for family in families} == named
