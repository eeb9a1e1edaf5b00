"""Every major from npm's registry: installed into a running cell, lived on, gone back on, and read as it reads itself.

Nothing but the registry as npm is configured here is needed. Where it does not answer the tests are skipped, but not
in CI, which has one.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from psycopg import errors, sql

from tenantry.cell.storage.layout import run_directory
from tenantry.errors import InvalidInput
from tenantry.neon.client import NeonClient
from tenantry.neon.ids import BranchId, EndpointId, ProjectId, RegionId
from tenantry.postgres import conf, control, engines, postmaster, scram, template, wal
from tenantry.postgres.engines import Engine
from tenantry.postgres.lsn import Lsn, parse_lsn, segment_start
from tenantry.postgres.template import ADMIN_ROLE, OWNER_ROLE, WAL_SEGMENT_BYTES
from tenantry.testing.throwaway import ThrowawayCell

from ..postgres.conftest import OWNER_PASSWORD
from ..postgres.test_template import check_the_walls
from ..postgres.test_wal import work

pytestmark = pytest.mark.timeout(400)  # a download, a template and a life, on a loaded machine

INSTALL_SECONDS_MAX: Final = 200
MAJORS: Final = (14, 15, 16, 17, 18)
OWNER = (65534, 65534) if os.geteuid() == 0 else None


@pytest.fixture(scope="module")
def cell(new_workdir: Callable[[str], Path]) -> Iterator[ThrowawayCell]:
    """One that runs before any of these engines is there, and takes them before what the machine has itself."""
    options = ["--no-fleet", "--engine-source", "npm", "--spares", "1"]
    with ThrowawayCell(data=new_workdir("majors") / "d", options=options) as cell:
        yield cell


@pytest.fixture(scope="module")
def client(cell: ThrowawayCell) -> Iterator[NeonClient]:
    with NeonClient(str(cell.target.api_url), str(cell.target.api_key)) as client:
        yield client


def tenantry(cell: ThrowawayCell, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The program's exit code and document."""
    done = subprocess.run(
        [sys.executable, "-m", "tenantry", *arguments, "--json", "--data", str(cell.data)],
        capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS_MAX,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module", params=MAJORS)
def engine(request: pytest.FixtureRequest, cell: ThrowawayCell, client: NeonClient) -> Engine:
    """The newest build of a major, brought while the cell runs."""
    major = request.param
    if major not in {found.major for found in engines.discover()}:
        with pytest.raises(InvalidInput, match=f"tenantry engine install {major}"):
            client.create_project(name="too early", pg_version=major)
    code, document = tenantry(cell, "engine", "install", str(major))
    if code != 0 and document["error"]["code"] == "UNAVAILABLE":
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"npm's registry: {document['error']['message']}")
    assert code == 0, document
    assert document["installed"]
    _, again = tenantry(cell, "engine", "install", str(major))
    assert not again["installed"]
    directory = cell.data / "engines" / document["engine"]["build_id"]
    installed = engines.read_installed(directory)
    assert installed is not None
    return installed


@dataclass
class Tenant:
    client: NeonClient
    project_id: ProjectId
    branch_id: BranchId

    def connect(self, branch_id: BranchId | None = None) -> psycopg.Connection:
        uri = self.client.connection_uri(
            self.project_id, database_name="neondb", role_name="neondb_owner", branch_id=branch_id
        )
        return psycopg.connect(uri, autocommit=True, connect_timeout=60)

    def rows(self, branch_id: BranchId | None = None) -> list[int]:
        with self.connect(branch_id) as connection:
            return [row[0] for row in connection.execute("select n from t order by n")]

    def add(self, number: int, branch_id: BranchId | None = None) -> datetime:
        """Commits a row, and says a moment after that."""
        with self.connect(branch_id) as connection:
            connection.execute("insert into t values (%s)", (number,))
            row = connection.execute("select clock_timestamp(), pg_current_wal_insert_lsn()::text").fetchone()
            assert row is not None
            return row[0]

    def sleep(self, branch_id: BranchId | None = None) -> None:
        for endpoint in self.client.list_endpoints(self.project_id, branch_id=branch_id):
            self.wait(self.client.suspend_endpoint(self.project_id, EndpointId(endpoint.id)))

    def wait(self, answer: Any) -> Any:
        self.client.wait_for_operations(self.project_id, answer.operations)
        return answer

    def branch(self, name: str, **how: Any) -> BranchId:
        return BranchId(self.wait(self.client.create_branch(self.project_id, name=name, **how)).branch.id)


@pytest.fixture
def tenant(engine: Engine, client: NeonClient) -> Iterator[Tenant]:
    created = client.create_project(
        name=f"on {engine.major}", region_id=RegionId("aws-us-east-1"), pg_version=engine.major
    )
    assert created.project.pg_version == engine.major
    yield Tenant(client, ProjectId(created.project.id), BranchId(created.branch.id))
    client.delete_project(ProjectId(created.project.id))


def test_a_life(engine: Engine, tenant: Tenant, cell: ThrowawayCell) -> None:
    with tenant.connect() as connection:
        assert connection.execute("show server_version").fetchone() == (engine.version,)
        connection.execute("create extension citext; create table t (n int primary key, word citext)")
        assert connection.execute("select upper('äöü'), 'A'::citext = 'a'::citext").fetchone() == ("ÄÖÜ", True)
    tenant.add(1)
    tenant.sleep()
    assert tenant.rows() == [1], "it wakes"
    after_one = tenant.add(2)

    running = tenant.branch("from-a-running-parent")
    tenant.sleep()
    sleeping = tenant.branch("from-a-sleeping-parent")
    for branch_id in (running, sleeping):
        assert tenant.rows(branch_id) == [1, 2]
        tenant.add(10, branch_id)
    assert tenant.rows() == [1, 2]

    with tenant.connect() as connection:  # several segments of log, full pages and long records
        connection.execute("create table filler as select n, repeat('x', 200) x from generate_series(1, 15000) n")
        connection.execute("select pg_logical_emit_message(true, 'test', repeat('y', 1200000))")
        (lsn,) = connection.execute("select pg_current_wal_insert_lsn()::text").fetchone() or ("",)
        connection.execute("drop table filler")
    after_three = tenant.add(3)
    tenant.add(4)
    assert tenant.rows(tenant.branch("at-a-time", parent_timestamp=after_one)) == [1, 2]
    at_lsn = tenant.branch("at-a-position", parent_lsn=lsn)
    with tenant.connect(at_lsn) as connection:
        assert connection.execute("select count(*) from filler").fetchone() == (15_000,)

    tenant.wait(
        tenant.client.restore_branch(
            tenant.project_id, tenant.branch_id, source_branch_id=tenant.branch_id, source_timestamp=after_three,
            preserve_under_name="before",
        )
    )  # fmt: skip
    assert tenant.rows() == [1, 2, 3]
    tenant.add(5)
    tenant.sleep()
    assert tenant.rows() == [1, 2, 3, 5], "on its new timeline"
    before = next(branch for branch in tenant.client.branches(tenant.project_id) if branch.name == "before")
    tenant.wait(tenant.client.create_endpoint(tenant.project_id, branch_id=BranchId(before.id)))
    assert tenant.rows(BranchId(before.id)) == [1, 2, 3, 4]
    again = tenant.branch("once-more", parent_timestamp=after_one)
    assert tenant.rows(again) == [1, 2]

    schema = tenant.client.branch_schema(tenant.project_id, tenant.branch_id, database_name="neondb")
    assert "CREATE TABLE public.t" in str(schema)
    _, listed = tenantry(cell, "engine", "list")
    (mine,) = (one for one in listed["engines"] if one["build_id"] == engine.build_id)
    assert listed["cell_running"] and mine["in_use"] and mine["heads"] >= 6
    assert (mine["source"], mine["version"]) == ("npm", engine.version)
    assert {"name": "plpgsql", "version": "1.0", "trusted": True} in mine["extensions"]


def test_a_tenant_gets_no_further_than_its_databases(engine: Engine, tenant: Tenant, cell: ThrowawayCell) -> None:
    (endpoint,) = tenant.client.list_endpoints(tenant.project_id)
    role = tenant.client.create_role(tenant.project_id, tenant.branch_id, name="api_role")
    tenant.wait(role)
    creates = engine.major >= 16
    with tenant.connect() as held:
        held.execute(sql.SQL("alter role neondb_owner password {}").format(OWNER_PASSWORD))
        shown = held.execute(
            "select rolcreaterole, rolsuper, rolreplication from pg_roles where rolname in"
            " ('api_role', 'neondb_owner', 'neon_superuser')"
        ).fetchall()
        assert shown == [(creates, False, False)] * 3
        if not creates:
            # Before 16 whoever may create roles may make himself a member of any.
            for statement in (
                "create role x", "alter role neondb_owner createrole", "grant pg_execute_server_program to api_role",
                "grant pg_read_server_files to neondb_owner", "alter role api_role password 'x'", "drop role api_role",
            ):  # fmt: skip
                with pytest.raises(errors.InsufficientPrivilege):
                    held.execute(statement)  # pyright: ignore[reportArgumentType]
        sockets = run_directory(cell.data, root=os.geteuid() == 0) / endpoint.id

        def connect(user: str = OWNER_ROLE, *, dbname: str = "neondb", password: str = "") -> psycopg.Connection:
            return psycopg.connect(
                host=str(sockets), user=user, dbname=dbname, password=password or OWNER_PASSWORD, autocommit=True
            )

        asyncio.run(check_the_walls(engine.major, connect))


async def test_its_log_is_read_as_it_reads_it_itself(engine: Engine, cell: ThrowawayCell, workdir: Path) -> None:
    """Against pg_walinspect where the major has it, and against the times that Postgres keeps of commits."""
    made = await asyncio.to_thread(template.build_template, engine, cell.data / "templates")
    password, data = "of this clone", workdir / "data"
    verifiers = {role: scram.make_verifier(password) for role in template.STAMPED_ROLES}
    made.clone(data, system_identifier=9, verifiers=verifiers, owner=OWNER)
    start = wal.first_record(_segments(data).get, min(_segments(data)), segment_bytes=WAL_SEGMENT_BYTES)
    assert start is not None
    running = await postmaster.start(
        engine, data, socket_dir=workdir / "s", owner=OWNER, log_path=workdir / "log", timeout_seconds=60,
        settings={
            **conf.lean_settings(0.25, engine.major), "wal_keep_size": "64MB", "max_prepared_transactions": "2",
            "track_commit_timestamp": "on", "max_worker_processes": "8",
        },
    )  # fmt: skip
    try:
        async with await psycopg.AsyncConnection.connect(
            host=str(workdir / "s"), user=ADMIN_ROLE, password=password, dbname="neondb", autocommit=True
        ) as connection:
            await work(connection)
            theirs = await _inspected(connection, engine.major)
            scan = wal.Scan(_segments(data).get, start, segment_bytes=WAL_SEGMENT_BYTES)
            ended = [one for one in scan.transactions() if one.committed and one.xid]
            found = await connection.execute(
                "select xid, pg_xact_commit_timestamp(xid::text::xid) from unnest(%s::bigint[]) xid",
                ([one.xid for one in ended],),
            )
            times = dict(await found.fetchall())
    finally:
        await postmaster.stop(running, mode="fast", timeout_seconds=60)
    known = [one for one in ended if times.get(one.xid)]
    assert len(known) > 120
    assert all(wal.from_micros(one.micros) == times[one.xid].astimezone(UTC) for one in known)
    scan = wal.Scan(_segments(data).get, start, segment_bytes=WAL_SEGMENT_BYTES, verify_from=Lsn(0))
    records = {record.start: record for record in scan}
    shut_down = control.parse((data / "global/pg_control").read_bytes())
    assert shut_down is not None and shut_down.clean and shut_down.system_identifier == 9
    assert max(records) == shut_down.location, "every record to the last, with every checksum"
    assert (theirs is None) == (engine.major == 14)
    for lsn, previous, xid, length in theirs or []:
        record = records[lsn]
        assert (record.previous, record.xid, record.length) == (previous, xid, length)
    header = wal.page_header(next(iter(_segments(data).values())))
    assert header is not None and header.major == engine.major


def _segments(data: Path) -> dict[int, bytes]:
    return {
        segment_start(path.name, WAL_SEGMENT_BYTES)[1] // WAL_SEGMENT_BYTES: path.read_bytes()
        for path in (data / "pg_wal").iterdir()
        if len(path.name) == 24
    }


async def _inspected(connection: psycopg.AsyncConnection[Any], major: int) -> list[tuple[Lsn, Lsn, int, int]] | None:
    """Position, predecessor, transaction and length of each record, by Postgres' own reader."""
    if major == 14:
        return None
    await connection.execute("create extension pg_walinspect")
    found = await connection.execute(
        "select start_lsn::text, prev_lsn::text, xid::text::bigint, record_length from pg_get_wal_records_info("
        "(select redo_lsn from pg_control_checkpoint()), pg_current_wal_flush_lsn())"
    )
    return [(parse_lsn(at), parse_lsn(before), xid, length) for at, before, xid, length in await found.fetchall()]
