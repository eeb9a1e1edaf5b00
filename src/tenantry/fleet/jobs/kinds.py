"""What workers can do: one line for each kind of job, one line for each pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol, cast

from tenantry.fleet.catalog.backups import BackupRecord
from tenantry.fleet.catalog.jobs import QUEUE_DEFAULT, QUEUE_PASSES
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.tenants.create import Created

MIGRATE_SECONDS_MAX: Final = 24 * 3600.0
"""A worker's part in a run of migrations; who has more to do is given a new one by `tenantry migrate resume`."""
VERIFY_SECONDS_MAX: Final = 6 * 3600.0
"""A large tenant's restore, from its vault to the last index."""
BACKUP_SECONDS_MAX: Final = 24 * 3600.0
SAID_MAX: Final = 100
"""Sentences that a pass's record keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What a kind's function is given: one subject of a job."""

    subject: str
    input: Mapping[str, object] = field(default_factory=dict[str, object])
    arguments: Mapping[str, object] = field(default_factory=dict[str, object])
    """The job's, the same for all of its subjects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of work. ``work`` runs in a thread, and again where nobody knows whether it was done."""

    name: str
    work: Callable[[Item], Mapping[str, object]]
    """Returns what is worth remembering, as JSON has it. Raises TenantryError; Unavailable, Locked and LimitReached
    (QuotaExceeded not) are tried again."""
    of_tenants: bool = False
    """Its subjects are tenants' slugs, so that an operator can start it by naming them."""
    queue: str = QUEUE_DEFAULT
    batch_items: int = 20
    apart: bool = False
    """Batches of one job are meant for different workers: none has two of them in hand."""
    seconds_max: float = 600.0
    """What takes longer has failed. Its thread cannot be stopped, and is left to itself."""
    attempts_max: int = 10


@dataclass(frozen=True, slots=True)
class Pass:
    """Looks at the whole state and takes no input; one run at a time in the fleet, and none is made up for."""

    name: str
    cron: str
    """Five fields, in UTC."""
    run: Callable[[], Sequence[str]]
    """Returns a sentence for each thing that it did, or could not do."""
    seconds_max: float = 3600.0

    def as_kind(self) -> Kind:
        return Kind(
            name=self.name,
            work=lambda _: {"said": list(self.run()[:SAID_MAX])},
            queue=QUEUE_PASSES,
            batch_items=1,
            seconds_max=self.seconds_max,
            attempts_max=3,
        )


class Pruning(Protocol):
    def prune(self) -> list[str]: ...


class Verbs(Protocol):
    """What of a fleet the kinds and passes call."""

    @property
    def jobs(self) -> Pruning: ...

    def create(
        self,
        name: str,
        *,
        slug: str | None = None,
        email: str | None = None,
        plan: str | None = None,
        region: str | None = None,
        residency: str | None = None,
        pg_version: int | None = None,
    ) -> Created: ...

    def suspend(self, name: str) -> Tenant: ...

    def resume(self, name: str) -> Tenant: ...

    def verify_backup(self, name: str) -> Mapping[str, object]: ...

    def verify_due(self) -> list[str]: ...

    def back_up(self, name: str) -> BackupRecord: ...

    def work_on(self, run_id: str) -> Mapping[str, object]: ...

    def finish_unfinished(self) -> list[str]: ...

    def purge(self) -> list[str]: ...

    def mend_drift(self) -> list[str]: ...

    def keep_ready(self) -> list[str]: ...

    def forget_old_events(self) -> list[str]: ...

    def collect_usage(self) -> list[str]: ...

    def back_up_due(self) -> list[str]: ...

    def prune_backups(self) -> list[str]: ...


def kinds(fleet: Verbs) -> tuple[Kind, ...]:
    return (
        Kind(name="create", work=partial(_create, fleet)),
        Kind(name="suspend", work=lambda item: _named(fleet.suspend(item.subject)), of_tenants=True),
        Kind(name="resume", work=lambda item: _named(fleet.resume(item.subject)), of_tenants=True),
        Kind(
            name="verify",
            work=lambda item: fleet.verify_backup(item.subject),
            of_tenants=True,
            batch_items=1,
            seconds_max=VERIFY_SECONDS_MAX,
        ),
        Kind(
            name="backup",
            work=lambda item: _backed_up(fleet.back_up(item.subject)),
            of_tenants=True,
            batch_items=4,
            seconds_max=BACKUP_SECONDS_MAX,
            attempts_max=3,
        ),
        Kind(
            name="migrate",
            # The subject is the run's id and the number of the part: parts differ in nothing else.
            work=lambda item: fleet.work_on(item.subject.partition("/")[0]),
            batch_items=1,
            apart=True,
            seconds_max=MIGRATE_SECONDS_MAX,
        ),
    )


def passes(fleet: Verbs) -> tuple[Pass, ...]:
    return (
        Pass("finish_unfinished", "*/5 * * * *", fleet.finish_unfinished),
        Pass("keep_ready", "*/2 * * * *", fleet.keep_ready),
        Pass("purge", "*/10 * * * *", fleet.purge),
        Pass("mend_drift", "23 * * * *", fleet.mend_drift),
        Pass("forget_old_events", "41 3 * * *", fleet.forget_old_events),
        Pass("collect_usage", "7 * * * *", fleet.collect_usage),
        Pass("verify_backups", "*/30 * * * *", fleet.verify_due, seconds_max=VERIFY_SECONDS_MAX),
        Pass("back_up_due", "*/5 * * * *", fleet.back_up_due),
        Pass("prune_backups", "37 4 * * *", fleet.prune_backups, seconds_max=BACKUP_SECONDS_MAX),
        Pass("prune_jobs", "17 * * * *", fleet.jobs.prune),
    )


def _create(fleet: Verbs, item: Item) -> Mapping[str, object]:
    """The subject is the slug; the input has the fields of ``Fleet.create``."""
    done = fleet.create(
        str(item.input["name"]),
        slug=item.subject,
        email=cast("str | None", item.input.get("email")),
        plan=cast("str | None", item.input.get("plan")),
        region=cast("str | None", item.input.get("region")),
        residency=cast("str | None", item.input.get("residency")),
        pg_version=cast("int | None", item.input.get("pg_version")),
    )
    return {"created": done.new} | _named(done.tenant)


def _named(tenant: Tenant) -> dict[str, object]:
    return {"tenant": tenant.slug, "project_id": tenant.project_id}


def _backed_up(record: BackupRecord) -> dict[str, object]:
    return {"tenant": record.slug, "backup": record.id, "size_bytes": record.size_bytes, "rows": record.rows}
