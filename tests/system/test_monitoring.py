"""The shipped alert rules and dashboard fit the metrics of the service and the guides."""

import json
import re
import secrets
import subprocess

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from deploy.local import servers
from tests.pictures import picture
from tests.system.stack import HTTP, ROOT, Valkey, record_name

MONITORING = ROOT / "deploy" / "monitoring"
METRICS, INCIDENTS = (
    (ROOT / "docs" / name).read_text() for name in ("monitoring.md", "incidents.md")
)
RULES = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
PANELS = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
EXPRESSIONS = [rule["expr"] for rule in RULES]
EXPRESSIONS += [target["expr"] for panel in PANELS for target in panel.get("targets", [])]


@pytest.fixture(scope="module")
def families(make_service, seaweedfs, bucket, tmp_path_factory):
    """The names of all metrics that a service exports after a good and a failed upload."""
    port, server = servers.free_port(), Valkey(tmp_path_factory.mktemp("valkey"))
    settings = {"METRICS_PORT": str(port), "METRICS_PER_KEY": "yes", "WEB_CONCURRENCY": "1"}
    service = make_service(server.url, seaweedfs.settings(bucket), **settings)
    key = secrets.token_hex(32)
    server.client.hset(record_name(key), mapping={"roles": "uploader"})
    assert service.upload(picture(), key).status == 200
    server.kill()
    assert service.upload(picture(), key).status == 503
    text = HTTP.request("GET", f"http://127.0.0.1:{port}/metrics").data.decode()
    return {family.name for family in text_string_to_metric_families(text)}


def metrics_in(expression):
    """The metrics that an expression names, without the suffixes of histograms and counters."""
    names = re.findall(r"\buploader_\w+", expression)
    return {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in names}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_expression_names_only_metrics_that_exist(expression, families):
    named = metrics_in(expression)
    assert named <= families
    assert named or expression.startswith("up{")


def test_the_guide_to_monitoring_explains_every_metric(families):
    named = metrics_in(" ".join(re.findall(r"`(uploader_\w+)", METRICS)))
    assert {name for name in families if name.startswith("uploader_")} == named


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_names_a_section_of_the_guide_to_incidents(rule):
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert page == "docs/incidents.md"
    headings = re.findall(r"^#+ (.+)$", INCIDENTS, re.MULTILINE)
    assert anchor in {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.needs_program("promtool")
@pytest.mark.parametrize(
    "command",
    [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml"),
     ("check", "config", "prometheus.yml")],
    ids=" ".join,
)  # fmt: skip
def test_promtool_finds_no_fault(command):
    done = subprocess.run(
        ["promtool", *command], cwd=MONITORING, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
