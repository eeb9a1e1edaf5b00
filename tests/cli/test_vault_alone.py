"""The catalog is lost: what the vault holds can be listed, and restored with the fleet's key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tenantry.fleet.backups.keys import write_fleet_key
from tenantry.fleet.main import open_fleet
from tenantry.fleet.tenants.find import find_tenant

if TYPE_CHECKING:
    from conftest import Operator, Query


def _forget(operator: Operator, slug: str) -> None:
    target = operator.cell.target
    with open_fleet(target.api_url, target.api_key, target.catalog_url) as fleet:
        tenant = find_tenant(fleet.catalog, slug)
        with fleet.catalog.transaction() as connection:
            for table in ("backup", "tenant_key"):
                connection.exec_driver_sql(f"DELETE FROM {table} WHERE project_id = %s", (tenant.id,))


def test_a_tenant_comes_back_from_the_vault_and_the_fleets_key_alone(
    operator: Operator, query: Query, vault: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slug = operator.json("create", name)["tenant"]["slug"]
    query(operator.do("url", slug).stdout, "CREATE TABLE t AS SELECT i FROM generate_series(1, 77) AS i")
    operator.do("backup", "run", slug)
    _forget(operator, slug)
    operator.do("backup", "restore", slug, code=1)

    (found,) = operator.json("vault", "list", slug)["backups"]
    assert (found["customer"], found["rows"]) == (name, 77)
    assert found["place"] in operator.do("vault", "list").stdout
    restored = operator.json("vault", "restore", found["place"], "--as", f"{name} back")
    assert restored["rows"] == 77
    assert query(operator.do("url", f"{name} back").stdout, "SELECT sum(i)::int FROM t") == [3003]

    refused = operator.do("vault", "restore", found["place"], "--as", name, code=1)
    assert "is not empty" in refused.stderr
    assert operator.json("show", slug)["tenant"]["state"] == "ready", "who was there stays"

    write_fleet_key(tmp_path / "other")
    monkeypatch.setenv("TENANTRY_BACKUPS__KEY_FROM", f"file:{tmp_path / 'other'}")
    wrong = operator.do("vault", "restore", found["place"], "--as", f"{name} never", code=1)
    assert "is wrapped by the fleet's key" in wrong.stderr
    operator.do("show", f"{name} never", code=1)


def test_a_manifest_that_cannot_be_read_is_named(operator: Operator, vault: Path, name: str) -> None:
    slug = operator.json("create", name)["tenant"]["slug"]
    operator.do("backup", "run", slug)
    (manifest,) = (vault / slug).rglob("manifest.json")
    manifest.write_text("{}")
    listed = operator.do("vault", "list", slug, "--json", code=3)
    assert slug in json.loads(listed.stdout)["damaged"][0]
