"""Going back to the state before a migration happens once, whatever became of the answer or of whoever asked."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tenantry.errors import Conflict, Unavailable
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.providers.neon_api import NeonProvider
from tenantry.fleet.tenants.create import create_tenant, wish
from tenantry.fleet.tenants.find import find_tenant
from tenantry.fleet.tenants.go_back import Past, go_back, look_back
from tenantry.fleet.tenants.restore import plan_restore, restore_tenant
from tenantry.neon import shapes
from tenantry.neon.client import NeonClient
from tenantry.neon.ids import ProjectId
from tenantry.testing.fake_api import FakeApi

LSN = "0/16B3748"


class Unreliable(NeonClient):
    """Loses the answer to a restore, or does not see yet what another has just restored."""

    lost = False
    blind_looks = 0

    def provider_of(self, tenant: Tenant) -> NeonProvider:
        del tenant
        return NeonProvider(self)

    def restore_branch(self, *arguments: object, **how: object) -> shapes.BranchOperations:
        answer = super().restore_branch(*arguments, **how)  # pyright: ignore[reportArgumentType]
        if self.lost:
            raise Unavailable("the answer was lost", maybe_done=True)
        return answer

    def branches(self, project_id: ProjectId, *, search: str | None = None) -> Iterator[shapes.Branch]:
        for branch in super().branches(project_id, search=search):
            if self.blind_looks == 0 or branch.default:
                yield branch
        self.blind_looks = max(0, self.blind_looks - 1)


@pytest.fixture
def client(catalog: Catalog) -> Iterator[Unreliable]:
    with FakeApi() as api, Unreliable(api.base_url, api.key) as client:
        create_tenant(catalog, client.provider_of, wish("ACME Corp"))
        yield client


def back(catalog: Catalog, client: Unreliable, past: Past) -> bool:
    return go_back(catalog, client.provider_of, "acme-corp", kind="lsn", value=LSN, preserved_as=past.preserved_as)


def branches(catalog: Catalog, client: Unreliable) -> set[str]:
    project_id = find_tenant(catalog, "acme-corp").project_id
    assert project_id is not None
    return {branch.name for branch in client.branches(project_id)}


def test_the_second_time_it_is_there_already(catalog: Catalog, client: Unreliable) -> None:
    past = look_back(catalog, client.provider_of, "acme-corp")
    assert past.restores == ()
    assert back(catalog, client, past) is True
    assert back(catalog, client, past) is False
    assert branches(catalog, client) == {"main", past.preserved_as}


def test_a_lost_answer_is_no_second_restore(catalog: Catalog, client: Unreliable) -> None:
    past = look_back(catalog, client.provider_of, "acme-corp")
    client.lost = True
    with pytest.raises(Unavailable):
        back(catalog, client, past)
    client.lost = False
    assert back(catalog, client, past) is False
    assert branches(catalog, client) == {"main", past.preserved_as}


def test_a_request_of_the_dead_that_arrives_in_between_is_found(catalog: Catalog, client: Unreliable) -> None:
    past = look_back(catalog, client.provider_of, "acme-corp")
    back(catalog, client, past)
    client.blind_looks = 1
    assert back(catalog, client, past) is False
    assert branches(catalog, client) == {"main", past.preserved_as}


def test_another_conflict_is_told(catalog: Catalog, client: Unreliable, monkeypatch: pytest.MonkeyPatch) -> None:
    past = look_back(catalog, client.provider_of, "acme-corp")

    def refuse(*_: object, **__: object) -> shapes.BranchOperations:
        raise Conflict("not now")

    monkeypatch.setattr(client, "restore_branch", refuse)
    with pytest.raises(Conflict, match="not now"):
        back(catalog, client, past)


def test_each_name_is_its_own_and_every_restore_is_seen(catalog: Catalog, client: Unreliable) -> None:
    now = datetime(2026, 11, 24, 10, 42, 7, tzinfo=UTC)
    one, two = (look_back(catalog, client.provider_of, "acme-corp", now=now) for _ in range(2))
    assert one.preserved_as.startswith("main-until-2026-11-24T10:42:07Z-undo-")
    assert one.preserved_as != two.preserved_as
    back(catalog, client, one)
    by_hand = plan_restore(catalog, client.provider_of, "acme-corp", lsn=LSN)
    restore_tenant(catalog, client.provider_of, by_hand)
    found = look_back(catalog, client.provider_of, "acme-corp").restores
    assert {name for _, name in found} == {one.preserved_as, by_hand.preserved_as}
