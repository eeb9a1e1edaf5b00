"""Runs of migrations: what was planned, who works on which tenant, what became of each. Each runs in the caller's
transaction.

A tenant of a run is claimed by a worker, which raises its fence; a result that carries an older fence is refused. A
claim whose worker has been silent for long may be taken over: the tenant's own ledger sees to it that nothing is done
twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final, cast

from sqlalchemy import Connection, RowMapping, delete, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert

from tenantry.fleet.catalog import models
from tenantry.fleet.catalog.records import (
    Claimed,
    Done,
    PlannedTenant,
    ProviderId,
    Run,
    RunState,
    RunTenant,
    TenantId,
    Wave,
    WaveState,
)

RUNS_KEPT: Final = 100
"""Runs of migrations that the catalog remembers."""
OPEN: Final[tuple[RunState, ...]] = ("planned", "running", "paused", "stopped")
LISTED_MAX: Final = 1_000

_RUN: Final = select(models.MigrationRun.__table__)


# -- a run ---------------------------------------------------------------------------------------------------


def add_run(
    connection: Connection,
    *,
    run_id: str,
    format: str,
    directory: str,
    target: str | None,
    fingerprint: str | None,
    folder_digest: str | None,
    state: RunState,
    created_by: str,
    plan: Mapping[str, object],
    waves: Sequence[str],
) -> None:
    """A run and its waves, by their names. The oldest runs beyond RUNS_KEPT are forgotten, unless they are open."""
    table = models.MigrationRun
    connection.execute(
        insert(table).values(
            id=run_id,
            format=format,
            directory=directory,
            target=target,
            fingerprint=fingerprint,
            folder_digest=folder_digest,
            state=state,
            created_by=created_by,
            plan=plan,
            started_at=func.now(),
            counts={},
        )
    )
    if waves:
        rows = [{"run_id": run_id, "number": number, "name": name} for number, name in enumerate(waves)]
        connection.execute(insert(models.MigrationWave), rows)
    kept = select(table.id).order_by(table.started_at.desc(), table.id.desc()).limit(RUNS_KEPT)
    connection.execute(delete(table).where(table.id.not_in(kept), table.state.not_in(OPEN)))
    folder, run = models.MigrationFolder, models.MigrationRun
    used = select(run.folder_digest).where(run.folder_digest.is_not(None))
    connection.execute(delete(folder).where(folder.digest.not_in(used)))


def add_folder(connection: Connection, digest: str, content: bytes) -> None:
    """Keeps the folder for runs; safe twice. Before ``add_run``, in the same transaction."""
    connection.execute(upsert(models.MigrationFolder).values(digest=digest, content=content).on_conflict_do_nothing())


def folder_content(connection: Connection, digest: str) -> bytes | None:
    table = models.MigrationFolder
    return connection.execute(select(table.content).where(table.digest == digest)).scalar_one_or_none()


def add_wave(connection: Connection, run_id: str, name: str) -> int:
    """One more wave at the end; returns its number. The caller holds the run."""
    table = models.MigrationWave
    number = connection.execute(
        select(func.coalesce(func.max(table.number), -1) + 1).where(table.run_id == run_id)
    ).scalar_one()
    connection.execute(insert(table).values(run_id=run_id, number=number, name=name))
    return number


def add_tenants(connection: Connection, run_id: str, tenants: Sequence[PlannedTenant]) -> None:
    """Tenants that the run is to visit; one that it has already is left as it is."""
    if not tenants:
        return
    table = models.MigrationTenant
    rows = [
        {
            "run_id": run_id,
            "project_id": each.tenant_id,
            "slug": each.slug,
            "provider_id": each.provider_id,
            "wave": each.wave,
            "from_version": each.from_version,
            "pending": list(each.pending),
            "opens_at": each.opens_at,
            "closes_at": each.closes_at,
        }
        for each in tenants
    ]
    connection.execute(upsert(table).on_conflict_do_nothing(), rows)


def run_by_id(connection: Connection, run_id: str) -> Run | None:
    return _one(connection, _RUN.where(models.MigrationRun.id == run_id))


def hold_run(connection: Connection, run_id: str) -> Run | None:
    """The run as it is now, held against everybody who moves it until the transaction ends."""
    return _one(connection, _RUN.where(models.MigrationRun.id == run_id).with_for_update())


def is_running(connection: Connection, run_id: str) -> bool:
    """Whether nobody holds it now: it is not paused, stopped, aborted or ended."""
    table = models.MigrationRun
    return connection.execute(select(table.state).where(table.id == run_id)).scalar() == "running"


def latest_run(connection: Connection) -> Run | None:
    """The run that began last."""
    table = models.MigrationRun
    return _one(connection, _RUN.order_by(table.started_at.desc(), table.id.desc()).limit(1))


def latest_of_all(connection: Connection) -> Run | None:
    """The last run that was over all tenants, is finished and not undone, and whose migrations the catalog has."""
    table = models.MigrationRun
    not_undone = text(
        """
        (
            NOT EXISTS (
                SELECT FROM migration_undo AS undo
                WHERE undo.run_id = migration_run.id AND undo.finished_at IS NOT NULL
            )
            OR EXISTS (
                SELECT FROM migration_tenant AS done
                LEFT JOIN migration_undo AS undo ON undo.run_id = done.run_id AND undo.project_id = done.project_id
                WHERE done.run_id = migration_run.id AND done.outcome = 'applied' AND undo.finished_at IS NULL
            )
        )
        """
    )
    return _one(
        connection,
        _RUN.where(
            table.state == "finished",
            table.folder_digest.is_not(None),
            table.plan["selection"] == text("'{}'::jsonb"),
            not_undone,
        )
        .order_by(table.started_at.desc(), table.id.desc())
        .limit(1),
    )


def born_meanwhile(connection: Connection, run_id: str, *, fingerprint: str | None, limit: int) -> list[PlannedTenant]:
    """Tenants that became ready after the run was planned, and have neither its schema nor a place in it."""
    found = connection.execute(
        text(
            """
            SELECT project.id, customer.slug, project.provider_id, project.schema_version
            FROM project JOIN customer ON customer.id = project.customer_id
            WHERE project.state = 'ready'
                AND project.ready_at >= (SELECT started_at FROM migration_run WHERE id = :run_id)
                AND project.schema_fingerprint IS DISTINCT FROM :fingerprint
                AND NOT EXISTS (SELECT FROM migration_tenant tenant
                    WHERE tenant.run_id = :run_id AND tenant.project_id = project.id)
            ORDER BY customer.slug LIMIT :limit
            """
        ),
        {"run_id": run_id, "fingerprint": fingerprint, "limit": limit},
    )
    return [
        PlannedTenant(
            tenant_id=TenantId(row.id),
            slug=row.slug,
            provider_id=ProviderId(row.provider_id),
            wave=0,
            from_version=row.schema_version,
            pending=(),
        )
        for row in found
    ]


def runs_page(connection: Connection, *, limit: int) -> list[Run]:
    """The newest first."""
    table = models.MigrationRun
    found = connection.execute(
        _RUN.order_by(table.started_at.desc(), table.id.desc()).limit(min(limit, LISTED_MAX))
    ).mappings()
    return [_run(row) for row in found]


def open_runs(connection: Connection) -> list[Run]:
    """Those that have not ended, the newest first."""
    table = models.MigrationRun
    found = connection.execute(
        # The literal list is the one that the partial index was made with.
        _RUN.where(text("state IN ('planned', 'running', 'paused', 'stopped')")).order_by(table.started_at.desc())
    ).mappings()
    return [_run(row) for row in found]


def set_state(
    connection: Connection, run_id: str, state: RunState, *, only_from: Sequence[RunState], reason: str | None = None
) -> bool:
    """Whether it was in one of these states, and is in the new one now. Ending it counts what became of its tenants."""
    table = models.MigrationRun
    values: dict[str, object] = {"state": state, "reason": reason}
    if state in {"finished", "aborted"}:
        values |= {"finished_at": func.now(), "counts": counts(connection, run_id), "interrupted": state == "aborted"}
    changed = connection.execute(update(table).where(table.id == run_id, table.state.in_(only_from)).values(**values))
    return changed.rowcount == 1


def reopen(connection: Connection, run_id: str) -> None:
    """It runs, whatever it was. The caller holds it."""
    table = models.MigrationRun
    # The counts are of its last end: while it runs they are taken anew.
    values: dict[str, object] = {
        "state": "running",
        "reason": None,
        "finished_at": None,
        "interrupted": False,
        "counts": {},
    }
    connection.execute(update(table).where(table.id == run_id).values(**values))


def counts(connection: Connection, run_id: str) -> dict[str, int]:
    """Tenants by outcome; ``waiting`` those that have none yet."""
    found = connection.execute(
        text(
            """
            SELECT coalesce(outcome, 'waiting') AS outcome, count(*) AS tenants
            FROM migration_tenant WHERE run_id = :run_id GROUP BY 1
            """
        ),
        {"run_id": run_id},
    )
    return {row.outcome: row.tenants for row in found}


# -- its waves -----------------------------------------------------------------------------------------------


def waves(connection: Connection, run_id: str, *, stalled_seconds: float) -> list[Wave]:
    """In their order, with how many of their tenants stand where."""
    found = connection.execute(
        text(
            """
            SELECT wave.number, wave.name, wave.state, wave.worker, wave.started_at, wave.finished_at, wave.verdict,
                wave.claimed_at < now() - make_interval(secs => :stalled) AS silent,
                count(tenant.*) AS tenants,
                count(tenant.*) FILTER (WHERE tenant.outcome IS NULL) AS waiting,
                count(tenant.*) FILTER (WHERE tenant.outcome IS NULL AND tenant.worker IS NOT NULL
                    AND tenant.claimed_at >= now() - make_interval(secs => :stalled)) AS in_hand,
                count(tenant.*) FILTER (WHERE tenant.outcome IS NULL
                    AND (tenant.opens_at > now() OR tenant.closes_at <= now())) AS shut,
                min(CASE WHEN tenant.opens_at > now() THEN tenant.opens_at ELSE tenant.closes_at END)
                    FILTER (WHERE tenant.outcome IS NULL
                    AND (tenant.opens_at > now() OR tenant.closes_at <= now())) AS opens_at,
                count(tenant.*) FILTER (WHERE tenant.outcome = 'applied') AS applied,
                count(tenant.*) FILTER (WHERE tenant.outcome = 'failed') AS failed,
                count(tenant.*) FILTER (WHERE tenant.outcome = 'failed'
                    AND tenant.failure ->> 'sqlstate' = '55P03') AS lock_waits,
                percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY tenant.seconds)
                    FILTER (WHERE tenant.outcome = 'applied') AS seconds
            FROM migration_wave wave
            LEFT JOIN migration_tenant tenant ON tenant.run_id = wave.run_id AND tenant.wave = wave.number
            WHERE wave.run_id = :run_id
            GROUP BY wave.run_id, wave.number ORDER BY wave.number
            """
        ),
        {"run_id": run_id, "stalled": stalled_seconds},
    ).mappings()
    return [
        Wave(
            number=row["number"],
            name=row["name"],
            state=cast(WaveState, row["state"]),
            worker=row["worker"],
            silent=bool(row["silent"]),
            started_at=row["started_at"],
            finished_at=row["finished_at"],
            verdict=row["verdict"],
            tenants=row["tenants"],
            waiting=row["waiting"],
            in_hand=row["in_hand"],
            shut=row["shut"],
            opens_at=row["opens_at"],
            applied=row["applied"],
            failed=row["failed"],
            lock_waits=row["lock_waits"],
            seconds_p50=row["seconds"][0] if row["seconds"] else None,
            seconds_p95=row["seconds"][1] if row["seconds"] else None,
        )
        for row in found
    ]


def set_wave(
    connection: Connection,
    run_id: str,
    number: int,
    state: WaveState,
    *,
    worker: str | None = None,
    verdict: Mapping[str, object] | None = None,
) -> None:
    """The caller holds the run."""
    table = models.MigrationWave
    values: dict[str, Any] = {"state": state, "worker": worker, "claimed_at": func.now() if worker else None}
    if state == "running":
        values |= {"started_at": func.coalesce(table.started_at, func.now()), "finished_at": None}
    if state in {"passed", "failed"}:
        values |= {"finished_at": func.now(), "verdict": verdict}
    connection.execute(update(table).where(table.run_id == run_id, table.number == number).values(**values))


def keep_judging(connection: Connection, run_id: str, number: int, worker: str) -> bool:
    """Says that who judges the wave lives; False where another does, or nobody any more."""
    table = models.MigrationWave
    kept = connection.execute(
        update(table)
        .where(table.run_id == run_id, table.number == number, table.worker == worker, table.state == "judging")
        .values(claimed_at=func.now())
    )
    return kept.rowcount == 1


# -- its tenants ---------------------------------------------------------------------------------------------


def claim_tenants(
    connection: Connection,
    run_id: str,
    wave: int,
    *,
    worker: str,
    limit: int,
    of_provider_max: int,
    stalled_seconds: float,
) -> list[Claimed]:
    """Tenants of a running run's wave for ``worker`` to do, none while it is held; ``of_provider_max`` are in hand at
    most at one provider.

    Its own are none that it could take over, however long it has been silent. The caller holds the run, so that two
    claims do not count past each other.
    """
    found = connection.execute(
        text(
            """
            WITH in_hand AS (
                SELECT provider_id, count(*) AS tenants FROM migration_tenant
                WHERE run_id = :run_id AND wave = :wave AND outcome IS NULL AND worker IS NOT NULL
                    AND claimed_at >= now() - make_interval(secs => :stalled)
                GROUP BY provider_id
            ), candidate AS (
                SELECT project_id, slug, row_number() OVER (PARTITION BY tenant.provider_id ORDER BY slug)
                    + coalesce(in_hand.tenants, 0) AS place
                FROM migration_tenant tenant LEFT JOIN in_hand USING (provider_id)
                WHERE run_id = :run_id AND wave = :wave AND outcome IS NULL
                    AND (worker IS NULL
                        OR (worker <> :worker AND claimed_at < now() - make_interval(secs => :stalled)))
                    AND (opens_at IS NULL OR (opens_at <= now() AND closes_at > now()))
                ORDER BY slug LIMIT :window
            ), chosen AS (
                SELECT project_id FROM candidate WHERE place <= :of_provider_max ORDER BY slug LIMIT :limit
            )
            UPDATE migration_tenant tenant
            SET worker = :worker, claimed_at = now(), fence = fence + 1, attempts = attempts + 1
            FROM chosen, project
            WHERE tenant.run_id = :run_id AND tenant.project_id = chosen.project_id AND project.id = tenant.project_id
            RETURNING tenant.project_id, tenant.slug, tenant.fence, tenant.attempts, tenant.pending,
                (SELECT slug FROM customer WHERE customer.id = project.customer_id) AS slug_now,
                project.state, project.schema_format, project.schema_version, project.schema_fingerprint,
                project.updated_at
            """
        ),
        {
            "run_id": run_id,
            "wave": wave,
            "worker": worker,
            "limit": limit,
            # Enough to find some of another provider where one has all that it may have.
            "window": limit + 4 * of_provider_max,
            "of_provider_max": of_provider_max,
            "stalled": stalled_seconds,
        },
    ).mappings()
    return [
        Claimed(
            tenant_id=TenantId(row["project_id"]),
            slug=row["slug_now"],
            fence=row["fence"],
            attempts=row["attempts"],
            pending=tuple(row["pending"]),
            ready=row["state"] == "ready",
            schema_format=row["schema_format"],
            schema_version=row["schema_version"],
            schema_fingerprint=row["schema_fingerprint"],
            as_of=row["updated_at"],
        )
        for row in found
    ]


def keep_claims(connection: Connection, run_id: str, worker: str) -> None:
    """Says that the worker lives: what it has claimed stays its own, also what it has not heard of yet."""
    table = models.MigrationTenant
    connection.execute(
        update(table)
        .where(table.run_id == run_id, table.worker == worker, table.outcome.is_(None))
        .values(claimed_at=func.now())
    )


def release_claims(connection: Connection, run_id: str, worker: str) -> None:
    """What the worker has in hand may be taken by others at once."""
    table, wave = models.MigrationTenant, models.MigrationWave
    connection.execute(
        update(table).where(table.run_id == run_id, table.worker == worker).values(worker=None, claimed_at=None)
    )
    connection.execute(
        update(wave)
        .where(wave.run_id == run_id, wave.worker == worker, wave.state == "judging")
        .values(state="running", worker=None, claimed_at=None)
    )


def workers_of(connection: Connection, run_id: str, *, stalled_seconds: float) -> dict[str, bool]:
    """Who has tenants of the run in hand, or judges a wave, and whether that one has been silent for long."""
    found = connection.execute(
        text(
            """
            SELECT worker, max(claimed_at) < now() - make_interval(secs => :stalled) AS silent FROM (
                SELECT worker, claimed_at FROM migration_tenant WHERE run_id = :run_id AND worker IS NOT NULL
                UNION ALL
                SELECT worker, claimed_at FROM migration_wave WHERE run_id = :run_id AND worker IS NOT NULL
            ) busy GROUP BY worker
            """
        ),
        {"run_id": run_id, "stalled": stalled_seconds},
    )
    return {row.worker: row.silent for row in found}


def record_done(connection: Connection, run_id: str, done: Sequence[Done]) -> int:
    """What became of tenants; returns how many were refused, because another has claimed them since."""
    if not done:
        return 0
    # One statement for all of them: a statement for each was a third of what a runner computes.
    written = connection.execute(
        text(
            """
            UPDATE migration_tenant tenant SET
                outcome = told.outcome, to_version = told.to_version, failure = told.failure,
                restore_point = told.restore_point, seconds = told.seconds,
                applied = ARRAY(SELECT jsonb_array_elements_text(told.applied)),
                notes = ARRAY(SELECT jsonb_array_elements_text(told.notes)),
                worker = NULL, claimed_at = NULL, finished_at = now()
            FROM jsonb_to_recordset(CAST(:done AS jsonb)) AS told (
                tenant_id uuid, fence bigint, outcome text, applied jsonb, to_version text, failure jsonb, notes jsonb,
                restore_point jsonb, seconds double precision
            )
            WHERE tenant.run_id = :run_id AND tenant.project_id = told.tenant_id AND tenant.fence = told.fence
                AND tenant.outcome IS NULL
            """
        ),
        {"run_id": run_id, "done": json.dumps([asdict(each) for each in done], default=str)},
    ).rowcount
    return len(done) - written


def release_tenant(connection: Connection, run_id: str, tenant: TenantId, fence: int) -> None:
    """It was claimed and not begun: others may take it, and it counts no attempt."""
    table = models.MigrationTenant
    connection.execute(
        update(table)
        .where(table.run_id == run_id, table.project_id == tenant, table.fence == fence, table.outcome.is_(None))
        .values(worker=None, claimed_at=None, attempts=table.attempts - 1)
    )


def retry_failed(connection: Connection, run_id: str) -> int:
    """Those that failed wait again; returns how many. Their waves run again. The caller holds the run."""
    table, wave = models.MigrationTenant, models.MigrationWave
    again = connection.execute(
        update(table)
        .where(table.run_id == run_id, table.outcome == "failed")
        # Above the fence of whoever repeats a failure that he does not know to have been heard.
        .values(outcome=None, finished_at=None, worker=None, claimed_at=None, fence=table.fence + 1)
    ).rowcount
    waiting = select(table.wave).where(table.run_id == run_id, table.outcome.is_(None))
    connection.execute(
        update(wave)
        .where(wave.run_id == run_id, (wave.state == "failed") | wave.number.in_(waiting), wave.state != "waiting")
        .values(state="running", finished_at=None, worker=None, claimed_at=None)
    )
    return again


def set_window(
    connection: Connection, run_id: str, tenant: TenantId, opens_at: datetime | None, closes_at: datetime | None
) -> None:
    """When the tenant may be changed next."""
    table = models.MigrationTenant
    connection.execute(
        update(table)
        .where(table.run_id == run_id, table.project_id == tenant)
        .values(opens_at=opens_at, closes_at=closes_at)
    )


def missed_windows(connection: Connection, run_id: str, *, limit: int) -> list[tuple[TenantId, str]]:
    """Waiting tenants whose window has closed, and what their windows are."""
    found = connection.execute(
        text(
            """
            SELECT tenant.project_id, customer.maintenance_window
            FROM migration_tenant tenant
            JOIN project ON project.id = tenant.project_id JOIN customer ON customer.id = project.customer_id
            WHERE tenant.run_id = :run_id AND tenant.outcome IS NULL AND tenant.closes_at <= now()
            ORDER BY tenant.slug LIMIT :limit
            """
        ),
        {"run_id": run_id, "limit": limit},
    )
    return [(TenantId(row.project_id), row.maintenance_window or "") for row in found]


def run_tenants(
    connection: Connection,
    run_id: str,
    *,
    outcomes: Sequence[str] = (),
    after: str = "",
    limit: int,
) -> list[RunTenant]:
    """In the order of their slugs, those behind ``after``; of these outcomes only (``waiting``: none yet)."""
    table = models.MigrationTenant
    query = select(table.__table__).where(table.run_id == run_id, table.slug > after)
    if outcomes:
        query = query.where(func.coalesce(table.outcome, "waiting").in_(outcomes))
    found = connection.execute(query.order_by(table.slug).limit(limit)).mappings()
    return [_run_tenant(row) for row in found]


def runs_of_tenant(connection: Connection, tenant: TenantId, *, limit: int) -> list[RunTenant]:
    """What runs did to this tenant, the latest first."""
    table = models.MigrationTenant
    query = select(table.__table__).where(table.project_id == tenant).order_by(table.finished_at.desc().nulls_first())
    return [_run_tenant(row) for row in connection.execute(query.limit(limit)).mappings()]


def seconds_before(connection: Connection, versions: Sequence[str], target: str | None) -> float | None:
    """The median time that these very migrations took a tenant in earlier runs to ``target``; None: never seen."""
    return connection.execute(
        text(
            """
            SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) FROM (
                SELECT tenant.seconds FROM migration_tenant tenant JOIN migration_run run ON run.id = tenant.run_id
                WHERE tenant.outcome = 'applied' AND run.target = :target AND tenant.applied = :versions
                ORDER BY tenant.finished_at DESC LIMIT 200
            ) latest
            """
        ),
        {"target": target, "versions": list(versions)},
    ).scalar_one()


# -- rows to records -----------------------------------------------------------------------------------------


def _one(connection: Connection, query: Any) -> Run | None:
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else _run(row)


def _run(row: RowMapping) -> Run:
    return Run(
        id=row["id"],
        state=cast(RunState, row["state"]),
        reason=row["reason"],
        format=row["format"],
        directory=row["directory"],
        target=row["target"],
        fingerprint=row["fingerprint"],
        folder_digest=row["folder_digest"],
        created_by=row["created_by"],
        plan=row["plan"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        interrupted=row["interrupted"],
        counts=row["counts"],
    )


def _run_tenant(row: RowMapping) -> RunTenant:
    return RunTenant(
        run_id=row["run_id"],
        tenant_id=TenantId(row["project_id"]),
        slug=row["slug"],
        provider_id=ProviderId(row["provider_id"]),
        wave=row["wave"],
        from_version=row["from_version"],
        pending=tuple(row["pending"]),
        outcome=row["outcome"],
        applied=tuple(row["applied"] or ()),
        to_version=row["to_version"],
        failure=row["failure"],
        notes=tuple(row["notes"] or ()),
        restore_point=row["restore_point"],
        seconds=row["seconds"],
        attempts=row["attempts"],
        worker=row["worker"],
        opens_at=row["opens_at"],
        finished_at=row["finished_at"],
    )
