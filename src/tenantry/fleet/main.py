"""The fleet's composition root: one catalog, one provider, and the verbs over both.

The catalog is itself a project of the provider. Its id is kept in the data directory; where that file is lost, the
project is found again by its name.
"""

# ruff: noqa: PLC0415 - Alembic and the runner take longer to import than most commands to run
from __future__ import annotations

import builtins
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, cast

from pydantic import TypeAdapter

from tenantry.errors import NotFound, OperatorError
from tenantry.fleet.catalog import queries
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant, TenantState
from tenantry.fleet.config import FLEET_FILE
from tenantry.fleet.migrations.ports import RunId, SchemaState, TenantRef, TenantSlug
from tenantry.fleet.migrations.results import Counts, RunRecord, RunResult, TenantResult
from tenantry.fleet.tenants.create import Created, create_tenant, wish
from tenantry.fleet.tenants.delete import Deletion, delete_tenant, plan_deletion
from tenantry.fleet.tenants.find import find_ready
from tenantry.fleet.tenants.finish import finish_unfinished
from tenantry.fleet.tenants.list import list_tenants
from tenantry.fleet.tenants.neon_provider import NeonProvider
from tenantry.fleet.tenants.ports import Provider, ProviderProject
from tenantry.fleet.tenants.resume import resume_tenant
from tenantry.fleet.tenants.show import Shown, show_tenant
from tenantry.fleet.tenants.suspend import suspend_tenant
from tenantry.fleet.tenants.url import tenant_url
from tenantry.neon.client import NeonClient
from tenantry.neon.ids import ProjectId
from tenantry.runtime.failpoints import failpoint
from tenantry.runtime.files import write_atomic

if TYPE_CHECKING:
    from tenantry.fleet.migrations.events import Event
    from tenantry.fleet.migrations.run import RunOptions

CATALOG_PROJECT: Final = "tenantry-catalog"
"""The name of the catalog's project. No tenant's project can have it: theirs end with a uuid in brackets."""
CATALOG_COMPUTE: Final = {
    "autoscaling_limit_min_cu": 1.0,
    "autoscaling_limit_max_cu": 1.0,
    "suspend_timeout_seconds": -1,
}
"""Never asleep: every command and every worker starts with it."""


class Fleet:
    """The verbs over one fleet. Threads may share it; close it (or use ``with``), twice if need be."""

    def __init__(self, catalog: Catalog, provider: Provider, close: Callable[[], None] = lambda: None) -> None:
        self.catalog = catalog
        self.provider = provider
        self.migrating = MigratedTenants(catalog, provider)
        self.run_log = CatalogRunLog(catalog)
        self._close = close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.catalog.close()
        self._close()

    def create(
        self,
        name: str,
        *,
        slug: str | None = None,
        email: str | None = None,
        plan: str | None = None,
        region: str | None = None,
        pg_version: int | None = None,
    ) -> Created:
        wanted = wish(name, slug=slug, email=email, plan=plan, region=region, pg_version=pg_version)
        return create_tenant(self.catalog, self.provider, wanted)

    def list(self, *, states: Sequence[TenantState] = ()) -> Iterator[Tenant]:
        return list_tenants(self.catalog, states=states)

    def show(self, name: str) -> Shown:
        return show_tenant(self.catalog, self.provider, name)

    def url(self, name: str, *, pooled: bool = False) -> str:
        return tenant_url(self.catalog, self.provider, name, pooled=pooled)

    def suspend(self, name: str) -> Tenant:
        return suspend_tenant(self.catalog, self.provider, name)

    def resume(self, name: str) -> Tenant:
        return resume_tenant(self.catalog, self.provider, name)

    def plan_deletion(self, name: str) -> Deletion:
        return plan_deletion(self.catalog, self.provider, name)

    def delete(self, name: str) -> Tenant:
        return delete_tenant(self.catalog, self.provider, name)

    def finish_unfinished(self) -> builtins.list[str]:
        return finish_unfinished(self.catalog, self.provider)

    def migrate(
        self,
        directory: Path,
        *,
        tenants: Sequence[str] | None = None,
        options: RunOptions | None = None,
        on_event: Callable[[Event], None] = lambda _: None,
    ) -> RunResult:
        """Plans and runs in one go; the command line shows the plan in between."""
        from tenantry.fleet.migrations.formats.folders import open_folder
        from tenantry.fleet.migrations.plan import make_plan
        from tenantry.fleet.migrations.run import Run

        folder = open_folder(directory)
        plan = make_plan(folder, self.migrating.select(tenants))
        return Run(plan, folder, self.migrating, options=options, on_event=on_event, log=self.run_log).execute()


def open_fleet(api_url: str, api_key: str, catalog_url: str | None = None) -> Fleet:
    """``api_url`` includes ``/api/v2``. Without a catalog URL the catalog is looked for at the provider.

    Raises NotFound when the provider has none. Connects to the catalog on first use only.
    """
    client = NeonClient(api_url, api_key)
    try:
        provider = NeonProvider(client)
        if catalog_url is None:
            catalog_url = _catalog_url(provider, _only_catalog(provider, required=True))
        return Fleet(Catalog(catalog_url), provider, client.close)
    except BaseException:
        client.close()
        raise


# ------------------------------------------------------------------------------------------------ the catalog


def prepare_catalog(client: NeonClient, data: Path) -> str:
    """Makes, or finds again, the catalog's project and brings its schema up to date; returns its URL, a secret.

    Blocks: call it in a thread. Safe to repeat after a crash at any point. Raises OperatorError when the catalog that
    this data directory had is gone, or when several projects could be it.
    """
    from tenantry.fleet.catalog.upgrade import upgrade_catalog

    provider = NeonProvider(client)
    record = data / FLEET_FILE
    project_id = _recorded_catalog(record)
    if project_id is not None:
        try:
            url = _catalog_url(provider, project_id)
        except NotFound as error:
            raise OperatorError(
                f"the catalog's project {project_id} is gone, and the tenants' records with it",
                next_step=f"restore it; or, to begin with an empty catalog, remove {record}",
                project_id=project_id,
            ) from error
    else:
        project_id = _only_catalog(provider, required=False)
        if project_id is None:
            made = client.create_project(name=CATALOG_PROJECT, default_endpoint_settings=CATALOG_COMPUTE)
            project_id = ProjectId(made.project.id)
        failpoint("catalog.created")
        write_atomic(record, json.dumps({"catalog_project_id": project_id}).encode(), mode=0o600)
        url = _catalog_url(provider, project_id)
    catalog = Catalog(url)
    try:
        upgrade_catalog(catalog)
    finally:
        catalog.close()
    return url


def _recorded_catalog(record: Path) -> ProjectId | None:
    try:
        fields = cast("dict[str, object]", json.loads(record.read_bytes()))
        return ProjectId(str(fields["catalog_project_id"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise OperatorError(
            f"{record} is not what Tenantry writes",
            next_step="remove it: the catalog's project is found again by its name",
        ) from error


def _only_catalog(provider: Provider, *, required: bool) -> ProjectId | None:
    """The one project that has the catalog's name."""
    found: list[ProviderProject] = [
        project for project in provider.find_projects(CATALOG_PROJECT) if project.name == CATALOG_PROJECT
    ]
    if len(found) > 1:
        raise OperatorError(
            f"{len(found)} projects are named {CATALOG_PROJECT}: {', '.join(project.id for project in found)}",
            next_step="rename those that are not the catalog, or set TENANTRY_CATALOG_URL",
        )
    if not found and required:
        raise NotFound(
            f"the provider has no catalog (a project named {CATALOG_PROJECT})",
            next_step="start `tenantry up` without --no-fleet, or set TENANTRY_CATALOG_URL",
        )
    return found[0].id if found else None


def _catalog_url(provider: Provider, project_id: ProjectId | None) -> str:
    assert project_id is not None
    return provider.connection_uri(project_id, provider.home(project_id), pooled=False)


# ------------------------------------------------------------------------------------------------ migrations


class MigratedTenants:
    """The tenants as migrations see them (``migrations.ports.Tenants``)."""

    def __init__(self, catalog: Catalog, provider: Provider) -> None:
        self._catalog = catalog
        self._provider = provider

    def select(self, slugs: Sequence[str] | None) -> Iterable[TenantRef]:
        if slugs is None:
            tenants: Iterable[Tenant] = list_tenants(self._catalog, states=["ready"])
        else:
            named = [find_ready(self._catalog, slug)[0] for slug in slugs]
            tenants = {tenant.slug: tenant for tenant in named}.values()
        return (TenantRef(TenantSlug(tenant.slug), _schema_state(tenant)) for tenant in tenants)

    def dsn(self, slug: TenantSlug) -> str:
        return tenant_url(self._catalog, self._provider, slug)

    def record(self, slug: TenantSlug, state: SchemaState) -> None:
        with self._catalog.transaction() as connection:
            # A tenant that was deleted meanwhile has no schema any more.
            queries.record_schema(
                connection, slug, version=state.version, format=state.format, fingerprint=state.fingerprint
            )


def _schema_state(tenant: Tenant) -> SchemaState | None:
    if tenant.schema_format is None or tenant.schema_fingerprint is None:
        return None
    return SchemaState(tenant.schema_format, tenant.schema_version, tenant.schema_fingerprint)


class CatalogRunLog:
    """Runs of migrations, remembered in the catalog (``migrations.ports.RunLog``)."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def began(self, run: RunRecord) -> None:
        with self._catalog.transaction() as connection:
            queries.begin_run(
                connection,
                run_id=run.run_id,
                format=run.format,
                directory=run.directory,
                target=run.target,
                started_at=run.started_at,
                counts=asdict(run.counts),
            )

    def tenant_finished(self, run_id: RunId, result: TenantResult) -> None:
        if result.failure is None:
            return
        with self._catalog.transaction() as connection:
            queries.add_failure(
                connection, run_id, result.slug, sqlstate=result.failure.sqlstate, result=asdict(result)
            )

    def ended(self, run: RunRecord) -> None:
        with self._catalog.transaction() as connection:
            queries.end_run(
                connection,
                run.run_id,
                finished_at=run.finished_at,
                interrupted=run.interrupted,
                counts=asdict(run.counts),
            )

    def latest(self) -> tuple[RunRecord, tuple[TenantResult, ...]] | None:
        with self._catalog.transaction() as connection:
            run = queries.latest_run(connection)
        if run is None:
            return None
        record = RunRecord(
            run_id=RunId(run.id),
            format=run.format,
            directory=run.directory,
            target=run.target,
            started_at=run.started_at,
            finished_at=run.finished_at,
            counts=TypeAdapter(Counts).validate_python(run.counts),
            interrupted=run.interrupted,
        )
        results = TypeAdapter(tuple[TenantResult, ...])
        return record, results.validate_python(run.failures)
