"""A run: one fleet migration from its plan to its end, written down in the catalog before anything is done.

Here it is planned, found, held and let go on; ``work`` carries it out. Whoever carries it out may die at any time: what
was planned and what was done stand in the catalog, and what a tenant has in its own ledger.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Final, Literal

from pydantic import TypeAdapter
from sqlalchemy import Connection

from tenantry.errors import Conflict, InvalidInput, NotFound
from tenantry.fleet.catalog import queries, runs
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.events import actor, record
from tenantry.fleet.catalog.records import PlannedTenant, Run, RunState, RunTenant
from tenantry.fleet.migrations.apply import Bounds
from tenantry.fleet.migrations.bundle import Bundle, pack
from tenantry.fleet.migrations.crew import JOBS_DEFAULT, JOBS_MAX
from tenantry.fleet.migrations.formats.base import AppliedByTool, Format
from tenantry.fleet.migrations.formats.per_tenant import FolderPerTenant
from tenantry.fleet.migrations.gates import Gates
from tenantry.fleet.migrations.plan import (
    REFUSED_NEXT_STEP,
    Refused,
    TenantPlan,
    Ways,
    plan_tenants,
    states_of,
    target_of,
)
from tenantry.fleet.migrations.restore_point import Keeping
from tenantry.fleet.migrations.saved_plan import SavedPlan, Visit
from tenantry.fleet.migrations.tenant import RunId, TenantRef
from tenantry.fleet.migrations.waves import GOLDEN, Rules, Survey, Waves
from tenantry.runtime.child import identity_of
from tenantry.runtime.windows import parse_window

STALLED_SECONDS: Final = 45.0
"""A worker that was silent for so long is taken for dead."""
TENANTS_AT_ONCE: Final = 1_000
"""Rows that one statement writes."""
_NAME: Final = "migration run"
"""Held while a run is planned, so that two do not begin at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a run is carried out; kept with it."""

    jobs: int = JOBS_DEFAULT
    """Tenants at a time, of each who carries it out."""
    jobs_per_provider: int = JOBS_MAX
    """Tenants at a time at one provider, whoever does them."""
    bounds: Bounds = field(default_factory=Bounds)
    accept_edited: bool = False
    gates: Gates = field(default_factory=Gates)
    rules: Rules = field(default_factory=Rules)
    golden: bool = False
    """Whether the migrations are applied to the fleet's own empty database first."""
    ignore_windows: bool = False
    restore_point: Keeping | Literal["none"] = "lsn"
    """How the state of each tenant before its first change is kept."""


OPTIONS: Final = TypeAdapter(RunOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A run that was written down."""

    run: Run
    total: int
    """Tenants that were selected."""
    to_visit: int


def begin_run(
    catalog: Catalog,
    folder: Format,
    select: Callable[[], Iterable[TenantRef]],
    *,
    options: RunOptions,
    selection: Mapping[str, object] | None = None,
    trust_catalog: bool = True,
    state: RunState = "running",
    expected: SavedPlan | None = None,
    approve: Callable[[Collection[str]], None] = lambda _: None,
    on_begun: Callable[[], None] = lambda: None,
) -> Begun:
    """Plans a run over what ``select`` gives and writes it down.

    ``select`` is called to see how many there are, and again, where some of them are behind, to say who is in which
    wave. ``approve`` is told which migrations some of them lack, and raises what keeps the run from being begun;
    ``on_begun`` is called when nothing does and an empty database is wanted first, before all is written down. Raises
    InvalidInput for what cannot be run, and Conflict while another run is being carried out, and where it is not the
    plan that was expected.
    """
    check_options(options)
    survey, total, ways = Survey(options.rules), 0, Ways(folder)
    for planned in _planned(ways, select, options, trust_catalog):
        total += 1
        if planned.standing != "current":
            survey.see(planned.tenant)
    approve(ways.wanted)
    raise_refused(ways.refused)
    waves = survey.waves()
    # An empty database has no folder of its own.
    golden = options.golden and not isinstance(folder, FolderPerTenant)
    names = ((GOLDEN,) if golden and survey.visited else ()) + (waves.names if survey.visited else ())
    # What a tool does is not said by the files alone: it is opened where it lies.
    bundle = None if isinstance(folder, AppliedByTool) else pack(folder)
    run_id = RunId(f"run-{secrets.token_hex(8)}")
    fingerprint = states_of(folder)[-1].fingerprint
    document = {
        "options": OPTIONS.dump_python(options, mode="json"),
        "selection": dict(selection or {}),
        "total": total,
        "to_visit": survey.visited,
    }
    with catalog.transaction() as connection:
        queries.hold_name(connection, _NAME)
        _make_room(connection, run_id)
        if GOLDEN in names and expected is None:
            on_begun()
        if bundle is not None:
            runs.add_folder(connection, bundle.digest, bundle.content)
        runs.add_run(
            connection,
            run_id=run_id,
            format=folder.name,
            directory=str(folder.directory.absolute()),
            target=target_of(folder),
            fingerprint=fingerprint,
            folder_digest=bundle.digest if bundle else None,
            state=state,
            created_by=actor(),
            plan=document,
            waves=names,
        )
        again = _planned(ways, select, options, trust_catalog) if survey.visited else ()
        to_visit = (each for each in again if each.standing != "current")
        visits: dict[str, Visit] = {}
        while several := list(islice(to_visit, TENANTS_AT_ONCE)):
            runs.add_tenants(
                connection, run_id, [_row(each, waves, names, options, datetime.now(UTC)) for each in several]
            )
            if expected is not None:
                visits.update((each.tenant.slug, Visit.of(each, waves.name_of(each.tenant))) for each in several)
        if expected is not None:
            expected.check(folder, visits)
            if GOLDEN in names:
                on_begun()
        record(connection, "migrate_run", run=run_id, target=target_of(folder))
        run = runs.run_by_id(connection, run_id)
    assert run is not None, "it was written in this transaction"
    return Begun(run=run, total=total, to_visit=survey.visited)


def _planned(
    ways: Ways, select: Callable[[], Iterable[TenantRef]], options: RunOptions, trust_catalog: bool
) -> Iterable[TenantPlan]:
    return plan_tenants(ways, select(), accept_edited=options.accept_edited, trust_catalog=trust_catalog)


def _row(
    planned: TenantPlan, waves: Waves, names: tuple[str, ...], options: RunOptions, now: datetime
) -> PlannedTenant:
    tenant = planned.tenant
    assert tenant.id is not None and tenant.provider_id is not None, "the catalog's tenants have both"
    opens, closes = (
        (None, None) if tenant.window is None or options.ignore_windows else parse_window(tenant.window).next(now)
    )
    return PlannedTenant(
        tenant_id=tenant.id,
        slug=tenant.slug,
        provider_id=tenant.provider_id,
        wave=names.index(waves.name_of(tenant)),
        from_version=tenant.known.version if tenant.known else None,
        pending=planned.pending,
        opens_at=opens,
        closes_at=closes,
    )


def _make_room(connection: Connection, run_id: RunId) -> None:
    """A run that nobody carries out gives way to the new one, which plans its tenants anew."""
    for other in runs.open_runs(connection):
        if other.state == "planned":
            continue
        workers = runs.workers_of(connection, other.id, stalled_seconds=STALLED_SECONDS)
        busy = [worker for worker, silent in workers.items() if not silent and is_alive(worker)]
        if other.state == "running" and busy:
            raise Conflict(
                f"{other.id} is being carried out by {', '.join(sorted(busy)[:3])}",
                next_step=f"wait for it (`tenantry migrate status`), or `tenantry migrate abort {other.id}`",
                run_id=other.id,
            )
        runs.set_state(
            connection,
            other.id,
            "aborted",
            only_from=["running", "paused", "stopped"],
            reason=f"{run_id} took its place",
        )


def check_options(options: RunOptions) -> None:
    """Raises InvalidInput."""
    if not 1 <= options.jobs <= JOBS_MAX:
        raise InvalidInput(f"jobs is {options.jobs}; it is 1 to {JOBS_MAX}")
    bounds = options.bounds
    if bounds.lock_seconds <= 0:
        raise InvalidInput(
            "the lock timeout is 0: a migration that waits for ever holds up every session behind it",
            next_step="give a lock timeout above 0",
        )
    if (
        bounds.statement_seconds < 0
        or bounds.tool_seconds <= 0
        or bounds.connect_seconds <= 0
        or bounds.connect_deadline_seconds <= 0
    ):
        raise InvalidInput("a timeout is negative, or 0 where it must not be")


def raise_refused(refused: tuple[Refused, ...]) -> None:
    """Raises InvalidInput for migrations that are not run."""
    if refused:
        first = refused[0]
        raise InvalidInput(
            f"{first.file}, statement {first.statement}, line {first.line} ({first.excerpt}): {first.reason}",
            next_step=REFUSED_NEXT_STEP,
            migrations=[each.version for each in refused],
        )


# -- runs that are there -------------------------------------------------------------------------------------


def find_run(catalog: Catalog, run_id: str | None, *, failed_too: bool = False) -> Run:
    """The run of this id, or of as much of its begin as no other has; without one the latest that is open.

    ``failed_too`` counts one that has ended as open where tenants failed in it, if it was the last one.
    """
    with catalog.transaction() as connection:
        if run_id is None:
            found = [each for each in runs.open_runs(connection) if each.state != "planned"]
            latest = runs.latest_run(connection)
            if not found and failed_too and latest is not None and latest.counts.get("failed"):
                found = [latest]
        else:
            found = [each for each in runs.runs_page(connection, limit=runs.RUNS_KEPT) if each.id.startswith(run_id)]
            found = [each for each in found if each.id == run_id] or found
    if not found:
        what = "no run is open" if run_id is None else f"there is no run {run_id}"
        raise NotFound(what, next_step="see `tenantry migrate history`")
    if len(found) > 1 and run_id is not None:
        raise Conflict(f"several runs' ids begin with {run_id}", next_step="type more of it")
    return found[0]


def tenants_of(
    catalog: Catalog, run: Run, *, outcomes: Sequence[str] = (), limit: int | None = None
) -> Iterator[RunTenant]:
    """What became of the tenants of a run, in the order of their slugs; of these outcomes only."""
    after, left = "", limit
    while left is None or left > 0:
        wanted = TENANTS_AT_ONCE if left is None else min(left, TENANTS_AT_ONCE)
        with catalog.transaction() as connection:
            page = runs.run_tenants(connection, run.id, outcomes=outcomes, after=after, limit=wanted)
        yield from page
        if len(page) < wanted:
            return
        after = page[-1].slug
        left = None if left is None else left - len(page)


def pause_run(catalog: Catalog, run: Run, *, reason: str | None = None) -> Run:
    """What is under way ends, and nothing more is begun."""
    return _move(catalog, run, "paused", ["running"], reason or f"by {actor()}")


def abort_run(catalog: Catalog, run: Run) -> Run:
    """The same for good. What is done stays done."""
    return _move(catalog, run, "aborted", ["planned", "running", "paused", "stopped"], f"by {actor()}")


def resume_run(catalog: Catalog, run: Run, *, retry: bool = True) -> Run:
    """Goes on where it was; tenants that failed are tried again. Raises Conflict for one that is over."""
    with catalog.transaction() as connection:
        held = runs.hold_run(connection, run.id)
        if held is None or held.state == "aborted" or (held.state == "finished" and not held.counts.get("failed")):
            raise Conflict(f"{run.id} is over", next_step="begin a new one: `tenantry migrate run`", run_id=run.id)
        again = runs.retry_failed(connection, run.id) if retry else 0
        runs.reopen(connection, run.id)
        release_dead(connection, run.id)
        record(connection, "migrate_resume", run=run.id, again=again)
        now = runs.run_by_id(connection, run.id)
    assert now is not None, "it is held"
    return now


def _move(catalog: Catalog, run: Run, state: RunState, only_from: list[RunState], reason: str) -> Run:
    with catalog.transaction() as connection:
        moved = runs.set_state(connection, run.id, state, only_from=only_from, reason=reason)
        if moved:
            record(connection, f"migrate_{state}", run=run.id, reason=reason)
        now = runs.run_by_id(connection, run.id)
    if now is None or not moved:
        is_ = "forgotten" if now is None else now.state
        raise Conflict(f"{run.id} is {is_}", next_step="see `tenantry migrate history`", run_id=run.id)
    return now


# -- who carries it out --------------------------------------------------------------------------------------


def worker_name() -> str:
    """Of this process, so that others can tell whether it lives: its machine, its pid, and when it started.

    In three parts, as earlier versions read it.
    """
    me = identity_of(os.getpid())
    return f"{socket.gethostname()}/{os.getpid()}/{me.start_ticks if me else ''}-{secrets.token_hex(4)}"


def is_alive(worker: str) -> bool:
    """Whether it may live. Only who is on the same machine can be known to be dead."""
    host, pid, mark = worker.split("/")
    if host != socket.gethostname():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    # Another process may have the pid by now, as after a restart of the machine.
    started, now = mark.rpartition("-")[0], identity_of(int(pid))
    return not started or now is None or now.start_ticks == int(started)


def release_dead(connection: Connection, run_id: str) -> bool:
    """What workers had in hand that are known to be dead need not be waited for; whether there were any."""
    workers = runs.workers_of(connection, run_id, stalled_seconds=STALLED_SECONDS)
    dead = [worker for worker in workers if not is_alive(worker)]
    for worker in dead:
        runs.release_claims(connection, run_id, worker)
    return bool(dead)


def bundle_of(catalog: Catalog, run: Run) -> Bundle | None:
    """The migrations as they were planned. Raises NotFound when the catalog has lost them."""
    if run.folder_digest is None:
        return None
    with catalog.transaction() as connection:
        content = runs.folder_content(connection, run.folder_digest)
    if content is None:
        raise NotFound(f"the migrations of {run.id} are not in the catalog any more", run_id=run.id)
    return Bundle(run.folder_digest, content)
