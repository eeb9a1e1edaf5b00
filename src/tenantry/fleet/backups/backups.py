"""The verbs over backups of one fleet and one vault: run, list, restore. Threads may share it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from tenantry.errors import InvalidInput, NotFound, TenantryError, VaultError
from tenantry.fleet.backups.activity import activity_of, is_unchanged
from tenantry.fleet.backups.keys import FleetKeys
from tenantry.fleet.backups.list import schedules
from tenantry.fleet.backups.many import JOBS_MAX, Done, VaultWatch, kept_alive, work_on
from tenantry.fleet.backups.opened import OpenedBackup, open_backup
from tenantry.fleet.backups.ports import Fingerprints, Tenants
from tenantry.fleet.backups.prune import (
    Pruned,
    Pruning,
    carry_out,
    destroy_shredded_keys,
    forget,
    plan_prune,
    remove_leftovers,
)
from tenantry.fleet.backups.restore import Restored, restore_into, target_of_dsn, target_of_project
from tenantry.fleet.backups.restore_branch import empty_branch
from tenantry.fleet.backups.schedule import is_due
from tenantry.fleet.backups.sweep import sweep
from tenantry.fleet.backups.take import Living, Surroundings, take_backup
from tenantry.fleet.backups.tenant_keys import TenantKeys
from tenantry.fleet.backups.vault import Vault
from tenantry.fleet.catalog import backups as rows
from tenantry.fleet.catalog import events, queries
from tenantry.fleet.catalog.backups import BackupRecord, Standing
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import ProviderId, Tenant
from tenantry.fleet.providers.ports import Provider
from tenantry.runtime.failpoints import failpoint

LISTED_BY_PROVIDER_MIN: Final = 20
"""From so many tenants of a provider on it is asked for all of its projects at once."""
PROJECTS_PAGE: Final = 400

Outcome = Literal["taken", "unchanged", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantOutcome:
    """What became of one tenant in a run."""

    tenant: str
    outcome: Outcome
    backup: BackupRecord | None
    """The one taken, or the one that it is unchanged since."""
    seconds: float
    error: TenantryError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    taken: int
    unchanged: int
    failed: int
    left: Sequence[str]
    """Not begun, since the time was over, or the vault away."""
    seconds: float
    swept: Sequence[str]
    vault_away: TenantryError | None = None
    """Why it ended early: every backup failed by it, one after another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One of several parts of the fleet, always the same."""

    number: int
    of: int

    def has(self, slug: str) -> bool:
        return int.from_bytes(hashlib.sha256(slug.encode()).digest()[:8], "big") % self.of == self.number - 1


def parse_shard(text: str) -> Shard:
    """``2/5``. Raises InvalidInput."""
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of) <= 1000):
        raise InvalidInput(f"{text!r} is no shard", next_step="for instance 1/4, the first of four")
    return Shard(number=int(number), of=int(of))


class Backups:
    def __init__(
        self,
        catalog: Catalog,
        tenants: Tenants,
        vault: Vault,
        fleet_keys: FleetKeys,
        fingerprints: Fingerprints,
        *,
        provider_by_id: Callable[[ProviderId], Provider],
        tls_ca: Path | None = None,
    ) -> None:
        self.around: Final = Surroundings(
            catalog=catalog,
            tenants=tenants,
            vault=vault,
            keys=TenantKeys(catalog, vault, fleet_keys),
            fingerprints=fingerprints,
            tls_ca=tls_ca,
        )
        self._provider_by_id = provider_by_id

    # -- run -------------------------------------------------------------------------------------------------------

    def run(
        self,
        slugs: Sequence[str] | None,
        *,
        jobs: int,
        shard: Shard | None = None,
        minutes: float | None = None,
        older_than: timedelta | None = None,
        force: bool = False,
        tell: Callable[[TenantOutcome], None] = lambda _: None,
        begun: Callable[[int], None] = lambda _: None,
        on_interrupt: Callable[[], None] = lambda: None,
    ) -> RunSummary:
        """Backs up these tenants, or all (None), those first that waited longest. ``begun`` hears how many.

        Of all, tenants that have not changed since their last good backup are left asleep, unless ``force`` says so.
        """
        if not 1 <= jobs <= JOBS_MAX:
            raise InvalidInput(f"{jobs} backups at a time: between 1 and {JOBS_MAX} are possible")
        began = time.monotonic()
        swept = sweep(self.around)
        chosen = self._standings(slugs)
        if shard is not None:
            chosen = [each for each in chosen if shard.has(each.slug)]
        if older_than is not None:
            since = datetime.now(UTC) - older_than
            chosen = [each for each in chosen if not _is_newer(each, since)]
        begun(len(chosen))
        counts: dict[Outcome, int] = {"taken": 0, "unchanged": 0, "failed": 0}

        def count(outcome: TenantOutcome) -> None:
            counts[outcome.outcome] += 1
            tell(outcome)

        unchanged = {} if force or slugs is not None else self._unchanged(chosen)
        if unchanged:
            with self.around.catalog.transaction() as connection:
                rows.mark_unchanged(connection, [good.id for good in unchanged.values()])
            for slug, good in unchanged.items():
                count(TenantOutcome(tenant=slug, outcome="unchanged", backup=good, seconds=0.0))
        waiting = sorted((each for each in chosen if each.slug not in unchanged), key=_longest_first)
        living = Living()
        at_a_time = min(jobs, max(1, len(waiting)))
        watch = VaultWatch(at_a_time)

        def finished(done: Done[BackupRecord]) -> None:
            outcome: Outcome = "failed" if done.error is not None else "taken"
            count(
                TenantOutcome(
                    tenant=done.slug, outcome=outcome, backup=done.result, seconds=done.seconds, error=done.error
                )
            )

        with kept_alive(self.around.catalog, "backups", living.ids, rows.beat_backups):
            left = work_on(
                (each.slug for each in waiting),
                lambda slug: take_backup(self.around, slug, living),
                jobs=at_a_time,
                tell=finished,
                until=None if minutes is None else began + minutes * 60,
                goes_on=lambda done: watch.still_answers(done.error),
                on_interrupt=on_interrupt,
            )
        seconds = time.monotonic() - began
        return RunSummary(**counts, left=left, seconds=seconds, swept=swept, vault_away=watch.away)

    def take(self, slug: str) -> BackupRecord:
        """One tenant's, for a worker."""
        living = Living()
        with kept_alive(self.around.catalog, "backups", living.ids, rows.beat_backups):
            return take_backup(self.around, slug, living)

    def _standings(self, slugs: Sequence[str] | None) -> list[Standing]:
        if slugs is not None:
            slugs = [self.around.tenants.ready(slug)[0].slug for slug in slugs]
        return self.standings(slugs)

    def standings(self, slugs: Sequence[str] | None = None) -> list[Standing]:
        """How ready tenants stand, in the order of their slugs."""
        if slugs is None:
            return schedules(self.around.catalog, None)
        return [each for slug in slugs for each in schedules(self.around.catalog, slug)]

    def _unchanged(self, chosen: Sequence[Standing]) -> dict[str, BackupRecord]:
        """Tenants that are as they are in their last good backup here, by what providers tell. Wakes nobody."""
        by_provider: dict[ProviderId, list[Standing]] = {}
        for each in chosen:
            good = each.good
            if good is None or good.activity is None or good.doubted_at is not None:
                continue  # one that a proof has found bad is none to rest upon
            if good.vault == self.around.vault.url:
                by_provider.setdefault(each.provider_id, []).append(each)
        found: dict[str, BackupRecord] = {}
        for provider_id, some in by_provider.items():
            told = self._told(provider_id, some)
            for each in some:
                assert each.good is not None
                if is_unchanged(each.good.activity, told.get(each.project_id)):
                    found[each.slug] = each.good
        return found

    def _told(self, provider_id: ProviderId, some: Sequence[Standing]) -> dict[str, dict[str, object] | None]:
        try:
            provider = self._provider_by_id(provider_id)
            if "suspend" not in provider.features:
                return {}
            client = provider.api("suspend")
            if len(some) < LISTED_BY_PROVIDER_MIN:
                return {each.project_id: activity_of(client.get_project(each.project_id)) for each in some}
            return {project.id: activity_of(project) for project in client.projects(limit=PROJECTS_PAGE)}
        except TenantryError:
            return {}  # whoever cannot be asked is backed up, or says then what is wrong

    # -- list, open ------------------------------------------------------------------------------------------------

    def find(self, name: str, backup: str | None) -> BackupRecord:
        """A tenant's backup by its id or the beginning of it; None: the newest that is not known to be damaged.

        Raises NotFound.
        """
        tenant, _, _ = self.around.tenants.ready(name)
        with self.around.catalog.transaction() as connection:
            good = rows.good_backups(connection, [tenant.id])
        if not good:
            raise NotFound(f"{tenant.slug} has no backup", next_step=f"take one: `tenantry backup run {tenant.slug}`")
        found = [each for each in good if each.id.startswith(backup or "")]
        if not found:
            raise NotFound(
                f"{tenant.slug} has no backup {backup}", next_step=f"see `tenantry backup list {tenant.slug}`"
            )
        if backup is not None and len(found) > 1 and found[0].id != backup:
            raise InvalidInput(f"{backup} is the beginning of {len(found)} backups", next_step="say more of it")
        return found[0] if backup is not None else next((each for each in found if each.doubted_at is None), found[0])

    def open(self, record: BackupRecord) -> OpenedBackup:
        """Raises NotFound, WrongKey, DamagedBackup, VaultError."""
        if record.vault != self.around.vault.url:
            raise InvalidInput(
                f"backup {record.id} is in {record.vault}, and the vault here is {self.around.vault.url}",
                next_step="say which with --vault",
            )
        return open_backup(self.around.vault, self.around.keys, record.place, manifest_sha256=record.manifest_sha256)

    # -- schedule, prune -------------------------------------------------------------------------------------------

    def due(self, now: datetime) -> tuple[list[Standing], int]:
        """Tenants whose time has come and who are to be backed up; and how many were left asleep, unchanged."""
        due = [each for each in self.standings() if is_due(each, now)]
        unchanged = self._unchanged(due)
        if unchanged:
            with self.around.catalog.transaction() as connection:
                rows.mark_unchanged(connection, [good.id for good in unchanged.values()])
        return sorted((each for each in due if each.slug not in unchanged), key=_longest_first), len(unchanged)

    def plan_prune(self, name: str | None, *, default_keep: str, now: datetime | None = None) -> Pruning:
        """Of one tenant, or of all."""
        slugs = None if name is None else [self.around.tenants.ready(name)[0].slug]
        pruning = plan_prune(
            self.around, self.standings(slugs), default_keep=default_keep, now=now or datetime.now(UTC)
        )
        return pruning if name is None else replace(pruning, of_deleted_tenants=())

    def prune(self, pruning: Pruning, *, tidy: bool = False) -> Pruned:
        """What was planned, and ``tidy`` after it. Where the vault goes away it says how far it came."""
        gone: list[BackupRecord] = []
        try:
            carry_out(self.around, pruning, gone.append)
            return Pruned(gone=gone, said=self.tidy() if tidy else ())
        except VaultError as error:
            return Pruned(gone=gone, said=(), failure=error)

    def tidy(self) -> list[str]:
        """What killed processes and deleted tenants have left in the vault goes; a sentence for each."""
        said = [*sweep(self.around), *remove_leftovers(self.around), *destroy_shredded_keys(self.around)]
        forget(self.around)
        return said

    def sweep(self) -> list[str]:
        """Finishes what killed processes have begun; a sentence for each."""
        return sweep(self.around)

    # -- restore -----------------------------------------------------------------------------------------------------

    def restore_to_dsn(self, record: BackupRecord, uri: str, *, tables: Sequence[str] = ()) -> Restored:
        """Into a database somewhere, which must be empty; chosen tables must not be there, or be empty."""
        opened = self.open(record)
        done = restore_into(opened, target_of_dsn(uri, tls_ca=self.around.tls_ca), tables=tables)
        self._note(record, "a connection string", done)
        return done

    def restore_to_tenant(
        self, record: BackupRecord, name: str, like: Tenant | None, *, tables: Sequence[str] = ()
    ) -> tuple[Tenant, Restored]:
        """Into a new tenant of this name. Raises Conflict where there is one whose database is not empty."""
        opened = self.open(record)
        made, new = self.around.tenants.create(name, like=like, pg_version=opened.manifest.server_major)
        failpoint("restore.created")
        try:
            tenant, project_id, home = self.around.tenants.ready(made.slug)
            provider = self.around.tenants.provider_of(tenant)
            target = target_of_project(provider, project_id, home, tls_ca=self.around.tls_ca)
            done = restore_into(opened, target, tables=tables)
        except BaseException:
            if new:
                self.around.tenants.discard(made)
            raise
        self._note(record, f"the new tenant {tenant.slug}", done)
        return tenant, done

    def restore_to_branch(
        self, record: BackupRecord, name: str, called: str | None, *, tables: Sequence[str] = ()
    ) -> tuple[str, Restored]:
        """Into a new branch of the tenant's, emptied before. Raises NotSupported where there are no branches."""
        opened = self.open(record)
        tenant, project_id, home = self.around.tenants.ready(name)
        provider = self.around.tenants.provider_of(tenant)
        branch = called or f"restored-{record.id}"
        with empty_branch(provider, project_id, home, branch) as branch_id:
            target = target_of_project(provider, project_id, home, branch_id=branch_id, tls_ca=self.around.tls_ca)
            done = restore_into(opened, target, tables=tables)
        self._note(record, f"branch {branch}", done)
        return branch, done

    def _note(self, record: BackupRecord, into: str, done: Restored) -> None:
        with self.around.catalog.transaction() as connection:
            tenant = queries.tenant_by_slug(connection, record.slug)
            events.record(connection, "restore backup", tenant, backup=record.id, into=into, rows=done.rows)


def _is_newer(standing: Standing, since: datetime) -> bool:
    good = standing.good
    return good is not None and max(good.started_at, good.unchanged_at or good.started_at) > since


def _longest_first(standing: Standing) -> tuple[datetime, str]:
    return (standing.tried_at or datetime.min.replace(tzinfo=UTC), standing.slug)
