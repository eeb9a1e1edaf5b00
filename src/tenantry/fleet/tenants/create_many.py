"""Create many tenants, some at a time: each row comes to its own end, and what is done once stays done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal

from tenantry.errors import InvalidInput, TenantryError
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.tenants.create import Created, Wish
from tenantry.fleet.tenants.csv_rows import BadRow, GoodRow

JOBS_MAX: Final = 64
_AHEAD: Final = 2
"""Rows in hand for each thread: it finds the next one as it ends one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowDone:
    line: int
    slug: str | None
    outcome: Literal["created", "there", "failed"]
    seconds: float
    tenant: Tenant | None = None
    column: str | None = None
    reason: str | None = None
    next_step: str = ""
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ManyDone:
    """In the order of the file."""

    rows: Sequence[RowDone]
    seconds: float

    def count(self, outcome: str) -> int:
        return sum(row.outcome == outcome for row in self.rows)


def create_many(
    create: Callable[[Wish], Created],
    rows: Sequence[GoodRow | BadRow],
    *,
    jobs: int,
    on_done: Callable[[RowDone], None] = lambda _: None,
) -> ManyDone:
    """``on_done`` is called in the caller's thread, in the order in which rows end.

    An interrupt begins no further row, lets those under way end, and goes on up.
    """
    if not 1 <= jobs <= JOBS_MAX:
        raise InvalidInput(f"{jobs} at a time: between 1 and {JOBS_MAX}")
    began = time.monotonic()
    done: list[RowDone] = []

    def end(row: RowDone) -> None:
        done.append(row)
        on_done(row)

    for row in rows:
        if isinstance(row, BadRow):
            end(_refused(row))
    good = iter([row for row in rows if isinstance(row, GoodRow)])
    with ThreadPoolExecutor(jobs, thread_name_prefix="create") as pool:
        running: set[Future[RowDone]] = set()
        try:
            while True:
                running |= {pool.submit(_one, create, row) for row in islice(good, _AHEAD * jobs - len(running))}
                if not running:
                    break
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    end(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return ManyDone(rows=sorted(done, key=lambda row: row.line), seconds=time.monotonic() - began)


def _one(create: Callable[[Wish], Created], row: GoodRow) -> RowDone:
    began = time.monotonic()
    try:
        made = create(row.wish)
    except TenantryError as error:
        field = error.fields.get("field")
        return RowDone(
            line=row.line,
            slug=row.wish.slug,
            outcome="failed",
            seconds=time.monotonic() - began,
            column=field if isinstance(field, str) else None,
            reason=error.message,
            next_step=error.next_step,
        )
    return RowDone(
        line=row.line,
        slug=made.tenant.slug,
        outcome="created" if made.new else "there",
        seconds=time.monotonic() - began,
        tenant=made.tenant,
        note=made.note,
    )


def _refused(row: BadRow) -> RowDone:
    return RowDone(
        line=row.line,
        slug=row.slug,
        outcome="failed",
        seconds=0.0,
        column=row.column,
        reason=row.reason,
        next_step=row.next_step,
    )
