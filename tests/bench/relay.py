"""The relay: pgbench through the front door, through pgbouncer and straight to the instance, taking turns."""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pgbouncer
import psutil
import psycopg
from installation import Installation, Tenant, first_row
from report import Row, median_interval, milliseconds, shown

_GOAL = 0.95
_POOLED_GOAL = 1.5
_WARM = 10
_ATTEMPTS = 3
"""Where connecting takes all of the time, on a busy machine, nothing was measured; each further one lasts longer."""
_CLIENTS = (1, 8, 64)
_MODES = ("simple", "prepared")
_CU = 1.0
"""Takes the connections of all three at a time."""
_CONNECT_SECONDS = 3
"""What the most clients may need to connect."""
_ROLE = "neondb_owner"
_DATABASE = "neondb"
_HOW_TO_HAVE_TLS = "the engine's pgbench has no TLS: install the system's (Debian: postgresql, or postgresql-contrib)"


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to the instance, as pgbench is told, and the processes that it leads through."""

    name: str
    environment: Mapping[str, str]
    processes: Sequence[psutil.Process] = ()

    def cpu_seconds(self) -> float:
        times = [process.cpu_times() for process in self.processes]
        return sum(time.user + time.system for time in times)


@dataclass(frozen=True, slots=True)
class _Run:
    tps: float
    cpu_seconds_each: float
    """CPU time that the processes in between took for one transaction: what a busy machine does not distort."""


def measure(installation: Installation, *, quick: bool) -> Iterator[Row]:
    pairs, seconds = (3, 1) if quick else (9, 2)
    installation.restart(spares=0)
    tenant = installation.create(cu=_CU)
    first_row(tenant.uri)
    host, port = installation.target.postgres_host, installation.target.postgres_port
    base = {"PGUSER": _ROLE, "PGPASSWORD": tenant.password, "PGDATABASE": _DATABASE, "PGSSLMODE": "disable"}
    base["PATH"] = os.environ["PATH"]
    endpoint = f"endpoint={tenant.endpoint_id}"
    socket_dir = installation.layout.socket_dir(tenant.endpoint_id)
    door = _Way(
        "door",
        {**base, "PGHOST": str(host), "PGPORT": str(port), "PGOPTIONS": endpoint},
        installation.door_processes(),
    )
    direct = _Way("direct", {**base, "PGHOST": str(socket_dir), "PGPORT": "5432"})
    program = installation.engine().program("pgbench")
    subprocess.run(
        [program, "--initialize", "--quiet", "--scale=1"], env=dict(direct.environment), check=True, capture_output=True
    )
    with ExitStack() as stack:
        ways = [door, direct]
        if pgbouncer.program() is not None:
            status = installation.head_data(tenant.project_id).stat()
            bouncer = stack.enter_context(
                pgbouncer.running(
                    installation.directory / "pgbouncer",
                    socket_dir=socket_dir,
                    database=_DATABASE,
                    role=_ROLE,
                    password=tenant.password,
                    tls=(installation.layout.tls / "server.crt", installation.layout.tls / "server.key"),
                    owner=(status.st_uid, status.st_gid) if os.geteuid() == 0 else None,
                )
            )
            environment = {**base, "PGHOST": "127.0.0.1", "PGPORT": str(bouncer.port)}
            ways.insert(1, _Way("pgbouncer", environment, [bouncer.process]))
        for way in ways:  # everybody's connections and caches are warm
            _pgbench(program, way, ["--protocol=simple", f"--client={max(_CLIENTS)}"], _CONNECT_SECONDS)
        for mode in _MODES:
            for clients in _CLIENTS:
                # The time runs from before the first connection, the rate only from after the last.
                lasts = seconds + (_CONNECT_SECONDS if clients == max(_CLIENTS) else 0)
                runs = _taking_turns(program, ways, [f"--protocol={mode}", f"--client={clients}"], pairs, lasts)
                yield _row(f"relay: pgbench -S, {mode}, {clients} clients: transactions/s", runs, goal=_GOAL)
        for clients in (1, 8):
            what = f"relay under TLS: pgbench -S, simple, {clients} clients: transactions/s"
            if (able := _program_with_tls()) is None:
                yield Row(what=what, ours="not measured", note=_HOW_TO_HAVE_TLS)
                continue
            options = ["--protocol=simple", f"--client={clients}"]
            encrypted = [_encrypted(way) if way is not direct else way for way in ways]
            yield _row(what, _taking_turns(able, encrypted, options, pairs, seconds), goal=_GOAL)
        options = ["--protocol=simple", "--client=1", "--connect"]
        runs = _taking_turns(program, ways, options, pairs, seconds)
        yield _row("connect, log in, one query, close: 1 client: transactions/s", runs, goal=None)
        pooled = replace(door, environment={**door.environment, "PGOPTIONS": f"{endpoint}-pooler"})
        ways[0] = pooled
        runs = _taking_turns(program, ways, options, pairs, seconds)
        yield _pooled_row("connect, log in, one query, close: pooled: transactions/s", runs)
        yield _sql_row(installation, tenant, quick=quick)
    installation.put_to_sleep(tenant)


def _program_with_tls() -> str | None:
    """The engine's own pgbench knows no TLS; the system's does."""
    found = [str(path) for path in Path("/usr/lib/postgresql").glob("*/bin/pgbench")]
    return max(found, default=None) or shutil.which("pgbench")


def _encrypted(way: _Way) -> _Way:
    return replace(way, environment={**way.environment, "PGSSLMODE": "require"})


def _pooled_row(what: str, runs: dict[str, list[_Run]]) -> Row:
    """Against connecting directly, for that is what a pool saves."""
    row = _row(what, runs, goal=None)
    ratios = [a.tps / b.tps for a, b in zip(runs["door"], runs["direct"], strict=True)]
    ratio, (low, high) = statistics.median(ratios), median_interval(ratios)
    return replace(
        row,
        goal=f">= {_POOLED_GOAL}x direct",
        met=ratio >= _POOLED_GOAL,
        note=f"{shown(ratio)}x direct ({shown(low)} .. {shown(high)}); {row.note}",
        numbers={**row.numbers, "ratio_to_direct_interval": [low, high]},
    )


def _sql_row(installation: Installation, tenant: Tenant, *, quick: bool) -> Row:
    """``POST /sql`` on a connection that stays, beside a driver that connects anew for each query, both pooled."""
    root = installation.target.api_url.removesuffix("/api/v2")
    driver_uri = tenant.uri.replace(tenant.endpoint_id, f"{tenant.endpoint_id}-pooler")
    over_http: list[float] = []
    by_driver: list[float] = []
    with httpx.Client(headers={"Neon-Connection-String": tenant.uri}, timeout=30) as client:
        for number in range(50 if quick else 300):
            began = time.perf_counter()
            client.post(f"{root}/sql", json={"query": "select 1", "params": []}).raise_for_status()
            between = time.perf_counter()
            with psycopg.connect(driver_uri) as connection:
                connection.execute("select 1")
            if number >= _WARM:
                over_http.append(between - began)
                by_driver.append(time.perf_counter() - between)
    ratio = statistics.median(over_http) / statistics.median(by_driver)
    return Row(
        what="POST /sql, one query on a connection that stays: p50 / p95",
        ours=milliseconds(over_http),
        peer=f"{milliseconds(by_driver)}\npsycopg: connect, query, close",
        ratio=shown(ratio),
        numbers={"sql_seconds": over_http, "driver_seconds": by_driver},
    )


def _taking_turns(
    program: str, ways: Sequence[_Way], options: list[str], pairs: int, seconds: int
) -> dict[str, list[_Run]]:
    """Each round has every way once, and begins with another one."""
    runs: dict[str, list[_Run]] = {way.name: [] for way in ways}
    for number in range(pairs):
        turn = number % len(ways)
        for way in (*ways[turn:], *ways[:turn]):
            runs[way.name].append(_pgbench(program, way, options, seconds))
    return runs


def _pgbench(program: str, way: _Way, options: list[str], seconds: int) -> _Run:
    for attempt in range(_ATTEMPTS):
        before = way.cpu_seconds()
        done = subprocess.run(
            [program, "--select-only", "--no-vacuum", "--jobs=1", f"--time={seconds << attempt}", *options],
            env=dict(way.environment), capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        tps = re.search(r"^tps = ([0-9.]+)", done.stdout, re.M)
        count = re.search(r"^number of transactions actually processed: ([1-9]\d*)", done.stdout, re.M)
        if done.returncode != 0 or count is not None:
            break
    if done.returncode != 0 or tps is None or count is None:
        raise RuntimeError(
            f"pgbench through {way.name} failed ({done.returncode}): {(done.stderr + done.stdout).strip()[-500:]}"
        )
    return _Run(float(tps[1]), (way.cpu_seconds() - before) / max(1, int(count[1])))


def _row(what: str, runs: dict[str, list[_Run]], *, goal: float | None) -> Row:
    rates = {name: [run.tps for run in each] for name, each in runs.items()}
    direct = statistics.median(a / b for a, b in zip(rates["door"], rates["direct"], strict=True))
    cpu = {name: statistics.median(run.cpu_seconds_each for run in each) * 1e6 for name, each in runs.items()}
    alone = Row(
        what=what,
        ours=f"{shown(statistics.median(rates['door']))}/s",
        goal=f">= {goal}x pgbouncer" if goal else "",
        note=f"{shown(direct)}x direct ({shown(statistics.median(rates['direct']))}/s over the Unix socket)",
        numbers={"tps": rates, "ratio_to_direct": direct, "cpu_microseconds": cpu},
    )
    if "pgbouncer" not in rates:
        return replace(alone, note=f"{pgbouncer.HOW_TO_INSTALL}; {alone.note}")
    ratios = [a / b for a, b in zip(rates["door"], rates["pgbouncer"], strict=True)]
    ratio, (low, high) = statistics.median(ratios), median_interval(ratios)
    spent = f"CPU {shown(cpu['door'])} us each, pgbouncer {shown(cpu['pgbouncer'])}"
    return replace(
        alone,
        peer=f"{shown(statistics.median(rates['pgbouncer']))}/s\npgbouncer",
        ratio=f"{shown(ratio)}\n({shown(low)} .. {shown(high)})",
        met=ratio >= goal if goal else None,
        note=f"{alone.note}; {spent}; {len(ratios)} rounds",
        numbers={**alone.numbers, "ratio": ratio, "ratio_interval": [low, high]},
    )
