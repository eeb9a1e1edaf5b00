"""A night in which nobody has changed: thousands of tenants asked about, and every one left asleep.

The tenants are the rows that ``registered`` has left in the cell; a catalog of its own knows them and a backup of each.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

from customers import fleet_of_its_own
from installation import Installation
from report import Row, shown, skipped

from tenantry.fleet.backups.activity import activity_of
from tenantry.fleet.backups.keys import write_fleet_key
from tenantry.fleet.main import Fleet

_TENANTS = 10_000
_GOAL_SECONDS = 60.0
_PAGE = 400
_FILL = (
    """
    CREATE TEMP TABLE said ON COMMIT DROP AS
    SELECT gen_random_uuid() AS customer, gen_random_uuid() AS tenant, number, project, activity::jsonb
    FROM ROWS FROM (unnest(%(projects)s::text[]), unnest(%(activities)s::text[])) WITH ORDINALITY
        AS each (project, activity, number)
    """,
    "INSERT INTO customer (id, slug, name, plan_slug) SELECT customer, 'night-' || number, 'Night', 'launch' FROM said",
    """
    INSERT INTO project (
        id, customer_id, provider_project_id, region, pg_version, database_name, role_name, state, ready_at
    ) SELECT tenant, customer, project, 'local', 18, 'neondb', 'neondb_owner', 'ready', now() FROM said
    """,
    "INSERT INTO tenant_key (id, project_id, sealed) SELECT 'd-' || number, tenant, ''::bytea FROM said",
    """
    INSERT INTO backup (
        id, project_id, slug, vault, place, key_id, state, started_by, finished_at, manifest_sha256, activity
    ) SELECT 'b-' || number, tenant, 'night-' || number, %(vault)s, 'p' || number, 'd-' || number, 'done', 'bench',
        now(), '0', activity FROM said
    """,
)


def measure(installation: Installation, *, quick: bool) -> Iterator[Row]:
    what = f"a night in which none of {_TENANTS:,} tenants has changed"
    if quick:
        yield skipped(what, "--quick")
        return
    folder = installation.directory / "night"
    (folder / "vault").mkdir(parents=True)
    write_fleet_key(folder / "key")
    vault = f"file://{folder}/vault"
    os.environ["TENANTRY_BACKUPS__KEY_FROM"] = f"file:{folder}/key"
    try:
        with fleet_of_its_own(installation) as fleet:
            count = _know_everybody(fleet, vault)
            done = fleet.backups(vault).run(None, jobs=4, minutes=0.01)
    finally:
        del os.environ["TENANTRY_BACKUPS__KEY_FROM"]
    yield Row(
        what=what,
        ours=f"{shown(done.seconds)} s",
        goal=f"< {_GOAL_SECONDS:g} s",
        met=done.unchanged == count >= _TENANTS and done.seconds < _GOAL_SECONDS,
        note=f"{done.unchanged:,} left asleep, {done.taken + len(done.left) + done.failed} not; nobody was woken",
        numbers={"tenants": count, "unchanged": done.unchanged, "seconds": done.seconds},
    )


def _know_everybody(fleet: Fleet, vault: str) -> int:
    registered = [each for each in fleet.client.projects(limit=_PAGE) if each.name.startswith("registered ")]
    told = {each.id: activity_of(each) for each in registered}
    asleep = {project: json.dumps(activity) for project, activity in told.items() if activity is not None}
    values = {"projects": list(asleep), "activities": list(asleep.values()), "vault": vault}
    with fleet.catalog.transaction() as connection:
        for statement in _FILL:
            connection.exec_driver_sql(statement, values)
    return len(asleep)
