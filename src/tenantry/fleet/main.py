"""The fleet's composition root: one catalog, its providers, and the verbs over both.

Where the catalog is, and how it comes to be, is told in ``prepare``.
"""

# ruff: noqa: PLC0415 - a command has one verb, and all of them take longer to load than most of them to run
from __future__ import annotations

import builtins
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Self

from tenantry.fleet.catalog import events, plans, queries
from tenantry.fleet.catalog.catalog import CONNECTIONS_MAX, Catalog
from tenantry.fleet.catalog.models import HOME_PROVIDER
from tenantry.fleet.catalog.records import DeletionRecord, Run, RunTenant, Tenant, TenantState
from tenantry.fleet.config import verification
from tenantry.fleet.migrated import MigratedTenants
from tenantry.fleet.migrations.tenant import TenantRef, TenantSlug
from tenantry.fleet.providers.neon_account import NeonAccount
from tenantry.fleet.providers.neon_api import NeonProvider
from tenantry.fleet.providers.open import Providers
from tenantry.fleet.providers.ports import Provider
from tenantry.fleet.tenants.find import find_ready, find_tenant
from tenantry.fleet.tenants.list import list_tenants

if TYPE_CHECKING:
    from tenantry.fleet.backups.backups import Backups
    from tenantry.fleet.backups.proofs import Proofs
    from tenantry.fleet.backups.report import Report
    from tenantry.fleet.catalog.backups import BackupRecord
    from tenantry.fleet.environments.records import Place
    from tenantry.fleet.jobs.jobs import Jobs
    from tenantry.fleet.migrations.apply import Bounds
    from tenantry.fleet.migrations.birth import Births
    from tenantry.fleet.migrations.drift import DriftLook
    from tenantry.fleet.migrations.events import Event
    from tenantry.fleet.migrations.formats.base import Format
    from tenantry.fleet.migrations.lint.verdict import Verdict
    from tenantry.fleet.migrations.plan import Plan
    from tenantry.fleet.migrations.rehearse import Began, Ended, Rehearse, RehearseOptions
    from tenantry.fleet.migrations.run import Begun, RunOptions
    from tenantry.fleet.migrations.saved_plan import SavedPlan
    from tenantry.fleet.migrations.selection import Selection
    from tenantry.fleet.migrations.throwaway import EmptyDatabase
    from tenantry.fleet.migrations.undo import Undo
    from tenantry.fleet.migrations.verdict import Verdict as RehearsalVerdict
    from tenantry.fleet.tenants.change_plan import PlanChange
    from tenantry.fleet.tenants.create import Created, Wish
    from tenantry.fleet.tenants.delete import Deleted, Deletion
    from tenantry.fleet.tenants.drift import Drifted
    from tenantry.fleet.tenants.mend import Unseen
    from tenantry.fleet.tenants.rename import Renamed
    from tenantry.fleet.tenants.restore import Restored, Restoring
    from tenantry.fleet.tenants.show import Shown
    from tenantry.fleet.tenants.undelete import Undeleted
    from tenantry.fleet.usage.usage import Usage
    from tenantry.neon.client import NeonClient
    from tenantry.runtime.findings import Finding

FILES_NOTED_MAX: Final = 100
"""Files that one event names."""


class Fleet:
    """The verbs over one fleet. Threads may share it; close it (or use ``with``), twice if need be."""

    def __init__(self, catalog: Catalog, home: NeonAccount) -> None:
        """Takes both over: closing the fleet closes them."""
        self.catalog = catalog
        self._home = home
        self.providers = Providers(catalog, NeonProvider(home))
        self.migrating = MigratedTenants(catalog, self.provider_of)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.catalog.close()
        self.providers.close()

    @property
    def client(self) -> NeonClient:
        """Of the provider that the fleet was opened with: its catalog and its non-production project are there."""
        return self._home.client

    @property
    def jobs(self) -> Jobs:
        return self._jobs

    @cached_property
    def _jobs(self) -> Jobs:
        from tenantry.fleet.jobs.jobs import Jobs

        return Jobs(self.catalog, self)

    @cached_property
    def usage(self) -> Usage:
        from tenantry.fleet.usage.usage import Usage

        return Usage(self.catalog, self.providers)

    def provider_of(self, tenant: Tenant) -> Provider:
        """Who has this tenant's project; opened once and closed with the fleet. Not to be asked in a transaction."""
        return self.providers.of(tenant)

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
    ) -> Created:
        from tenantry.fleet.tenants.create import wish

        wanted = wish(
            name, slug=slug, email=email, plan=plan, region=region, residency=residency, pg_version=pg_version
        )
        return self.create_wished(wanted)

    def create_wished(self, wanted: Wish) -> Created:
        """The same for a wish that was checked before. A new tenant gets the schema that the last run brought."""
        from tenantry.fleet.tenants.create import create_tenant

        created = create_tenant(self.catalog, self.provider_of, wanted)
        if not created.new or not self._born_current:
            return created
        tenant, note = self._births.bring_up(created.tenant)
        return replace(created, tenant=tenant, note=note or created.note)

    @cached_property
    def _born_current(self) -> bool:
        from tenantry.fleet.settings import load_settings

        return load_settings().migrations.born_current

    @cached_property
    def _births(self) -> Births:
        from tenantry.fleet.migrations.birth import Births

        return Births(self.catalog, self.migrating)

    def list(
        self,
        *,
        states: Sequence[TenantState] = (),
        plan: str | None = None,
        region: str | None = None,
        after: str = "",
        limit: int | None = None,
    ) -> Iterator[Tenant]:
        return list_tenants(self.catalog, states=states, plan=plan, region=region, after=after, limit=limit)

    def show(self, name: str) -> Shown:
        from tenantry.fleet.tenants.show import show_tenant

        return show_tenant(self.catalog, self.provider_of, name)

    def url(self, name: str, *, pooled: bool = False) -> str:
        from tenantry.fleet.tenants.url import tenant_url

        return tenant_url(self.catalog, self.provider_of, name, pooled=pooled)

    def new_password(self, name: str) -> Tenant:
        from tenantry.fleet.tenants.new_password import new_password

        return new_password(self.catalog, self.provider_of, name)

    def suspend(self, name: str) -> Tenant:
        from tenantry.fleet.tenants.suspend import suspend_tenant

        return suspend_tenant(self.catalog, self.provider_of, name)

    def resume(self, name: str) -> Tenant:
        from tenantry.fleet.tenants.resume import resume_tenant

        return resume_tenant(self.catalog, self.provider_of, name)

    def plan_deletion(self, name: str, *, grace: timedelta | None = None, usual: timedelta | None = None) -> Deletion:
        from tenantry.fleet.tenants.delete import GRACE, plan_deletion

        return plan_deletion(self.catalog, self.provider_of, name, grace=grace, usual=GRACE if usual is None else usual)

    def delete(self, name: str, *, grace: timedelta | None = None, usual: timedelta | None = None) -> Deleted:
        """A ``grace`` of nothing deletes at once and for good; None is the usual one, or what is left of it."""
        from tenantry.fleet.tenants.delete import GRACE, delete_tenant

        return delete_tenant(self.catalog, self.provider_of, name, grace=grace, usual=GRACE if usual is None else usual)

    def undelete(self, name: str) -> Undeleted:
        from tenantry.fleet.tenants.undelete import undelete_tenant

        return undelete_tenant(self.catalog, self.provider_of, name)

    def deletions(self, *, limit: int = 100) -> builtins.list[DeletionRecord]:
        """What remains of deleted tenants, the newest first."""
        with self.catalog.transaction() as connection:
            return queries.deletions_page(connection, limit=limit)

    def rename(self, name: str, new_name: str, *, slug: str | None = None) -> Renamed:
        from tenantry.fleet.tenants.rename import rename_tenant

        return rename_tenant(self.catalog, self.provider_of, name, new_name, slug=slug)

    def plan_change(self, name: str, plan: str) -> PlanChange:
        from tenantry.fleet.tenants.change_plan import plan_change

        return plan_change(self.catalog, self.provider_of, name, plan)

    def change_plan(self, change: PlanChange) -> Tenant:
        from tenantry.fleet.tenants.change_plan import change_plan

        return change_plan(self.catalog, self.provider_of, change)

    def plan_restore(
        self, name: str, *, at: datetime | None = None, lsn: str | None = None, source: str | None = None
    ) -> Restoring:
        from tenantry.fleet.tenants.restore import plan_restore

        return plan_restore(self.catalog, self.provider_of, name, at=at, lsn=lsn, source=source)

    def restore(self, plan: Restoring) -> Restored:
        from tenantry.fleet.tenants.restore import restore_tenant

        return restore_tenant(self.catalog, self.provider_of, plan)

    def find_place(self, tenant: str | None) -> Place | None:
        """Where a tenant's branches are, or those of the non-production project; None while that is not there."""
        from tenantry.fleet.environments.nonproduction import find_nonproduction
        from tenantry.fleet.environments.records import Place

        if tenant is not None:
            found, project_id, _ = find_ready(self.catalog, tenant)
            with self.catalog.transaction() as connection:
                plan = plans.plan_by_slug(connection, found.plan)
            return Place(
                self.provider_of(found).api("branches"),
                project_id,
                found.slug,
                branches_max=None if plan is None else plan.branches_max,
                note=partial(self._note, found),
            )
        known = find_nonproduction(self.client)
        return None if known is None else Place(self.client, known, note=partial(self._note, None))

    def place(self, tenant: str | None = None) -> Place:
        """The same, having made the non-production project if there was none."""
        from tenantry.fleet.environments.nonproduction import prepare_nonproduction
        from tenantry.fleet.environments.records import Place

        found = self.find_place(tenant)
        if found is not None:
            return found
        made = prepare_nonproduction(self.catalog, self.client)
        return Place(self.client, made, note=partial(self._note, None))

    def _note(self, tenant: Tenant | None, verb: str, **detail: object) -> None:
        with self.catalog.transaction() as connection:
            events.record(connection, verb, tenant, **detail)

    def drift(self, *, deep: bool = False) -> Iterator[Drifted | Unseen]:
        """Tenants that are not as their plan and name say. ``deep`` asks for each tenant's endpoint too."""
        from tenantry.fleet.tenants.mend import find_drift

        return find_drift(self.catalog, self.providers.opened, deep=deep)

    def mend(self, drifted: Drifted) -> Tenant:
        from tenantry.fleet.tenants.mend import mend

        return mend(self.catalog, self.provider_of, drifted)

    def backups(self, vault: str | None = None, *, key_from: str | None = None) -> Backups:
        """Over the vault of tenantry.toml, or this one. Raises InvalidInput, OperatorError."""
        from tenantry.fleet.backed_up import open_backups

        return open_backups(self.catalog, self.providers, vault, key_from=key_from)

    def list_backups(
        self, name: str | None, *, everything: bool = False, limit: int = 50
    ) -> builtins.list[BackupRecord]:
        """The newest first: those that can be restored, or all that there ever were. Asks the catalog alone."""
        from tenantry.fleet.backups.list import list_backups

        tenant_id = None if name is None else find_tenant(self.catalog, name).id
        return list_backups(self.catalog, tenant_id, everything=everything, limit=limit)

    def proofs(self, vault: str | None = None, *, key_from: str | None = None) -> Proofs:
        """Of backups in the vault of tenantry.toml, or in this one. Raises InvalidInput, OperatorError."""
        from tenantry.fleet.backed_up import open_proofs

        return open_proofs(self.catalog, self.providers, vault, key_from=key_from)

    def backup_report(self, slugs: builtins.list[str] | None = None) -> Report:
        """How everybody, or these, stand with their backups. Asks the catalog alone."""
        from tenantry.fleet.backups.proofs import make_report
        from tenantry.fleet.settings import load_settings
        from tenantry.runtime.spans import parse_span

        said = load_settings().backups
        if slugs is not None:
            slugs = [find_tenant(self.catalog, slug).slug for slug in slugs]
        return make_report(self.catalog, within=parse_span(said.verify_within), vault=said.vault, slugs=slugs)

    def verify_backup(self, name: str) -> dict[str, object]:
        """Restores the tenant's newest backup for proof, for a worker. Raises what kept it from being good."""
        done = self.proofs().verify_one(name)
        return {"backup": done.backup.id, "seconds": done.seconds}

    def verify_due(self) -> builtins.list[str]:
        """A pass: backups whose proof is due. Nothing where no vault is configured."""
        from tenantry.fleet.settings import load_settings

        return self.proofs().pass_() if load_settings().backups.vault else []

    def back_up(self, name: str) -> BackupRecord:
        """Takes one tenant's backup, whether or not it has changed."""
        return self.backups().take(name)

    def set_backup_schedule(
        self, name: str, *, cron: str | None = None, keep: str | None = None, as_plan: bool = False
    ) -> None:
        """What is said is the tenant's own from now on; ``as_plan``: neither is any more. Raises InvalidInput."""
        from tenantry.fleet.backups.own_schedule import set_own_schedule

        set_own_schedule(self.catalog, find_tenant(self.catalog, name), cron=cron, keep=keep, as_plan=as_plan)

    def slug_of(self, name: str) -> str:
        """Raises NotFound."""
        return find_tenant(self.catalog, name).slug

    # -- passes: each looks at the whole state, and can be run at any time and by anybody --------------------

    def finish_unfinished(self) -> builtins.list[str]:
        from tenantry.fleet.tenants.finish import finish_unfinished

        return finish_unfinished(self.catalog, self.provider_of)

    def purge(self) -> builtins.list[str]:
        from tenantry.fleet.tenants import purge

        return purge.pass_(self.catalog, self.provider_of)

    def mend_drift(self) -> builtins.list[str]:
        from tenantry.fleet.tenants.mend import pass_ as mend_pass

        return mend_pass(self.catalog, self.providers.opened, self.provider_of)

    def keep_ready(self, count: int | None = None, *, pg_version: int | None = None) -> builtins.list[str]:
        """``count`` projects of each place; without it what tenantry.toml says of both."""
        from tenantry.fleet.tenants import keep_ready

        if count is None:
            from tenantry.fleet.settings import load_settings

            said = load_settings().tenants
            count, pg_version = said.ready, said.pg_version
        return keep_ready.pass_(self.catalog, self.providers.opened, count, pg_version=pg_version)

    def forget_old_events(self) -> builtins.list[str]:
        from tenantry.fleet.tenants.log import forget_old

        return forget_old(self.catalog)

    def back_up_due(self) -> builtins.list[str]:
        from tenantry.fleet.backed_up import back_up_due

        return back_up_due(self, datetime.now(UTC))

    def prune_backups(self) -> builtins.list[str]:
        from tenantry.fleet.backed_up import prune_backups

        return prune_backups(self)

    def collect_usage(self) -> builtins.list[str]:
        from tenantry.fleet.settings import load_settings

        return self.usage.collect_pass(load_settings().usage.keep_days)

    def examine(self, *, everything: bool = False, at_home: Collection[int] | None = None) -> builtins.list[Finding]:
        """``everything`` lists every project of every provider; ``at_home``: majors that home has builds of."""
        from tenantry.fleet.backed_up import examine_keys
        from tenantry.fleet.health.examine import examine

        found = examine(self.catalog, self.providers, self.jobs, everything=everything, at_home=at_home)
        return [*found, *examine_keys(self.catalog)]

    def schema_look(
        self, folder: Format, *, jobs: int, bounds: Bounds, comments: bool = False, ledgers: Sequence[str] = ()
    ) -> DriftLook:
        """Looks at tenants' schemas, and compares them with what the folder makes of an empty database.

        ``ledgers`` are tables of migration tools with names of their own, which do not count.
        """
        from tenantry.fleet.migrations.drift import DriftLook
        from tenantry.fleet.migrations.formats.folders import open_folder
        from tenantry.fleet.migrations.schema_memory import CatalogMemory
        from tenantry.fleet.migrations.throwaway import ThrowawayProjects

        return DriftLook(
            folder=folder,
            folder_through=lambda whole, version: open_folder(whole.directory, through=version),
            dsn=self.migrating.dsn,
            place_of=lambda tenant: str(tenant.provider_id),
            memory=CatalogMemory(self.catalog),
            makes=ThrowawayProjects(self.providers.by_id),
            jobs=jobs,
            bounds=bounds,
            comments=comments,
            ledgers=ledgers,
        )

    def note_allowed(self, verdict: Verdict) -> None:
        """What --allow let pass is kept in the log of events: the rule, the reason, and the files."""
        with self.catalog.transaction() as connection:
            for rule, (reason, files) in verdict.allowed_by_flag.items():
                noted = list(files[:FILES_NOTED_MAX])
                events.record(connection, "allow lint rule", rule=rule, reason=reason, files=noted)

    def to_rehearse(
        self, plan: Plan, *, sample: str | None, seed: int
    ) -> builtins.list[tuple[TenantSlug, tuple[str, ...]]]:
        """Whom to rehearse a plan with, and what each lacks: a sample of those that are behind, or all of them."""
        from tenantry.fleet.migrations.sample import choose

        return choose(self.catalog, self.providers.by_id, plan, sample=sample, seed=seed)

    def rehearsed(self, plan: Plan, folder: Format) -> RehearsalVerdict:
        """What rehearsals say of a plan. Wakes nobody."""
        from tenantry.fleet.migrations.verdict import rehearsal_verdict
        from tenantry.fleet.settings import load_settings

        seconds_max = load_settings().migrations.rehearsal_lock_seconds_max
        return rehearsal_verdict(self.catalog, plan, folder, lock_seconds_max=seconds_max)

    def check_rehearsed(
        self,
        folder: Format,
        chosen: Selection,
        options: RunOptions,
        *,
        mode: Literal["off", "warn", "require"],
        unrehearsed: str | None = None,
    ) -> builtins.list[str]:
        """Before a run: what to warn of. Raises Conflict for one that must be rehearsed, and was not, or not well."""
        from tenantry.fleet.migrations.plan import make_plan
        from tenantry.fleet.migrations.verdict import gate
        from tenantry.fleet.settings import load_settings

        if mode == "off":
            return []
        plan = make_plan(folder, self.select(chosen, folder), accept_edited=options.accept_edited)
        seconds_max = load_settings().migrations.rehearsal_lock_seconds_max
        return gate(self.catalog, plan, folder, mode=mode, lock_seconds_max=seconds_max, unrehearsed=unrehearsed)

    def without_way_back(self, plan: Plan) -> Sequence[TenantSlug]:
        """Tenants of a plan that `undo` cannot bring back, whatever is kept: their provider keeps no states."""
        from tenantry.fleet.migrations.restore_point import without_way_back

        return without_way_back(plan.to_visit, self.providers.by_id)

    def rehearsing(
        self,
        folder: Format,
        *,
        options: RehearseOptions | None = None,
        on_event: Callable[[Began | Ended], None] = lambda _: None,
    ) -> Rehearse:
        from tenantry.fleet.migrations.rehearse import Rehearse

        return Rehearse(self.catalog, self.provider_of, folder, options=options, on_event=on_event)

    def select(self, chosen: Selection, folder: Format) -> Iterator[TenantRef]:
        """The tenants that a plan is about. Wakes nobody."""
        from tenantry.fleet.migrations.configured import rings_of
        from tenantry.fleet.settings import load_settings

        rings = rings_of(load_settings().migrations)
        return chosen.of(self.migrating.select(chosen.tenants, plan=chosen.plan, region=chosen.region), rings, folder)

    def begin_run(
        self,
        folder: Format,
        chosen: Selection,
        options: RunOptions,
        *,
        expected: SavedPlan | None = None,
        approve: Callable[[Collection[str]], None] = lambda _: None,
        on_begun: Callable[[], None] = lambda: None,
    ) -> Begun:
        """Plans a run and writes it down; ``carry_out`` or workers do the rest."""
        from tenantry.fleet.migrations.run import begin_run

        return begin_run(
            self.catalog,
            folder,
            lambda: self.select(chosen, folder),
            options=options,
            selection=chosen.document(),
            expected=expected,
            approve=approve,
            on_begun=on_begun,
        )

    def expected_seconds(self, plan: Plan, options: RunOptions) -> float | None:
        """How long the plan will take by what earlier runs took for the same migrations; None: never seen."""
        from tenantry.fleet.migrations.expected import expected_seconds

        return expected_seconds(self.catalog, plan, options)

    def undoing(self, run_id: str | None, *, tenant: str | None = None, jobs: int = 4) -> AbstractContextManager[Undo]:
        """Undoing of this run, or of the last that changed the tenant. Raises NotFound."""
        from tenantry.fleet.migrations.undo import undo_of
        from tenantry.fleet.time_machine import FleetTimeMachine

        machine = FleetTimeMachine(self.catalog, self.provider_of)
        named = None if tenant is None else find_ready(self.catalog, tenant)[0]
        return undo_of(self.catalog, self.migrating, machine, run_id, tenant=named, jobs=jobs)

    def migrate(
        self,
        directory: Path,
        *,
        tenants: Sequence[str] | None = None,
        options: RunOptions | None = None,
        on_event: Callable[[Event], None] = lambda _: None,
    ) -> Run:
        """Plans and runs in one go; the command line shows the plan in between."""
        from tenantry.fleet.migrations.formats.folders import open_folder
        from tenantry.fleet.migrations.run import RunOptions
        from tenantry.fleet.migrations.selection import Selection

        begun = self.begin_run(open_folder(directory), Selection(tenants=tenants), options or RunOptions())
        return self.carry_out(begun.run, on_event=on_event)

    def empty_database(self) -> EmptyDatabase:
        """On which migrations are tried before any tenant's: it takes a moment to make."""
        from tenantry.fleet.migrations.throwaway import EmptyDatabase, ThrowawayProjects

        made = ThrowawayProjects(self.providers.by_id)
        return EmptyDatabase(lambda: made.empty_database(str(HOME_PROVIDER), None))

    def carry_out(
        self,
        run: Run,
        *,
        folder: Format | None = None,
        empty: EmptyDatabase | None = None,
        on_event: Callable[[Event], None] = lambda _: None,
    ) -> Run:
        """Does what is left of a run, beside whoever else does; returns when it has ended, or is held.

        ``folder`` is what it was planned with, where that is still open, and ``empty`` may have been begun before.
        """
        from tenantry.fleet.migrations.run import OPTIONS
        from tenantry.fleet.migrations.work import Work, folder_of_run

        points = self.migrating.points(OPTIONS.validate_python(run.plan.get("options", {})).restore_point)
        # The tenants need not wait until the empty database is gone; whoever began the run does.
        with ExitStack() as stack:
            migrations = stack.enter_context(folder_of_run(self.catalog, run, folder))
            golden = empty or stack.enter_context(self.empty_database())
            work = Work(
                self.catalog,
                self.migrating,
                run,
                migrations,
                golden=golden.use,
                points=points,
                met=self.migrating.met,
                on_event=on_event,
            )
            return work.execute()

    def hand_out(self, run: Run, workers: int) -> None:
        """Leaves a run to so many of the workers that there are."""
        self.jobs.start("migrate", {f"{run.id}/{number}": {} for number in range(1, workers + 1)})

    def work_on(self, run_id: str) -> Mapping[str, object]:
        """A worker's part in a run."""
        from tenantry.fleet.migrations.results import run_document
        from tenantry.fleet.migrations.run import find_run

        run = find_run(self.catalog, run_id)
        return run_document(self.carry_out(run) if run.state == "running" else run)

    def follow(self, run: Run, *, on_event: Callable[[Event], None]) -> Run:
        """Tells of a run that workers carry out, until it has ended or is held."""
        from tenantry.fleet.migrations.follow import follow_run

        return follow_run(self.catalog, run, on_event=on_event)

    def run_tenants(self, run: Run, *, outcomes: Sequence[str] = (), limit: int | None = None) -> Iterator[RunTenant]:
        """What became of the tenants of a run, in the order of their slugs."""
        from tenantry.fleet.migrations.run import tenants_of

        return tenants_of(self.catalog, run, outcomes=outcomes, limit=limit)


def open_fleet(
    api_url: str, api_key: str, catalog_url: str | None = None, *, api_ca: Path | None = None, at_a_time: int = 1
) -> Fleet:
    """``api_url`` includes ``/api/v2``. Without a catalog URL the catalog is looked for at the provider.

    ``at_a_time`` says how many threads change tenants: each holds a connection to the catalog while a provider answers.
    Raises NotFound when the provider has none. Connects to the catalog on first use only.
    """
    home = NeonAccount.at(api_url, api_key, tls_verify=verification(api_ca))
    try:
        if catalog_url is None:
            from tenantry.fleet.prepare import only_catalog, url_of

            provider = NeonProvider(home)
            catalog_url = url_of(provider, only_catalog(provider, required=True))
        return Fleet(Catalog(catalog_url, connections_max=max(CONNECTIONS_MAX, at_a_time)), home)
    except BaseException:
        home.close()
        raise


# ------------------------------------------------------------------------------------------------ migrations
