"""What the kinds hand to the verbs, and what they remember of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tenantry.fleet.jobs.kinds import Item, kinds


class Verbs:
    """Notes each call. It has what the kinds call, and nothing that only passes do."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def create(self, name: str, **given: Any) -> Any:
        self.calls.append((name, {field: value for field, value in given.items() if value is not None}))
        return SimpleNamespace(new=True, tenant=SimpleNamespace(slug=given["slug"], project_id="cool-sun-1"))

    def suspend(self, name: str) -> Any:
        self.calls.append((name, {}))
        return SimpleNamespace(slug=name, project_id="cool-sun-1")

    resume = suspend


def test_create_takes_its_slug_from_the_subject_and_the_rest_from_the_input() -> None:
    fleet = Verbs()
    (create,) = [kind for kind in kinds(cast("Any", fleet)) if kind.name == "create"]
    given = {
        "name": "ACME",
        "email": "a@b.c",
        "plan": "scale",
        "region": "eu",
        "residency": "eu-only",
        "pg_version": 18,
    }
    assert create.work(Item(subject="acme", input=given)) == {
        "created": True,
        "tenant": "acme",
        "project_id": "cool-sun-1",
    }
    assert fleet.calls == [("ACME", {"slug": "acme"} | {name: given[name] for name in given if name != "name"})]


@pytest.mark.parametrize("name", ["suspend", "resume"])
def test_verbs_of_one_tenant_take_the_subject(name: str) -> None:
    fleet = Verbs()
    (kind,) = [kind for kind in kinds(cast("Any", fleet)) if kind.name == name]
    assert kind.work(Item(subject="acme")) == {"tenant": "acme", "project_id": "cool-sun-1"}
    assert kind.of_tenants
    assert fleet.calls == [("acme", {})]
