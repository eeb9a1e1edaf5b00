"""What a run keeps of each tenant before it changes it, on a real cell: a position, or a snapshot without a history."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tenantry.neon.client import NeonClient
from tenantry.neon.ids import ProjectId

if TYPE_CHECKING:
    from conftest import Operator, Query


@pytest.fixture
def folder(workdir: Path) -> Path:
    (workdir / "0001_users.sql").write_text("CREATE TABLE users (id int PRIMARY KEY);\n")
    return workdir


def _migrated(operator: Operator, folder: Path, slug: str, *options: str) -> dict[str, Any]:
    run = operator.json("migrate", "run", "--dir", str(folder), "--tenants", slug, *options)
    (tenant,) = run["tenants"]
    assert tenant["outcome"] == "applied"
    return tenant


def test_the_position_is_the_state_before_the_migration(
    operator: Operator, query: Query, name: str, folder: Path
) -> None:
    slug = operator.json("create", name)["tenant"]["slug"]
    url = operator.do("url", slug).stdout
    query(url, "CREATE TABLE before (id int)")
    point = _migrated(operator, folder, slug)["restore_point"]
    assert point["kind"] == "lsn"
    query(url, "CREATE TABLE after (id int)")

    operator.do("restore", slug, "--to", point["value"], "--yes")
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
    assert query(url, tables) == ["before"]
    assert query(url, "SELECT to_regclass('tenantry.migrations')::text") == [None]


def test_without_a_history_a_snapshot_is_taken_and_expires(
    operator: Operator, query: Query, name: str, folder: Path
) -> None:
    tenant = operator.json("create", name)["tenant"]
    slug, target = tenant["slug"], operator.cell.target
    query(operator.do("url", slug).stdout, "CREATE TABLE before (id int)")
    with NeonClient(target.api_url, target.api_key) as client:
        client.update_project(ProjectId(tenant["project_id"]), history_retention_seconds=0)
    point = _migrated(operator, folder, slug)["restore_point"]
    assert point["kind"] == "snapshot"
    (snapshot,) = operator.json("snapshot", "list", slug)["snapshots"]
    assert snapshot["id"] == point["value"]
    assert snapshot["expires_at"] is not None

    operator.do("snapshot", "restore", slug, snapshot["name"], "--yes")
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    assert query(operator.do("url", slug).stdout, tables) == ["before"]


def test_what_is_current_has_none_and_nobody_keeps_what_is_not_wanted(
    operator: Operator, name: str, folder: Path
) -> None:
    slug = operator.json("create", name)["tenant"]["slug"]
    unwanted = _migrated(operator, folder, slug, "--no-restore-point")
    assert (unwanted["restore_point"], unwanted["notes"]) == (None, [])
    again = operator.json("migrate", "run", "--dir", str(folder), "--tenants", slug)
    assert (again["tenants"], again["counts"]["skipped"]) == ([], 1)
