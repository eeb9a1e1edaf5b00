"""Sign-ups: tenants created on one cell through the fleet, as `tenantry create --csv` does, beside the bare API."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from installation import Installation
from report import Row

from tenantry.fleet.main import open_fleet
from tenantry.fleet.tenants.create_many import RowDone, create_many
from tenantry.fleet.tenants.csv_rows import read_rows

_TENANTS = 1_000
_QUICK = 60
_AT_A_TIME = 8
_GOAL = 20.0
_BYTES_EACH = 32 * 2**20
"""What the design promises as the most that a new tenant occupies."""
_DISK_SHARE = 0.7
"""Of what is free on the disk, as much as this takes at most."""


def measure(installation: Installation, *, quick: bool) -> Iterator[Row]:
    installation.restart(spares=4)
    room = int(shutil.disk_usage(installation.directory).free * _DISK_SHARE) // _BYTES_EACH
    count = min(_QUICK if quick else _TENANTS, room)
    bare = _bare(installation)
    rows = read_rows(b"name\n" + b"".join(b"Sign-up %d\n" % number for number in range(count)))
    ended: list[float] = []
    target = installation.target
    with open_fleet(target.api_url, target.api_key, target.catalog_url, at_a_time=_AT_A_TIME) as fleet:
        began = time.perf_counter()

        def on_done(_: RowDone) -> None:
            ended.append(time.perf_counter() - began)

        done = create_many(fleet.create_wished, rows, jobs=_AT_A_TIME, on_done=on_done)
    failed = [row.reason for row in done.rows if row.outcome != "created"]
    assert not failed, failed[:3]
    quarter = count // 4
    last = quarter / (ended[-1] - ended[-1 - quarter])
    yield Row(
        what=f"create {count:,} tenants from a file, {_AT_A_TIME} at a time: all / the last quarter",
        ours=f"{count / ended[-1]:.1f}/s / {last:.1f}/s",
        peer=f"{bare:.1f}/s",
        ratio=f"{count / ended[-1] / bare:.2f}x",
        goal=f">= {_GOAL:g}/s",
        met=count / ended[-1] >= _GOAL,
        note=f"beside the bare API, {_QUICK} projects before it, as many at a time",
        numbers={"tenants": count, "ended_seconds": ended, "bare_per_second": bare},
    )


def _bare(installation: Installation) -> float:
    """Projects a second without any fleet."""
    began = time.perf_counter()
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        list(pool.map(lambda number: installation.client.create_project(name=f"bare {number}"), range(_QUICK)))
    return _QUICK / (time.perf_counter() - began)
