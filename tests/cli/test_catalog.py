"""How the catalog's own project is made, found again, and missed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from tenantry.errors import NotFound, OperatorError
from tenantry.fleet.main import open_fleet
from tenantry.fleet.prepare import CATALOG_PROJECT, prepare_catalog
from tenantry.neon.client import NeonClient
from tenantry.neon.ids import ProjectId

if TYPE_CHECKING:
    from tenantry.testing.throwaway import ThrowawayCell


@pytest.fixture
def client(cell: ThrowawayCell) -> Iterator[NeonClient]:
    with NeonClient(cell.target.api_url, cell.target.api_key) as client:
        yield client


def test_it_never_sleeps_and_holds_the_guides_tables(cell: ThrowawayCell, client: NeonClient) -> None:
    record = json.loads((cell.data / "fleet.json").read_text())
    (endpoint,) = client.list_endpoints(ProjectId(record["catalog_project_id"]))
    assert (endpoint.suspend_timeout_seconds, endpoint.autoscaling_limit_min_cu) == (-1, 1)
    with psycopg.connect(cell.target.catalog_url or "") as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert {"customer", "project", "payment", "plan"} <= {name for (name,) in names}


def test_it_is_found_by_name_where_the_record_was_lost(cell: ThrowawayCell, client: NeonClient, workdir: Path) -> None:
    assert prepare_catalog(client, workdir) == cell.target.catalog_url
    assert (workdir / "fleet.json").read_text() == (cell.data / "fleet.json").read_text()
    assert prepare_catalog(client, workdir) == cell.target.catalog_url


def test_a_catalog_that_is_gone_is_never_replaced_by_an_empty_one(client: NeonClient, workdir: Path) -> None:
    (workdir / "fleet.json").write_text('{"catalog_project_id": "lost-sun-12345678"}')
    with pytest.raises(OperatorError, match="lost-sun-12345678 is gone") as raised:
        prepare_catalog(client, workdir)
    assert str(workdir / "fleet.json") in raised.value.next_step


@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_a_record_that_is_none_of_ours_is_named(client: NeonClient, workdir: Path, content: str) -> None:
    (workdir / "fleet.json").write_text(content)
    with pytest.raises(OperatorError, match="is not what Tenantry writes"):
        prepare_catalog(client, workdir)


def test_two_that_could_be_it_are_one_too_many(cell: ThrowawayCell, client: NeonClient, workdir: Path) -> None:
    twin = ProjectId(client.create_project(name=CATALOG_PROJECT).project.id)
    try:
        with pytest.raises(OperatorError, match=f"2 projects are named {CATALOG_PROJECT}: .*{twin}"):
            prepare_catalog(client, workdir)
        with pytest.raises(OperatorError, match="2 projects are named"):
            open_fleet(cell.target.api_url, cell.target.api_key)
        # Where the record says which one, a namesake does not matter.
        assert prepare_catalog(client, cell.data) == cell.target.catalog_url
    finally:
        client.delete_project(twin)


def test_a_provider_without_a_catalog_says_what_to_do(cell: ThrowawayCell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantry.fleet.prepare.CATALOG_PROJECT", "no-such-project")
    with pytest.raises(NotFound, match="no catalog") as raised:
        open_fleet(cell.target.api_url, cell.target.api_key)
    assert "--no-fleet" in raised.value.next_step
