from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from tenantry.errors import Conflict, InvalidInput, NotFound, OperatorError
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.environments.create import create_branch
from tenantry.fleet.environments.delete import delete_branch, plan_branch_deletion
from tenantry.fleet.environments.list import list_branches
from tenantry.fleet.environments.nonproduction import (
    NONPRODUCTION_PROJECT,
    find_nonproduction,
    prepare_nonproduction,
)
from tenantry.fleet.environments.records import Place
from tenantry.fleet.environments.reset import reset_branch
from tenantry.fleet.environments.url import branch_url
from tenantry.neon.client import NeonClient


def names(place: Place) -> list[str]:
    return [branch.name for branch in list_branches(place)]


def test_the_project_is_made_once_by_whoever_comes_first(catalog: Catalog, client: NeonClient) -> None:
    client.create_project(name=f"{NONPRODUCTION_PROJECT} of somebody else")
    assert find_nonproduction(client) is None
    with ThreadPoolExecutor(8) as pool:
        made = {future.result() for future in [pool.submit(prepare_nonproduction, catalog, client) for _ in range(8)]}
    assert made == {find_nonproduction(client)}
    client.create_project(name=NONPRODUCTION_PROJECT)
    with pytest.raises(OperatorError, match="2 projects are named tenantry-nonprod"):
        prepare_nonproduction(catalog, client)


def test_creating_twice_is_one_branch_whose_expiry_is_renewed(place: Place) -> None:
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(days=7)
    first = create_branch(place, "pr-123", expires_at=soon)
    assert (first.new, first.branch.parent, first.branch.expires_at) == (True, "main", soon)
    assert first.branch.endpoint_id is not None
    again = create_branch(place, "pr-123", parent="main", expires_at=soon + timedelta(days=1))
    assert (again.new, again.branch.id, again.branch.endpoint_id) == (False, first.branch.id, first.branch.endpoint_id)
    assert again.branch.expires_at == soon + timedelta(days=1)
    assert names(place) == ["main", "pr-123"]


def test_eight_who_create_one_branch_at_once_get_the_same(place: Place) -> None:
    with ThreadPoolExecutor(8) as pool:
        done = [future.result() for future in [pool.submit(create_branch, place, "ci") for _ in range(8)]]
    assert len({each.branch.id for each in done}) == 1
    assert sum(each.new for each in done) == 1


def test_another_branch_of_the_same_name_is_reported(place: Place) -> None:
    create_branch(place, "dev")
    create_branch(place, "leaf", parent="dev")
    for how in ({"parent": "main"}, {"at": datetime(2026, 1, 1, tzinfo=UTC)}, {"lsn": "0/1"}):
        with pytest.raises(Conflict, match="'leaf' exists") as refused:
            create_branch(place, "leaf", **how)  # pyright: ignore[reportArgumentType]
        assert "`tenantry branch delete leaf`" in refused.value.next_step
    with pytest.raises(NotFound, match="no branch 'nope'"):
        create_branch(place, "x", parent="nope")
    with pytest.raises(InvalidInput, match="empty"):
        create_branch(place, "")


def test_a_branch_without_an_endpoint_gets_one_when_somebody_wants_to_connect(place: Place) -> None:
    made = place.client.create_branch(place.project_id, name="kept", endpoint=False).branch
    assert [b.endpoint_id for b in list_branches(place) if b.id == made.id] == [None]
    uri = branch_url(place, "kept")
    (endpoint,) = [b.endpoint_id for b in list_branches(place) if b.id == made.id]
    assert endpoint is not None
    assert endpoint in uri
    assert branch_url(place, made.id) == uri
    assert create_branch(place, "kept").branch.endpoint_id == endpoint


def test_only_a_child_is_reset_and_never_what_customers_are_served_from(place: Place) -> None:
    create_branch(place, "dev")
    assert reset_branch(place, "dev").parent == "main"
    with pytest.raises(InvalidInput, match="default branch") as refused:
        reset_branch(Place(place.client, place.project_id, "acme-corp"), "main")
    assert "tenantry restore acme-corp --to" in refused.value.next_step
    dev = next(branch for branch in list_branches(place) if branch.name == "dev")
    place.client.update_branch(place.project_id, dev.id, protected=True)
    with pytest.raises(Conflict, match="protected"):
        reset_branch(place, "dev")


def test_deleting_is_planned_first_and_safe_twice(place: Place) -> None:
    create_branch(place, "dev")
    create_branch(place, "le af", parent="dev")
    with pytest.raises(Conflict, match="le af") as refused:
        plan_branch_deletion(place, "dev")
    assert "`tenantry branch delete 'le af'`" in refused.value.next_step
    with pytest.raises(Conflict, match="default"):
        plan_branch_deletion(place, "main")
    leaf = plan_branch_deletion(place, "le af")
    assert names(place) == ["main", "dev", "le af"]
    assert delete_branch(place, leaf)
    assert not delete_branch(place, leaf)
    with pytest.raises(NotFound, match="the non-production project has no branch 'le af'"):
        plan_branch_deletion(place, "le af")
