"""Carries operations out, one project's after another, and goes on after a crash where the last step ended."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from tenantry.cell import metrics
from tenantry.cell.model import Operation
from tenantry.cell.operations.context import Context, Verb
from tenantry.errors import Defect, HistoryError, TenantryError
from tenantry.neon.ids import OperationId, ProjectId
from tenantry.runtime.failpoints import failpoint
from tenantry.runtime.tasks import Tasks

_log = structlog.get_logger("operations")

ATTEMPTS_MAX: Final = 5
"""How often one step is tried before its operation has failed."""
RETRY_SECONDS: Final = (0.1, 0.5, 2.0, 5.0)
STUCK_SECONDS: Final = (1.0, 5.0, 15.0, 60.0)
"""Pauses after an operation could neither go on nor be given up; the last one is repeated."""
WAIT_SECONDS_MAX: Final = 30.0
"""How long an API call waits for its operations before it answers that they are running."""


class Runner:
    """Runs the unfinished operations of each project in the order in which they were written down."""

    def __init__(self, context: Context, verbs: Sequence[Verb]) -> None:
        self._context = context
        self._verbs: Mapping[str, Verb] = {verb.name: verb for verb in verbs}
        self._tasks = Tasks("operations")
        self._running: dict[ProjectId, asyncio.Task[None]] = {}
        self._poked: set[ProjectId] = set()
        """Since somebody looked last what there is to do."""
        self._awaited: set[OperationId] = set()
        self._failures: dict[OperationId, TenantryError] = {}

    async def resume(self) -> int:
        """Takes up what an earlier control process left unfinished. How many projects have such work."""
        unfinished = await self._context.state.read(lambda tables: tables.operations_unfinished())
        projects = {operation.project_id for operation in unfinished}
        for project_id in projects:
            self.poke(project_id)
        return len(projects)

    def poke(self, project_id: ProjectId) -> asyncio.Task[None]:
        """Makes sure that somebody works on the project's unfinished operations; call it after writing them down."""
        self._poked.add(project_id)
        task = self._running.get(project_id)
        if task is None or task.done():
            task = self._tasks.start(self._work(project_id), f"project {project_id}")
            self._running[project_id] = task
            task.add_done_callback(lambda done: self._running.pop(project_id, None) if done is task else None)
        return task

    async def finish(self, operations: Sequence[Operation]) -> tuple[Operation, ...]:
        """Runs these operations (of one project) and answers them as they are at the end.

        Raises what a failed one raised. After WAIT_SECONDS_MAX they are answered as they are, still running.
        """
        if not operations:
            return ()
        ids = {operation.id for operation in operations}
        note_begun(operations)
        self._awaited |= ids
        try:
            await asyncio.wait([self.poke(operations[0].project_id)], timeout=WAIT_SECONDS_MAX)
            failures = [error for i in ids if (error := self._failures.pop(i, None)) is not None]
        finally:
            self._awaited -= ids
        if failures:
            raise failures[0]
        return await self._context.state.read(
            lambda tables: tuple(tables.operation(operation.id) or operation for operation in operations)
        )

    async def _work(self, project_id: ProjectId) -> None:
        stuck = 0
        while True:
            try:
                self._poked.discard(project_id)
                waiting = await self._context.state.read(lambda tables: tables.operations_unfinished(project_id))
                if not waiting:
                    if project_id in self._poked:  # written down while we looked: nobody else works on it
                        continue
                    return
                await self._carry_out(waiting[0], waiting[1:])
                stuck = 0
            except Exception as error:  # noqa: BLE001 - the boundary of the service: a project must not stay locked
                # Not even its failure could be written down, as on a full disk: it goes on when that can be.
                _log.error("operation is stuck", project_id=project_id, error=str(error), exc_info=error)
                await asyncio.sleep(STUCK_SECONDS[min(stuck, len(STUCK_SECONDS) - 1)])
                stuck += 1

    async def _carry_out(self, operation: Operation, later: Sequence[Operation]) -> None:
        verb = self._verbs[operation.verb]
        # Whoever's request this task was begun in, what it logs belongs to the operation.
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(
            operation_id=operation.id, project_id=operation.project_id, verb=operation.verb
        )
        for number, step in enumerate(verb.steps[operation.step :], start=operation.step):
            failpoint(f"{verb.name}.{number}.before")
            for attempt in range(ATTEMPTS_MAX):
                try:
                    await step(self._context, operation)
                    break
                except TenantryError as error:
                    operation = dataclasses.replace(operation, failures_count=operation.failures_count + 1)
                    # A past that is missing or damaged does not come back by asking again.
                    hopeless = error.blame == "client" or isinstance(error, HistoryError)
                    if hopeless or attempt == ATTEMPTS_MAX - 1:
                        await self._fail(operation, error, later)
                        return
                    _log.warning("step failed, trying again", step=number, error=str(error))
                    metrics.operation_retries.labels(verb.name).inc()
                    await asyncio.sleep(RETRY_SECONDS[attempt])
                except Exception as error:  # noqa: BLE001 - the boundary of the service: a defect fails its operation only
                    _log.error("defect in an operation", step=number, exc_info=error)
                    await self._fail(operation, Defect(f"{type(error).__name__}: {error}"), later)
                    return
            failpoint(f"{verb.name}.{number}.after")
            last = number == len(verb.steps) - 1
            operation = await self._note(operation, step=number + 1, finished=last)

    async def _note(self, operation: Operation, *, step: int, finished: bool) -> Operation:
        now = self._context.clock.now()
        after = dataclasses.replace(
            operation,
            step=step,
            status="finished" if finished else "running",
            updated_at=now,
            finished_at=now if finished else None,
        )
        await self._context.state.write(lambda tables: tables.update(after))
        if finished:
            note_ended(after)
        return after

    async def _fail(self, operation: Operation, error: TenantryError, later: Sequence[Operation]) -> None:
        """The operation has failed: its traces are removed, and what was to come after it is skipped."""
        undo = self._verbs[operation.verb].undo
        if undo is not None:
            await undo(self._context, operation)
        now = self._context.clock.now()
        failed = dataclasses.replace(
            operation, status="failed", error=error.client_text, updated_at=now, finished_at=now
        )
        skipped = [dataclasses.replace(o, status="skipped", updated_at=now, finished_at=now) for o in later]
        log = _log.info if error.blame == "client" else _log.error
        log("operation failed", error=str(error))
        await self._context.state.write(lambda tables: [tables.update(o) for o in (failed, *skipped)])
        # Not before that is written: what is stuck is tried again, and nobody must hear that it has failed.
        if operation.id in self._awaited:
            self._failures[operation.id] = error
        for ended in (failed, *skipped):
            note_ended(ended)

    async def stop(self) -> None:
        """Leaves what is unfinished for the next start. Safe twice."""
        await self._tasks.stop()


def note_begun(operations: Sequence[Operation]) -> None:
    """A line of the log that joins the request under way with its operations."""
    _log.info("operations begun", project_id=operations[0].project_id, operation_ids=[o.id for o in operations])


def note_ended(operation: Operation) -> None:
    """Counts an operation and writes a line, once it has ended whichever way."""
    seconds = ((operation.finished_at or operation.updated_at) - operation.created_at).total_seconds()
    metrics.operations_ended.labels(operation.verb, operation.status).inc()
    metrics.operation_seconds.labels(operation.verb).observe(max(0.0, seconds))
    _log.info("operation ended", operation_id=operation.id, verb=operation.verb, status=operation.status)
