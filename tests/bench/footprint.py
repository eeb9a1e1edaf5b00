"""Disk and memory: a new tenant asleep, and the same awake and idle, beside what initdb and postgres make."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil
import raw_postgres
from installation import Installation, first_row, wait_until
from report import Row, shown, skipped

from tenantry.postgres.postmaster import running_in

_TENANTS = 8
_CU = 0.25
_DISK_GOAL_MIB = 32.0
_MEMORY_GOAL_MIB = 6.0
_MIB = 2**20
_IDLE_SECONDS = 1.0
"""How long no session may have been seen before an instance counts as idle."""


def measure(installation: Installation, *, quick: bool) -> Iterator[Row]:
    del quick
    installation.restart(spares=0)
    tenants = [installation.create(cu=_CU) for _ in range(_TENANTS)]
    heads = [installation.head_data(tenant.project_id) for tenant in tenants]
    with ExitStack() as stack:
        stocks: list[raw_postgres.RawPostgres] = []
        absent = ""
        try:
            for number in range(_TENANTS):
                into = installation.directory / f"stock{number}"
                stocks.append(stack.enter_context(raw_postgres.stock(installation.engine(), into)))
        except LookupError as error:
            absent = f"peer skipped: {error}"
        new = _disk(heads[0].parent)
        stock_disk = _disk(stocks[0].data) if stocks else None
        for tenant in tenants:
            first_row(tenant.uri)
        _wait_for_idle(heads)
        awake = [_memory(head) for head in heads]
        for tenant in tenants:
            installation.put_to_sleep(tenant)
        slept = _disk(heads[0].parent)
        left = sum(len(running_in(head)) for head in heads)
        # Only now, so that as many are awake with the peer as were with us.
        for stock in stocks:
            stock.start()
        _wait_for_idle([stock.data for stock in stocks])
        stock_memory = [_memory(stock.data) for stock in stocks]
    yield _disk_row(new, slept, stock_disk, absent)
    yield Row(
        what="memory of a tenant asleep: processes",
        ours=str(left),
        goal="0",
        met=left == 0,
        note=f"server processes in the directories of {_TENANTS} tenants that were awake",
        numbers={"processes": left},
    )
    yield _memory_row(awake, stock_memory, absent)


def _disk_row(new: tuple[float, int], slept: tuple[float, int], stock: tuple[float, int] | None, absent: str) -> Row:
    return Row(
        what="disk of a new head asleep",
        ours=f"{shown(new[0])} MiB\n{new[1]} files",
        peer=f"{shown(stock[0])} MiB\n{stock[1]} files, initdb" if stock else "",
        ratio=shown(new[0] / stock[0]) if stock else "",
        goal="<= 32 MiB",
        met=new[0] <= _DISK_GOAL_MIB,
        note=f"after its first day of one query: {shown(slept[0])} MiB, {slept[1]} files. {absent}".rstrip(". ") + ".",
        numbers={"mib": new[0], "files": new[1], "mib_slept": slept[0], "files_slept": slept[1], "stock": stock},
    )


def _memory_row(awake: Sequence[tuple[float, int]], stock: Sequence[tuple[float, int]], absent: str) -> Row:
    if not awake:
        return skipped("memory of a tenant awake and idle", absent)
    mib = statistics.median(size for size, _ in awake)
    theirs = statistics.median(size for size, _ in stock) if stock else None
    return Row(
        what="memory of a tenant awake and idle: PSS",
        ours=f"{shown(mib)} MiB\n{awake[0][1]} processes",
        peer=f"{shown(theirs)} MiB\n{stock[0][1]} processes, stock" if theirs else "",
        ratio=shown(mib / theirs) if theirs else "",
        goal="<= 6 MiB",
        met=mib <= _MEMORY_GOAL_MIB,
        note=f"each of {len(awake)} awake, which share the pages of the program; so does the peer. {absent}".rstrip(),
        numbers={"mib": [size for size, _ in awake], "stock_mib": [size for size, _ in stock]},
    )


def _disk(directory: Path) -> tuple[float, int]:
    """MiB of blocks that are taken, directories included, and the number of files."""
    taken = directory.lstat().st_blocks
    count = 0
    for root, directories, names in os.walk(directory):
        for name in (*directories, *names):
            taken += (Path(root) / name).lstat().st_blocks
        count += len(names)
    return taken * 512 / _MIB, count


def _memory(data: Path) -> tuple[float, int]:
    """MiB of proportional set size of every process of one instance, and how many they are."""
    members = running_in(data)
    kib = 0
    for member in members:
        for line in Path(f"/proc/{member.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                kib += int(line.split()[1])
    return kib / 1024, len(members)


def _wait_for_idle(heads: Sequence[Path]) -> None:
    """Until no instance has had a session for a while: the cell's own lingers after a tenant's."""
    seen = time.monotonic()

    def idle() -> bool:
        nonlocal seen
        if any(_has_session(member.pid) for head in heads for member in running_in(head)):
            seen = time.monotonic()
        return time.monotonic() - seen > _IDLE_SECONDS

    wait_until(idle, "no session is left")


def _has_session(pid: int) -> bool:
    try:
        return "[local]" in " ".join(psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return False
