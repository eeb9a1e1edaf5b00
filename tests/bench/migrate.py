"""Migrate: one small DDL on sleeping tenants, and nothing to apply on a thousand, as the operator types it."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
from drizzle_kit import Absent, DrizzleKit
from installation import Installation, Tenant, wait_until
from report import Row, median_interval, shown

from tenantry.fleet.main import Fleet
from tenantry.neon.ids import ProjectId

_RATE_GOAL = 40.0
_NOTHING_TENANTS = 1_000
_NOTHING_SECONDS_GOAL = 1.0
_EXAMPLE = Path(__file__).parents[2] / "examples" / "tasks" / "drizzle"
_DDL = "alter table tasks add column note_{number} text"


def measure(installation: Installation, *, quick: bool) -> Iterator[Row]:
    count, rounds, peers = (12, 2, 2) if quick else (48, 4, 4)
    installation.restart(spares=0)
    folder = installation.directory / "drizzle"
    shutil.copytree(_EXAMPLE, folder)
    try:
        kit: DrizzleKit | str = DrizzleKit(installation.directory / "npm")
    except Absent as error:
        kit = str(error)
    with installation.fleet() as fleet:
        projects = [_project(fleet, f"Tenant {number}") for number in range(count)]
        rivals = [] if isinstance(kit, str) else [installation.create() for _ in range(peers)]
        _roll_out(installation, folder)
        if isinstance(kit, DrizzleKit):
            shutil.copytree(folder, kit.folder)
            for rival in rivals:
                kit.migrate(rival.uri)
        runs: list[float] = []
        commands: list[float] = []
        theirs: list[float] = []
        for number in range(rounds):
            _append(folder, number)
            _all_asleep(installation, fleet, projects)
            seconds, document = _roll_out(installation, folder)
            assert document["counts"]["applied"] == count, document["counts"]
            commands.append(seconds)
            runs.append(float(document["seconds"]))
            if isinstance(kit, DrizzleKit):
                theirs += _theirs(installation, kit, folder, rivals)
        yield _rates(kit, count, runs, commands, theirs)

        _register(installation, _NOTHING_TENANTS - count)
        _all_asleep(installation, fleet, projects)
        nothing: list[float] = []
        for _ in range(3 if quick else 7):
            seconds, document = _roll_out(installation, folder)
            assert document["counts"]["skipped"] == _NOTHING_TENANTS, document["counts"]
            nothing.append(seconds)
        woken = sum(bool(installation.processes(project_id)) for project_id in projects)
        yield _nothing(kit, count, nothing, woken, rivals)


def _project(fleet: Fleet, name: str) -> ProjectId:
    tenant = fleet.create(name).tenant
    assert tenant.project_id is not None
    return tenant.project_id


def _roll_out(installation: Installation, folder: Path) -> tuple[float, dict[str, Any]]:
    """Seconds of the whole command, and what it printed."""
    command = [sys.executable, "-m", "tenantry", "migrate", "run", "--dir", str(folder), "--json"]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, "--data", str(installation.cell.data)], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - began
    if done.returncode != 0:
        raise RuntimeError(f"tenantry migrate run failed: {done.stdout[-500:]} {done.stderr[-500:]}")
    return seconds, json.loads(done.stdout)


def _append(folder: Path, number: int) -> None:
    """One more migration, as drizzle-kit would write it."""
    journal = folder / "meta" / "_journal.json"
    content = json.loads(journal.read_text())
    last = content["entries"][-1]
    tag = f"{last['idx'] + 1:04}_note_{number}"
    content["entries"].append({**last, "idx": last["idx"] + 1, "when": last["when"] + 1, "tag": tag})
    journal.write_text(json.dumps(content))
    (folder / f"{tag}.sql").write_text(_DDL.format(number=number))


def _all_asleep(installation: Installation, fleet: Fleet, projects: Sequence[ProjectId]) -> None:
    slugs = [tenant.slug for tenant in fleet.list() if tenant.project_id in projects]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fleet.suspend, slugs))
    wait_until(lambda: not any(map(installation.processes, projects)), "all tenants sleep")


def _theirs(installation: Installation, kit: DrizzleKit, folder: Path, rivals: Sequence[Tenant]) -> list[float]:
    shutil.copytree(folder, kit.folder, dirs_exist_ok=True)
    for rival in rivals:
        installation.put_to_sleep(rival)
    return [kit.migrate(rival.uri) for rival in rivals]


def _rates(
    kit: DrizzleKit | str, count: int, runs: Sequence[float], commands: Sequence[float], theirs: Sequence[float]
) -> Row:
    what = f"migrate {count} sleeping tenants, one small DDL: tenants/s"
    rates = [count / seconds for seconds in runs]
    rate, (low, high) = statistics.median(rates), median_interval(rates)
    whole = count / statistics.median(commands)
    note = f"{len(runs)} runs, {shown(low)} .. {shown(high)}/s; {shown(whole)}/s with the command's own start"
    numbers: dict[str, object] = {"tenants": count, "run_seconds": runs, "command_seconds": commands}
    if isinstance(kit, str):
        return Row(
            what=what, ours=f"{shown(rate)}/s", goal=">= 40/s", met=rate >= _RATE_GOAL, note=f"{note}; {kit}",
            numbers=numbers,
        )  # fmt: skip
    their_rate = 1 / statistics.median(theirs)
    return Row(
        what=what,
        ours=f"{shown(rate)}/s",
        peer=f"{shown(their_rate)}/s\nnpx drizzle-kit migrate",
        ratio=shown(rate / their_rate),
        goal=">= 40/s",
        met=rate >= _RATE_GOAL,
        note=f"{note}; the peer {kit.version} on {len(theirs)} sleeping tenants, one by one",
        numbers={**numbers, "peer_seconds": theirs},
    )


def _register(installation: Installation, count: int) -> None:
    """Tenants that are only rows of the catalog, and stand where the real ones stand."""
    url = installation.target.catalog_url
    assert url is not None
    with psycopg.connect(url) as connection:
        connection.execute(
            "with made as (insert into customer (slug, name, plan_slug)"
            " select 'row-' || n, 'Row ' || n, (select min(slug) from plan) from generate_series(1, %s) n returning id)"
            " insert into project (customer_id, provider_project_id, region, pg_version, database_name, role_name,"
            " state, ready_at, schema_version, schema_format, schema_fingerprint, schema_seen_at)"
            " select made.id, 'row-' || made.id, region, pg_version, database_name, role_name,"
            " state, ready_at, schema_version, schema_format, schema_fingerprint, schema_seen_at"
            " from made, (select * from project where state = 'ready' order by schema_version desc limit 1) like_this",
            (count,),
        )


def _nothing(kit: DrizzleKit | str, real: int, ours: Sequence[float], woken: int, rivals: Sequence[Tenant]) -> Row:
    what = f"migrate with nothing to apply, {_NOTHING_TENANTS:,} tenants: seconds"
    seconds = statistics.median(ours)
    note = f"the whole command; {real} of them real, the rest rows of the catalog; woken: {woken}"
    met = seconds < _NOTHING_SECONDS_GOAL and woken == 0
    numbers: dict[str, object] = {"seconds": list(ours), "woken": woken}
    if isinstance(kit, str):
        return Row(what=what, ours=f"{shown(seconds)} s", goal="< 1 s, nobody woken", met=met, note=f"{note}; {kit}",
                   numbers=numbers)  # fmt: skip
    theirs = [kit.migrate(rival.uri) for rival in rivals]
    each = statistics.median(theirs)
    return Row(
        what=what,
        ours=f"{shown(seconds)} s",
        peer=f"{shown(each)} s for each\nnpx drizzle-kit migrate",
        ratio=f"1 : {shown(each * _NOTHING_TENANTS / seconds)}",
        goal="< 1 s, nobody woken",
        met=met,
        note=f"{note}; the peer would take {shown(each * _NOTHING_TENANTS)} s for as many",
        numbers={**numbers, "peer_seconds": theirs},
    )
