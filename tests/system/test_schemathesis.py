"""Schemathesis compares the running service with its OpenAPI description."""

from deploy.local import servers
from tests.system.stack import ROOT, run

EXAMPLES = 100


def test_every_generated_request_is_answered_as_described(service, api_key, tmp_path):
    command = [
        str(servers.SCRIPTS / "schemathesis"),
        "run",
        f"{service.url}/openapi.json",
        f"--header=x-api-key: {api_key()}",
        f"--max-examples={EXAMPLES}",
        "--generation-deterministic",
        "--no-color",
    ]
    environ = {"SCHEMATHESIS_HOOKS": "tests.system.schemathesis_hooks", "PYTHONPATH": str(ROOT)}
    done = run(command, directory=tmp_path, timeout=300, **environ)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "Tested: 4" in done.stdout
