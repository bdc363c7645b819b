"""``flask doctor``: looks at the settings, Redis and the store once, and says what to change."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from urllib.parse import urlsplit

import click

from app.config import Config
from app.ops import doctor_redis, doctor_store, memory
from app.ops.findings import FAILED, OK, WARNING, Finding
from app.service import Service

_COLOURS = {OK: "green", WARNING: "yellow", FAILED: "red"}


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="JSON for scripts.")
def doctor(as_json: bool) -> None:
    """Check the settings, Redis and the store; exit status 1 when something failed."""
    service = Service.current()
    findings: list[Finding] = []
    for examine in (_settings, doctor_redis.examine, doctor_store.examine):
        for finding in examine(service):
            findings.append(finding)
            if not as_json:
                _print(finding)  # at once: the next check may wait for a server that is down
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    if any(finding.state == FAILED for finding in findings):
        raise click.exceptions.Exit(1)


def _print(finding: Finding) -> None:
    state = click.style(f"{finding.state:8}", fg=_COLOURS[finding.state])
    click.echo(f"{finding.check:18} {state} {finding.found}")
    if finding.hint:
        click.echo(f"{'':27} {finding.hint}")


def _settings(service: Service) -> Iterator[Finding]:
    config = service.config
    yield Finding("settings", OK, "all can be read")  # or this command would not have started
    yield _transport("redis encryption", config.redis_url, ("rediss", "unix"), "rediss://")
    yield _transport("store encryption", config.s3_endpoint, ("https",), "https://")
    yield _memory(config)


def _transport(check: str, url: str, safe: tuple[str, ...], scheme: str) -> Finding:
    """Whether others on the network can read what goes to this address."""
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2].split(",")  # Sentinel and Cluster have several
    local = all(
        urlsplit(f"//{host}").hostname in ("localhost", "127.0.0.1", "::1") for host in hosts
    )
    if parts.scheme in safe or local:
        return Finding(check, OK, "on this machine" if local else "encrypted")
    hint = f"Use {scheme} unless the network between is your own."
    return Finding(check, WARNING, "plain text over a network", hint)


def _memory(config: Config) -> Finding:
    """Whether the settings allow more memory than there is, for the unit or where this runs."""
    there = min(memory.limit(config), memory.limit(config, memory.UNIT))
    processes = config.web_concurrency
    most = memory.mib(processes * memory.plan(processes, there).most)
    found = f"at most {most} in {processes} processes, of {memory.mib(there)}"
    if lowered := memory.lowered(processes, there):
        hint = "Lower WEB_CONCURRENCY, or give it more memory."
        return Finding("memory", WARNING, f"{found}: {lowered}", hint)
    return Finding("memory", OK, found)
