"""One of each kind of provider, real: a cell, a stand-in of Neon's cloud before it, and a Postgres server."""

from __future__ import annotations

import os
import secrets
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tenantry.fleet.catalog import providers
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import ProviderKind, ProviderRecord
from tenantry.fleet.main import Fleet
from tenantry.fleet.providers.neon_account import NeonAccount
from tenantry.fleet.providers.open import open_provider
from tenantry.fleet.providers.ports import Feature, Home, Provider, ProviderProject
from tenantry.testing.neon_cloud import StandIn
from tenantry.testing.throwaway import ThrowawayCell

ADMIN = "tenantry_admin"
NEONS = frozenset[Feature](
    ("branches", "restore", "snapshots", "suspend", "pooled", "compute", "history", "quotas", "usage")
)


@pytest.fixture(scope="session")
def cell(new_workdir: Callable[[str], Path], new_cell: Callable[..., ThrowawayCell]) -> Iterator[ThrowawayCell]:
    """With a fleet, so that it has a catalog; the suites of providers use it as one provider among others."""
    options = ["--spares", "2", "--recover-for", "0"]
    with new_cell(new_workdir("providers") / "data", options=options) as cell:
        yield cell


@pytest.fixture(scope="session")
def stand_in(cell: ThrowawayCell) -> Iterator[StandIn]:
    with StandIn(cell.target) as stand_in:
        yield stand_in


@pytest.fixture(scope="session")
def admin_uri(postgres_server: str) -> str:
    """An admin who is no superuser: what managed servers give."""
    fields, password = conninfo_to_dict(postgres_server), secrets.token_hex(8)
    with psycopg.connect(postgres_server, dbname="postgres", autocommit=True) as db:
        db.execute(f"CREATE ROLE {ADMIN} LOGIN CREATEDB CREATEROLE PASSWORD '{password}'".encode())
    return f"postgresql://{ADMIN}:{password}@/postgres?host={fields['host']}"


@dataclass(frozen=True, slots=True)
class Secret:
    """How a provider is opened."""

    kind: ProviderKind
    url: str | None
    text: str
    features: frozenset[Feature]

    def record(self, catalog: Catalog, name: str, file: Path) -> ProviderRecord:
        """The provider's row, its secret in the file."""
        with os.fdopen(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600), "w") as opened:
            opened.write(self.text)
        with catalog.transaction() as connection:
            record, _ = providers.add_provider(
                connection, name=name, kind=self.kind, api_url=self.url, api_ca=None, secret_from=f"file:{file}"
            )
        return record


@pytest.fixture(params=["cell", "neon", "postgres"])
def secret(request: pytest.FixtureRequest) -> Secret:
    kind: ProviderKind = request.param
    if kind == "postgres":
        admin = request.getfixturevalue("admin_uri")
        return Secret(kind, None, f"{admin}\n{'k' * 32}\n", frozenset())
    cell: ThrowawayCell = request.getfixturevalue("cell")
    url = cell.target.api_url if kind == "cell" else request.getfixturevalue("stand_in").url
    return Secret(kind, url, cell.target.api_key, NEONS)


@pytest.fixture
def provider(secret: Secret, catalog: Catalog, tmp_path: Path) -> Iterator[Provider]:
    provider = open_provider(secret.record(catalog, "here", tmp_path / "secret"), secret.text)
    yield provider
    provider.close()


@dataclass(frozen=True, slots=True)
class Project:
    """A project with the mark that it is found by."""

    mark: uuid.UUID
    made: ProviderProject
    home: Home


NewProject = Callable[[], Project]


@pytest.fixture
def new_project(provider: Provider) -> Iterator[NewProject]:
    """Makes a project as tenants' are made; all are deleted after the test."""
    made: list[Project] = []

    def make() -> Project:
        mark = uuid.uuid4()
        project, home = provider.create_project(name=f"ACME Corp [{mark}]", region=None, pg_version=None)
        made.append(Project(mark, project, home))
        return made[-1]

    yield make
    for project in made:
        provider.delete_project(project.made.id)


@pytest.fixture
def fleet(catalog: Catalog, cell: ThrowawayCell, catalog_url: str) -> Iterator[Fleet]:
    """Whose home is the cell, and whose catalog is empty at first."""
    fleet = Fleet(Catalog(catalog_url), NeonAccount.at(cell.target.api_url, cell.target.api_key))
    yield fleet
    fleet.close()
