"""State on a real SQLite file: round trips, transactions, transitions."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tenantry.cell.consumption import Step
from tenantry.cell.model import (
    Branch,
    BuildId,
    Endpoint,
    Head,
    Operation,
    Project,
    Role,
    Uid,
    check_operation_transition,
)
from tenantry.cell.state.state import State
from tenantry.cell.state.tables import Tables
from tenantry.errors import Conflict, NotFound, OperatorError
from tenantry.neon.ids import (
    BranchId,
    OperationId,
    ProjectId,
    RegionId,
    new_branch_id,
    new_endpoint_id,
    new_head_id,
    new_operation_id,
    new_project_id,
)

NOW = datetime(2026, 11, 24, 10, 41, 0, 123456, tzinfo=UTC)


def project(name: str = "ACME", project_id: ProjectId | None = None) -> Project:
    return Project(
        id=project_id or new_project_id(),
        name=name,
        region_id=RegionId("local"),
        pg_major=18,
        uid=Uid(12345),
        settings={"quota": {"active_time_seconds": 5}},
        created_at=NOW,
        updated_at=NOW,
    )


def branch(of: Project) -> Branch:
    return Branch(
        id=new_branch_id(), project_id=of.id, name="main", state_changed_at=NOW, default=True,
        head_id=new_head_id(),
        created_at=NOW, updated_at=NOW,
    )  # fmt: skip


def head(of: Branch) -> Head:
    return Head(id=of.head_id, project_id=of.project_id, branch_id=of.id, build_id=BuildId("pg18.6-x"), created_at=NOW)


async def opened(path: Path) -> State:
    return await asyncio.to_thread(State, path / "cell.db")


async def test_what_a_read_asks_is_of_one_moment(tmp_path: Path) -> None:
    state, one = await opened(tmp_path), project()
    own = branch(one)
    looked, changed = threading.Event(), threading.Event()

    def insert(tables: Tables) -> None:
        for record in (one, own, head(own)):
            tables.insert(record)

    def swap(tables: Tables) -> None:
        new = dataclasses.replace(own, head_id=new_head_id())
        tables.insert(head(new))
        tables.update(new)
        tables.delete_head(own.head_id)

    def look(tables: Tables) -> Head | None:
        found = tables.branch(own.id)
        looked.set()
        assert found is not None and changed.wait(10)
        return tables.head(found.head_id)

    await state.write(insert)
    looking = asyncio.create_task(state.read(look))
    assert await asyncio.to_thread(looked.wait, 10)
    await state.write(swap)
    changed.set()
    assert await looking is not None, "the branch was there with this head"
    assert await state.read(lambda tables: tables.head(own.head_id)) is None, "the next one sees what is now"
    await state.close()


async def test_a_full_disk_is_the_operators_and_the_next_write_goes_through(tmp_path: Path) -> None:
    state = await opened(tmp_path)
    full = await state.write(lambda tables: int(tables._connection.execute("pragma page_count").fetchone()[0]) + 2)
    await state.write(lambda tables: tables._connection.execute(f"pragma max_page_count = {full}").fetchone())
    with pytest.raises(OperatorError, match="full"):
        await state.write(lambda tables: tables.insert(project(name="x" * 100_000)))
    await state.write(lambda tables: tables._connection.execute("pragma max_page_count = 100000").fetchone())
    await state.write(lambda tables: tables.insert(project(name="x" * 100_000)))
    assert await state.read(lambda tables: tables.projects_count()) == 1
    await state.close()


async def test_records_come_back_as_they_went(tmp_path: Path) -> None:
    state = await opened(tmp_path)
    p = project()
    b = branch(p)
    e = Endpoint(id=new_endpoint_id(), project_id=p.id, branch_id=b.id, last_active=NOW, created_at=NOW, updated_at=NOW)
    r = Role(
        branch_id=b.id,
        name="o'neil",
        verifier=None,
        password_sealed=b"\x00\xff",
        created_at=NOW,
        updated_at=NOW,
    )

    def insert(tables: Tables) -> None:
        for record in (p, b, head(b), e, r):
            tables.insert(record)

    await state.write(insert)
    assert await state.read(lambda t: t.project(p.id)) == p
    assert await state.read(lambda t: t.branches(p.id)) == [b]
    assert await state.read(lambda t: t.endpoint(e.id)) == e
    assert await state.read(lambda t: t.role(b.id, "o'neil")) == r
    await state.write(lambda t: t.update(dataclasses.replace(b, name="prod", default=False)))
    found = await state.read(lambda t: t.branch(b.id))
    assert found is not None
    assert (found.name, found.default) == ("prod", False)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert set(modes.values()) == {0o600}, f"verifiers are nobody else's to read: {modes}"
    await state.close()
    await state.close()
    again = await opened(tmp_path)
    assert await again.read(lambda t: t.projects_count()) == 1
    await again.close()


async def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    state = await opened(tmp_path)
    p = project()

    def fail(tables: Tables) -> None:
        tables.insert(p)
        tables.insert(p)

    with pytest.raises(Conflict):
        await state.write(fail)
    assert await state.read(lambda t: t.projects_count()) == 0
    with pytest.raises(NotFound):
        await state.write(lambda t: t.update(p))
    await state.close()


async def test_listing_pages_survive_the_deletion_of_their_cursor(tmp_path: Path) -> None:
    state = await opened(tmp_path)
    all_ids = sorted(ProjectId(f"p-{n:03}") for n in range(25))
    await state.write(lambda t: [t.insert(project("Pay", i)) for i in all_ids])
    first = await state.read(lambda t: t.projects(limit=10))
    await state.write(lambda t: t.delete_project(first[-1].id))
    second = await state.read(lambda t: t.projects(after=first[-1].id, limit=100))
    assert [p.id for p in first + second] == all_ids
    assert await state.read(lambda t: t.projects(search="pAY", limit=3)) != []
    assert await state.read(lambda t: t.projects(search="%")) == []
    await state.close()


async def test_operations_are_ordered_and_filtered(tmp_path: Path) -> None:
    state = await opened(tmp_path)
    p = project()
    ids = [new_operation_id() for _ in range(4)]

    def operation(i: OperationId) -> Operation:
        return Operation(id=i, project_id=p.id, action="start_compute", verb="start", created_at=NOW, updated_at=NOW)

    await state.write(lambda t: [t.insert(operation(i)) for i in ids])
    done = dataclasses.replace(operation(ids[0]), status="finished")
    await state.write(lambda t: t.update(done))
    assert [o.id for o in await state.read(lambda t: t.operations_unfinished(p.id))] == ids[1:]
    assert [o.id for o in await state.read(lambda t: t.operations(p.id, limit=2))] == ids[:1:-1]
    assert [o.id for o in await state.read(lambda t: t.operations(p.id, after=ids[2]))] == [ids[1], ids[0]]
    with pytest.raises(Conflict):
        check_operation_transition(done, "running")
    await state.close()


async def test_a_deleted_project_takes_its_rows_along(tmp_path: Path) -> None:
    state = await opened(tmp_path)
    p = project()
    b = branch(p)
    e = Endpoint(id=new_endpoint_id(), project_id=p.id, branch_id=b.id, created_at=NOW, updated_at=NOW)
    await state.write(lambda t: [t.insert(p), t.insert(b), t.insert(head(b)), t.insert(e)])
    await state.write(lambda t: t.meters.note_sizes(p.id, b.id, Step(NOW, 1, 1)))
    await state.write(lambda t: t.delete_project(p.id))
    assert await state.read(lambda t: (t.branch(b.id), t.all_heads(), t.endpoint(e.id))) == (None, [], None)
    assert await state.read(lambda t: t.meters.steps(p.id)) == {}
    await state.close()


def shape(path: Path) -> dict[str, object]:
    """What a schema means, however it came to be."""
    with sqlite3.connect(path) as connection:
        tables = [row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")]
        indexes = connection.execute(
            "select name, sql from sqlite_master where type in ('index', 'trigger') and sql is not null"
        )
        found: dict[str, object] = dict(indexes.fetchall())
        for table in tables:
            for pragma in ("table_info", "foreign_key_list"):
                found[f"{table} {pragma}"] = connection.execute(f"pragma {pragma}({table})").fetchall()
        return found


async def test_an_older_file_is_taken_to_the_present_with_what_is_in_it(tmp_path: Path) -> None:
    old, fresh = tmp_path / "old", tmp_path / "fresh"
    for directory in (old, fresh):
        directory.mkdir()
    with sqlite3.connect(old / "cell.db") as connection:
        connection.executescript((Path(__file__).parent / "schema_1.sql").read_text())
        connection.executescript(
            "pragma user_version = 1;"
            "insert into project values ('p', 'ACME', 'local', 18, 7, 1, 60, '{}', '{}', '2026-11-24T10:41:00+00:00',"
            " '2026-11-24T10:41:00+00:00', null);"
            "insert into branch values ('b', 'p', 'main', null, null, null, 'ready', '2026-11-24T10:41:00+00:00', 1, 0,"
            " 'h', 5, null, '2026-11-24T10:41:00+00:00', '2026-11-24T10:41:00+00:00');"
            "insert into head values ('h', 'p', 'b', 1, 'x', 1, null, null, '2026-11-24T10:41:00+00:00');"
            "insert into role values ('b', 'r', 'v', null, 0, '2026-11-24T10:41:00+00:00',"
            " '2026-11-24T10:41:00+00:00');"
            "insert into api_key values (1, 'operator', x'00', '2026-11-24T10:41:00+00:00', null, null)"
        )
    states = [await opened(old), await opened(fresh)]
    (found,) = await states[0].read(lambda tables: tables.branches(ProjectId("p")))
    assert (found.name, found.default, found.deleted_at, found.init_source) == ("main", True, None, "parent-data")
    (key,) = await states[0].read(lambda tables: tables.api_keys())
    assert (key.name, key.reach) == ("operator", "account")
    await states[0].write(lambda tables: tables.delete_project(ProjectId("p")))
    assert await states[0].read(lambda tables: tables.roles(BranchId("b"))) == [], "what belonged to it still does"
    for state in states:
        await state.close()
    assert shape(old / "cell.db") == shape(fresh / "cell.db")
