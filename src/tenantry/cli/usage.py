"""``tenantry usage``: what tenants used, by tenant and by day, what it costs, who is idle and who is noisy."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, TextIO

import typer

from tenantry.cli.failures import SOME_FAILED
from tenantry.cli.options import Data, Json
from tenantry.cli.output import Output

if TYPE_CHECKING:
    from tenantry.fleet.catalog.records import Tenant
    from tenantry.fleet.main import Fleet
    from tenantry.fleet.usage.collect import Collected
    from tenantry.fleet.usage.report import Line, Period, PriceTable, Report

ROWS_MAX: Final = 50
"""Tenants that a table names; --json and --csv have all."""
IDLE_DAYS: Final = 30
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_AMOUNTS: Final = (
    "active_seconds", "compute_seconds", "written_bytes", "sent_bytes", "storage_bytes", "cost",
)  # fmt: skip
_CSV: Final = {
    "each": ("day", "tenant", "tenant_id", "plan", "deleted", *_AMOUNTS),
    "tenant": ("tenant", "tenant_id", "plan", "deleted", *_AMOUNTS),
    "day": ("day", "tenants", *_AMOUNTS),
}
"""Customers' names are not in it: they are what strangers typed, and spreadsheets run what begins like a formula."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What of it a command line asked for, besides the period."""

    tenant: Tenant | None
    by: Literal["tenant", "day"] | None
    csv_file: str | None


def usage(
    tenant: Annotated[
        str | None, typer.Argument(metavar="TENANT", help="Of one tenant: its slug or name.", show_default=False)
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="DAY", help="From this day on (UTC).", show_default="the first of the month")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="DAY", help="Up to and with this day.", show_default="today")
    ] = None,
    by: Annotated[
        Literal["tenant", "day"] | None,
        typer.Option(help="A line for each tenant, or for each day.", show_default="tenant; of one tenant: day"),
    ] = None,
    csv_file: Annotated[
        str | None,
        typer.Option("--csv", metavar="FILE|-", help="Write CSV: each tenant's each day, or as --by says."),
    ] = None,
    idle: Annotated[bool, typer.Option("--idle", help="Tenants that nobody has used for --days.")] = False,
    days: Annotated[int, typer.Option("--days", metavar="N", min=1, max=366, help="With --idle.")] = IDLE_DAYS,
    noisy: Annotated[
        bool, typer.Option("--noisy", help="Tenants that use ten times what the median tenant uses, and more.")
    ] = False,
    cached: Annotated[bool, typer.Option("--cached", help="As last collected; ask no provider.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Show what tenants used: compute, storage, bytes written and sent, and what it costs by [prices].

    Wakes nobody. Exit status 3 when a provider could not be asked: its tenants are shown as last collected.
    """
    from tenantry.cli.fleet import the_fleet
    from tenantry.errors import InvalidInput
    from tenantry.fleet.settings import load_settings
    from tenantry.fleet.tenants.find import find_tenant
    from tenantry.fleet.usage.report import period_of

    output = Output(json_wanted=json)
    if idle and noisy:
        raise InvalidInput("--idle and --noisy are two questions", next_step="ask one after the other")
    if (idle or noisy) and (tenant is not None or by is not None or csv_file is not None):
        raise InvalidInput(f"--{'idle' if idle else 'noisy'} looks at all tenants, and has no --by and no --csv")
    if idle and (since is not None or until is not None):
        raise InvalidInput("--idle looks back from today", next_step="say how far with --days")
    if csv_file == "-" and json:
        raise InvalidInput("--csv - and --json both want stdout", next_step="name a file for one of them")
    period = period_of(_day(since), _day(until), datetime.now(UTC).date())
    prices = load_settings().prices
    with the_fleet(data) as fleet:
        one = None if tenant is None else find_tenant(fleet.catalog, tenant)
        collected = _collected(fleet, one, period, cached=cached)
        _told(output, collected, cached=cached)
        if idle:
            _show_idle(output, fleet, days, collected)
        elif noisy:
            _show_noisy(output, fleet, period, collected)
        else:
            _show(output, fleet, period, prices, _Wanted(one, by, csv_file), collected)
    if any(each.problem is not None for each in collected):
        raise typer.Exit(SOME_FAILED)


def _day(text: str | None) -> date | None:
    from tenantry.errors import InvalidInput

    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"{text!r} is not a day", next_step="for instance 2026-11-24") from None


def _collected(fleet: Fleet, tenant: Tenant | None, period: Period, *, cached: bool) -> Sequence[Collected]:
    if cached:
        return fleet.usage.known()
    return fleet.usage.collect() if tenant is None else [fleet.usage.collect_of(tenant, period.since)]


def _told(output: Output, collected: Iterable[Collected], *, cached: bool) -> None:
    for each in collected:
        if not each.metered:
            output.remark(f"provider {each.provider} has no metered usage: its tenants are left out")
        elif each.problem is not None:
            output.remark(f"{each.sentence()}; its tenants are shown {_as_of(each.at)}")
            if each.next_step:
                output.remark(f"  -> {each.next_step}")
        elif cached:
            output.remark(f"tenants of provider {each.provider} are shown {_as_of(each.at)}")


def _as_of(moment: datetime | None) -> str:
    return "as nobody has ever collected" if moment is None else f"as of {moment.astimezone(UTC):%Y-%m-%d %H:%MZ}"


# -------------------------------------------------------------------------------------------- what was used


def _show(
    output: Output, fleet: Fleet, period: Period, prices: PriceTable, wanted: _Wanted, collected: Sequence[Collected]
) -> None:
    if wanted.csv_file is not None:
        if wanted.by is None:
            lines = fleet.usage.each_day_of_each(period, prices, tenant=wanted.tenant)
        else:
            lines = iter(fleet.usage.report(period, prices, by=wanted.by, tenant=wanted.tenant).lines)
        _write_csv(output, wanted.csv_file, _CSV[wanted.by or "each"], lines)
        return
    by = wanted.by or ("tenant" if wanted.tenant is None else "day")
    report = fleet.usage.report(
        period, prices, by=by, tenant=wanted.tenant, limit=None if output.json_wanted else ROWS_MAX
    )
    output.document(
        {
            "since": report.since,
            "until": report.until,
            "by": report.by,
            "tenant": report.tenant,
            "currency": report.currency,
            "lines": report.lines,
            "total": report.total,
            "collected": collected,
        }
    )
    _table(output, report)


def _table(output: Output, report: Report) -> None:
    if output.json_wanted:
        return
    if not report.lines:
        output.say(f"nothing is known to be used from {report.since} to {report.until}")
        return
    first = ["TENANT", "PLAN"] if report.by == "tenant" else ["DAY", "TENANTS"]
    columns = [*first, "ACTIVE", "COMPUTE", "WRITTEN", "SENT", "STORAGE"]
    if report.currency is not None:
        columns.append(report.currency)
    total = report.total
    rows = [_row(report, line, _first(report, line)) for line in report.lines]
    of_all = (f"{total.tenants} tenants" if report.by == "tenant" else f"{len(rows)} days", "")
    output.table(columns, [*rows, *([_row(report, total, of_all)] if len(rows) > 1 else [])])
    if report.by == "tenant" and len(rows) < total.tenants:
        output.say(f"and {total.tenants - len(rows)} more that used less: see them with --csv or --json")


def _first(report: Report, line: Line) -> tuple[object, object]:
    if report.by == "day":
        return line.day, line.tenants
    return f"{line.tenant} (deleted)" if line.deleted else line.tenant, line.plan


def _row(report: Report, line: Line, first: tuple[object, object]) -> tuple[object, ...]:
    amounts = (_clock(line.active_seconds), _clock(line.compute_seconds))
    sizes = (size(line.written_bytes), size(line.sent_bytes), size(line.storage_bytes))
    money = () if report.currency is None or line.cost is None else (f"{line.cost:.4f}",)
    return (*first, *amounts, *sizes, *money)


def _clock(seconds: int) -> str:
    """Hours, minutes and seconds; hours of many days stay hours, which prices are for."""
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def size(amount: float) -> str:
    """Bytes in the unit that needs the fewest digits."""
    for unit in _UNITS[:-1]:
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} {_UNITS[-1]}"


def _write_csv(output: Output, name: str, columns: Sequence[str], lines: Iterator[Line]) -> None:
    with _csv_file(name) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        written = 0
        for line in lines:
            writer.writerow([_cell(getattr(line, column)) for column in columns])
            written += 1
    if name != "-":
        output.document({"file": name, "lines": written})
        output.say(f"{written} lines are in {name}")


@contextmanager
def _csv_file(name: str) -> Generator[TextIO]:
    """stdout, or a file that is there whole or not at all."""
    from tenantry.runtime.files import explained

    if name == "-":
        yield sys.stdout
        sys.stdout.flush()
        return
    path = Path(name)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    with explained("writing", path):
        try:
            with unfinished.open("x", encoding="utf-8", newline="") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def _cell(value: object) -> object:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case _:
            return value


# ------------------------------------------------------------------------------------------ idle and noisy


def _show_idle(output: Output, fleet: Fleet, days: int, collected: Sequence[Collected]) -> None:
    unused = fleet.usage.idle(days)
    output.document({"days": days, "idle": unused.tenants, "not_known": unused.not_known, "collected": collected})
    since = datetime.now(UTC).date() - timedelta(days=days)
    output.table(
        ["TENANT", "PLAN", "LAST USED", "STORAGE"],
        [(each.slug, each.plan, each.last_active, size(each.storage_bytes)) for each in unused.tenants[:ROWS_MAX]],
    )
    _and_more(output, len(unused.tenants))
    if not unused.tenants:
        output.say(f"every tenant that was there on {since} has been used since")


def _show_noisy(output: Output, fleet: Fleet, period: Period, collected: Sequence[Collected]) -> None:
    from tenantry.fleet.usage.outliers import TIMES

    found = fleet.usage.noisy(period)
    output.document(
        {
            "since": period.since,
            "until": period.until,
            "times": TIMES,
            "noisy": [
                {
                    "tenant": each.used.slug,
                    "tenant_id": each.used.tenant_id,
                    "plan": each.used.plan,
                    "measure": each.measure,
                    "amount": each.amount,
                    "median": each.median,
                    "times": each.times,
                }
                for each in found
            ],
            "collected": collected,
        }
    )
    shown: dict[str, Callable[[float], str]] = {"compute": lambda seconds: _clock(int(seconds))}
    output.table(
        ["TENANT", "PLAN", "WHAT", "USED", "MEDIAN", "TIMES"],
        [
            (
                *(each.used.slug, each.used.plan, each.measure),
                *(shown.get(each.measure, size)(amount) for amount in (each.amount, each.median)),
                f"{each.times:.0f}",
            )
            for each in found[:ROWS_MAX]
        ],
    )
    _and_more(output, len(found))
    if not found:
        output.say(f"no tenant used {TIMES:g} times what the median tenant did from {period.since} to {period.until}")


def _and_more(output: Output, count: int) -> None:
    if count > ROWS_MAX and not output.json_wanted:
        output.say(f"and {count - ROWS_MAX} more: see them with --json")


def register(app: typer.Typer) -> None:
    app.command("usage")(usage)
