"""What a restore does to the catalog and asks of the API; what it does to data is tested in tests/cli."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantry.errors import Conflict, InvalidInput, NotFound, Unavailable
from tenantry.fleet.catalog import queries
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.providers.neon_api import NeonProvider
from tenantry.fleet.tenants.create import create_tenant, wish
from tenantry.fleet.tenants.find import find_tenant
from tenantry.fleet.tenants.restore import dated_name, live_at, plan_restore, restore_tenant
from tenantry.fleet.tenants.snapshot_create import create_snapshot
from tenantry.fleet.tenants.snapshot_delete import delete_snapshot, plan_snapshot_deletion
from tenantry.fleet.tenants.snapshot_list import list_snapshots
from tenantry.neon.client import NeonClient
from tenantry.neon.shapes import BranchOperations
from tenantry.testing.fake_api import FakeApi

THEN = datetime(2026, 11, 24, 10, 41, 0, 250_000, tzinfo=UTC)
NOW = datetime(2026, 11, 24, 10, 42, 7, tzinfo=UTC)


class AnswerLost(NeonClient):
    """A connection that breaks when the restore has happened."""

    lost = False

    def provider_of(self, tenant: Tenant) -> NeonProvider:
        del tenant
        return NeonProvider(self)

    def restore_branch(self, *arguments: object, **how: object) -> BranchOperations:
        answer = super().restore_branch(*arguments, **how)  # pyright: ignore[reportArgumentType]
        if self.lost:
            raise Unavailable("the answer was lost", maybe_done=True)
        return answer


@pytest.fixture
def client(catalog: Catalog) -> Iterator[AnswerLost]:
    with FakeApi() as api, AnswerLost(api.base_url, api.key) as client:
        create_tenant(catalog, client.provider_of, wish("ACME Corp"))
        with catalog.transaction() as connection:
            queries.record_schema(connection, "acme-corp", version="0001", format="sql", fingerprint="f")
        yield client


def schema(catalog: Catalog) -> tuple[object, ...]:
    tenant = find_tenant(catalog, "acme-corp")
    return tenant.schema_version, tenant.schema_format, tenant.schema_fingerprint, tenant.schema_seen_at


@pytest.mark.parametrize("lost", [False, True])
def test_the_next_migration_asks_the_ledger_however_the_restore_ends(
    catalog: Catalog, client: AnswerLost, lost: bool
) -> None:
    plan = plan_restore(catalog, client.provider_of, "ACME Corp", at=THEN, now=NOW)
    assert schema(catalog)[0] == "0001"
    assert (plan.branch, plan.source, plan.preserved_as) == ("main", "main", "main-until-2026-11-24T10:42:07Z")
    client.lost = lost
    if lost:
        with pytest.raises(Unavailable):
            restore_tenant(catalog, client.provider_of, plan)
    else:
        assert restore_tenant(catalog, client.provider_of, plan).preserved_as == plan.preserved_as
    assert schema(catalog) == (None,) * 4
    branches = {branch.name: branch for branch in client.branches(plan.project_id)}
    assert set(branches) == {"main", plan.preserved_as}
    # Going back from what was kept; and each present has a name of its own.
    undo = plan_restore(catalog, client.provider_of, "acme-corp", source=plan.preserved_as, now=NOW)
    assert (undo.source_id, undo.at, undo.preserved_as) == (
        branches[plan.preserved_as].id, None, f"{plan.preserved_as}-2",
    )  # fmt: skip


def test_what_cannot_be_meant_is_refused_before_anything_happens(catalog: Catalog, client: AnswerLost) -> None:
    with pytest.raises(InvalidInput, match="which state"):
        plan_restore(catalog, client.provider_of, "acme-corp")
    with pytest.raises(InvalidInput, match="which state"):
        plan_restore(catalog, client.provider_of, "acme-corp", source="main")
    with pytest.raises(InvalidInput, match="a time and a position"):
        plan_restore(catalog, client.provider_of, "acme-corp", at=THEN, lsn="0/1")
    with pytest.raises(NotFound, match="no branch 'nope'") as refused:
        plan_restore(catalog, client.provider_of, "acme-corp", source="nope")
    assert "--tenant acme-corp" in refused.value.next_step
    with pytest.raises(NotFound, match="no tenant nobody"):
        plan_restore(catalog, client.provider_of, "nobody", at=THEN)
    assert schema(catalog)[0] == "0001"


def test_dated_names_are_words_for_a_shell_and_never_taken() -> None:
    first = dated_name("main", NOW, ())
    assert first == "main-until-2026-11-24T10:42:07Z"
    taken: list[str] = []
    for _ in range(4):
        taken.append(dated_name("main", NOW, taken))
    assert taken == [first, f"{first}-2", f"{first}-3", f"{first}-4"]


@dataclass(frozen=True)
class Branch:
    name: str
    created_at: datetime


@settings(deadline=None)
@given(st.lists(st.integers(1, 10_000), unique=True, max_size=8), st.integers(0, 10_001))
def test_the_past_of_a_time_lies_in_the_first_branch_that_was_preserved_after_it(seconds: list[int], at: int) -> None:
    """A model: each restore ends an era of the branch; the era of a time is the one that ended first after it."""
    main = Branch("main", NOW)
    eras = {end: Branch(dated_name("main", NOW + timedelta(seconds=end), ()), NOW + timedelta(seconds=end))
            for end in seconds}  # fmt: skip
    others = [Branch("dev", NOW + timedelta(days=2)), Branch("maintenance-until-x", NOW + timedelta(days=1))]
    ended = min((end for end in seconds if end > at), default=None)
    expected = main if ended is None else eras[ended]
    assert live_at(main, [main, *eras.values(), *others], NOW + timedelta(seconds=at)) == expected


def test_snapshots_are_found_by_their_names(catalog: Catalog, client: AnswerLost) -> None:
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    taken = create_snapshot(catalog, client.provider_of, "acme-corp", name="before", at=THEN, expires_at=until).snapshot
    assert (taken.name, taken.branch, taken.timestamp, taken.expires_at) == ("before", "main", THEN, until)
    assert list_snapshots(catalog, client.provider_of, "acme-corp") == [taken]
    planned = plan_snapshot_deletion(catalog, client.provider_of, "acme-corp", "before")
    assert delete_snapshot(catalog, client.provider_of, planned)
    assert not delete_snapshot(catalog, client.provider_of, planned)
    with pytest.raises(NotFound, match="no snapshot 'before'"):
        plan_snapshot_deletion(catalog, client.provider_of, "acme-corp", "before")
    with catalog.transaction() as connection:
        queries.mark_deleting(connection, find_tenant(catalog, "acme-corp").id)
    with pytest.raises(Conflict, match="being deleted"):
        list_snapshots(catalog, client.provider_of, "acme-corp")
