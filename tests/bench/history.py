"""What keeping history costs: transactions per second of one instance with its keeper and without, and log per sleep.

The keeper is the cell's own (its links, its slot, its settings), switched on and off around an instance of ours: in a
running cell it cannot be switched off.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, LiteralString

import psutil
import psycopg
import raw_postgres
from installation import Installation, Tenant, first_row, wait_until
from psycopg.conninfo import conninfo_to_dict
from report import Row, median_interval, shown

from tenantry.cell.loops.history import PERIOD_SECONDS
from tenantry.cell.operations.history import SLOT_NAME
from tenantry.cell.storage import archive, slot
from tenantry.cell.storage.segments import number_of, parse_segment
from tenantry.postgres import conf
from tenantry.postgres.lsn import Lsn, format_lsn, parse_lsn
from tenantry.runtime.files import Owner, remove_tree

_RATIO_GOAL: Final = 0.95
_SLEEP_GOAL_KIB: Final = 64
_CU: Final = 1.0
_SCALE: Final = 10
_CLIENTS: Final = 4
_WARM_SECONDS: Final = 2
_PGBENCH_SECONDS_MAX: Final = 120.0


def measure(installation: Installation, *, quick: bool) -> Iterator[Row]:
    installation.restart(spares=0)
    yield _sleep_cycles(installation, 5 if quick else 20)
    yield _keeping(installation, pairs=3 if quick else 9, seconds=3 if quick else 10)


# ----------------------------------------------------------------------------------------------- log per sleep


def _sleep_cycles(installation: Installation, cycles: int) -> Row:
    tenant = installation.create()
    first_row(tenant.uri)
    ours = _growth(lambda: _wake_and_ask(installation, tenant), cycles)
    with raw_postgres.clone_of_template(
        installation.engine(), installation.layout.templates, installation.directory / "archiving",
        installation.owner(), cu=_CU, options=["-c", "archive_mode=on", "-c", "archive_command=true"],
    ) as plain:  # fmt: skip
        theirs = _growth(lambda: _start_and_ask(plain), cycles)
    kib, plain_kib = statistics.median(ours) / 1024, statistics.median(theirs) / 1024
    return Row(
        what="log written by one cycle of wake, a query, and sleep",
        ours=f"{shown(kib)} KiB",
        peer=f"{shown(plain_kib)} KiB\narchive_mode=on",
        ratio=f"{kib / plain_kib:.4f}",
        goal=f"<= {_SLEEP_GOAL_KIB} KiB",
        met=kib <= _SLEEP_GOAL_KIB,
        note=f"median of {cycles} cycles, at most {shown(max(ours) / 1024)} KiB; the peer ends a segment at each stop",
        numbers={"bytes": ours, "peer_bytes": theirs},
    )


def _growth(position: Callable[[], Lsn], cycles: int) -> list[int]:
    seen = [position() for _ in range(cycles + 1)]
    return [after - before for before, after in itertools.pairwise(seen)]


def _wake_and_ask(installation: Installation, tenant: Tenant) -> Lsn:
    with psycopg.connect(tenant.uri, autocommit=True) as connection:
        found = _position(connection)
    installation.put_to_sleep(tenant)
    return found


def _start_and_ask(plain: raw_postgres.RawPostgres) -> Lsn:
    plain.start()
    with psycopg.connect(plain.dsn, autocommit=True) as connection:
        found = _position(connection)
    plain.stop()
    return found


def _position(connection: psycopg.Connection[Any]) -> Lsn:
    row = connection.execute("select pg_current_wal_insert_lsn()::text").fetchone()
    assert row is not None
    return parse_lsn(str(row[0]))


# ----------------------------------------------------------------------------------------------- the keeper's cost


def _keeping(installation: Installation, *, pairs: int, seconds: int) -> Row:
    engine, owner = installation.engine(), installation.owner()
    with ExitStack() as stack:
        plain = stack.enter_context(
            raw_postgres.clone_of_template(
                engine, installation.layout.templates, installation.directory / "kept", owner, cu=_CU
            )
        )
        plain.start()
        admin = stack.enter_context(psycopg.connect(plain.admin_dsn, autocommit=True))
        bench = _Pgbench(engine.program("pgbench"), plain.dsn)
        bench.run("--initialize", f"--scale={_SCALE}", "--quiet")
        switch = _Switch(plain, admin, conf.lean_settings(_CU, engine.major), owner)
        stack.callback(switch.off)
        rates: dict[bool, list[float]] = {True: [], False: []}
        cpu: dict[bool, list[float]] = {True: [], False: []}
        for number in range(pairs):
            for keeping in (True, False) if number % 2 else (False, True):
                (switch.on if keeping else switch.off)()
                bench.tps(_WARM_SECONDS)
                admin.execute("checkpoint")
                before = switch.cpu_seconds()
                rates[keeping].append(bench.tps(seconds))
                cpu[keeping].append((switch.cpu_seconds() - before) / (rates[keeping][-1] * seconds))
        kept = switch.linked
    ratios = [on / off for on, off in zip(rates[True], rates[False], strict=True)]
    ratio, (low, high) = statistics.median(ratios), median_interval(ratios)
    spent = " against ".join(f"{shown(statistics.median(cpu[keeping]) * 1e6)} us" for keeping in (True, False))
    return Row(
        what=f"pgbench (TPC-B, prepared, {_CLIENTS} clients) with history kept: transactions/s",
        ours=f"{shown(statistics.median(rates[True]))}/s",
        peer=f"{shown(statistics.median(rates[False]))}/s\nwithout the keeper",
        ratio=f"{shown(ratio)}\n({shown(low)} .. {shown(high)})",
        goal=f">= {_RATIO_GOAL:g}x",
        met=ratio >= _RATIO_GOAL,
        note=(
            f"one instance, its keeper on and off: slot, links, segments not recycled; {pairs} interleaved pairs of "
            f"{seconds} s, {kept} segments of 1 MiB kept; CPU for one transaction, the keeper's included, {spent}"
        ),
        numbers={
            "tps": rates[True],
            "peer_tps": rates[False],
            "ratio": ratio,
            "ratio_interval": [low, high],
            "cpu_seconds": cpu[True],
            "peer_cpu_seconds": cpu[False],
        },
    )


class _Pgbench:
    def __init__(self, program: str, dsn: str) -> None:
        known = conninfo_to_dict(dsn)
        self._program = program
        self._environment = {
            "PATH": "/usr/bin:/bin", "PGHOST": str(known["host"]), "PGUSER": str(known["user"]),
            "PGPASSWORD": str(known["password"]), "PGDATABASE": str(known["dbname"]),
        }  # fmt: skip

    def run(self, *options: str) -> str:
        return subprocess.run(
            [self._program, *options], env=self._environment, check=True, capture_output=True, text=True,
            timeout=_PGBENCH_SECONDS_MAX,
        ).stdout  # fmt: skip

    def tps(self, seconds: int) -> float:
        said = self.run(
            "--no-vacuum", "--protocol=prepared", f"--client={_CLIENTS}", "--jobs=1", f"--time={seconds}"
        )  # fmt: skip
        found = re.search(r"^tps = ([0-9.]+)", said, re.M)
        assert found is not None, said
        return float(found[1])


class _Switch:
    """The keeper of one instance's history, as the cell's loop does it, on and off."""

    def __init__(
        self, plain: raw_postgres.RawPostgres, admin: psycopg.Connection[Any], settings: dict[str, str],
        owner: Owner | None,
    ) -> None:  # fmt: skip
        self._plain, self._admin, self._owner = plain, admin, owner
        self._settings = plain.configured(settings)
        self._head = plain.data.parent
        self._stopping = threading.Event()
        self._keeper: threading.Thread | None = None
        self._failed: BaseException | None = None
        self._spent = 0.0
        self.linked = 0

    def cpu_seconds(self) -> float:
        """What the instance and the keeper have taken so far: what a busy machine does not distort."""
        assert self._plain.process is not None
        postmaster = psutil.Process(self._plain.process.pid)
        times = postmaster.cpu_times()
        ended = times.user + times.system + times.children_user + times.children_system
        alive = 0.0
        for child in postmaster.children():
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                spent = child.cpu_times()
                alive += spent.user + spent.system
        return ended + alive + self._spent

    def on(self) -> None:
        if self._keeper is not None:
            return
        self._configure({**self._settings, **slot.SETTINGS, "wal_recycle": "off"})
        self._forget_recycled()
        for statement in slot.ENSURE:
            self._admin.execute(statement)
        self._stopping.clear()
        start = _position(self._admin)
        self._keeper = threading.Thread(target=self._keep, args=(start,), name="keeper")
        self._keeper.start()

    def off(self) -> None:
        """Safe twice. Raises what the keeper raised."""
        if self._keeper is not None:
            self._stopping.set()
            self._keeper.join()
            self._keeper = None
            self._admin.execute("select pg_drop_replication_slot(%s)", (SLOT_NAME,))
            # Before anything is recycled: what is linked would change under its other name.
            remove_tree(self._head / "wal")
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed
        self._configure({**self._settings, "wal_recycle": "on"})

    def _keep(self, start: Lsn) -> None:
        try:
            with psycopg.connect(self._plain.admin_dsn, autocommit=True) as admin:
                while True:
                    began = time.thread_time()
                    done = archive.link_new_segments(
                        self._head, timeline=1, start=start, owner_uid=None if self._owner is None else self._owner[0]
                    )
                    self.linked += len(done.linked)
                    assert not done.damaged
                    if done.advance_to is not None:
                        self._ask(admin, slot.ADVANCE, {"lsn": format_lsn(done.advance_to)})
                    self._spent += time.thread_time() - began
                    if self._stopping.wait(PERIOD_SECONDS):
                        return
        except BaseException as error:  # told where the switch is turned off
            self._failed = error

    def _ask(self, admin: psycopg.Connection[Any], statement: LiteralString, values: dict[str, str]) -> None:
        admin.execute(statement, values)

    def _configure(self, settings: dict[str, str]) -> None:
        process = self._plain.process
        assert process is not None
        conf.write_configuration(self._plain.data, settings, owner=self._owner)
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: self._recycles() == settings["wal_recycle"], "the settings are in force")

    def _recycles(self) -> str:
        row = self._admin.execute("show wal_recycle").fetchone()
        assert row is not None
        return str(row[0])

    def _forget_recycled(self) -> None:
        """Segments that were recycled hold old log under future names, which no head of a cell ever has."""
        pg_wal = Path(self._plain.data / "pg_wal")
        newest = number_of(_position(self._admin))
        for path in pg_wal.iterdir():
            segment = parse_segment(path.name)
            if segment is not None and segment.number > newest:
                path.unlink()
