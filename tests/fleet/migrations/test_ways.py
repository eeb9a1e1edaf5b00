"""How ways to tenants are asked for: together where they were met together, each used once, else alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tenantry.errors import NotFound, Unavailable
from tenantry.fleet import migrated
from tenantry.fleet.catalog import queries
from tenantry.fleet.migrated import MigratedTenants
from tenantry.fleet.migrations.apply import Bounds, Halt, Migrator
from tenantry.fleet.migrations.results import MigrationFailed
from tenantry.fleet.migrations.tenant import TenantSlug
from tenantry.fleet.providers.ports import Home, OperatorWay
from tenantry.neon.ids import ProjectId

KEYS = ("a+b/c=", "d=")
NO_FOLDER: Any = None


class Asked:
    """A provider as far as ways go. It has lost some projects."""

    def __init__(self, *lost: str) -> None:
        self.lost = lost
        self.together: list[list[str]] = []
        self.alone: list[str] = []

    def operator_ways(self, homes: Mapping[ProjectId, Home]) -> Mapping[ProjectId, OperatorWay]:
        self.together.append(sorted(homes))
        return {
            each: OperatorWay(f"postgresql://r@h/d?application_name={each}", KEYS)
            for each in homes
            if each not in self.lost
        }

    def operator_uri(self, project_id: ProjectId, home: Home) -> str:
        self.alone.append(project_id)
        if project_id in self.lost:
            raise NotFound(f"project {project_id} does not exist")
        return f"postgresql://{home.role_name}@h/{home.database_name}"


@pytest.fixture
def three(new_fleet: Callable[[int], Any]) -> Callable[[Asked], MigratedTenants]:
    fleet = new_fleet(3)

    def make(provider: Asked) -> MigratedTenants:
        there: Any = provider
        tenants = MigratedTenants(fleet.catalog, lambda _: there)
        with fleet.catalog.transaction() as connection:
            tenants.met(queries.tenants_called(connection, ["t0", "t1", "t2"]))
        return tenants

    return make


def test_those_that_were_met_together_are_asked_for_together_and_each_is_used_once(
    three: Callable[[Asked], MigratedTenants],
) -> None:
    provider = Asked()
    tenants = three(provider)
    ways = [conninfo_to_dict(tenants.dsn(TenantSlug(slug))) for slug in ("t1", "t0", "t2")]
    assert [each["application_name"] for each in ways] == ["project-t1", "project-t0", "project-t2"]
    assert provider.together == [["project-t0", "project-t1", "project-t2"]]
    assert not provider.alone
    if pq.version() >= migrated.KEYS_LIBPQ_MIN:
        assert {(each["scram_client_key"], each["scram_server_key"]) for each in ways} == {KEYS}
    assert tenants.dsn(TenantSlug("t1")) == "postgresql://r@h/d"
    assert provider.alone == ["project-t1"]


def test_an_older_libpq_gets_the_password_alone(
    three: Callable[[Asked], MigratedTenants], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrated.pq, "version", lambda: migrated.KEYS_LIBPQ_MIN - 1)
    assert "scram" not in three(Asked()).dsn(TenantSlug("t1"))


def test_whoever_is_not_there_is_asked_for_alone_and_says_why(three: Callable[[Asked], MigratedTenants]) -> None:
    provider = Asked("project-t1")
    tenants = three(provider)
    with pytest.raises(NotFound, match="project-t1 does not exist"):
        tenants.dsn(TenantSlug("t1"))
    tenants.dsn(TenantSlug("t2"))
    assert provider.alone == ["project-t1"]


def test_a_provider_that_gives_none_together_is_asked_for_each(three: Callable[[Asked], MigratedTenants]) -> None:
    class Away(Asked):
        def operator_ways(self, homes: Mapping[ProjectId, Home]) -> Mapping[ProjectId, OperatorWay]:
            raise Unavailable("the provider is away")

    provider = Away()
    tenants = three(provider)
    assert tenants.dsn(TenantSlug("t2")) == "postgresql://r@h/d"
    assert provider.alone == ["project-t2"]


def test_a_way_that_is_refused_is_asked_for_once_more(new_fleet: Callable[[int], Any]) -> None:
    fleet = new_fleet(2)
    right, other = fleet.dsns["t0"], fleet.dsns["t1"]
    wrong = make_conninfo(right, dbname="renamed_since")
    given: list[str] = []

    def migrator(*ways: str) -> Migrator:
        left = iter(ways)

        def dsn(slug: str) -> str:
            given.append(slug)
            return next(left)

        bounds = Bounds(connect_deadline_seconds=5)
        return Migrator(folder=NO_FOLDER, dsn=dsn, bounds=bounds, accept_edited=False, halt=Halt())

    with migrator(wrong, right, other).connect(TenantSlug("t0"), lambda: False) as connection:
        assert connection.info.dbname == conninfo_to_dict(right)["dbname"]
    assert given == ["t0", "t0"]
    with pytest.raises(MigrationFailed, match="renamed_since"):
        migrator(wrong, wrong, right).connect(TenantSlug("t0"), lambda: False)
    assert len(given) == 4


def test_a_way_that_waited_long_is_asked_for_anew(
    three: Callable[[Asked], MigratedTenants], monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = Asked()
    tenants = three(provider)
    tenants.dsn(TenantSlug("t0"))
    monkeypatch.setattr(migrated, "MET_SECONDS_MAX", 0.0)
    tenants.dsn(TenantSlug("t1"))
    assert provider.alone == ["project-t1"]
