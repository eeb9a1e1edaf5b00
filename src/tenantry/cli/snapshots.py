"""``tenantry snapshot create|list|delete|restore``: states of a tenant that are held under a name."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from tenantry.cli.confirm import confirm
from tenantry.cli.moments import Point, in_words, parse_point
from tenantry.cli.options import Data, Expires, Json, TenantName, Yes
from tenantry.cli.output import Output
from tenantry.cli.restore import result_document, say_what_follows
from tenantry.runtime.spans import parse_span

snapshot = typer.Typer(name="snapshot", help="States of a tenant, held under a name.", no_args_is_help=True)

SnapshotName = Annotated[str, typer.Argument(metavar="NAME", help="The snapshot's name.", show_default=False)]


@snapshot.command("create")
def create_command(
    tenant: TenantName,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="By default branch and time.", show_default=False)
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME|LSN", help="A state of the past: 10:41, '5m ago'.", show_default=False),
    ] = None,
    expires: Expires = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Hold the tenant's state under a name. Copies nothing, wakes nobody."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.tenants.snapshot_create import create_snapshot

    output, now = Output(json_wanted=json), datetime.now(UTC)
    point = Point() if at is None else parse_point(at, now)
    expires_at = None if expires is None else now + parse_span(expires)
    with the_fleet(data) as fleet:
        done = create_snapshot(
            fleet.catalog, fleet.provider_of, tenant, name=name, at=point.at, lsn=point.lsn, expires_at=expires_at
        )
    taken = done.snapshot
    output.document({"tenant": done.tenant.slug, "snapshot": taken})
    state = "as it is now" if at is None else f"as of {in_words(point, now)}"
    output.say(f"snapshot {taken.name!r} holds {done.tenant.slug} {state}")


@snapshot.command("list")
def list_command(tenant: TenantName, data: Data = None, json: Json = False) -> None:
    """List a tenant's snapshots. Wakes nobody."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.tenants.snapshot_list import list_snapshots

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        snapshots = list_snapshots(fleet.catalog, fleet.provider_of, tenant)
    output.document({"snapshots": snapshots})
    if not snapshots and not json:
        output.remark("there are no snapshots yet")
    output.table(
        ["SNAPSHOT", "BRANCH", "STATE OF", "BY", "CREATED", "EXPIRES"],
        [
            (s.name, s.branch, s.timestamp or s.lsn, "hand" if s.manual else "schedule", s.created_at, s.expires_at)
            for s in snapshots
        ],
    )


@snapshot.command("delete")
def delete_command(
    tenant: TenantName, name: SnapshotName, yes: Yes = False, data: Data = None, json: Json = False
) -> None:
    """Delete a snapshot; the tenant is as it is. Shows what it would delete first."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.tenants.snapshot_delete import delete_snapshot, plan_snapshot_deletion

    output, now = Output(json_wanted=json), datetime.now(UTC)
    with the_fleet(data) as fleet:
        planned = plan_snapshot_deletion(fleet.catalog, fleet.provider_of, tenant, name)
        held = planned.snapshot
        what = f"snapshot {held.name!r} of {planned.tenant.slug}, which holds {_state(held.timestamp, held.lsn, now)}"
        if not yes:
            confirm(f"Delete {what}?", refusal=f"nothing was deleted: this would delete {what}", json_wanted=json)
        deleted = delete_snapshot(fleet.catalog, fleet.provider_of, planned)
    output.document({"deleted": deleted, "tenant": planned.tenant.slug, "snapshot": held})
    output.say(f"deleted {what}" if deleted else f"snapshot {held.name!r} was gone already")


@snapshot.command("restore")
def restore_command(
    tenant: TenantName,
    name: SnapshotName,
    branch: Annotated[
        str | None,
        typer.Option(
            "--branch", metavar="BRANCH", help="Into a new branch of this name; the tenant stays.", show_default=False
        ),
    ] = None,
    yes: Yes = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Bring a tenant back to a snapshot in place, its present kept; or put its state into a branch."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.tenants.snapshot_restore import branch_of_snapshot, plan_snapshot_restore, restore_snapshot

    output, now = Output(json_wanted=json), datetime.now(UTC)
    with the_fleet(data) as fleet:
        plan = plan_snapshot_restore(fleet.catalog, fleet.provider_of, tenant, name)
        slug, held = plan.tenant.slug, plan.snapshot
        state = f"snapshot {held.name!r} ({_state(held.timestamp, held.lsn, now)})"
        if branch is not None:
            branch_of_snapshot(fleet.provider_of, plan, branch)
            output.document({"restored": True, "tenant": slug, "branch": branch, "snapshot": held})
            output.say(f"branch {branch} of {slug} is {state}; the tenant is as it was")
            return
        if not yes:
            output.remark(f"restore {slug} to {state}")
            output.remark("the present is kept as a branch; open connections are cut")
            confirm("Do that?", refusal=f"nothing was changed: this would restore {slug} to {state}", json_wanted=json)
        done = restore_snapshot(fleet.catalog, fleet.provider_of, plan)
    output.document({"restored": True, "snapshot": held, "result": result_document(done)})
    output.say(f"restored {slug} to {state}")
    say_what_follows(output, done)


def _state(timestamp: datetime | None, lsn: str | None, now: datetime) -> str:
    return "the state of " + in_words(Point(at=timestamp, lsn=lsn), now)


def register(app: typer.Typer) -> None:
    app.add_typer(snapshot)
