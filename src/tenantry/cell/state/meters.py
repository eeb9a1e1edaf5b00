"""What cell.db knows of consumption: amounts by hour, day and month, sizes as steps, and where the last looks ended.

Whoever reads an instance says what it found since a beginning; what the last reading lacked is added here, in the
same transaction that notes the reading. So no reading counts twice, and one that was lost is made good by the next.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from tenantry.cell.consumption import (
    GRAINS,
    KEPT,
    Amounts,
    Grain,
    Reading,
    Step,
    spread,
    start_of,
)
from tenantry.neon.ids import BranchId, EndpointId, HeadId, ProjectId

STEP_SECONDS_MIN: Final = 900
"""Sizes that change sooner than this after the last step change that step: a busy branch has a hundred a day."""
WORKERS_KEPT: Final = 1_000
"""Door workers whose last report is remembered; one that is forgotten has been dead for long."""


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


class Meters:
    """Statements on one connection, inside the caller's transaction; ``Tables.meters`` is the way here."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    # -- adding ------------------------------------------------------------------------------------------

    def add(self, project_id: ProjectId, branch_id: BranchId, hour: datetime, amounts: Amounts) -> None:
        """To the hour, its day and its month; a project that is gone for good is passed over."""
        for grain in GRAINS:
            self._connection.execute(
                "insert into usage (project_id, grain, start, branch_id, active_seconds, compute_seconds,"
                " written_bytes, sent_bytes)"
                " select ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8 where exists (select 1 from project where id = ?1)"
                " on conflict (project_id, grain, start, branch_id) do update set"
                " active_seconds = active_seconds + ?5, compute_seconds = compute_seconds + ?6,"
                " written_bytes = written_bytes + ?7, sent_bytes = sent_bytes + ?8",
                (
                    project_id, grain, _text(start_of(grain, hour)), branch_id,
                    amounts.active_seconds, amounts.compute_seconds, amounts.written_bytes, amounts.sent_bytes,
                ),
            )  # fmt: skip

    def note(self, reading: Reading) -> None:
        """Adds what the readings before lacked, and remembers this one."""
        seconds, cu = self._note_process(reading)
        for hour, part in spread(reading.at, seconds):
            self.add(
                reading.project_id, reading.branch_id, hour, Amounts(active_seconds=part, compute_seconds=part * cu)
            )
        written = self._note_log(reading)
        if written:
            self.add(reading.project_id, reading.branch_id, reading.at, Amounts(written_bytes=written))
        if reading.logical_bytes is not None and reading.history_bytes is not None:
            self.note_sizes(
                reading.project_id, reading.branch_id, Step(reading.at, reading.logical_bytes, reading.history_bytes)
            )

    def _note_process(self, reading: Reading) -> tuple[float, float]:
        """The seconds that were not counted yet, and the size that they were spent at."""
        counted, cu = self._counted(reading)
        self._connection.execute(
            "insert into process_reading (endpoint_id, pid, start_ticks, seconds, cu)"
            " select ?1, ?2, ?3, ?4, ?5 where exists (select 1 from endpoint where id = ?1)"
            " on conflict (endpoint_id) do update set pid = ?2, start_ticks = ?3, seconds = ?4, cu = ?5",
            (reading.endpoint_id, reading.pid, reading.start_ticks, max(counted, reading.seconds), cu),
        )
        return max(0.0, reading.seconds - counted), cu

    def _counted(self, reading: Reading) -> tuple[float, float]:
        """The seconds of the reading's process that were counted before, and the size that it has."""
        known = self._connection.execute(
            "select seconds, cu from process_reading where endpoint_id = ? and pid = ? and start_ticks = ?",
            (reading.endpoint_id, reading.pid, reading.start_ticks),
        ).fetchone()
        return known or (0.0, reading.cu)

    def _note_log(self, reading: Reading) -> int:
        """The bytes of log that were not counted yet. The mark only rises: log that a crash took back counts once."""
        if reading.log_end is None:
            return 0
        known = self._connection.execute("select lsn from log_reading where head_id = ?", (reading.head_id,)).fetchone()
        begin = reading.log_begin if known is None else int(known[0])
        mark = reading.log_end if begin is None else max(begin, reading.log_end)
        self._connection.execute(
            "insert into log_reading (head_id, lsn)"
            " select ?1, ?2 where exists (select 1 from head where id = ?1)"
            " on conflict (head_id) do update set lsn = ?2",
            (reading.head_id, mark),
        )
        return mark - (mark if begin is None else begin)

    def note_sizes(self, project_id: ProjectId, branch_id: BranchId, step: Step) -> None:
        """What the branch occupies from now on; of a branch that is gone nothing is noted."""
        key = (project_id, branch_id)
        if self._connection.execute("select 1 from branch where id = ?", (branch_id,)).fetchone() is None:
            return
        self._connection.execute(
            "update branch set logical_size = ? where id = ? and logical_size is not ?",
            (step.logical_bytes, branch_id, step.logical_bytes),
        )
        last = self._connection.execute(
            "select at, logical_bytes, history_bytes from size_step where project_id = ? and branch_id = ?"
            " order by at desc limit 1",
            key,
        ).fetchone()
        sizes = (step.logical_bytes, step.history_bytes)
        if last is not None and (int(last[1]), int(last[2])) == sizes:
            return
        at = _text(step.at)
        if last is not None and (step.at - datetime.fromisoformat(last[0])).total_seconds() < STEP_SECONDS_MIN:
            at = last[0]
        self._connection.execute(
            "insert into size_step (project_id, branch_id, at, logical_bytes, history_bytes)"
            " values (?1, ?2, ?3, ?4, ?5)"
            " on conflict (project_id, branch_id, at) do update set logical_bytes = ?4, history_bytes = ?5",
            (*key, at, *sizes),
        )

    def unsized(self, limit: int) -> list[tuple[ProjectId, BranchId, HeadId]]:
        """Branches that nobody has measured yet, and the heads they run."""
        rows = self._connection.execute(
            "select project_id, id, head_id from branch b where state = 'ready' and not exists"
            " (select 1 from size_step s where s.project_id = b.project_id and s.branch_id = b.id) limit ?",
            (limit,),
        )
        return [(ProjectId(project), BranchId(branch), HeadId(head)) for project, branch, head in rows]

    def note_report(self, worker: str, number: int, at: datetime, sent: Iterable[tuple[EndpointId, int]]) -> bool:
        """Adds what a worker's report says was sent; False for a report that has been added before.

        Reports of one worker are numbered and come in order.
        """
        known = self._connection.execute("select number from worker_report where worker = ?", (worker,)).fetchone()
        if known is not None and number <= int(known[0]):
            return False
        self._connection.execute(
            "insert into worker_report (worker, number) values (?1, ?2) on conflict (worker) do update set number = ?2",
            (worker, number),
        )
        for endpoint_id, count in sent:
            place = self._connection.execute(
                "select project_id, branch_id from endpoint where id = ?", (endpoint_id,)
            ).fetchone()
            if place is not None and count:
                self.add(ProjectId(place[0]), BranchId(place[1]), at, Amounts(sent_bytes=count))
        return True

    # -- asking ------------------------------------------------------------------------------------------

    def uncounted(self, readings: Iterable[Reading]) -> list[tuple[Reading, Amounts]]:
        """What each reading would add of time now."""
        found: list[tuple[Reading, Amounts]] = []
        for reading in readings:
            counted, cu = self._counted(reading)
            seconds = max(0.0, reading.seconds - counted)
            found.append((reading, Amounts(active_seconds=seconds, compute_seconds=seconds * cu)))
        return found

    def sums_of_projects(self, project_ids: Sequence[ProjectId], start: datetime) -> dict[ProjectId, Amounts]:
        """What each has consumed in the month that begins at ``start``; deleted branches count."""
        rows = self._connection.execute(
            "select project_id, sum(active_seconds), sum(compute_seconds), sum(written_bytes), sum(sent_bytes)"
            " from usage where project_id in (select value from json_each(?)) and grain = 'monthly' and start = ?"
            " group by 1",
            (json.dumps(list(project_ids)), _text(start)),
        )
        return {ProjectId(row[0]): _amounts(row[1:]) for row in rows}

    def sums_of_branches(self, branch_ids: Sequence[BranchId], start: datetime) -> dict[BranchId, Amounts]:
        rows = self._connection.execute(
            "select u.branch_id, active_seconds, compute_seconds, written_bytes, sent_bytes from branch b"
            " join usage u on u.project_id = b.project_id and u.grain = 'monthly' and u.start = ?2 and"
            " u.branch_id = b.id where b.id in (select value from json_each(?1))",
            (json.dumps(list(branch_ids)), _text(start)),
        )
        return {BranchId(row[0]): _amounts(row[1:]) for row in rows}

    def sizes_of_projects(self, project_ids: Sequence[ProjectId]) -> dict[ProjectId, int]:
        """Databases and history of all branches of each project, as last measured."""
        rows = self._connection.execute(
            "select project_id, sum((select logical_bytes + history_bytes from size_step s"
            " where s.project_id = b.project_id and s.branch_id = b.id order by at desc limit 1))"
            " from branch b where project_id in (select value from json_each(?)) group by 1",
            (json.dumps(list(project_ids)),),
        )
        return {ProjectId(project_id): int(size) for project_id, size in rows if size is not None}

    def largest_branches(self, project_ids: Sequence[ProjectId]) -> dict[ProjectId, int]:
        """The logical size of each project's largest living branch."""
        rows = self._connection.execute(
            "select project_id, max(logical_size) from branch where logical_size is not null and deleted_at is null"
            " and project_id in (select value from json_each(?)) group by 1",
            (json.dumps(list(project_ids)),),
        )
        return {ProjectId(project_id): int(size) for project_id, size in rows}

    def last_active(self, column: str, keys: Sequence[str]) -> dict[str, datetime]:
        """When an endpoint of each was last at work; ``column`` is ``project_id`` or ``branch_id``."""
        assert column in ("project_id", "branch_id")
        rows = self._connection.execute(
            f"select {column}, max(last_active) from endpoint where last_active is not null"  # noqa: S608 - asserted
            f" and {column} in (select value from json_each(?)) group by 1",
            (json.dumps(list(keys)),),
        )
        return {str(key): datetime.fromisoformat(last) for key, last in rows}

    def branches_changed(self, keys: Sequence[ProjectId]) -> dict[ProjectId, datetime]:
        """When a branch of each project last became another one: was made, restored, or took another's place."""
        rows = self._connection.execute(
            "select project_id, max(updated_at) from branch where project_id in (select value from json_each(?))"
            " group by 1",
            (json.dumps(list(keys)),),
        )
        return {ProjectId(key): datetime.fromisoformat(last) for key, last in rows}

    def amounts(
        self, project_id: ProjectId, grain: Grain, begin: datetime, end: datetime
    ) -> dict[BranchId, dict[datetime, Amounts]]:
        """By branch and beginning, of what begins in the range."""
        rows = self._connection.execute(
            "select branch_id, start, active_seconds, compute_seconds, written_bytes, sent_bytes from usage"
            " where project_id = ? and grain = ? and start >= ? and start < ?",
            (project_id, grain, _text(begin), _text(end)),
        )
        found: dict[BranchId, dict[datetime, Amounts]] = {}
        for row in rows:
            found.setdefault(BranchId(row[0]), {})[datetime.fromisoformat(row[1])] = _amounts(row[2:])
        return found

    def consumers(
        self, project_ids: Sequence[ProjectId] | None, before: tuple[datetime, ProjectId] | None, limit: int
    ) -> list[tuple[ProjectId, datetime]]:
        """Projects and when they were made, the youngest first, behind ``before``; also deleted ones that are kept."""
        made, last = (None, None) if before is None else before
        rows = self._connection.execute(
            "select id, created_at from project"
            " where (?1 is null or id in (select value from json_each(?1)))"
            " and (?2 is null or (created_at, id) < (?2, ?3)) order by created_at desc, id desc limit ?4",
            (
                None if project_ids is None else json.dumps(list(project_ids)),
                None if made is None else made.astimezone(UTC).isoformat(timespec="microseconds"),
                last,
                limit,
            ),
        )
        return [(ProjectId(project_id), datetime.fromisoformat(made)) for project_id, made in rows]

    def roots(self, project_id: ProjectId) -> dict[BranchId, bool]:
        """Each branch of the project that is not gone, and whether it has no parent."""
        rows = self._connection.execute("select id, parent_id is null from branch where project_id = ?", (project_id,))
        return {BranchId(branch_id): bool(root) for branch_id, root in rows}

    def steps(self, project_id: ProjectId) -> dict[BranchId, list[Step]]:
        """The sizes of each branch in time, gone ones too."""
        rows = self._connection.execute(
            "select branch_id, at, logical_bytes, history_bytes from size_step where project_id = ?"
            " order by branch_id, at",
            (project_id,),
        )
        found: dict[BranchId, list[Step]] = {}
        for branch_id, at, logical, history in rows:
            found.setdefault(BranchId(branch_id), []).append(Step(datetime.fromisoformat(at), logical, history))
        return found

    # -- forgetting --------------------------------------------------------------------------------------

    def forget(self, project_ids: Sequence[ProjectId], now: datetime) -> int:
        """Drops what nobody can ask for any more; of sizes a week back one a day stays. How many rows that was."""
        ids = json.dumps(list(project_ids))
        gone = 0
        for grain in GRAINS:
            gone += self._connection.execute(
                "delete from usage where project_id in (select value from json_each(?)) and grain = ? and start < ?",
                (ids, grain, _text(now - KEPT[grain])),
            ).rowcount
        mine = "project_id in (select value from json_each(?1))"
        later = (
            "exists (select 1 from size_step n where n.project_id = size_step.project_id"
            " and n.branch_id = size_step.branch_id and n.at > size_step.at"
        )
        gone += self._connection.execute(
            f"delete from size_step where {mine} and at < ?2"  # noqa: S608 - the words above
            f" and {later} and n.at < ?2 and substr(n.at, 1, 10) = substr(size_step.at, 1, 10))",
            (ids, _text(now - KEPT["hourly"])),
        ).rowcount
        return (
            gone
            + self._connection.execute(
                f"delete from size_step where {mine} and at < ?2 and {later} and n.at <= ?2)",  # noqa: S608
                (ids, _text(now - KEPT["monthly"])),
            ).rowcount
        )

    def forget_workers(self) -> None:
        """All but the WORKERS_KEPT that came last."""
        self._connection.execute(
            "delete from worker_report where ordinal <= (select max(ordinal) from worker_report) - ?", (WORKERS_KEPT,)
        )


def _amounts(row: Sequence[float]) -> Amounts:
    return Amounts(
        active_seconds=float(row[0]),
        compute_seconds=float(row[1]),
        written_bytes=int(row[2]),
        sent_bytes=int(row[3]),
    )
