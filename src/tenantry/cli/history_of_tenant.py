"""The history of one tenant, beside its ledger where that is asked for."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from tenantry.cli.output import Output

if TYPE_CHECKING:
    from tenantry.fleet.main import Fleet
    from tenantry.fleet.migrations.history import Entry

ROWS_MAX: Final = 200


def show_tenant(output: Output, fleet: Fleet, name: str, directory: Path | None, *, check: bool) -> None:
    """Raises NotFound, and with ``check`` MigrationFailed where the tenant cannot be asked."""
    from tenantry.fleet.migrations.history import beside, read_entries, read_ledger
    from tenantry.fleet.migrations.tenant import TenantSlug
    from tenantry.fleet.tenants.find import find_tenant

    tenant = find_tenant(fleet.catalog, name)
    entries = read_entries(fleet.catalog, tenant)
    document: dict[str, object] = {"tenant": tenant.slug, "runs": [each.as_dict() for each in entries]}
    lines = []
    judgement = None
    if check:
        from tenantry.errors import NotFound
        from tenantry.fleet.migrations.apply import Bounds
        from tenantry.fleet.migrations.formats.folders import open_folder
        from tenantry.fleet.migrations.formats.per_tenant import folder_of
        from tenantry.fleet.settings import load_settings

        slug = TenantSlug(tenant.slug)
        folder = folder_of(open_folder(directory or load_settings().migrations.dir), slug)
        if folder is None:
            raise NotFound(f"there is no folder of migrations for {slug}", next_step="see `tenantry migrate plan`")
        judgement = read_ledger(folder, fleet.migrating.dsn(slug), Bounds())
        lines = beside(entries, folder, judgement)
        document["ledger"] = [each.as_dict() for each in lines]
        document["objections"] = [each.message for each in judgement.objections]
    output.document(document)
    output.table(
        ["WHEN", "RUN", "BY", "OUTCOME", "FROM", "APPLIED", "WHAT WENT WRONG"],
        [_row(each) for each in entries[:ROWS_MAX]],
    )
    if not entries and not output.json_wanted:
        output.say(f"no run that is remembered has visited {tenant.slug}")
    if judgement is None or output.json_wanted:
        return
    output.say("")
    output.table(
        ["VERSION", "IN ITS LEDGER", "APPLIED BY", "WHEN"],
        [(each.version, each.applied, each.run or ("?" if each.applied else None), each.at) for each in lines],
    )
    for objection in judgement.objections:
        output.say(f"{objection.message}: {objection.next_step}")
    for each in lines:
        if each.disagrees:
            output.say(f"{each.version} was applied by {each.run}, and its ledger lacks it: somebody went back since")


def _row(entry: Entry) -> tuple[object, ...]:
    from tenantry.fleet.migrations.results import failure_of

    tenant, run = entry.tenant, entry.run
    return (
        *(tenant.finished_at, run.id, run.created_by, tenant.outcome or "waiting", tenant.from_version),
        *(", ".join(tenant.applied) or None, failure_of(tenant)),
    )
