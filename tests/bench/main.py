"""``make bench``: every number that the design promises, each beside its peer in the same run.

Prints a table and writes ``bench-results/<date>.json``. A goal that is missed is a result, not a failure: the exit
status is 1 only when a measure could not be taken. ``--only wake,relay`` takes some of them, ``--quick`` takes fewer
samples of each.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import backups
import branches
import create
import customers
import footprint
import history
import machine
import migrate
import night
import reflink
import registered
import relay
import report
import sign_ups
import wake
from installation import Installation
from report import Row
from rich.console import Console

_WIDTH_MIN = 130
"""Of the table: in a narrower place it is wrapped by whoever shows it."""
_RESULTS = Path(__file__).parents[2] / "bench-results"


class _Measure(Protocol):
    def __call__(self, installation: Installation, *, quick: bool) -> Iterator[Row]: ...


_MEASURES: dict[str, _Measure] = {
    "create": create.measure,
    "wake": wake.measure,
    "relay": relay.measure,
    "branches": branches.measure,
    "history": history.measure,
    "reflink": reflink.measure,
    "migrate": migrate.measure,
    "footprint": footprint.measure,
    "customers": customers.measure,
    "backups": backups.measure,
    "sign_ups": sign_ups.measure,  # late: it leaves very many tenants
    "registered": registered.measure,  # nearly the last one: it leaves rows that nothing else should see
    "night": night.measure,  # but this
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description="Measure what the design promises.")
    parser.add_argument("--only", metavar="NAMES", help=f"some of {','.join(_MEASURES)}")
    parser.add_argument("--quick", action="store_true", help="fewer samples of each")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else list(_MEASURES)
    if unknown := [name for name in names if name not in _MEASURES]:
        parser.error(f"no such measure: {', '.join(unknown)}")
    # A terminated run ends as an interrupted one: with nothing left running.
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    progress = Console(stderr=True, highlight=False)
    began = datetime.now(UTC)
    load = os.getloadavg()
    facts = {**machine.facts(), "began": began.isoformat(), "quick": arguments.quick, "load_before": load}
    rows: list[Row] = []
    failed: list[str] = []
    with Installation() as installation:
        for name in [each for each in _MEASURES if each in names]:
            _take(name, lambda name=name: _MEASURES[name](installation, quick=arguments.quick), rows, failed, progress)
        facts["engine"] = installation.engine().build_id
    facts.update(ended=datetime.now(UTC).isoformat(), load_after=os.getloadavg(), failed=failed)

    console = Console(highlight=False)
    console.width = max(console.width, _WIDTH_MIN)
    console.print(report.table(rows, f"Tenantry on {facts['cpus']} CPUs, {began:%Y-%m-%d %H:%M} UTC"))
    console.print(_trust(load[0]))
    path = _RESULTS / f"{began:%Y-%m-%dT%H%M%SZ}.json"
    report.write(path, rows, facts)
    console.print(f"written to {path}", soft_wrap=True)
    return 1 if failed else 0


def _take(
    name: str, measure: Callable[[], Iterator[Row]], rows: list[Row], failed: list[str], progress: Console
) -> None:
    progress.print(f"[bold]{name}[/bold]")
    try:
        for row in measure():
            rows.append(row)
            progress.print(f"  {row.what}: {' '.join(row.ours.split())} {' '.join(row.ratio.split())}", soft_wrap=True)
    except Exception as error:  # the boundary between measures: the others are still worth taking
        failed.append(name)
        rows.append(Row(what=name, ours="-", note=f"could not be measured: {type(error).__name__}: {error}"))
        traceback.print_exception(error, file=sys.stderr)


def _trust(load: float) -> str:
    """What the load before the run says about the times above."""
    text = f"load average {load:.1f} before the run"
    if load <= machine.cpus() / 2:
        return f"{text}: the machine was ours"
    return f"[yellow]{text}: others were at work here. Ratios and medians mean something, single times little.[/yellow]"


if __name__ == "__main__":
    sys.exit(main())
