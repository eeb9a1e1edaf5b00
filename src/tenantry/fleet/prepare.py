"""The catalog's project: made once, found again, and brought up to date before anything else asks the catalog.

It is itself a project of the provider, unless the operator names a database elsewhere. Its id is kept in the data
directory; where that file is lost, the project is found again by its name. A catalog that is current is seen to be so
without loading what could upgrade it: every ``tenantry up`` waits for this.
"""

# ruff: noqa: PLC0415 - SQLAlchemy and Alembic take longer to import than a current catalog takes to be asked
from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from tenantry.errors import NotFound, OperatorError
from tenantry.fleet.catalog.current import is_current
from tenantry.fleet.config import FLEET_FILE
from tenantry.fleet.providers.neon_api import NeonProvider
from tenantry.fleet.providers.ports import Provider, ProviderProject
from tenantry.neon.ids import ProjectId
from tenantry.runtime.failpoints import failpoint
from tenantry.runtime.files import write_atomic

if TYPE_CHECKING:
    from tenantry.neon.client import NeonClient

CATALOG_PROJECT: Final = "tenantry-catalog"
"""The name of the catalog's project. No tenant's project can have it: theirs end with a uuid in brackets."""
CATALOG_COMPUTE: Final = {
    "autoscaling_limit_min_cu": 1.0,
    "autoscaling_limit_max_cu": 1.0,
    "suspend_timeout_seconds": -1,
}
"""Never asleep: every command and every worker starts with it."""


def prepare_catalog(client: NeonClient, data: Path) -> str:
    """Makes, or finds again, the catalog's project and brings its schema up to date; returns its URL, a secret.

    Blocks: call it in a thread. Safe to repeat after a crash at any point. Raises OperatorError when the catalog that
    this data directory had is gone, or when several projects could be it.
    """
    provider = NeonProvider(client)
    record = data / FLEET_FILE
    project_id = _recorded_catalog(record)
    if project_id is not None:
        try:
            url = url_of(provider, project_id)
        except NotFound as error:
            raise OperatorError(
                f"the catalog's project {project_id} is gone, and the tenants' records with it",
                next_step=f"restore it; or, to begin with an empty catalog, remove {record}",
                project_id=project_id,
            ) from error
    else:
        project_id = only_catalog(provider, required=False)
        if project_id is None:
            made = client.create_project(name=CATALOG_PROJECT, default_endpoint_settings=CATALOG_COMPUTE)
            project_id = ProjectId(made.project.id)
        failpoint("catalog.created")
        write_atomic(record, json.dumps({"catalog_project_id": project_id}).encode(), mode=0o600)
        url = url_of(provider, project_id)
    if not is_current(url):
        _upgrade(url)
    return url


def prepare_foreign_catalog(url: str) -> str:
    """A catalog on a Postgres of the operator's own, brought up to date; returns ``url``. Blocks; safe to repeat.

    Raises Unavailable when nobody answers there, OperatorError when a newer release has upgraded it.
    """
    if not is_current(url):
        _upgrade(url)
    return url


def _upgrade(url: str) -> None:
    from tenantry.fleet.catalog.catalog import Catalog
    from tenantry.fleet.catalog.upgrade import upgrade_catalog

    catalog = Catalog(url)
    try:
        upgrade_catalog(catalog)
    finally:
        catalog.close()


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


def only_catalog(provider: Provider, *, required: bool) -> ProjectId | None:
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


def url_of(provider: Provider, project_id: ProjectId | None) -> str:
    assert project_id is not None
    return provider.connection_uri(project_id, provider.home(project_id), pooled=False)
