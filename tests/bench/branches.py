"""Branches and restores, call to finished and on to the first query, beside ``pg_basebackup`` and a start of the copy.

The peer copies a running instance of the same template, settings and rows; it is the only way of plain Postgres to a
second instance that begins where the first one is.
"""

from __future__ import annotations

import itertools
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import raw_postgres
from installation import Installation, Tenant, first_row
from report import Row, median_interval, milliseconds, shown

from tenantry.neon.ids import BranchId
from tenantry.neon.shapes import BranchCreated

_CU = 0.25
_SLEEPING_GOAL = 0.040
_RUNNING_GOAL = 0.100
_PAST_GOAL = 0.250
_RESTORE_GOAL = 0.250
_FILL = (
    "create table t (id bigint generated always as identity primary key, note text)",
    "insert into t (note) select repeat('x', 100) from generate_series(1, 1000)",
)
_WRITE = "insert into t (note) select repeat('y', 100) from generate_series(1, 10)"


@dataclass
class _Times:
    """Seconds of each round: until the call's work was finished, and on to the first query's answer."""

    finished: list[float] = field(default_factory=list[float])
    answered: list[float] = field(default_factory=list[float])

    def add(self, finished: float, query: float) -> None:
        self.finished.append(finished)
        self.answered.append(finished + query)


def measure(installation: Installation, *, quick: bool) -> Iterator[Row]:
    rounds = 4 if quick else 20
    installation.restart(spares=0)
    sleeping, running, past, restored, peer = _Times(), _Times(), _Times(), _Times(), _Times()
    asleep, awake = (_filled(installation) for _ in range(2))
    doomed = [_filled(installation) for _ in range(rounds)]
    for tenant in (asleep, *doomed):
        installation.put_to_sleep(tenant)
    copies = installation.directory / "copies"
    copies.mkdir(mode=0o711)
    with ExitStack() as stack:
        plain = stack.enter_context(
            raw_postgres.clone_of_template(
                installation.engine(), installation.layout.templates, installation.directory / "plain",
                installation.owner(), cu=_CU,
            )
        )  # fmt: skip
        plain.start()
        theirs = stack.enter_context(psycopg.connect(plain.dsn, autocommit=True))
        ours = stack.enter_context(psycopg.connect(awake.uri, autocommit=True))
        _fill(theirs)
        for number in range(rounds):
            _branch(installation, asleep, sleeping)
            ours.execute(_WRITE)
            _branch(installation, awake, running)
            moment = _moment()
            ours.execute(_WRITE)
            _branch(installation, awake, past, moment)
            _restore(installation, doomed[number], restored)
            theirs.execute(_WRITE)
            _copy(plain, copies / str(number), peer)
    megabytes = _mebibytes(installation, asleep)
    copied = f"a tenant of {shown(megabytes)} MiB on disk"
    yield from _rows("branch of a sleeping tenant", sleeping, peer, _SLEEPING_GOAL, copied)
    yield from _rows("branch of a running tenant", running, peer, _RUNNING_GOAL, f"{copied}, written to until the call")
    yield from _rows("branch of a tenant as of a time", past, peer, _PAST_GOAL, "replays its log from its base on")
    yield from _rows(
        "restore a tenant in place to a time", restored, peer, _RESTORE_GOAL, "what was there stays as a branch"
    )


def _rows(what: str, ours: _Times, peer: _Times, goal: float, note: str) -> Iterator[Row]:
    yield _row(
        f"{what}, call to operations finished: p50 / p95", ours.finished, peer.finished, "pg_basebackup",
        f"{len(ours.finished)} interleaved rounds; {note}", goal,
    )  # fmt: skip
    yield _row(
        f"{what}, call to first query answered: p50 / p95", ours.answered, peer.answered, "pg_basebackup + start",
        "through the door, which wakes it; the peer over its socket, asked every 0.5 ms",
    )  # fmt: skip


def _row(
    what: str, ours: Sequence[float], peer: Sequence[float], name: str, note: str, goal: float | None = None
) -> Row:
    ratios = [mine / other for mine, other in zip(ours, peer, strict=True)]
    ratio, (low, high) = statistics.median(ratios), median_interval(ratios)
    return Row(
        what=what,
        ours=milliseconds(ours),
        peer=f"{milliseconds(peer)}\n{name}",
        ratio=f"{shown(ratio)}\n({shown(low)} .. {shown(high)})",
        goal=f"p50 {goal * 1e3:g} ms" if goal else "",
        met=statistics.median(ours) <= goal if goal else None,
        note=note,
        numbers={"seconds": ours, "peer_seconds": peer, "ratio": ratio, "ratio_interval": [low, high]},
    )


# -------------------------------------------------------------------------------------------------- our side


def _filled(installation: Installation) -> Tenant:
    tenant = installation.create(cu=_CU)
    with psycopg.connect(tenant.uri, autocommit=True) as connection:
        _fill(connection)
    return tenant


def _fill(connection: psycopg.Connection[Any]) -> None:
    for statement in _FILL:
        connection.execute(statement.encode())


def _moment() -> datetime:
    """Now, and a moment that is over when the next commit begins."""
    now = datetime.now(UTC)
    time.sleep(0.002)
    return now


def timed_branch(
    installation: Installation, tenant: Tenant, moment: datetime | None = None
) -> tuple[float, BranchCreated]:
    """Seconds from the call until its operations are finished."""
    began = time.perf_counter()
    made = installation.client.create_branch(tenant.project_id, parent_timestamp=moment)
    installation.client.wait_for_operations(tenant.project_id, made.operations)
    return time.perf_counter() - began, made


def _branch(installation: Installation, tenant: Tenant, times: _Times, moment: datetime | None = None) -> None:
    finished, made = timed_branch(installation, tenant, moment)
    assert made.connection_uris is not None
    times.add(finished, first_row(made.connection_uris[0].connection_uri))
    # Neither its wake nor its going belongs to the next round.
    installation.client.suspend_endpoint(tenant.project_id, installation.endpoint_of(made))


def _restore(installation: Installation, tenant: Tenant, times: _Times) -> None:
    """Of a tenant that is in use, as one is whose data somebody has just destroyed."""
    client = installation.client
    with psycopg.connect(tenant.uri, autocommit=True) as connection:
        moment = _moment()
        connection.execute("truncate t")
    branch = next(iter(client.branches(tenant.project_id)))
    began = time.perf_counter()
    done = client.restore_branch(
        tenant.project_id, BranchId(branch.id), source_branch_id=BranchId(branch.id), source_timestamp=moment,
        preserve_under_name="before",
    )  # fmt: skip
    client.wait_for_operations(tenant.project_id, done.operations)
    times.add(time.perf_counter() - began, first_row(tenant.uri))
    with psycopg.connect(tenant.uri) as connection:
        row = connection.execute("select count(*) from t").fetchone()
    assert row == (1000,)
    installation.put_to_sleep(tenant)


def _mebibytes(installation: Installation, tenant: Tenant) -> float:
    """What the first head of a project takes, without its history."""
    data = min(installation.layout.project(tenant.project_id).glob("*/data"), key=lambda path: path.stat().st_ctime)
    return sum(path.lstat().st_blocks for path in itertools.chain([data], data.rglob("*"))) * 512 / 2**20


# -------------------------------------------------------------------------------------------------- the peer


def _copy(plain: raw_postgres.RawPostgres, into: Path, times: _Times) -> None:
    copied, copy = plain.basebackup(into)
    try:
        times.add(copied, copy.start())
    finally:
        copy.stop()
        shutil.rmtree(into)
