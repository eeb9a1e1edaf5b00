"""Wake: connect to a sleeping tenant through the front door until the first row, beside the start of bare Postgres."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Barrier

import raw_postgres
from installation import Installation, Tenant, first_row
from report import Row, median_interval, milliseconds, percentile, shown

_TOGETHER = 8
_CU = 0.25


def measure(installation: Installation, *, quick: bool) -> Iterator[Row]:
    rounds, crowds = (8, 2) if quick else (40, 6)
    installation.restart(spares=0)
    tenants = [installation.create(cu=_CU) for _ in range(_TOGETHER)]
    engine, owner = installation.engine(), installation.owner()
    with ExitStack() as stack:
        raw = [
            stack.enter_context(
                raw_postgres.clone_of_template(
                    engine, installation.layout.templates, installation.directory / f"raw{number}", owner, cu=_CU
                )
            )
            for number in range(_TOGETHER)
        ]
        for tenant, bare in zip(tenants, raw, strict=True):  # each once, so that nobody's first start is counted
            first_row(tenant.uri)
            bare.start()
            bare.stop()
        ours: list[float] = []
        theirs: list[float] = []
        for number in range(rounds):
            tenant, bare = tenants[number % _TOGETHER], raw[number % _TOGETHER]
            installation.put_to_sleep(tenant)
            ours.append(first_row(tenant.uri))
            theirs.append(bare.start())
            bare.stop()
        yield _one(ours, theirs)
        awake = [first_row(tenants[0].uri) for _ in range(rounds)]
        yield Row(
            what="connect to an awake tenant, first row: p50 / p95",
            ours=milliseconds(awake),
            note="the part of a wake that is not the start: TCP, SCRAM at the door and at the instance, a query",
            numbers={"seconds": awake},
        )
        yield from _crowd(installation, tenants, raw, crowds, ours, theirs)


def _one(ours: list[float], theirs: list[float]) -> Row:
    ratios = [mine / bare for mine, bare in zip(ours, theirs, strict=True)]
    low, high = median_interval(ratios)
    p50, p95, ratio = statistics.median(ours), percentile(ours, 95), statistics.median(ratios)
    return Row(
        what="wake: connect to a sleeping tenant, first row: p50 / p95",
        ours=milliseconds(ours),
        peer=f"{milliseconds(theirs)}\npostgres itself",
        ratio=f"{shown(ratio)}\n({shown(low)} .. {shown(high)})",
        goal="p50 25 ms, p95 50 ms,\nat most 2x postgres",
        met=p50 <= 0.025 and p95 <= 0.050 and ratio <= 2,
        note=f"{len(ours)} interleaved pairs; the peer has the same template and settings, and is asked every 0.5 ms",
        numbers={"seconds": ours, "peer_seconds": theirs, "ratio": ratio, "ratio_interval": [low, high]},
    )


def _crowd(
    installation: Installation,
    tenants: Sequence[Tenant],
    raw: Sequence[raw_postgres.RawPostgres],
    crowds: int,
    one: list[float],
    one_raw: list[float],
) -> Iterator[Row]:
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(crowds):
        for tenant in tenants:
            installation.put_to_sleep(tenant)
        ours += _at_once([lambda uri=tenant.uri: first_row(uri) for tenant in tenants])
        theirs += _at_once([bare.start for bare in raw])
        for bare in raw:
            bare.stop()
    times = percentile(ours, 95) / statistics.median(one)
    raw_times = percentile(theirs, 95) / statistics.median(one_raw)
    yield Row(
        what=f"{_TOGETHER} tenants woken at once, first row: p50 / p95",
        ours=milliseconds(ours),
        peer=f"{milliseconds(theirs)}\npostgres itself",
        ratio=shown(percentile(ours, 95) / percentile(theirs, 95)),
        goal="p95 at most 5x one wake's p50",
        met=times <= 5,
        note=f"p95 is {shown(times)}x one wake's p50; {_TOGETHER} bare starts at once {shown(raw_times)}x one",
        numbers={"seconds": ours, "peer_seconds": theirs, "times_one": times, "peer_times_one": raw_times},
    )


def _at_once(calls: Sequence[Callable[[], float]]) -> list[float]:
    barrier = Barrier(len(calls))

    def run(call: Callable[[], float]) -> float:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))
