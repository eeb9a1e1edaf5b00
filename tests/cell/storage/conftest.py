"""Heads on disk with a real Postgres, without a cell: made, run, written to, forked and recovered by hand."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenantry.cell.model import BuildId, Head
from tenantry.cell.storage import archive, bases, fork, recover
from tenantry.cell.storage.bases import Base
from tenantry.cell.storage.clone import Driver, probe
from tenantry.cell.storage.history import History, Point
from tenantry.cell.storage.lineage import start_of
from tenantry.cell.storage.recover import Recovered, Workshop
from tenantry.neon.ids import BranchId, HeadId, ProjectId, new_head_id
from tenantry.postgres import conf, engines, postmaster, scram
from tenantry.postgres.engines import Engine
from tenantry.postgres.lsn import Lsn, format_lsn, parse_lsn
from tenantry.postgres.postmaster import Postmaster
from tenantry.postgres.template import ADMIN_ROLE, OWNER_ROLE, Template, build_template

OWNER = (65534, 65534) if os.geteuid() == 0 else None
SLOT = "tenantry_history"


@dataclass(frozen=True)
class Written:
    """One committed row: after it, the log ended at ``lsn``; the server's clock said ``time``."""

    n: int
    lsn: Lsn
    time: datetime


@dataclass
class Site:
    """A directory of heads."""

    directory: Path
    engine: Engine
    template: Template
    driver: Driver
    password: str = field(default_factory=lambda: secrets.token_hex(8))
    heads: dict[HeadId, Head] = field(default_factory=dict)
    running: dict[HeadId, Postmaster] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)

    def dir(self, head: HeadId) -> Path:
        return self.directory / head

    def history(self, head: HeadId) -> History:
        return History(head, heads=self.heads, directory_of=self.dir)

    @property
    def workshop(self) -> Workshop:
        return Workshop(driver=self.driver, directory_of=self.dir, template_of=lambda base: self.template)

    def _note(self, head_id: HeadId, timeline: int, origin: HeadId | None, lsn: Lsn | None) -> HeadId:
        self.heads[head_id] = Head(
            id=head_id,
            project_id=ProjectId("p"),
            branch_id=BranchId("b"),
            build_id=BuildId(self.engine.build_id),
            timeline=timeline,
            origin_head_id=origin,
            origin_lsn=None if lsn is None else format_lsn(lsn),
            created_at=datetime.now(UTC),
        )
        return head_id

    def create(self) -> HeadId:
        """A first head, from the template."""
        head = new_head_id()
        self.dir(head).mkdir(mode=0o711)
        verifiers = {role: scram.make_verifier(self.password) for role in (ADMIN_ROLE, OWNER_ROLE)}
        self.template.clone(
            self.dir(head) / "data", system_identifier=secrets.randbits(62) + 1, verifiers=verifiers, owner=OWNER
        )
        bases.keep_template_base(self.dir(head), self.template, verifiers=verifiers, now=datetime.now(UTC))
        return self._note(head, 1, None, None)

    def _start_options(self, head: HeadId) -> dict[str, Any]:
        return {
            "socket_dir": self.directory / f"s-{head}",
            "settings": {**conf.lean_settings(0.25, self.engine.major), "fsync": "off", **self.settings},
            "owner": OWNER,
            "log_path": self.directory / f"{head}.log",
            "timeout_seconds": 60,
        }

    async def start(self, head: HeadId) -> None:
        self.running[head] = await postmaster.start(self.engine, self.dir(head) / "data", **self._start_options(head))
        async with self.session(head) as connection:
            found = await connection.execute("select 1 from pg_replication_slots where slot_name = %s", (SLOT,))
            if await found.fetchone() is None:
                await connection.execute("select pg_create_physical_replication_slot(%s, true)", (SLOT,))

    async def stop(self, head: HeadId, mode: Any = "fast") -> None:
        """Stops it and links what is left."""
        await postmaster.stop(self.running.pop(head), mode=mode, timeout_seconds=60)
        self.link(head)

    async def close(self) -> None:
        for head in list(self.running):
            await postmaster.stop(self.running.pop(head), mode="immediate", timeout_seconds=60)

    @asynccontextmanager
    async def session(self, head: HeadId, dbname: str = "neondb") -> AsyncGenerator[psycopg.AsyncConnection]:
        connection = await psycopg.AsyncConnection.connect(
            host=str(self.directory / f"s-{head}"),
            user=ADMIN_ROLE,
            password=self.password,
            dbname=dbname,
            autocommit=True,
            options="-c search_path=public",
        )
        async with connection:
            yield connection

    async def write(self, head: HeadId, *numbers: int, bulk: int = 0) -> list[Written]:
        """Commits each number by itself; ``bulk`` bytes of log go between, in records of 64 KiB."""
        written: list[Written] = []
        async with self.session(head) as connection:
            await connection.execute("create table if not exists t (n int primary key)")
            for number in numbers:
                for _ in range(0, bulk, 65536):
                    await connection.execute("select pg_logical_emit_message(false, 'bulk', repeat('x', 65536))")
                await connection.execute("begin")
                await connection.execute("insert into t values (%s)", (number,))
                await connection.execute("commit")
                row = await (
                    await connection.execute("select pg_current_wal_lsn()::text, clock_timestamp()")
                ).fetchone()
                assert row is not None
                written.append(Written(number, parse_lsn(row[0]), row[1].astimezone(UTC)))
        return written

    async def numbers(self, head: HeadId) -> list[int]:
        """What the head's table holds; nothing when there is no table."""
        async with self.session(head) as connection:
            row = await (await connection.execute("select to_regclass('public.t')")).fetchone()
            if row == (None,):
                return []
            return [n for (n,) in await (await connection.execute("select n from t order by n")).fetchall()]

    def link(self, head: HeadId) -> archive.Linked:
        known = self.heads[head]
        return archive.link_new_segments(
            self.dir(head),
            timeline=known.timeline,
            start=start_of(known),
            owner_uid=OWNER[0] if OWNER else None,
        )

    async def advance(self, head: HeadId) -> archive.Linked:
        """One round of the archive on a running head, as the cell does it."""
        linked = await asyncio.to_thread(self.link, head)
        if linked.advance_to is not None:
            async with self.session(head) as connection:
                await connection.execute(
                    "select pg_replication_slot_advance(%s, %s::pg_lsn)", (SLOT, format_lsn(linked.advance_to))
                )
        return linked

    async def branch(self, parent: HeadId) -> HeadId:
        """A new head from the parent's present, asleep or running."""
        child, timeline = new_head_id(), self.heads[parent].timeline
        if parent in self.running:
            identity = self.running[parent].identity
            forked = await asyncio.to_thread(
                fork.fork_running,
                self.driver, self.dir(parent), self.dir(child), timeline=timeline, parent=identity, owner=OWNER,
            )  # fmt: skip
        else:
            forked = await asyncio.to_thread(
                fork.fork_sleeping,
                self.driver, self.dir(parent), self.dir(child), timeline=timeline, owner=OWNER,
            )  # fmt: skip
        return self._note(child, forked.timeline, parent, forked.origin_lsn)

    async def recover(self, head: HeadId, point: Point, **options: Any) -> tuple[HeadId, Recovered]:
        """A new head from the past of ``head``, running."""
        child = new_head_id()
        recovered = await recover.recover(
            self.history(head),
            point,
            workshop=options.pop("workshop", self.workshop),
            engine=self.engine,
            head_dir=self.dir(child),
            **{**self._start_options(child), **options},
        )
        self._note(child, recovered.timeline, point.head_id, recovered.origin_lsn)
        self.running[child] = recovered.postmaster
        return child, recovered

    async def restore(self, head: HeadId, moment: datetime) -> HeadId:
        child, _ = await self.recover(head, await asyncio.to_thread(self.history(head).at_time, moment))
        return child

    def take_base(self, head: HeadId, **options: Any) -> Base | None:
        return bases.take_cold_base(
            self.driver,
            self.dir(head),
            build_id=BuildId(self.engine.build_id),
            last_commit=self.history(head).last_commit(),
            now=datetime.now(UTC),
            **options,
        )


@dataclass(frozen=True)
class Build:
    engine: Engine
    template: Template


@pytest.fixture(scope="session")
def build(shared_engines: Path) -> Build:
    """Engine and template, made once for all tests of a worker."""
    engine = engines.install(engines.choose(engines.discover(), 18), shared_engines / "engines")
    uid, gid = OWNER or (None, None)
    return Build(engine, build_template(engine, shared_engines / "templates", uid=uid, gid=gid))


OpenSite = Callable[..., AbstractAsyncContextManager[Site]]


@pytest.fixture
async def site(build: Build, workdir: Path) -> AsyncGenerator[Site]:
    opened = Site(workdir, build.engine, build.template, probe(workdir))
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture
def replaced() -> Callable[..., Any]:
    return dataclasses.replace
