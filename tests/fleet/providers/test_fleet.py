"""A tenant's life at each kind of provider, through the fleet: placed there, used, migrated, and gone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from tenantry.errors import NotSupported
from tenantry.fleet.catalog import providers
from tenantry.fleet.providers.ports import Feature
from tenantry.fleet.tenants.snapshot_list import list_snapshots

if TYPE_CHECKING:
    from conftest import Secret
    from tenantry.fleet.catalog.records import ProviderRecord
    from tenantry.fleet.main import Fleet


@pytest.fixture
def record(fleet: Fleet, secret: Secret, tmp_path: Path) -> ProviderRecord:
    """The provider, which serves ``eu-1``."""
    record = secret.record(fleet.catalog, "there", tmp_path / "secret")
    with fleet.catalog.transaction() as connection:
        providers.serve_region(
            connection,
            record.id,
            "eu-1",
            provider_region="local",
            projects_max=None,
            unlimited=True,
            accepts_new=True,
        )
    return record


def test_a_tenant_is_created_used_migrated_and_deleted_there(
    fleet: Fleet, record: ProviderRecord, tmp_path: Path
) -> None:
    made = fleet.create("ACME Corp", region="eu-1")
    tenant = made.tenant
    assert made.new
    assert (tenant.provider_id, tenant.region, tenant.state) == (record.id, "eu-1", "ready")
    again = fleet.create("ACME Corp", region="eu-1")
    assert (again.new, again.tenant.project_id) == (False, tenant.project_id)
    assert fleet.show("acme-corp").provider == "there"

    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_notes.sql").write_text("CREATE TABLE notes (id int PRIMARY KEY);\n")
    result = fleet.migrate(folder)
    [migrated] = fleet.run_tenants(result)
    assert migrated.failure is None
    # Plain Postgres has no way back, and the result says so.
    assert (migrated.restore_point is None) == bool(migrated.notes) == (record.kind == "postgres")
    with psycopg.connect(fleet.url("acme-corp"), connect_timeout=60) as db:
        assert db.execute("SELECT count(*) FROM notes").fetchone() == (0,)

    provider = fleet.provider_of(tenant)
    fleet.delete("acme-corp", grace=timedelta())
    assert provider.find_projects(str(tenant.id)) == []
    assert list(fleet.list()) == []


def _suspend(fleet: Fleet) -> object:
    return fleet.suspend("acme-corp")


def _pooled(fleet: Fleet) -> object:
    return fleet.url("acme-corp", pooled=True)


def _branches(fleet: Fleet) -> object:
    return fleet.place("acme-corp")


def _restore(fleet: Fleet) -> object:
    return fleet.plan_restore("acme-corp", at=datetime.now(UTC))


def _snapshots(fleet: Fleet) -> object:
    return list_snapshots(fleet.catalog, fleet.provider_of, "acme-corp")


VERBS: dict[Feature, Callable[[Fleet], object]] = {
    "suspend": _suspend,
    "pooled": _pooled,
    "branches": _branches,
    "restore": _restore,
    "snapshots": _snapshots,
}


@pytest.mark.parametrize("feature", VERBS)
def test_a_verb_works_where_the_feature_is_and_says_so_where_it_is_not(
    fleet: Fleet, record: ProviderRecord, secret: Secret, feature: Feature
) -> None:
    tenant = fleet.create("ACME Corp", region="eu-1").tenant
    assert tenant.provider_id == record.id
    try:
        if feature in secret.features:
            VERBS[feature](fleet)
        else:
            # Asleep is what nobody can be there, so putting to sleep is refused, and never said to be done.
            with pytest.raises(NotSupported, match=r"provider there .* does not have"):
                VERBS[feature](fleet)
    finally:
        fleet.delete("acme-corp", grace=timedelta())
