"""Jobs as operators meet them: started, listed, shown, retried, cancelled. No worker is needed for any of it."""

from __future__ import annotations

import builtins
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Final, cast

from tenantry.errors import Conflict, InvalidInput, NotFound
from tenantry.fleet.catalog import jobs as rows
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.events import actor
from tenantry.fleet.catalog.jobs import Job, JobId
from tenantry.fleet.jobs.kinds import Kind, Pass, Verbs, kinds, passes

ITEMS_MAX: Final = 100_000
"""Subjects of one job."""
SUBJECT_CHARS_MAX: Final = 200
LISTED_DEFAULT: Final = 50
LISTED_MAX: Final = 1_000
SHOWN_MAX: Final = 1_000
"""Items of one job that are shown; the counts are always of all."""
KEPT_DAYS: Final = 30
"""How long a job that ended is remembered."""
RUNS_KEPT: Final = 20
"""Runs of each pass that are remembered."""
_ID_PREFIX: Final = re.compile(r"[0-9a-f]{4}[0-9a-f-]{0,32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    job: Job
    items: Sequence[rows.Item]
    """What failed and what waits, first; ``everything`` adds what is done. At most SHOWN_MAX."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassShown:
    name: str
    cron: str
    next_at: datetime
    last: Job | None
    said: Sequence[str]
    """What the last run said that ended."""
    error: str | None


class Jobs:
    """Of one fleet. Every call is one transaction in the catalog."""

    def __init__(self, catalog: Catalog, fleet: Verbs) -> None:
        self._catalog = catalog
        self._fleet = fleet

    @cached_property
    def kinds(self) -> Mapping[str, Kind]:
        return {kind.name: kind for kind in kinds(self._fleet)}

    @cached_property
    def _passes(self) -> Sequence[Pass]:
        return passes(self._fleet)

    def start(
        self,
        kind: str,
        subjects: Mapping[str, Mapping[str, object]],
        *,
        arguments: Mapping[str, object] | None = None,
        by: str | None = None,
    ) -> JobId:
        """Writes the job down and wakes the workers. ``subjects`` gives each its own input, which may be empty.

        Raises InvalidInput for a kind that there is not, for no subjects and for too many.
        """
        if kind not in self.kinds:
            raise InvalidInput(f"there is no kind of job {kind!r}", next_step=f"choose one of: {', '.join(self.kinds)}")
        return start_job(self._catalog, self.kinds[kind], subjects, arguments=arguments or {}, by=by or actor())

    def list(self, *, limit: int = LISTED_DEFAULT) -> builtins.list[Job]:
        """The newest first, without the runs of passes."""
        with self._catalog.transaction() as connection:
            return rows.jobs_page(
                connection, limit=min(limit, LISTED_MAX), kinds_left_out=[each.name for each in self._passes]
            )

    def passes(self) -> builtins.list[PassShown]:
        """What is done by itself, when it is done next, and how it went."""
        from tenantry.fleet.jobs.schedule import next_time  # noqa: PLC0415 - cronsim's calendar, for this alone

        shown: list[PassShown] = []
        with self._catalog.transaction() as connection:
            last = rows.last_of_kinds(connection, [each.name for each in self._passes])
            for each in self._passes:
                job = last.get(each.name)
                items = rows.items_page(connection, job.id, states=["done", "failed"], limit=1) if job else []
                result = (items[0].result if items else None) or {}
                said = cast("list[str]", result.get("said", []))  # written by Pass.as_kind
                shown.append(
                    PassShown(
                        name=each.name,
                        cron=each.cron,
                        next_at=next_time(each.cron, datetime.now(UTC)),
                        last=job,
                        said=said,
                        error=items[0].error if items else None,
                    )
                )
        return shown

    def show(self, name: str, *, everything: bool = False) -> Shown:
        """``name`` is the job's id, or as much of its beginning as no other has. Raises NotFound and Conflict."""
        job = self.find(name)
        states = ["failed", "waiting", "done"] if everything else ["failed", "waiting"]
        with self._catalog.transaction() as connection:
            items = rows.items_page(connection, job.id, states=states, limit=SHOWN_MAX)
        return Shown(job=job, items=sorted(items, key=lambda item: states.index(item.state)))

    def retry(self, name: str) -> tuple[Job, int]:
        """Works again on what failed, and on what a cancelled job never began; with how many items wait now."""
        job = self.find(name)
        with self._catalog.transaction() as connection:
            waiting = rows.retry_job(connection, job.id, queues=self._queues())
        return self.find(str(job.id)), waiting

    def cancel(self, name: str) -> Job:
        """Begins no further item. Raises Conflict for a job that has ended otherwise."""
        job = self.find(name)
        if job.finished_at is not None and job.cancelled_at is None:
            raise Conflict(f"job {short(job.id)} has ended: there is nothing to cancel", job_id=str(job.id))
        with self._catalog.transaction() as connection:
            rows.cancel_job(connection, job.id)
        return self.find(str(job.id))

    def prune(self) -> builtins.list[str]:
        """Forgets what ended long ago."""
        with self._catalog.transaction() as connection:
            gone = rows.prune_jobs(
                connection, days=KEPT_DAYS, kinds=[each.name for each in self._passes], runs_kept=RUNS_KEPT
            )
        return [f"{gone} jobs that ended were forgotten"] if gone else []

    def find(self, name: str) -> Job:
        if not _ID_PREFIX.fullmatch(name):
            raise InvalidInput(f"{name!r} is not a job's id", next_step="see `tenantry jobs list`")
        with self._catalog.transaction() as connection:
            found = rows.find_jobs(connection, name)
            if len(found) > 1:
                raise Conflict(f"several jobs' ids begin with {name}", next_step="type more of it")
            job = rows.job_by_id(connection, found[0]) if found else None
        if job is None:
            raise NotFound(f"there is no job {name}", next_step="see `tenantry jobs list`")
        return job

    def _queues(self) -> dict[str, str]:
        return queues_of([*self.kinds.values(), *(each.as_kind() for each in self._passes)])


def start_job(
    catalog: Catalog,
    kind: Kind,
    subjects: Mapping[str, Mapping[str, object]],
    *,
    arguments: Mapping[str, object],
    by: str,
) -> JobId:
    """Writes job, batches, items and their places in the queue in one transaction."""
    if not subjects:
        raise InvalidInput(f"a job of kind {kind.name} needs something to work on")
    if len(subjects) > ITEMS_MAX:
        raise InvalidInput(f"{len(subjects)} subjects are more than the {ITEMS_MAX} of one job", next_step="start two")
    if any(not 0 < len(each) <= SUBJECT_CHARS_MAX for each in subjects):
        raise InvalidInput(f"a subject has 1 to {SUBJECT_CHARS_MAX} characters")
    with catalog.transaction() as connection:
        return rows.add_job(
            connection,
            kind=kind.name,
            arguments=arguments,
            created_by=by,
            items=list(subjects.items()),
            batch_items=kind.batch_items,
            queue=kind.queue,
        )


def queues_of(known: Sequence[Kind]) -> dict[str, str]:
    return {kind.name: kind.queue for kind in known}


def short(job_id: JobId) -> str:
    """As much of an id as people type."""
    return str(job_id)[:8]
