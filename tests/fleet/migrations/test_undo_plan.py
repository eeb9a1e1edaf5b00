"""What undoing a run means for one tenant: who goes back, who is refused, and what the operator is told to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tenantry.errors import NotSupported, TenantryError
from tenantry.fleet.catalog.records import TenantId
from tenantry.fleet.catalog.undoing import Left, UndoRecord
from tenantry.fleet.migrations.formats.base import Format
from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.restore_point import RestorePoint
from tenantry.fleet.migrations.results import Failure
from tenantry.fleet.migrations.tenant import SchemaState
from tenantry.fleet.migrations.undo_plan import Seen, Step, assess, assess_down
from tenantry.postgres.lsn import Lsn

AT = datetime(2026, 11, 24, 10, 41, tzinfo=UTC)
TENANT = TenantId(UUID(int=7))
POINT = RestorePoint(kind="lsn", value="0/2000", at=AT)
LEFT = Left(
    run_id="run-1",
    tenant_id=TENANT,
    slug="acme",
    state="ready",
    outcome="applied",
    from_version="0001",
    to_version="0003",
    applied=["0002", "0003"],
    failure=None,
    restore_point=POINT.as_dict(),
    finished_at=AT + timedelta(seconds=1),
)


@dataclass(frozen=True)
class Past:
    """A tenant whose history reaches back an hour before the run."""

    tenant: Any = None
    history_from: datetime = AT - timedelta(hours=1)
    branches: frozenset[str] = frozenset({"main"})
    snapshots: frozenset[str] = frozenset()
    restores: Sequence[tuple[datetime, str]] = field(default_factory=tuple)
    preserved_as: str = "main-until-now"


def seen(version: str | None, lsn: int = 0x3000) -> Seen:
    return Seen(state=SchemaState("sql", version, f"fingerprint of {version}"), lsn=Lsn(lsn))


def undone(run_id: str = "run-1", *, finished: bool, name: str = "main-until-then") -> UndoRecord:
    return UndoRecord(
        run_id=run_id,
        tenant_id=TENANT,
        how="restore",
        preserved_as=name,
        begun_at=AT,
        finished_at=AT if finished else None,
        version="0001",
    )


def step(
    left: Left = LEFT,
    *,
    known: Sequence[UndoRecord] = (),
    later: str | None = None,
    past: Past | TenantryError | None = None,
    at: Seen | Failure | None = None,
) -> Step:
    return assess(left, known=known, later=later, past=past or Past(), seen=at or seen("0003"))


def test_a_tenant_goes_back_and_it_is_told_what_was_written_since() -> None:
    found = step()
    assert (found.standing, found.from_version, found.to_version) == ("to_undo", "0003", "0001")
    assert (found.point, found.written_bytes, found.preserved_as) == (POINT, 0x1000, "main-until-now")
    # One that a migration has broken is not asked, and goes back all the same.
    broken = step(at=Failure(kind="connect", message="it does not start"))
    assert (broken.standing, broken.written_bytes) == ("to_undo", None)
    assert "does not start" in broken.reason


@pytest.mark.parametrize(
    ("case", "reason", "next_step"),
    [
        ({"left": replace(LEFT, restore_point=None)}, "no state from before the run was kept", "new migration"),
        ({"later": "run-2"}, "run-2 has migrated it further", "migrate undo --run run-2 --tenants acme"),
        (
            {"past": Past(restores=((AT + timedelta(minutes=5), "main-until-x"),))},
            "it was restored at 2026-11-24 10:46:00Z; what it was then is branch main-until-x",
            "tenantry restore acme --to 0/2000",
        ),
        ({"at": seen("0004")}, "its ledger says 0004, and the run left 0003", "look at it first"),
        ({"past": Past(history_from=AT + timedelta(hours=1))}, "its history begins about", "backup"),
        (
            {"left": replace(LEFT, restore_point={**POINT.as_dict(), "kind": "snapshot", "value": "snap-1"})},
            "the snapshot from before the run is gone",
            "backup",
        ),
        ({"past": NotSupported("provider x does not have going back in time")}, "does not have going back", "backup"),
        ({"left": replace(LEFT, state="leaving")}, "it is leaving", "tenantry show acme"),
    ],
)
def test_whoever_cannot_go_back_is_refused_with_what_to_do(case: dict[str, Any], reason: str, next_step: str) -> None:
    found = step(**case)
    assert found.standing == "refused"
    assert reason in found.reason
    assert next_step in found.next_step


def test_nothing_is_done_where_nothing_is_left_of_the_run() -> None:
    rolled_back = replace(LEFT, outcome="failed", applied=[], failure={"kind": "sql"})
    assert step(rolled_back).standing == "nothing"
    assert step(at=seen("0001")).standing == "nothing"
    done = step(known=[undone(finished=True)])
    assert (done.standing, done.preserved_as) == ("undone", "main-until-then")


def test_a_migration_that_failed_half_way_without_a_transaction_is_undone() -> None:
    half = replace(LEFT, outcome="failed", applied=[], to_version="0001", failure={"statements_kept": 2})
    assert step(half, at=seen("0001")).standing == "to_undo"


def test_an_undo_that_was_interrupted_is_ended_where_it_took_place_and_judged_anew_where_not() -> None:
    begun = [undone(finished=False)]
    there = Past(
        branches=frozenset({"main", "main-until-then"}), restores=((AT + timedelta(hours=1), "main-until-then"),)
    )
    found = step(known=begun, past=there, at=seen("0001"))
    assert (found.standing, found.preserved_as) == ("to_undo", "main-until-then")
    assert step(known=begun).standing == "to_undo"
    assert step(known=begun, later="run-2").standing == "refused"


def test_undoing_a_later_run_is_no_restore_of_somebodys() -> None:
    past = Past(restores=((AT + timedelta(minutes=5), "main-until-y"),))
    assert step(past=past, known=[undone("run-2", finished=True, name="main-until-y")]).standing == "to_undo"


def test_the_own_way_back_needs_a_file_for_each_version(tmp_path: Path) -> None:
    def ways_from(*versions: str) -> Format:
        directory = tmp_path / "-".join(versions)
        directory.mkdir()
        for number in range(1, 5):
            (directory / f"000{number}_x.sql").write_text("select 1")
        for version in versions:
            (directory / f"{version}_x.down.sql").write_text("select 1")
        return open_folder(directory)

    def by(folder: Format | None, at: Seen | Failure, later: str | None = None) -> tuple[str, str]:
        found = assess_down(LEFT, known=[], later=later, folder=folder, seen=at)
        return found.standing, found.reason

    both = ways_from("0002", "0003")
    assert by(both, seen("0003")) == ("to_undo", "")
    assert by(ways_from("0003"), seen("0003")) == ("refused", "there is no way back from 0002")
    assert by(None, seen("0003")) == ("refused", "its migrations have no ways back")
    assert by(both, seen("0003"), "run-2") == ("refused", "run-2 has migrated it further")
    assert by(both, seen("0001")) == ("nothing", "it is at 0001 already")
    # Somebody took half of it back by hand.
    assert by(both, seen("0002")) == ("to_undo", "")
    assert by(both, seen("0009"))[0] == "refused"
    assert by(both, Failure(kind="connect", message="asleep"))[0] == "refused"
