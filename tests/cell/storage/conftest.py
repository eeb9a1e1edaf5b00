"""Heads on disk with a real Postgres, without a cell: made, run, written to, forked and recovered by hand."""

from __future__ import annotations

import asyncio
import copy
import os
import secrets
import struct
import subprocess
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenantry.cell.model import BuildId, Head
from tenantry.cell.storage import archive, bases, fork, recover, slot
from tenantry.cell.storage.bases import Base
from tenantry.cell.storage.clone import Driver, probe
from tenantry.cell.storage.directories import spread
from tenantry.cell.storage.history import History, Point
from tenantry.cell.storage.lineage import start_of
from tenantry.cell.storage.recover import Recovered, Workshop
from tenantry.cell.storage.segments import Segment
from tenantry.neon.ids import BranchId, HeadId, ProjectId, new_head_id
from tenantry.postgres import conf, engines, pages, postmaster, scram, wal
from tenantry.postgres.engines import Engine
from tenantry.postgres.lsn import Lsn, format_lsn, parse_lsn
from tenantry.postgres.postmaster import Postmaster
from tenantry.postgres.template import ADMIN_ROLE, OWNER_ROLE, WAL_SEGMENT_BYTES, Template, build_template

OWNER = (65534, 65534) if os.geteuid() == 0 else None


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
        return History(head, heads=self.heads, directory_of=self.dir, owner_uid=OWNER[0] if OWNER else None)

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
        spread(self.directory)
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
            "settings": {
                **conf.lean_settings(0.25, self.engine.major),
                "fsync": "off",
                **slot.SETTINGS,
                **self.settings,
            },
            "owner": OWNER,
            "log_path": self.directory / f"{head}.log",
            "timeout_seconds": 60,
        }

    async def start(self, head: HeadId) -> None:
        self.running[head] = await postmaster.start(self.engine, self.dir(head) / "data", **self._start_options(head))
        await self.guard(head)

    async def guard(self, head: HeadId, socket_dir: Path | None = None) -> None:
        async with self.session(head, socket_dir=socket_dir) as connection:
            for statement in slot.ENSURE:
                await connection.execute(statement)

    async def stop(self, head: HeadId, mode: Any = "fast") -> None:
        """Stops it and links what is left."""
        await postmaster.stop(self.running.pop(head), mode=mode, timeout_seconds=60)
        self.link(head)

    async def close(self) -> None:
        for head in list(self.running):
            await postmaster.stop(self.running.pop(head), mode="immediate", timeout_seconds=60)

    @asynccontextmanager
    async def session(
        self, head: HeadId, dbname: str = "neondb", socket_dir: Path | None = None
    ) -> AsyncGenerator[psycopg.AsyncConnection]:
        connection = await psycopg.AsyncConnection.connect(
            host=str(socket_dir or self.directory / f"s-{head}"),
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
                await connection.execute(slot.ADVANCE, {"lsn": format_lsn(linked.advance_to)})
        return linked

    async def branch(self, parent: HeadId, child: HeadId | None = None) -> HeadId:
        """A new head from the parent's present, asleep or running."""
        child = child or new_head_id()
        places = (self.driver, self.heads[parent], self.dir(parent), self.dir(child))
        if parent in self.running:
            identity = self.running[parent].identity
            forked = await asyncio.to_thread(fork.fork_running, *places, instance=identity, owner=OWNER)
        else:
            forked = await asyncio.to_thread(fork.fork_sleeping, *places, owner=OWNER)
        return self._note(child, forked.timeline, parent, forked.origin_lsn)

    async def recover(
        self, head: HeadId, point: Point, child: HeadId | None = None, **options: Any
    ) -> tuple[HeadId, Recovered]:
        """A new head from the past of ``head``, running."""
        child = child or new_head_id()
        recovered = await recover.recover(
            self.history(head),
            point,
            workshop=options.pop("workshop", self.workshop),
            engine=self.engine,
            head_dir=options.pop("head_dir", self.dir(child)),
            **{**self._start_options(child), **options},
        )
        self._note(child, recovered.timeline, point.head_id, recovered.origin_lsn)
        self.running[child] = recovered.postmaster
        await self.guard(child, options.get("socket_dir"))
        return child, recovered

    async def restore(self, head: HeadId, moment: datetime) -> HeadId:
        child, _ = await self.recover(head, await asyncio.to_thread(self.history(head).at_time, moment))
        return child

    def take_base(self, head: HeadId, **options: Any) -> Base | None:
        return bases.take_cold_base(
            self.driver,
            self.dir(head),
            build_id=BuildId(self.engine.build_id),
            last_commit=self.history(head).last_commit,
            now=datetime.now(UTC),
            **options,
        )

    async def take_running_base(self, head: HeadId) -> Base:
        async with self.session(head) as connection:
            return await bases.take_running_base(
                connection,
                self.driver,
                self.dir(head),
                build_id=BuildId(self.engine.build_id),
                last_commit=self.history(head).last_commit,
                now=datetime.now(UTC),
            )

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits for something that other tasks bring about."""
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.002)

    def copy(self, prepared: Site, head: HeadId) -> HeadId:
        """A sleeping head of another site, with all of its files."""
        self.password = prepared.password
        spread(self.directory)
        self.heads[head] = prepared.heads[head]
        subprocess.run(["cp", "-a", prepared.dir(head), self.dir(head)], check=True)
        for path in (self.dir(head) / "wal").iterdir():
            if (self.dir(head) / "data" / "pg_wal" / path.name).exists():
                path.unlink()
        self.link(head)
        return head


@dataclass(frozen=True)
class Build:
    engine: Engine
    template: Template


def build_of(major: int, shared: Path) -> Build:
    found = [engine for engine in engines.discover() if engine.major == major]
    if not found:
        pytest.skip(f"no Postgres {major} on this machine")
    engine = engines.install(found[0], shared / "engines")
    uid, gid = OWNER or (None, None)
    return Build(engine, build_template(engine, shared / "templates", uid=uid, gid=gid))


@pytest.fixture(scope="session")
def build(shared_engines: Path) -> Build:
    """Engine and template, made once for all tests of a worker."""
    return build_of(18, shared_engines)


@pytest.fixture
async def site(build: Build, workdir: Path) -> AsyncGenerator[Site]:
    opened = Site(workdir, build.engine, build.template, probe(workdir))
    try:
        yield opened
    finally:
        await opened.close()


# ---------------------------------------------------------------------------------------- logs without a Postgres


class WrittenLog:
    """Writes a log as Postgres 18 would: records with checksums, across pages and segments."""

    def __init__(self, *, timeline: int = 1, first: int = 1) -> None:
        self.timeline = timeline
        self.position = first * WAL_SEGMENT_BYTES
        self._previous = 0
        self._segments: dict[int, bytearray] = {}

    def copy(self) -> WrittenLog:
        """As a head that departs here: the same log up to now."""
        return copy.deepcopy(self)

    def commit(self, time: datetime, *, committed: bool = True) -> Lsn:
        """Where the record starts."""
        data = struct.pack("<BBq", 255, 8, wal.to_micros(time))
        return self._record(wal.RM_XACT, 0x00 if committed else 0x20, data)

    def filler(self, size: int) -> Lsn:
        return self._record(21, 0, struct.pack("<BI", 254, size) + b"x" * size)

    def fill_segment(self) -> None:
        """Up to somewhere in the next segment."""
        number = self.position // WAL_SEGMENT_BYTES
        while self.position // WAL_SEGMENT_BYTES == number:
            # Checksums take time, and only those that end in the last page are looked at.
            self._record(21, 0, struct.pack("<BI", 254, 60_000) + b"x" * 60_000, sound=False)
        self.filler(9_000)

    def _record(self, rmgr: int, info: int, data: bytes, *, sound: bool = True) -> Lsn:
        header = struct.pack("<IIQBBxx", 24 + len(data), 7, self._previous, info, rmgr)
        record = header + struct.pack("<I", pages.crc32c(data + header) if sound else 0) + data
        start = self._place(len(record))
        self._previous = start
        left = memoryview(record)
        while left:
            room = wal.PAGE_BYTES - self.position % wal.PAGE_BYTES
            number, offset = divmod(self.position, WAL_SEGMENT_BYTES)
            self._segments[number][offset : offset + min(room, len(left))] = left[:room]
            self.position += min(room, len(left))
            left = left[room:]
            if left:
                self._place(len(left), continues=True)
        self.position = (self.position + 7) & ~7
        return Lsn(start)

    def give_up(self) -> Lsn:
        """A record of which only what lies in this segment was written, and what a crash recovery puts after it.

        Answers where the latter starts.
        """
        number, offset = divmod(self.position, WAL_SEGMENT_BYTES)
        previous, end = self._previous, Lsn((number + 1) * WAL_SEGMENT_BYTES)
        lost = self._record(21, 0, struct.pack("<BI", 254, WAL_SEGMENT_BYTES) + bytes(WAL_SEGMENT_BYTES))
        assert lost == number * WAL_SEGMENT_BYTES + offset
        for later in [n for n in self._segments if n > number]:
            del self._segments[later]
        self.position, self._previous = end, previous
        start = self._record(wal.RM_XLOG, 0xD0, struct.pack("<BBQq", 255, 16, lost, 0))
        segment = self._segments[number + 1]
        struct.pack_into("<H", segment, 2, 2 | 8)
        return start

    def _place(self, length: int, *, continues: bool = False) -> int:
        """Begins a page where one is due."""
        number, offset = divmod(self.position, WAL_SEGMENT_BYTES)
        if offset % wal.PAGE_BYTES == 0:
            segment = self._segments.setdefault(number, bytearray(WAL_SEGMENT_BYTES))
            info = (2 if offset == 0 else 0) | (1 if continues else 0)
            header = struct.pack("<HHIQIxxxx", 0xD118, info, self.timeline, self.position, length if continues else 0)
            if offset == 0:
                header += struct.pack("<QII", 99, WAL_SEGMENT_BYTES, wal.PAGE_BYTES)
            segment[offset : offset + len(header)] = header
            self.position += len(header)
        return self.position

    def write(self, pg_wal: Path) -> None:
        """Puts the files where Postgres would have them; those that are there grow."""
        pg_wal.mkdir(parents=True, exist_ok=True)
        for number, content in self._segments.items():
            path = pg_wal / Segment(self.timeline, number).name
            with path.open("r+b" if path.exists() else "wb") as file:
                file.write(content)


@pytest.fixture
async def site_15(shared_engines: Path, workdir: Path) -> AsyncGenerator[Site]:
    """The same with Debian's Postgres 15, where it is installed."""
    build = await asyncio.to_thread(build_of, 15, shared_engines)
    opened = Site(workdir, build.engine, build.template, probe(workdir))
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture(scope="session")
def prepared(build: Build, new_workdir: Callable[[str], Path]) -> Site:
    """One head that was written to (rows 1 and 2, some log between) and sleeps; for ``site.copy``."""
    made = Site(new_workdir("prepared"), build.engine, build.template, probe(build.engine.bin_dir.parent.parent))

    async def run() -> None:
        head = made.create()
        await made.start(head)
        await made.write(head, 1, 2, bulk=WAL_SEGMENT_BYTES)
        await made.stop(head)

    asyncio.run(run())
    return made


@pytest.fixture
def sleeping(site: Site, prepared: Site) -> HeadId:
    """A head that sleeps, with rows 1 and 2."""
    return site.copy(prepared, next(iter(prepared.heads)))


@pytest.fixture
def new_log() -> Callable[..., WrittenLog]:
    return WrittenLog


@pytest.fixture
def numbered() -> Callable[[int], str]:
    """The name of a segment of the first timeline."""
    return lambda number: Segment(1, number).name
