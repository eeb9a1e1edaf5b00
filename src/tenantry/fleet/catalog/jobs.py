"""Jobs as the catalog has them: who may work on a batch, what became of each item, and the queue that wakes workers.

Our own tables are the truth. The queue (procrastinate's, in a schema of its own) only says "look at this batch": an
entry too many is harmless, and one that was lost is put back by ``queue_again``. Whoever claims a batch raises its
fence; all that is written about its items carries the fence, and is refused once another has claimed the batch.

Each function runs in the caller's transaction.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, NewType, cast
from uuid import UUID

from sqlalchemy import Connection, RowMapping, TextClause, insert, text

from tenantry.fleet.catalog import models

JobId = NewType("JobId", UUID)
JobState = Literal["waiting", "running", "cancelling", "done", "failed", "cancelled"]
"""``failed``: it ended, and some of its items failed. The rest are done."""

TASK: Final = "tenantry.batch"
"""How the queue calls the work on one batch."""
QUEUE_DEFAULT: Final = "tenants"
QUEUE_PASSES: Final = "passes"
"""Its batches come before all others: a pass is short, and nobody should have to wait behind a long job for it."""
QUEUED_MAX: Final = 1_000
"""Batches that one look puts back into the queue; the next look finds the rest."""
ROWS_MAX: Final = 5_000
"""Rows of one INSERT."""
_LOCK: Final = 0x7E4A_4792
"""Key of the advisory lock under which batches are queued, so that no two do it for the same batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to work on a batch, for as long as nobody has claimed it after us."""

    job_id: JobId
    number: int
    fence: int
    kind: str
    arguments: Mapping[str, object]
    created_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    subject: str
    input: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """What came of the wish to begin an item."""

    held: bool
    """False: the batch is another's now."""
    cancelled: bool
    attempts: int | None
    """This one included; None: there is nothing to do for it any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    id: JobId
    kind: str
    state: JobState
    arguments: Mapping[str, object]
    created_by: str
    created_at: datetime
    cancelled_at: datetime | None
    finished_at: datetime | None
    waiting: int
    done: int
    failed: int
    workers: tuple[str, ...]
    """Who works on it now."""

    @property
    def total(self) -> int:
        return self.waiting + self.done + self.failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    subject: str
    state: Literal["waiting", "done", "failed"]
    attempts: int
    input: Mapping[str, object]
    result: Mapping[str, object] | None
    error: str | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRun:
    """Of a kind: when a job of it began last, and whether one is still at it."""

    created_at: datetime
    unfinished: bool


def job_state(*, begun: bool, cancelled: bool, finished: bool, waiting: int, failed: int) -> JobState:
    """Pure."""
    if not finished:
        return "cancelling" if cancelled else "running" if begun else "waiting"
    if cancelled and waiting:
        return "cancelled"
    return "failed" if failed else "done"


# ------------------------------------------------------------------------------------------------- operators


def add_job(
    connection: Connection,
    *,
    kind: str,
    arguments: Mapping[str, object],
    created_by: str,
    items: Sequence[tuple[str, Mapping[str, object]]],
    batch_items: int,
    queue: str,
) -> JobId:
    """A job with all its batches, each in the queue. Subjects are unique within ``items``."""
    table = models.Job
    written = connection.execute(
        insert(table).values(kind=kind, arguments=dict(arguments), created_by=created_by).returning(table.id)
    )
    job_id = JobId(written.scalar_one())
    batches = [{"job_id": job_id, "number": number} for number in range((len(items) + batch_items - 1) // batch_items)]
    rows = [
        {"job_id": job_id, "subject": subject, "batch_number": place // batch_items, "input": dict(given)}
        for place, (subject, given) in enumerate(items)
    ]
    for model, values in ((models.JobBatch, batches), (models.JobItem, rows)):
        for start in range(0, len(values), ROWS_MAX):
            connection.execute(insert(model), values[start : start + ROWS_MAX])
    _queue_waiting(connection, queues={kind: queue}, job_id=job_id)
    return job_id


def find_jobs(connection: Connection, prefix: str) -> list[JobId]:
    """Two at most of those whose id begins with this."""
    found = connection.execute(
        text("SELECT id FROM job WHERE starts_with(id::text, :prefix) LIMIT 2"), {"prefix": prefix}
    )
    return [JobId(row) for row in found.scalars()]


def jobs_page(connection: Connection, *, limit: int, kinds_left_out: Iterable[str] = ()) -> list[Job]:
    """The newest first."""
    rows = connection.execute(
        text(
            _JOBS.format(
                chosen="SELECT * FROM job WHERE kind <> ALL (CAST(:kinds AS text[]))"
                " ORDER BY created_at DESC, id LIMIT :limit"
            )
        ),
        {"kinds": list(kinds_left_out), "limit": limit},
    )
    return [_job(row) for row in rows.mappings()]


def job_by_id(connection: Connection, job_id: JobId) -> Job | None:
    rows = connection.execute(text(_JOBS.format(chosen="SELECT * FROM job WHERE id = :id")), {"id": job_id})
    row = rows.mappings().one_or_none()
    return None if row is None else _job(row)


def last_of_kinds(connection: Connection, kinds: Iterable[str]) -> dict[str, Job]:
    """The newest job of each kind that has one."""
    rows = connection.execute(
        text(
            _JOBS.format(
                chosen="SELECT DISTINCT ON (kind) * FROM job WHERE kind = ANY (CAST(:kinds AS text[]))"
                " ORDER BY kind, created_at DESC, id"
            )
        ),
        {"kinds": list(kinds)},
    )
    return {job.kind: job for job in map(_job, rows.mappings())}


_JOBS: Final = """
    SELECT j.*, item.waiting, item.done, item.failed, coalesce(batch.workers, '{{}}') AS workers, batch.begun
    FROM ({chosen}) AS j
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE state = 'waiting') AS waiting,
               count(*) FILTER (WHERE state = 'done') AS done,
               count(*) FILTER (WHERE state = 'failed') AS failed
        FROM job_item WHERE job_id = j.id
    ) AS item
    CROSS JOIN LATERAL (
        SELECT array_agg(DISTINCT worker) FILTER (WHERE state = 'running') AS workers, bool_or(fence > 0) AS begun
        FROM job_batch WHERE job_id = j.id
    ) AS batch
    ORDER BY j.created_at DESC, j.id
"""


def _job(row: RowMapping) -> Job:
    return Job(
        id=JobId(row["id"]),
        kind=row["kind"],
        state=job_state(
            begun=row["begun"],
            cancelled=row["cancelled_at"] is not None,
            finished=row["finished_at"] is not None,
            waiting=row["waiting"],
            failed=row["failed"],
        ),
        arguments=row["arguments"],
        created_by=row["created_by"],
        created_at=row["created_at"],
        cancelled_at=row["cancelled_at"],
        finished_at=row["finished_at"],
        waiting=row["waiting"],
        done=row["done"],
        failed=row["failed"],
        workers=tuple(row["workers"]),
    )


def items_page(connection: Connection, job_id: JobId, *, states: Sequence[str], limit: int) -> list[Item]:
    rows = connection.execute(
        text(
            """
            SELECT subject, state, attempts, input, result, error, finished_at FROM job_item
            WHERE job_id = :job_id AND state = ANY (CAST(:states AS text[])) ORDER BY subject LIMIT :limit
            """
        ),
        {"job_id": job_id, "states": list(states), "limit": limit},
    )
    return [Item(**row) for row in rows.mappings()]


def retry_job(connection: Connection, job_id: JobId, *, queues: Mapping[str, str]) -> int:
    """Lets what failed wait again, and with it what a cancelled job never began; returns how many items wait now.

    A batch that somebody works on keeps its worker, which finds them; others are claimed anew.
    """
    _hold(connection, job_id)
    parameters = {"job_id": job_id}
    connection.execute(
        text(
            """
            UPDATE job_item SET state = 'waiting', attempts = 0, error = NULL, finished_at = NULL
            WHERE job_id = :job_id AND state = 'failed'
            """
        ),
        parameters,
    )
    waiting = connection.execute(
        text("SELECT count(*) FROM job_item WHERE job_id = :job_id AND state = 'waiting'"), parameters
    ).scalar_one()
    if waiting:
        connection.execute(
            text(
                """
                UPDATE job_batch AS batch SET state = 'waiting', worker = NULL, claimed_at = NULL, finished_at = NULL
                WHERE job_id = :job_id AND state IN ('done', 'cancelled') AND EXISTS (
                    SELECT FROM job_item AS item
                    WHERE item.job_id = batch.job_id AND item.batch_number = batch.number AND item.state = 'waiting')
                """
            ),
            parameters,
        )
        connection.execute(
            text("UPDATE job SET cancelled_at = NULL, finished_at = NULL WHERE id = :job_id"), parameters
        )
        _queue_waiting(connection, queues=queues, job_id=job_id)
    return waiting


def cancel_job(connection: Connection, job_id: JobId) -> None:
    """Nobody begins another item of it. Those under way end, and their results are kept. Safe twice."""
    _hold(connection, job_id)
    for statement in (
        "UPDATE job SET cancelled_at = coalesce(cancelled_at, now()) WHERE id = :job_id AND finished_at IS NULL",
        """
        UPDATE job_batch SET state = 'cancelled', finished_at = now()
        FROM job WHERE job.id = job_batch.job_id AND job.cancelled_at IS NOT NULL
            AND job_batch.job_id = :job_id AND job_batch.state = 'waiting'
        """,
        _FINISH_JOB,
    ):
        connection.execute(text(statement), {"job_id": job_id})


def prune_jobs(connection: Connection, *, days: int, kinds: Iterable[str], runs_kept: int) -> int:
    """Forgets jobs that ended long ago, and all but the newest runs of these kinds; returns how many."""
    return connection.execute(
        text(
            """
            DELETE FROM job WHERE finished_at < now() - make_interval(days => :days) OR id IN (
                SELECT id FROM (
                    SELECT id, finished_at, row_number() OVER (PARTITION BY kind ORDER BY created_at DESC, id) AS place
                    FROM job WHERE kind = ANY (CAST(:kinds AS text[]))
                ) AS run WHERE place > :kept AND finished_at IS NOT NULL)
            """
        ),
        {"days": days, "kinds": list(kinds), "kept": runs_kept},
    ).rowcount


_FINISH_JOB: Final = """
    UPDATE job SET finished_at = now() WHERE id = :job_id AND finished_at IS NULL AND NOT EXISTS (
        SELECT FROM job_batch WHERE job_id = :job_id AND state IN ('waiting', 'running'))
"""


def _hold(connection: Connection, job_id: JobId) -> None:
    """Of several that end a job's batches at once, the last one must see the others' batches ended."""
    connection.execute(text("SELECT FROM job WHERE id = :job_id FOR UPDATE"), {"job_id": job_id})


# --------------------------------------------------------------------------------------------------- workers

# A catalog that was away has kept everybody from saying that they live: nobody is stalled until it has been back for
# as long as a worker may be silent.
_STALLED: Final = """(
    job_batch.state = 'running' AND job_batch.claimed_at < now() - make_interval(secs => :stalled)
    AND pg_postmaster_start_time() < now() - make_interval(secs => :stalled)
)"""

# FOR SHARE, since a fence that is only read could be raised before the write that relies on it commits.
_HELD: Final = """
    WITH held AS MATERIALIZED (
        SELECT job.cancelled_at FROM job_batch JOIN job ON job.id = job_batch.job_id
        WHERE job_batch.job_id = :job_id AND job_batch.number = :number AND job_batch.fence = :fence
            AND job_batch.state = 'running'
        FOR SHARE OF job_batch
    )
"""


def claim_batch(
    connection: Connection, job_id: JobId, number: int, *, worker: str, stalled_seconds: float
) -> Claim | None:
    """None where the batch is finished, or another one works on it and lives."""
    claimed = connection.execute(
        text(
            f"""
            UPDATE job_batch SET state = 'running', fence = fence + 1, worker = :worker, claimed_at = now()
            FROM job WHERE job.id = job_batch.job_id AND job_batch.job_id = :job_id AND job_batch.number = :number
                AND (job_batch.state = 'waiting' OR {_STALLED})
            RETURNING job_batch.fence, job.kind, job.arguments, job.created_by
            """  # noqa: S608 - put together from this module's own text
        ),
        {"job_id": job_id, "number": number, "worker": worker, "stalled": stalled_seconds},
    )
    row = claimed.mappings().one_or_none()
    if row is None:
        return None
    return Claim(job_id=job_id, number=number, **row)


def kind_of(connection: Connection, job_id: JobId) -> str | None:
    """None when the job is forgotten."""
    return connection.execute(text("SELECT kind FROM job WHERE id = :id"), {"id": job_id}).scalar_one_or_none()


def waiting_items(connection: Connection, claim: Claim) -> list[Waiting]:
    rows = connection.execute(
        text(
            """
            SELECT subject, input FROM job_item
            WHERE job_id = :job_id AND batch_number = :number AND state = 'waiting' ORDER BY subject
            """
        ),
        {"job_id": claim.job_id, "number": claim.number},
    )
    return [Waiting(**row) for row in rows.mappings()]


def begin_item(connection: Connection, claim: Claim, subject: str) -> Begun:
    """Counts an attempt, unless the batch is another's, the job is cancelled or the item is done."""
    answer = connection.execute(
        _under_the_fence(
            """
            , begun AS (
                UPDATE job_item SET attempts = attempts + 1
                WHERE job_id = :job_id AND subject = :subject AND state = 'waiting'
                    AND EXISTS (SELECT FROM held WHERE cancelled_at IS NULL)
                RETURNING attempts
            )
            SELECT (SELECT count(*) FROM held) AS held, (SELECT cancelled_at FROM held) AS cancelled_at,
                (SELECT attempts FROM begun) AS attempts
            """
        ),
        _fenced(claim) | {"subject": subject},
    )
    row = answer.mappings().one()
    return Begun(held=row["held"] == 1, cancelled=row["cancelled_at"] is not None, attempts=row["attempts"])


def finish_item(
    connection: Connection, claim: Claim, subject: str, *, result: Mapping[str, object] | None, error: str | None
) -> bool:
    """Records what became of an item, with an error as failed. False: the batch is another's, nothing was written.

    Safe twice, for a writer who does not know whether the catalog heard it.
    """
    held = connection.execute(
        _under_the_fence(
            """
            , written AS (
                UPDATE job_item SET state = :state, result = CAST(:result AS jsonb), error = :error, finished_at = now()
                WHERE job_id = :job_id AND subject = :subject AND state = 'waiting' AND EXISTS (SELECT FROM held)
            )
            SELECT count(*) FROM held
            """
        ),
        _fenced(claim)
        | {
            "subject": subject,
            "state": "done" if error is None else "failed",
            "result": None if result is None else json.dumps(result),
            "error": error,
        },
    )
    return held.scalar_one() == 1


def finish_batch(connection: Connection, claim: Claim) -> Literal["ended", "more", "lost"]:
    """Ends the batch, and its job with the last one. ``more``: items wait, as those do that were retried meanwhile."""
    _hold(connection, claim.job_id)
    ended = connection.execute(
        _under_the_fence(
            """
            , waiting AS (
                SELECT count(*) AS items FROM job_item
                WHERE job_id = :job_id AND batch_number = :number AND state = 'waiting'
            )
            UPDATE job_batch SET state = CASE items WHEN 0 THEN 'done' ELSE 'cancelled' END, finished_at = now()
            FROM held, waiting WHERE job_id = :job_id AND number = :number
                AND (items = 0 OR held.cancelled_at IS NOT NULL)
            """
        ),
        _fenced(claim),
    )
    if ended.rowcount == 1:
        connection.execute(text(_FINISH_JOB), {"job_id": claim.job_id})
        return "ended"
    return "more" if keep_batches(connection, [claim]) else "lost"


def release_batch(connection: Connection, claim: Claim, *, queues: Mapping[str, str]) -> bool:
    """Lets another have it at once. False: another has it already."""
    released = connection.execute(
        text(
            """
            UPDATE job_batch SET state = 'waiting', worker = NULL, claimed_at = NULL
            WHERE job_id = :job_id AND number = :number AND fence = :fence AND state = 'running'
            """
        ),
        _fenced(claim),
    )
    if released.rowcount == 1:
        _queue_waiting(connection, queues=queues, job_id=claim.job_id)
        return True
    return False


def keep_batches(connection: Connection, claims: Sequence[Claim]) -> set[tuple[JobId, int]]:
    """Says that their worker lives; returns those that are still its own."""
    kept = connection.execute(
        text(
            """
            UPDATE job_batch SET claimed_at = now()
            FROM unnest(CAST(:jobs AS uuid[]), CAST(:numbers AS int[]), CAST(:fences AS bigint[]))
                AS mine(job_id, number, fence)
            WHERE job_batch.job_id = mine.job_id AND job_batch.number = mine.number
                AND job_batch.fence = mine.fence AND job_batch.state = 'running'
            RETURNING job_batch.job_id, job_batch.number
            """
        ),
        {
            "jobs": [claim.job_id for claim in claims],
            "numbers": [claim.number for claim in claims],
            "fences": [claim.fence for claim in claims],
        },
    )
    return {(JobId(job_id), number) for job_id, number in kept}


def _under_the_fence(statement: str) -> TextClause:
    return text(_HELD + statement)


def _fenced(claim: Claim) -> dict[str, object]:
    return {"job_id": claim.job_id, "number": claim.number, "fence": claim.fence}


# ------------------------------------------------------------------------------------- the queue, and the look


def try_look(connection: Connection) -> bool:
    """Whether this transaction may look for what is left to do; one in the fleet does at a time."""
    return connection.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _LOCK}).scalar_one()


def last_runs(connection: Connection, kinds: Iterable[str]) -> tuple[datetime, dict[str, LastRun]]:
    """The catalog's time, by which passes are due on whatever machine a worker runs, and when each ran last."""
    now = cast(datetime, connection.execute(text("SELECT now()")).scalar_one())
    rows = connection.execute(
        text(
            """
            SELECT kind, max(created_at) AS created_at, bool_or(finished_at IS NULL) AS unfinished
            FROM job WHERE kind = ANY (CAST(:kinds AS text[])) GROUP BY kind
            """
        ),
        {"kinds": list(kinds)},
    )
    return now, {
        row["kind"]: LastRun(created_at=row["created_at"], unfinished=row["unfinished"]) for row in rows.mappings()
    }


def queue_again(connection: Connection, *, queues: Mapping[str, str], stalled_seconds: float) -> int:
    """Puts back into the queue every batch that nobody works on, and forgets entries of workers that are gone."""
    with _queue_schema(connection):
        connection.execute(
            text(
                """
                DELETE FROM procrastinate_jobs AS entry WHERE status = 'doing' AND NOT EXISTS (
                    SELECT FROM procrastinate_workers WHERE id = entry.worker_id
                        AND last_heartbeat > now() - make_interval(secs => :stalled))
                """
            ),
            {"stalled": stalled_seconds},
        )
    return _queue_waiting(connection, queues=queues, stalled_seconds=stalled_seconds)


def queue_job(connection: Connection, job_id: JobId, *, queues: Mapping[str, str]) -> int:
    """Puts back into the queue every batch of the job that waits and is not in it; returns how many."""
    return _queue_waiting(connection, queues=queues, job_id=job_id)


def _queue_waiting(
    connection: Connection,
    *,
    queues: Mapping[str, str],
    job_id: JobId | None = None,
    stalled_seconds: float | None = None,
) -> int:
    """Queues what waits and is not in the queue, of one job or of all, with ``stalled_seconds`` also what stalls."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    with _queue_schema(connection):
        return (
            connection.execute(
                text(
                    f"""
                WITH wanted AS (
                    SELECT job_batch.job_id, job_batch.number,
                        coalesce(CAST(:queues AS jsonb) ->> job.kind, :queue) AS queue,
                        row_number() OVER (ORDER BY job.created_at, job.id, job_batch.number) AS place
                    FROM job_batch JOIN job ON job.id = job_batch.job_id
                    WHERE job_batch.state IN ('waiting', 'running')
                        AND (job_batch.state = 'waiting' OR {_STALLED})
                        AND (job_batch.job_id = :job_id OR CAST(:job_id AS uuid) IS NULL)
                        AND NOT EXISTS (
                            SELECT FROM procrastinate_jobs
                            WHERE status = 'todo' AND queueing_lock = job_batch.job_id || '/' || job_batch.number)
                    ORDER BY place LIMIT :limit
                )
                SELECT coalesce(cardinality(procrastinate_defer_jobs_v1(array_agg(ROW(
                    queue, :task, CASE queue WHEN :passes THEN 1 ELSE 0 END, NULL, job_id || '/' || number,
                    jsonb_build_object('job_id', job_id, 'number', number), NULL
                )::procrastinate_job_to_defer_v1 ORDER BY place))), 0)
                FROM wanted HAVING count(*) > 0
                """  # noqa: S608 - put together from this module's own text
                ),
                {
                    "job_id": job_id,
                    "stalled": stalled_seconds,
                    "limit": None if job_id else QUEUED_MAX,
                    "queues": json.dumps(dict(queues)),
                    "queue": QUEUE_DEFAULT,
                    "passes": QUEUE_PASSES,
                    "task": TASK,
                },
            ).scalar()
            or 0
        )


@contextmanager
def _queue_schema(connection: Connection) -> Generator[None]:
    """procrastinate's functions and triggers name its tables without their schema."""
    before = connection.execute(text("SELECT current_setting('search_path')")).scalar_one()
    setting = text("SELECT set_config('search_path', :path, true)")
    connection.execute(setting, {"path": f"procrastinate, {before}" if before else "procrastinate"})
    yield
    # Not after an error: the transaction is over then, and the setting with it.
    connection.execute(setting, {"path": before})
