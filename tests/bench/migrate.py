"""Migrate: one small DDL on sleeping and on awake tenants, nothing to apply on a thousand, and the runner's memory.

The command is measured as the operator types it.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import django_schemas
import drizzle_kit
import psycopg
import raw_postgres
from django_schemas import DjangoSchemas
from drizzle_kit import DrizzleKit
from installation import Installation, Tenant, wait_until
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from raw_postgres import RawPostgres
from report import Row, median_interval, shown

from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.upgrade import upgrade_catalog
from tenantry.fleet.main import Fleet
from tenantry.neon.ids import ProjectId

_RATE_GOAL = 40.0
_AWAKE_RATE_GOAL = 150.0
_NOTHING_TENANTS = 1_000
_NOTHING_SECONDS_GOAL = 1.0
_FEW, _MANY = 100, 10_000
"""Tenants of the runner whose memory is measured."""
_DATABASES = 24
"""In which they lie: more than come at a time, so that none waits for another's lock."""
_MEMORY_GROWTH_MAX = 16 * 2**20
_CU = 1.0
_EXAMPLE = Path(__file__).parents[2] / "examples" / "tasks" / "drizzle"
_DDL = "alter table tasks add column note_{number} text"


def measure(installation: Installation, *, quick: bool) -> Iterator[Row]:
    count, rounds, peers = (12, 2, 2) if quick else (96, 4, 4)
    installation.restart(spares=4)
    folder = installation.directory / "drizzle"
    shutil.copytree(_EXAMPLE, folder)
    try:
        kit: DrizzleKit | str = DrizzleKit(installation.directory / "npm")
    except drizzle_kit.Absent as error:
        kit = str(error)
    with installation.fleet() as fleet, ExitStack() as stack:
        server = _server(installation, stack)
        try:
            schemas: DjangoSchemas | str = DjangoSchemas(installation.directory / "django", server.dsn, count)
        except django_schemas.Absent as error:
            schemas = str(error)
        projects = [_project(fleet, f"Tenant {number}") for number in range(count)]
        rivals = [] if isinstance(kit, str) else [installation.create() for _ in range(peers)]
        _roll_out(installation, folder)
        if isinstance(kit, DrizzleKit):
            shutil.copytree(folder, kit.folder)
            for rival in rivals:
                kit.migrate(rival.uri)
        asleep, awake = _Times(count), _Times(count)
        kits: list[float] = []
        executors: dict[str, list[float]] = {name: [] for name in django_schemas.EXECUTORS}
        for number in range(rounds):
            _append(folder, 2 * number)
            _all_asleep(installation, fleet, projects)
            asleep.add(*_roll_out(installation, folder))
            _append(folder, 2 * number + 1)
            awake.add(*_roll_out(installation, folder))
            if isinstance(kit, DrizzleKit):
                kits += _theirs(installation, kit, folder, rivals)
            if isinstance(schemas, DjangoSchemas):
                for name, seconds in executors.items():
                    schemas.add_column(len(executors) * number + list(executors).index(name))
                    seconds.append(schemas.migrate(name))
        yield _asleep(kit, asleep, kits)
        yield _awake(schemas, awake, executors)

        _register(installation, _NOTHING_TENANTS - count)
        _all_asleep(installation, fleet, projects)
        nothing: list[float] = []
        for _ in range(3 if quick else 7):
            seconds, document = _roll_out(installation, folder)
            assert document["counts"]["skipped"] == _NOTHING_TENANTS, document["counts"]
            nothing.append(seconds)
        woken = sum(bool(installation.processes(project_id)) for project_id in projects)
        yield _nothing(kit, count, nothing, woken, rivals)
        yield _memory(installation, server, folder, many=_FEW * 10 if quick else _MANY)


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


class _Times:
    """Of our runs over so many tenants: of the run alone, and of the whole command."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.runs: list[float] = []
        self.commands: list[float] = []

    def add(self, seconds: float, document: dict[str, Any]) -> None:
        assert document["counts"]["applied"] == self.count, document["counts"]
        self.runs.append(_run_seconds(document))
        self.commands.append(seconds)

    @property
    def rates(self) -> list[float]:
        return [self.count / seconds for seconds in self.runs]

    @property
    def note(self) -> str:
        low, high = median_interval(self.rates)
        whole = self.count / statistics.median(self.commands)
        return f"{len(self.runs)} runs, {shown(low)} .. {shown(high)}/s; {shown(whole)}/s with the command's own start"

    @property
    def numbers(self) -> dict[str, object]:
        return {"tenants": self.count, "run_seconds": self.runs, "command_seconds": self.commands}


def _asleep(kit: DrizzleKit | str, times: _Times, theirs: Sequence[float]) -> Row:
    what = f"migrate {times.count} sleeping tenants, one small DDL: tenants/s"
    rate = statistics.median(times.rates)
    met = rate >= _RATE_GOAL
    if isinstance(kit, str):
        return Row(what=what, ours=f"{shown(rate)}/s", goal=">= 40/s", met=met, note=f"{times.note}; {kit}",
                   numbers=times.numbers)  # fmt: skip
    their_rate = 1 / statistics.median(theirs)
    return Row(
        what=what,
        ours=f"{shown(rate)}/s",
        peer=f"{shown(their_rate)}/s\nnpx drizzle-kit migrate",
        ratio=shown(rate / their_rate),
        goal=">= 40/s",
        met=met,
        note=f"{times.note}; the peer {kit.version} on {len(theirs)} sleeping tenants, one by one",
        numbers={**times.numbers, "peer_seconds": theirs},
    )


def _awake(schemas: DjangoSchemas | str, times: _Times, executors: dict[str, list[float]]) -> Row:
    what = f"migrate {times.count} awake tenants, one small DDL: tenants/s"
    rate = statistics.median(times.rates)
    met = rate >= _AWAKE_RATE_GOAL
    if isinstance(schemas, str):
        return Row(what=what, ours=f"{shown(rate)}/s", goal=">= 150/s", met=met, note=f"{times.note}; {schemas}",
                   numbers=times.numbers)  # fmt: skip
    best, seconds = min(executors.items(), key=lambda each: statistics.median(each[1]))
    their_rate = schemas.count / statistics.median(seconds)
    whole = times.count / statistics.median(times.commands)
    return Row(
        what=what,
        ours=f"{shown(rate)}/s\n{shown(whole)}/s the command",
        peer=f"{shown(their_rate)}/s\ndjango-tenants {schemas.version}",
        ratio=f"{shown(rate / their_rate)}\n{shown(whole / their_rate)}",
        goal=">= 150/s",
        met=met,
        note=f"{times.note}; the peer's whole command over {schemas.count} schemas of one server, by its executor"
        f" {best}, the faster one",
        numbers={**times.numbers, "peer_seconds": executors},
    )


def _run_seconds(document: dict[str, Any]) -> float:
    began, ended = (datetime.fromisoformat(document[name]) for name in ("started_at", "finished_at"))
    return (ended - began).total_seconds()


# -- memory ------------------------------------------------------------------------------------------------------


def _server(installation: Installation, stack: ExitStack) -> RawPostgres:
    """A server that is always awake, for peers and for tenants that nobody need create."""
    made = stack.enter_context(
        raw_postgres.clone_of_template(
            installation.engine(), installation.layout.templates, installation.directory / "server",
            installation.owner(), cu=_CU,
        )
    )  # fmt: skip
    made.start()
    return made


def _memory(installation: Installation, server: RawPostgres, folder: Path, *, many: int) -> Row:
    """The peak of a runner over few and over many tenants; each with a catalog of its own."""
    with psycopg.connect(server.admin_dsn, autocommit=True) as admin:
        owner = conninfo_to_dict(server.dsn)["user"]
        names = [f"tenant_{number}" for number in range(_DATABASES)]
        for name in names:
            admin.execute(f"CREATE DATABASE {name} OWNER {owner}".encode())
    dsns = [make_conninfo(server.dsn, dbname=name) for name in names]
    found: dict[int, dict[str, Any]] = {}
    for tenants in (_FEW, many):
        with _catalog(installation, f"bench_runner_{tenants}") as url:
            with psycopg.connect(url) as connection:
                connection.execute(*_rows(tenants))
            done = subprocess.run(
                [sys.executable, str(Path(__file__).with_name("runner_memory.py")), url, str(folder), *dsns],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode != 0:
                raise RuntimeError(f"the runner failed: {done.stderr[-800:]}")
            found[tenants] = json.loads(done.stdout)
            assert found[tenants]["tenants"] == tenants
    few, much = found[_FEW], found[many]
    growth = much["peak_bytes"] - few["peak_bytes"]
    rate = many / much["run_seconds"]
    return Row(
        what=f"memory of the runner at its peak, {_FEW} and {many:,} tenants",
        ours=f"{few['peak_bytes'] / 2**20:.0f} and {much['peak_bytes'] / 2**20:.0f} MiB",
        goal="flat: + 16 MiB",
        met=growth <= _MEMORY_GROWTH_MAX,
        note=f"{few['before_bytes'] / 2**20:.0f} MiB of it are imports; the tenants are rows of a catalog and"
        f" {_DATABASES} databases of one server, {shown(rate)} visits/s",
        numbers={"few": few, "many": much},
    )


@contextmanager
def _catalog(installation: Installation, name: str) -> Generator[str]:
    """The URL of an empty catalog beside the real one."""
    target = installation.target
    assert target.catalog_url is not None
    with psycopg.connect(target.catalog_url, autocommit=True) as db:
        db.execute(f"CREATE DATABASE {name}".encode())
        fields = {key: value for key, value in conninfo_to_dict(target.catalog_url).items() if value is not None}
        catalog = Catalog(make_conninfo("", **(fields | {"dbname": name})))
        try:
            upgrade_catalog(catalog)
            yield catalog.url
        finally:
            catalog.close()
            db.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def _rows(count: int) -> tuple[bytes, tuple[int]]:
    """Tenants whose ledgers nobody has read."""
    return (
        b"with made as (insert into customer (slug, name, plan_slug)"
        b" select 'row-' || n, 'Row ' || n, (select min(slug) from plan) from generate_series(1, %s) n returning id)"
        b" insert into project (customer_id, provider_project_id, region, pg_version, database_name, role_name, state,"
        b" ready_at) select id, 'row-' || id, 'here', 18, 'd', 'r', 'ready', now() from made",
        (count,),
    )


# -- nothing to apply --------------------------------------------------------------------------------------------


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
