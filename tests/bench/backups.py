"""Backups: tiny tenants by the second, a large one beside a bare ``pg_dump -Fc``, and what memory the runner needs.

Into a vault in a directory on the same disk as the peer's file, so that the difference is the work and not the disk.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from installation import Installation
from report import Row, median_interval, shown

from tenantry.fleet.backups.keys import write_fleet_key
from tenantry.fleet.backups.programs import clients, fitting, running
from tenantry.fleet.backups.reach import dsn_of
from tenantry.fleet.main import Fleet

_TAKE_GOAL = 5.0
_VERIFY_GOAL = 2.0
_LARGE_GOAL = 1.10
_MEMORY_GOAL_MIB = 100
_JOBS = 4
_MIB = 2**20
_FILL = (
    "CREATE TABLE t (id bigint PRIMARY KEY, words text)",
    # Words and numbers, as tables have them: what compresses to nothing would flatter whoever compresses faster.
    "INSERT INTO t SELECT i, (SELECT string_agg(md5((i * 31 + j)::text) || ' customer order ', ' ')"
    " FROM generate_series(1, 20) AS j) FROM generate_series(1, %s) AS i",
)
_ROW_BYTES = 1_000


def measure(installation: Installation, *, quick: bool) -> Iterator[Row]:
    installation.restart(spares=0)
    with _configured(installation) as fleet:
        yield from _tiny(fleet, 8 if quick else 40)
        yield from _large(installation, fleet, (64 if quick else 1024) * _MIB, rounds=1 if quick else 3)


@contextmanager
def _configured(installation: Installation) -> Generator[Fleet]:
    folder = installation.directory / "backups"
    (folder / "vault").mkdir(parents=True)
    write_fleet_key(folder / "key")
    said = {"TENANTRY_BACKUPS__VAULT": f"file://{folder}/vault", "TENANTRY_BACKUPS__KEY_FROM": f"file:{folder}/key"}
    before = dict(os.environ)
    os.environ.update(said)
    try:
        with installation.fleet() as fleet:
            yield fleet
    finally:
        os.environ.clear()
        os.environ.update(before)


def _tiny(fleet: Fleet, count: int) -> Iterator[Row]:
    slugs = [fleet.create(f"Bench backup {number}").tenant.slug for number in range(count)]
    for slug in slugs:
        with psycopg.connect(fleet.url(slug), autocommit=True) as connection:
            connection.execute("CREATE TABLE t AS SELECT i FROM generate_series(1, 100) AS i")
        fleet.suspend(slug)
    backups = fleet.backups()
    done = backups.run(slugs, jobs=_JOBS)
    assert done.taken == count
    rate = count / done.seconds
    yield Row(
        what=f"back up {count} tiny tenants that sleep, {_JOBS} at a time",
        ours=f"{shown(rate)} tenants/s",
        goal=f">= {_TAKE_GOAL:g} tenants/s",
        met=rate >= _TAKE_GOAL,
        note="woken, dumped, counted, sealed, written, recorded",
        numbers={"tenants": count, "seconds": done.seconds},
    )
    for slug in slugs:
        fleet.suspend(slug)
    night = backups.run(None, jobs=_JOBS)
    yield Row(
        what=f"a night in which none of {night.unchanged + night.taken} has changed",
        ours=f"{shown(night.seconds)} s",
        note=f"{night.unchanged} left asleep, {night.taken} taken",
        numbers={"seconds": night.seconds, "unchanged": night.unchanged, "taken": night.taken},
    )
    few = slugs[: max(4, count // 4)]
    proved = fleet.proofs().verify(few, jobs=_JOBS)
    rate = len(few) / proved.seconds
    yield Row(
        what=f"restore and verify {len(few)} tiny backups, {_JOBS} at a time",
        ours=f"{shown(rate)} tenants/s",
        goal=f">= {_VERIFY_GOAL:g} tenants/s",
        met=rate >= _VERIFY_GOAL,
        note="each into a project of its own, which is deleted again",
        numbers={"tenants": len(few), "seconds": proved.seconds},
    )


@dataclass(frozen=True, slots=True)
class _Took:
    """``cpu_seconds``: of the program and what it began, without the server. ``own_mib``: without files' pages."""

    seconds: float
    cpu_seconds: float
    own_mib: float = 0.0
    resident_mib: float = 0.0


def _large(installation: Installation, fleet: Fleet, size: int, *, rounds: int) -> Iterator[Row]:
    slug, url, there = _filled(fleet, "Bench backup large", size)
    small, _, _ = _filled(fleet, "Bench backup small", _MIB)
    ours: list[_Took] = []
    theirs: list[_Took] = []
    for _ in range(rounds):
        theirs.append(_bare(url, installation.directory / "peer.dump"))
        ours.append(_in_a_process(installation, slug))
    tiny = _in_a_process(installation, small)
    seconds = [each.seconds for each in ours]
    ratio = statistics.median(seconds) / statistics.median(each.seconds for each in theirs)
    work, peer_work = (statistics.median(each.cpu_seconds for each in some) for some in (ours, theirs))
    yield Row(
        what=f"back up one tenant of {there / _MIB:,.0f} MiB",
        ours=f"{shown(statistics.median(seconds))} s",
        peer=f"pg_dump -Fc to a file {shown(statistics.median(each.seconds for each in theirs))} s",
        ratio=f"{ratio:.2f}",
        goal=f"<= {_LARGE_GOAL:.2f}",
        met=ratio <= _LARGE_GOAL,
        note=f"median of {rounds}; rows are counted meanwhile, the start of Python is in it;"
        f" {' to '.join(shown(each) for each in median_interval(seconds))} s;"
        f" computing {shown(work)} s, the peer {shown(peer_work)} s (zstd here, zlib there)",
        numbers={
            "bytes": there,
            "seconds": seconds,
            "peer_seconds": [each.seconds for each in theirs],
            "cpu_seconds": [each.cpu_seconds for each in ours],
            "peer_cpu_seconds": [each.cpu_seconds for each in theirs],
        },
    )
    own = max(each.own_mib for each in ours)
    yield Row(
        what="memory of the runner meanwhile, its own, at its most",
        ours=f"{own:.0f} MiB",
        goal=f"< {_MEMORY_GOAL_MIB} MiB",
        met=own < _MEMORY_GOAL_MIB,
        note=f"{tiny.own_mib:.0f} MiB for a tenant of a MiB; with pages of programs' files, which the system shares and"
        f" can drop, {max(each.resident_mib for each in ours):.0f} are resident; pg_dump is a process of its own",
        numbers={"mib": [each.own_mib for each in ours], "resident_mib": [each.resident_mib for each in ours]},
    )


def _filled(fleet: Fleet, name: str, size: int) -> tuple[str, str, int]:
    """A new tenant with so many bytes in a table: its slug, its URL, and how large its database is."""
    slug = fleet.create(name).tenant.slug
    url = fleet.url(slug)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_FILL[0].encode())
        connection.execute(_FILL[1].replace("%s", str(size // _ROW_BYTES)).encode())
        row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    assert row is not None
    return slug, url, int(row[0])


def _bare(url: str, file: Path) -> _Took:
    """The same build of pg_dump, as the guide calls it."""
    began, cpu_began = time.perf_counter(), _cpu_of_children()
    with running(fitting(clients(), 18), "pg_dump", ["--format=custom", f"--file={file}"], dsn_of(url)) as program:
        program.ended()
    seconds = time.perf_counter() - began
    file.unlink()
    return _Took(seconds, _cpu_of_children() - cpu_began)


def _in_a_process(installation: Installation, slug: str) -> _Took:
    """A whole command."""
    began, cpu_began = time.perf_counter(), _cpu_of_children()
    process = subprocess.Popen(
        [sys.executable, "-m", "tenantry", "backup", "run", slug],
        env={**os.environ, "TENANTRY_DATA": str(installation.layout.data)},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    own = resident = 0.0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        for line in status.splitlines():
            if line.startswith("RssAnon:"):
                own = max(own, int(line.split()[1]) / 1024)
            elif line.startswith("VmHWM:"):
                resident = max(resident, int(line.split()[1]) / 1024)
        time.sleep(0.02)
    seconds = time.perf_counter() - began
    _, said = process.communicate()
    assert process.returncode == 0, said.decode()
    return _Took(seconds, _cpu_of_children() - cpu_began, own, resident)


def _cpu_of_children() -> float:
    """Of those that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
