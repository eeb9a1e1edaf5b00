"""What undoing a run means for each of its tenants: decided from what is known of it, before anything happens. Pure.

A tenant that somebody has changed since, or brought back, is refused with what to do: undoing would take that too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Literal, Protocol

from tenantry.errors import TenantryError
from tenantry.fleet.catalog.records import Tenant, TenantId
from tenantry.fleet.catalog.undoing import How, Left, UndoRecord
from tenantry.fleet.migrations.formats.base import Format, GoesBack
from tenantry.fleet.migrations.restore_point import RestorePoint
from tenantry.fleet.migrations.results import Failure
from tenantry.fleet.migrations.tenant import SchemaState, TenantSlug
from tenantry.postgres.lsn import Lsn

BY_HAND: Final = "put the way back into a new migration, or restore the tenant from a backup"
Standing = Literal["to_undo", "undone", "nothing", "refused"]
"""``nothing``: the run left nothing in this tenant, or nothing is left of it."""


class Past(Protocol):
    """What a tenant can be brought back to, and what was done with its past already."""

    @property
    def tenant(self) -> Tenant: ...

    @property
    def history_from(self) -> datetime: ...

    @property
    def branches(self) -> frozenset[str]: ...

    @property
    def snapshots(self) -> frozenset[str]:
        """Their ids."""
        ...

    @property
    def restores(self) -> Sequence[tuple[datetime, str]]:
        """When it was brought back, and the branch that keeps what was there until then."""
        ...

    @property
    def preserved_as(self) -> str:
        """A name for its present that nobody else takes."""
        ...


class TimeMachine(Protocol):
    """Brings tenants back in place. Threads share it. Raises TenantryError only."""

    def look_back(self, slug: TenantSlug) -> Past:
        """Changes nothing and wakes nobody. Raises NotSupported where there is no way back."""
        ...

    def go_back(self, slug: TenantSlug, point: RestorePoint, preserved_as: str) -> bool:
        """Returns when the tenant is in that state; False when it was already. Safe to call again at any time."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a tenant itself says."""

    state: SchemaState | None
    """What its ledger says; None where nobody here reads that format any more."""
    lsn: Lsn
    """Where its log is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What undoing a run does with one of its tenants."""

    run_id: str
    slug: TenantSlug
    tenant_id: TenantId
    standing: Standing
    from_version: str | None
    """What the run left."""
    to_version: str | None
    """What was there before."""
    applied: tuple[str, ...]
    """What the run applied, oldest first."""
    point: RestorePoint | None
    preserved_as: str | None = None
    written_bytes: int | None = None
    """What was written to its log since, the migration included; None where that is not known."""
    reason: str = ""
    """Why it is refused, or not needed."""
    next_step: str = ""

    def as_dict(self) -> dict[str, object]:
        return {
            "tenant": self.slug,
            "run_id": self.run_id,
            "standing": self.standing,
            "from_version": self.from_version,
            "to_version": self.to_version,
            "restore_point": self.point.as_dict() if self.point else None,
            "written_bytes": self.written_bytes,
            "preserved_as": self.preserved_as,
            "reason": self.reason,
            "next_step": self.next_step,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoPlan:
    run_id: str
    how: How
    steps: tuple[Step, ...]

    def of(self, standing: Standing) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.standing == standing)

    def as_dict(self) -> dict[str, object]:
        return {"run_id": self.run_id, "by": self.how, "tenants": [step.as_dict() for step in self.steps]}


def assess(
    left: Left,
    *,
    known: Sequence[UndoRecord],
    later: str | None,
    past: Past | TenantryError,
    seen: Seen | Failure | None,
) -> Step:
    """What undoing means for one tenant, by restoring it. Pure.

    ``known`` are all undos of the tenant, ``later`` a run that has changed it since, and ``past`` and ``seen`` what its
    provider and the tenant itself say, or why they do not.
    """
    point = RestorePoint.of(left.restore_point) if left.restore_point else None
    step = _step(left, point)
    ours = next((each for each in known if each.run_id == left.run_id), None)
    if (early := _without_looking(step, left, ours)) is not None:
        return early
    if isinstance(past, TenantryError):
        return replace(step, reason=past.message, next_step=past.next_step or BY_HAND)
    written = seen.lsn - point.lsn if isinstance(seen, Seen) and point and point.lsn is not None else None
    step = replace(step, preserved_as=past.preserved_as, written_bytes=written)
    if ours is not None and ours.preserved_as in past.branches:
        return replace(step, standing="to_undo", preserved_as=ours.preserved_as, reason="it is back already")
    if point is None:
        return replace(step, reason="no state from before the run was kept", next_step=BY_HAND)
    if (refusal := _moved_on(step, left, known, later, past, seen)) is not None:
        return refusal
    if (refusal := _out_of_reach(step, point, past)) is not None:
        return refusal
    reason = "" if isinstance(seen, Seen) else f"it could not be asked: {seen.message}" if seen else ""
    return replace(step, standing="to_undo", reason=reason)


def _step(left: Left, point: RestorePoint | None) -> Step:
    """As it stands until a reason is found to undo it."""
    return Step(
        run_id=left.run_id,
        slug=TenantSlug(left.slug),
        tenant_id=left.tenant_id,
        standing="refused",
        from_version=left.to_version,
        to_version=left.from_version,
        applied=tuple(left.applied),
        point=point,
    )


def _without_looking(step: Step, left: Left, ours: UndoRecord | None) -> Step | None:
    """What the catalog alone decides."""
    if ours is not None and ours.finished_at is not None:
        return replace(
            step,
            standing="undone",
            preserved_as=ours.preserved_as,
            reason=f"it was undone at {ours.finished_at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}",
        )
    if left.state != "ready":
        return replace(step, reason=f"it is {left.state}", next_step=f"see `tenantry show {left.slug}`")
    # A migration without a transaction around it may have failed half way.
    half = bool(left.failure and left.failure.get("statements_kept"))
    if not left.applied and not half:
        return replace(step, standing="nothing", reason="the run left nothing in it")
    return None


def _moved_on(
    step: Step, left: Left, known: Sequence[UndoRecord], later: str | None, past: Past, seen: Seen | Failure | None
) -> Step | None:
    """Whether somebody has changed the tenant's schema, or its past, since the run."""
    if later is not None:
        return replace(
            step,
            reason=f"{later} has migrated it further",
            next_step=f"undo that first: `tenantry migrate undo --run {later} --tenants {left.slug}`",
        )
    undone = {each.preserved_as for each in known}
    restores = [(at, name) for at, name in past.restores if at > left.finished_at and name not in undone]
    if restores:
        at, name = max(restores)
        return replace(
            step,
            reason=f"it was restored at {at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}; what it was then is branch {name}",
            next_step=f"look at it, then choose yourself: `tenantry restore {left.slug} --to {_where(step.point)}`",
        )
    if not isinstance(seen, Seen) or seen.state is None or seen.state.version == left.to_version:
        return None
    if seen.state.version == left.from_version and left.applied:
        return replace(step, standing="nothing", reason=f"it is at {seen.state.version or 'no version'} already")
    return replace(
        step,
        reason=f"its ledger says {seen.state.version or 'no version'}, and the run left {left.to_version}",
        next_step="somebody has migrated it in another way: look at it first",
    )


def _where(point: RestorePoint | None) -> str:
    return "TIME" if point is None or point.kind != "lsn" else point.value


def _out_of_reach(step: Step, point: RestorePoint, past: Past) -> Step | None:
    if point.kind == "lsn" and point.at < past.history_from:
        return replace(
            step,
            reason=f"its history begins about {past.history_from.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}, after that run",
            next_step=BY_HAND,
        )
    if point.kind == "snapshot" and point.value not in past.snapshots:
        return replace(step, reason="the snapshot from before the run is gone", next_step=BY_HAND)
    return None


def assess_down(
    left: Left,
    *,
    known: Sequence[UndoRecord],
    later: str | None,
    folder: Format | None,
    seen: Seen | Failure | None,
) -> Step:
    """The same by the migrations' own ways back. Pure; ``folder`` is the tenant's."""
    step = _step(left, None)
    ours = next((each for each in known if each.run_id == left.run_id), None)
    if (early := _without_looking(step, left, ours)) is not None:
        return early
    if later is not None:
        return replace(
            step,
            reason=f"{later} has migrated it further",
            next_step=f"undo that first: `tenantry migrate undo --run {later} --tenants {left.slug} --by down`",
        )
    if not isinstance(folder, GoesBack):
        return replace(step, reason="its migrations have no ways back", next_step="undo by the restore point")
    ways = {migration.version for migration in folder.migrations if migration.down is not None}
    if missing := [version for version in left.applied if version not in ways]:
        return replace(
            step,
            reason=f"there is no way back from {', '.join(missing)}",
            next_step="undo by the restore point; a .down.sql file counts when a run begins that has it",
        )
    if isinstance(seen, Failure):
        return replace(step, reason=f"it could not be asked: {seen.message}", next_step=seen.next_step)
    if seen is not None and seen.state is not None:
        if seen.state.version == left.from_version and ours is not None:
            return replace(step, standing="to_undo", reason="it is back already")
        if seen.state.version == left.from_version:
            return replace(step, standing="nothing", reason=f"it is at {left.from_version or 'no version'} already")
        # Somebody may have taken a part of it back by hand.
        if seen.state.version != left.to_version and seen.state.version not in left.applied:
            return replace(
                step,
                reason=f"its ledger says {seen.state.version or 'no version'}, and the run left {left.to_version}",
                next_step="somebody has migrated it in another way: look at it first",
            )
    return replace(step, standing="to_undo")
