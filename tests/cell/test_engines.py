"""A head stays on its build until it sleeps cleanly, and then moves to a newer one of its major; and what is installed
while a cell runs is found."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenantry.cell.compute.engines import SHARED_ENGINES, EngineStore
from tenantry.cell.engine_directories import engines_directory
from tenantry.cell.model import BuildId, ProjectCreate
from tenantry.errors import InvalidInput, NotSupported
from tenantry.postgres import engines
from tenantry.postgres.engines import Engine


async def test_a_head_moves_at_a_clean_sleep_and_not_before(workdir: Path, open_cell: Any) -> None:
    async with open_cell(workdir) as bare:
        engines, instances = bare.context.engines, bare.context.instances
        created = await bare.cell.create_project(ProjectCreate(name="ACME"))
        old = await engines.for_major(18)
        # The same files under another name stand for a package that was upgraded.
        newer = dataclasses.replace(old, build_id=f"{old.build_id}-newer")
        engines._installed[BuildId(newer.build_id)] = newer
        await bare.cell.start_endpoint(created.project.id, created.endpoint.id)
        engines._chosen[18] = newer

        async def build() -> str:
            heads = await bare.context.state.read(lambda t: t.heads(created.project.id))
            return heads[0].build_id

        assert await build() == old.build_id, "nothing moves under a living postmaster"
        await instances.suspend(created.endpoint.id, insist=True)
        assert await build() == newer.build_id
        lease = await instances.lease(created.endpoint.id, "test")
        async with await psycopg.AsyncConnection.connect(
            host=str(Path(lease.socket_path).parent), user="neondb_owner", dbname="neondb",
            password=created.roles[0].password, autocommit=True,
        ) as connection:  # fmt: skip
            assert await (await connection.execute("select 1")).fetchone() == (1,)


async def test_a_build_that_lacks_an_extension_is_no_successor(workdir: Path, open_cell: Any) -> None:
    async with open_cell(workdir) as bare:
        engines = bare.context.engines
        old = await engines.for_major(18)
        poorer = dataclasses.replace(old, build_id="poorer", extensions=old.extensions[1:])
        older = dataclasses.replace(old, build_id="older", version="18.0")
        for other in (poorer, older):
            engines._chosen[18] = other
            assert engines.successor(BuildId(old.build_id)) is None


async def test_nothing_moves_to_a_build_of_another_source_unasked(workdir: Path, open_cell: Any) -> None:
    async with open_cell(workdir) as bare:
        store = bare.context.engines
        old = await store.for_major(18)
        other = dataclasses.replace(old, build_id="other", source=engines.SYSTEM)
        store._chosen[18] = other
        assert store.successor(BuildId(old.build_id)) is None, "another ICU would sort an index otherwise"
        store._prefer_source = "system"
        assert store.successor(BuildId(old.build_id)) == other


async def test_spares_of_a_build_that_nobody_gets_any_more_go(workdir: Path, open_cell: Any) -> None:
    async with open_cell(workdir) as bare:
        store, state = bare.context.engines, bare.context.state
        old = await store.for_major(18)
        assert await bare.newborn.fill_pool(1, 18) == 1
        (spare,) = await state.read(lambda t: t.spares())
        newer = dataclasses.replace(old, build_id=f"{old.build_id}-newer")
        store._installed[BuildId(newer.build_id)] = store._chosen[18] = newer
        assert await bare.newborn.fill_pool(1, 18) == 1
        assert [one.build_id for one in await state.read(lambda t: t.spares())] == [newer.build_id]
        assert await state.read(lambda t: t.doomed()) == [f"projects/{spare.project_id}"]
        assert spare.uid in await state.read(lambda t: t.uids_taken()), "not given to another while its files are there"


# ------------------------------------------------------------------------------------------------ found while it runs


def put(prefix: Path, version: str, *, dump: bool = False) -> None:
    """Something that looks and answers like a build."""
    for name in ("bin", "lib", "share/extension"):
        (prefix / name).mkdir(parents=True)
    for name in ("postgres", "initdb", *(["pg_dump"] if dump else [])):
        (prefix / "bin" / name).write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n")
        (prefix / "bin" / name).chmod(0o755)
    (prefix / "lib/dict_snowball.so").write_text("")
    (prefix / "share/postgres.bki").write_text("")


Install = Callable[..., Engine]


@pytest.fixture
def into(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of engines, on a machine that has no others."""
    monkeypatch.setattr(engines, "_candidates", lambda _: iter(()))
    (workdir / "engines").mkdir()
    return workdir / "engines"


@pytest.fixture
def install(into: Path) -> Install:
    def installed(version: str, source: str = engines.NPM, **how: Any) -> Engine:
        return engines.install_tree(
            into, source, package=version, fill=lambda tree: put(tree, version, **how), prove=lambda _: None
        )

    return installed


def store_of(into: Path, prefer_source: str | None = None) -> EngineStore:
    store = EngineStore(into, into / "templates", prefer_source=prefer_source)
    store.load()
    return store


async def test_what_is_installed_while_the_cell_runs_is_found(into: Path, install: Install) -> None:
    store = store_of(into)
    with pytest.raises(InvalidInput, match="no Postgres 16 here") as caught:
        await store.for_major(16)
    assert caught.value.next_step == "run `tenantry engine install 16`"
    old = install("16.1")
    assert await store.for_major(16) == old, "at once, also after it was missing a moment ago"
    assert store.get(BuildId(old.build_id)) == old
    newer = install("16.2")
    assert await store.for_major(16) == newer
    assert store.successor(BuildId(old.build_id)) == newer
    assert await store.for_major(16) == newer
    install("16.1", engines.DIRECTORY)
    assert await store.for_major(16) == newer
    assert store.majors() == [16]


async def test_looking_for_what_was_installed_costs_a_stat(
    into: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = install("16.1")
    os.utime(into, (1_000_000_000, 1_000_000_000))
    store = store_of(into)
    monkeypatch.setattr(engines, "discover", None)
    monkeypatch.setattr(engines, "read_installed", None)
    for _ in range(3):
        assert await store.for_major(16) == engine


async def test_a_half_made_engine_is_none(into: Path, install: Install) -> None:
    store = store_of(into)
    engine = install("16.1")
    (engine.bin_dir / "initdb").unlink()
    (into / ".staging-tree").mkdir()
    (into / "pg16.3-npm-00000000").mkdir()
    with pytest.raises(InvalidInput):
        await store.for_major(16)


async def test_the_preferred_source_stays_preferred(into: Path, install: Install) -> None:
    first = install("16.1", engines.SYSTEM)
    store = store_of(into, "system")
    assert await store.for_major(16) == first
    second = install("16.2")
    assert await store.for_major(16) == first
    assert await store_of(into).for_major(16) == second


async def test_a_build_without_pg_dump_borrows_one_of_no_lower_major(into: Path, install: Install) -> None:
    old, plain = install("15.1", dump=True), install("16.1")
    store = store_of(into)
    with pytest.raises(NotSupported, match="pg_dump"):
        await store.dump_program(BuildId(plain.build_id))
    newest, newer = install("18.1", dump=True), install("17.1", dump=True)
    store = store_of(into)
    assert newest.minor > newer.minor
    assert await store.dump_program(BuildId(plain.build_id)) == newer.bin_dir / "pg_dump"
    assert await store.dump_program(BuildId(old.build_id)) == old.bin_dir / "pg_dump"


def test_engines_lie_where_every_tenant_may_pass(workdir: Path) -> None:
    (workdir / "closed").mkdir(mode=0o700)
    uids = range(3_000_000, 3_000_010)
    assert engines_directory(workdir / "new/data", uids) == workdir / "new/data/engines"
    assert engines_directory(workdir / "closed/data", None) == workdir / "closed/data/engines"
    if os.geteuid() == 0:
        assert engines_directory(workdir / "closed/data", uids) == SHARED_ENGINES
    assert not (workdir / "new").exists()
