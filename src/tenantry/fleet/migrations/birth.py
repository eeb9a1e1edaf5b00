"""New tenants are born current: they get at once what the last run brought to all the others."""

from __future__ import annotations

from dataclasses import replace

from tenantry.errors import TenantryError
from tenantry.fleet.catalog import queries, runs
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Run, Tenant
from tenantry.fleet.migrations.apply import Halt, Migrator
from tenantry.fleet.migrations.formats.base import Format
from tenantry.fleet.migrations.ports import Tenants
from tenantry.fleet.migrations.run import OPTIONS
from tenantry.fleet.migrations.tenant import TenantSlug
from tenantry.fleet.migrations.work import folder_of_run


class Births:
    """Of one fleet. Threads may share it."""

    def __init__(self, catalog: Catalog, tenants: Tenants) -> None:
        self._catalog = catalog
        self._tenants = tenants
        self._folder: tuple[str, Format] | None = None
        """The run whose folder was opened last: in memory, however many are born."""

    def bring_up(self, tenant: Tenant) -> tuple[Tenant, str | None]:
        """Applies all migrations of the last run over the whole fleet: the tenant then, and why that did not work.

        The tenant is there in any case, and the next run brings what is missing.
        """
        slug = tenant.slug
        try:
            with self._catalog.transaction() as connection:
                run = runs.latest_of_all(connection)
            if run is None:
                return tenant, None
            migrator = Migrator(
                folder=self._opened(run),
                dsn=self._tenants.dsn,
                bounds=OPTIONS.validate_python(run.plan.get("options", {})).bounds,
                accept_edited=False,
                halt=Halt(),
            )
            result = migrator.migrate(TenantSlug(slug))
            if (state := result.state) is not None:
                with self._catalog.transaction() as connection:
                    queries.record_schema(
                        connection, slug, version=state.version, format=state.format, fingerprint=state.fingerprint
                    )
                tenant = replace(
                    tenant,
                    schema_version=state.version,
                    schema_format=state.format,
                    schema_fingerprint=state.fingerprint,
                )
        except TenantryError as error:
            return tenant, f"it has no schema yet, the next run brings it: {error.message}"
        if result.failure is not None:
            return tenant, f"it has no schema yet, the next run tries again: {result.failure}"
        return tenant, None

    def _opened(self, run: Run) -> Format:
        known = self._folder
        if known is None or known[0] != run.id:
            with folder_of_run(self._catalog, run) as folder:
                known = (run.id, folder)
            self._folder = known
        return known[1]
