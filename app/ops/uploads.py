"""``flask uploads``: cleans up after uploads that were interrupted."""

import sys

import click
from flask.cli import AppGroup

from app.ops import sweep as sweeping
from app.ops.cli import command
from app.records import journal
from app.service import Service

uploads = AppGroup("uploads", help="Clean up after uploads that were interrupted.")


@uploads.command("sweep")
@command
def sweep_uploads() -> None:
    """Delete the objects of uploads that were interrupted more than a minute ago."""
    service = Service.current()
    swept = sweeping.sweep(service.redis, service.store)
    click.echo(
        f"{swept.names} names looked at, {swept.deleted} objects deleted,"
        f" {swept.doubtful} left in doubt, {swept.failed} failed"
    )
    if swept.failed:
        sys.exit(1)


@uploads.command()
@click.option("--delete", is_flag=True, help="Delete them: only when no client was answered 200.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@command
def doubtful(delete: bool, yes: bool) -> None:
    """List the objects that stay because Redis may have forgotten their 200 answers."""
    redis, store = Service.current().redis, Service.current().store
    found = list(journal.in_doubt(redis))
    keys = [key for each in found for key in sweeping.keys_of(each.name)]
    objects = [key for key in keys if store.age(key) is not None]
    for key in objects:
        click.echo(key)
    if delete and objects:
        if not yes:
            click.confirm(f"Delete these {len(objects)}?", abort=True)
        for claimed in found:
            # First onto the sweep's list: the sweep deletes what this command cannot.
            journal.settle(redis, claimed, stays=False)
            sweeping.delete(store, claimed.name)
