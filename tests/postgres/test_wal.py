"""Our reading of the log against pg_waldump's, on real logs of two majors; then the ends that a log can have."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import secrets
import shutil
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from tenantry.cell.storage import checkpoint, segments
from tenantry.errors import InvalidInput
from tenantry.postgres import conf, engines, postmaster, scram, wal
from tenantry.postgres.engines import Engine
from tenantry.postgres.lsn import Lsn, format_lsn, parse_lsn, segment_name, segment_start
from tenantry.postgres.template import ADMIN_ROLE, OWNER_ROLE, WAL_SEGMENT_BYTES, build_template

PASSWORD = secrets.token_hex(16)
OWNER = (65534, 65534) if os.geteuid() == 0 else None
LINE = re.compile(
    r"rmgr: (?P<rmgr>\S+) +len \(rec/tot\): +\d+/ *(?P<length>\d+), tx: +(?P<xid>\d+),"
    r" lsn: (?P<start>\S+), prev (?P<previous>\S+), desc: (?P<desc>.*)"
)


@dataclass
class Sample:
    """A stopped cluster's log, as files and in memory."""

    engine: Engine
    directory: Path
    segments: dict[int, bytes]

    @property
    def start(self) -> Lsn:
        first = min(self.segments)
        start = wal.first_record(self.segments.get, first, segment_bytes=WAL_SEGMENT_BYTES)
        assert start is not None
        return start

    def scan(self, start: Lsn | None = None, **options: Lsn | int | None) -> wal.Scan:
        return wal.Scan(
            self.segments.get, self.start if start is None else start, segment_bytes=WAL_SEGMENT_BYTES, **options
        )

    def waldump(self, start: Lsn, *options: str) -> list[dict[str, str]]:
        done = subprocess.run(
            [self.engine.program("pg_waldump"), "-p", self.directory, "-s", format_lsn(start), *options],
            capture_output=True,
            check=False,  # it fails where the log ends
            text=True,
            env={"TZ": "UTC", "LC_ALL": "C"},
        )
        found = [LINE.match(line) for line in done.stdout.splitlines()]
        assert found and all(found), done.stderr
        return [match.groupdict() for match in found if match]


async def work(connection: psycopg.AsyncConnection) -> None:
    """Commits, aborts, two-phase and nested transactions, records of many pages and segments, switches."""
    await connection.set_autocommit(True)
    run = connection.execute
    await run("set search_path = public")
    await run("create table t (n int primary key, text text)")
    for number in range(120):
        await run("insert into t values (%s, repeat('x', 100))", (number,))
    for size in (10, 8_000, 8_192, 100_000, 1_048_576, 2_500_000):
        await run("select pg_logical_emit_message(true, 'test', repeat('y', %s))", (size,))
        await run("begin")
        await run("delete from t where n < 50")
        await run("rollback")
    await run("begin")
    await run("insert into t values (1000, 'outer')")
    for number in range(1001, 1100):  # enough for a commit record with subtransactions
        await run(f"savepoint s{number}")
        await run("insert into t values (%s, 'inner')", (number,))
    await run("commit")
    await run("begin")
    await run("insert into t values (2000, 'prepared')")
    await run("prepare transaction 'one'")
    await run("commit prepared 'one'")
    await run("begin")
    await run("insert into t values (2001, 'prepared')")
    await run("prepare transaction 'two'")
    await run("rollback prepared 'two'")
    for number in range(3):
        await run("select pg_switch_wal()")
        await run("update t set text = %s where n < 10", (f"after switch {number}",))
    await run("drop table t")  # a commit with relations and invalidations


@pytest.fixture(scope="module", params=[18, 15])
def sample(request: pytest.FixtureRequest, new_workdir: Callable[[str], Path]) -> Sample:
    found = [engine for engine in engines.discover() if engine.major == request.param]
    if not found:
        pytest.skip(f"no Postgres {request.param} on this machine")
    top = new_workdir("wal")
    engine = engines.install(found[0], top)
    uid, gid = OWNER or (None, None)
    data = top / "data"
    build_template(engine, top / "t", uid=uid, gid=gid).clone(
        data,
        system_identifier=7,
        verifiers={role: scram.make_verifier(PASSWORD) for role in (ADMIN_ROLE, OWNER_ROLE)},
        owner=OWNER,
    )

    async def run() -> None:
        running = await postmaster.start(
            engine,
            data,
            socket_dir=top / "s",
            settings={
                **conf.lean_settings(0.25, engine.major),
                "wal_keep_size": "64MB",
                "max_prepared_transactions": "2",
                "fsync": "off",
            },
            owner=OWNER,
            log_path=top / "log",
            timeout_seconds=60,
        )
        try:
            async with await psycopg.AsyncConnection.connect(
                host=str(top / "s"), user=ADMIN_ROLE, password=PASSWORD, dbname="neondb"
            ) as connection:
                await work(connection)
        finally:
            await postmaster.stop(running, timeout_seconds=60)

    asyncio.run(run())
    segments = {
        segment_start(path.name, WAL_SEGMENT_BYTES)[1] // WAL_SEGMENT_BYTES: path.read_bytes()
        for path in (data / "pg_wal").iterdir()
        if len(path.name) == 24
    }
    return Sample(engine, data / "pg_wal", segments)


def test_records_are_those_of_pg_waldump(sample: Sample) -> None:
    scan = sample.scan(verify_from=Lsn(0))  # every checksum
    ours = [(r.start, r.length, r.xid, r.previous) for r in scan]
    theirs = [
        (parse_lsn(line["start"]), int(line["length"]), int(line["xid"]), parse_lsn(line["previous"]))
        for line in sample.waldump(sample.start)
    ]
    assert ours == theirs
    assert len(sample.segments) > 6
    assert max(length for _, length, *_ in ours) > 2 * WAL_SEGMENT_BYTES
    assert scan.reason


def test_ends_of_records_are_where_the_next_ones_begin(sample: Sample) -> None:
    records = list(sample.scan())
    for record, after in itertools.pairwise(records):
        assert record.end <= after.start <= record.end + 40
        assert next(iter(sample.scan(record.end))).start == after.start
        if record.rmgr == wal.RM_XLOG and record.info & 0xF0 == 0x40:
            assert record.end % WAL_SEGMENT_BYTES == 0


def test_transactions_have_the_times_of_pg_waldump(sample: Sample) -> None:
    ours = [
        (t.start, t.xid, t.committed, wal.from_micros(t.micros)) for t in sample.scan().transactions()
    ]  # a prepared transaction's record is under the xid of its session, as pg_waldump has it
    theirs: list[tuple[Lsn, int, bool, datetime]] = []
    seen: set[str] = set()
    for line in sample.waldump(sample.start, "--rmgr=Transaction"):
        found = re.match(r"(COMMIT|ABORT|COMMIT_PREPARED|ABORT_PREPARED) (?:\d+: )?(\S+ \S+) UTC", line["desc"])
        if found:
            seen.add(found[1])
            time = datetime.fromisoformat(found[2]).replace(tzinfo=UTC)
            theirs.append((parse_lsn(line["start"]), int(line["xid"]), found[1].startswith("COMMIT"), time))
    assert ours == theirs
    assert seen == {"COMMIT", "ABORT", "COMMIT_PREPARED", "ABORT_PREPARED"}
    assert all(wal.from_micros(wal.to_micros(time)) == time for *_, time in theirs)


def test_each_segment_can_be_entered_at_its_first_record(sample: Sample) -> None:
    starts = [record.start for record in sample.scan()]
    for number in sorted(sample.segments):
        first = wal.first_record(sample.segments.get, number, segment_bytes=WAL_SEGMENT_BYTES)
        assert first is not None
        expected = [start for start in starts if start >= number * WAL_SEGMENT_BYTES]
        assert [record.start for record in sample.scan(first)] == expected


def last_page(segment: bytes, number: int) -> int | None:
    return wal.last_page(lambda offset: wal.page_header(segment, offset), number, WAL_SEGMENT_BYTES)


def test_the_last_page_is_found_and_unwritten_segments_are_not_begun(sample: Sample) -> None:
    number = max(sample.segments)
    scan = sample.scan()
    records = list(scan)
    last = last_page(sample.segments[number], number)
    assert last is not None
    assert last <= records[-1].end <= last + wal.PAGE_BYTES
    assert wal.begun(sample.segments[number], number, WAL_SEGMENT_BYTES)
    assert not wal.begun(sample.segments[number], number + 1, WAL_SEGMENT_BYTES)
    assert not wal.begun(bytes(WAL_SEGMENT_BYTES), number + 1, WAL_SEGMENT_BYTES)
    assert last_page(bytes(WAL_SEGMENT_BYTES), number) is None
    full = min(sample.segments)
    page = last_page(sample.segments[full], full)
    assert page == (full + 1) * WAL_SEGMENT_BYTES - wal.PAGE_BYTES


def test_the_logs_end_is_found_from_wherever_it_was_known_to_be(
    sample: Sample, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = [record.end for record in sample.scan()]
    assert checkpoint.log_end(sample.directory, 1) == ends[-1]
    for after in (sample.start, *ends[::97]):
        assert checkpoint.log_end(sample.directory, 1, after=after) == ends[-1]
    monkeypatch.setattr(segments, "read_regular", None)  # no segment is read whole
    for after in ends:
        if after > max(sample.segments) * WAL_SEGMENT_BYTES:
            assert checkpoint.log_end(sample.directory, 1, after=after) == ends[-1]
    monkeypatch.undo()
    # Where the log is no more, or is another, it is looked for as if nothing were known.
    for number in sorted(sample.segments)[1:]:
        name = segment_name(1, Lsn(number * WAL_SEGMENT_BYTES), WAL_SEGMENT_BYTES)
        shutil.copy(sample.directory / name, workdir)
    for after in (ends[0], Lsn(ends[5] + 1), Lsn(ends[-1] + 5 * WAL_SEGMENT_BYTES)):
        assert checkpoint.log_end(workdir, 1, after=after) == ends[-1]
    assert checkpoint.log_end(workdir, 2, after=ends[0]) is None


def test_headers_say_whose_log_it_is(sample: Sample) -> None:
    header = wal.page_header(sample.segments[min(sample.segments)])
    assert header is not None
    assert (header.major, header.timeline, header.system_identifier) == (sample.engine.major, 1, 7)


def test_a_missing_segment_ends_the_log_before_the_record_that_needs_it(sample: Sample) -> None:
    records = list(sample.scan())
    for number in sorted(sample.segments)[1:]:
        edge = number * WAL_SEGMENT_BYTES
        known = {n: data for n, data in sample.segments.items() if n < number}
        scan = wal.Scan(known.get, sample.start, segment_bytes=WAL_SEGMENT_BYTES)
        whole = [record for record in records if record.end <= edge]
        assert [record.start for record in scan] == [record.start for record in whole]
        assert scan.position == whole[-1].end
        assert scan.reason


def test_a_broken_byte_ends_the_log_where_checksums_are_verified(sample: Sample) -> None:
    records = [record for record in sample.scan() if record.length > 60]
    for record in (records[3], records[len(records) // 2], max(records, key=lambda r: r.length)):
        number, offset = divmod(record.start + 50, WAL_SEGMENT_BYTES)
        flipped = bytearray(sample.segments[number])
        flipped[offset] ^= 0x10
        segments = {**sample.segments, number: bytes(flipped)}
        scan = wal.Scan(segments.get, record.start, segment_bytes=WAL_SEGMENT_BYTES, verify_from=record.start)
        assert list(scan) == []
        assert (scan.position, "checksum" in scan.reason) == (record.start, True)
        unverified = wal.Scan(segments.get, record.start, segment_bytes=WAL_SEGMENT_BYTES)
        assert next(iter(unverified)).start == record.start


def test_a_record_that_follows_another_one_is_not_believed(sample: Sample) -> None:
    first, second = list(sample.scan())[5:7]
    number, offset = divmod(second.start, WAL_SEGMENT_BYTES)
    changed = bytearray(sample.segments[number])
    struct.pack_into("<Q", changed, offset + 8, first.start - 8)
    scan = wal.Scan({number: bytes(changed)}.get, first.start, segment_bytes=WAL_SEGMENT_BYTES)
    assert [record.start for record in scan] == [first.start]
    assert "follow" in scan.reason


def test_a_record_given_up_in_a_crash_is_passed_over(sample: Sample) -> None:
    """As CreateOverwriteContrecordRecord leaves it: the next page begins anew, linked to the last whole record."""
    records = list(sample.scan())
    index = next(
        i for i, r in enumerate(records)
        if i > 3 and r.start // wal.PAGE_BYTES + 1 == (r.end - 1) // wal.PAGE_BYTES
        and r.start // WAL_SEGMENT_BYTES == (r.end - 1) // WAL_SEGMENT_BYTES
        and records[i + 1].start // wal.PAGE_BYTES == records[i].end // wal.PAGE_BYTES
    )  # fmt: skip
    torn, before = records[index], records[index - 1]
    number, page = divmod(torn.end - torn.end % wal.PAGE_BYTES, WAL_SEGMENT_BYTES)
    changed = bytearray(sample.segments[number])
    struct.pack_into("<H", changed, page + 2, 0x0008)
    struct.pack_into("<I", changed, page + 16, 0)
    changed[page + 24 : page + wal.PAGE_BYTES] = bytes(wal.PAGE_BYTES - 24)
    struct.pack_into("<IIQBBxxI", changed, page + 24, 24, 0, before.start, 0xD0, 0, 0)
    segments = {**sample.segments, number: bytes(changed)}
    scan = wal.Scan(segments.get, before.start, segment_bytes=WAL_SEGMENT_BYTES)
    found = [record.start for record in scan]
    replacement = number * WAL_SEGMENT_BYTES + page + 24
    assert found == [before.start, replacement]
    # What was given up is no record, and what replaces it starts where the caller wants nothing from.
    short = wal.Scan(segments.get, torn.start, segment_bytes=WAL_SEGMENT_BYTES, until=Lsn(replacement))
    assert (list(short), short.position) == ([], torn.start)


def test_histories_are_read_and_named() -> None:
    text = '1\t0/1634F50\tno recovery target specified\n\n# a comment\n2\t0/1A00000\tat restore point "x y"\n'
    assert wal.parse_history(text) == [(1, 0x1634F50), (2, 0x1A00000)]
    assert wal.history_name(2) == "00000002.history"
    assert wal.history_timeline("0000000A.history") == 10
    assert wal.history_timeline("00000002.history.tmp") is None
    with pytest.raises(InvalidInput):
        wal.parse_history("one\t0/1\n")
