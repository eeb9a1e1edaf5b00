"""``@neon/sdk`` from npm, unmodified, with nothing but ``baseUrl`` set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import psycopg
import pytest

from tenantry.neon.ids import ProjectId

pytestmark = pytest.mark.node

PACKAGES: Final = ("@neon/sdk@6", "pg@8")


@pytest.fixture(scope="module")
def seen(real_cell: Any, npm_install: Callable[..., Path], run_node: Callable[..., Any]) -> Any:
    """What the script saw of a real cell."""
    return run_node("neon_sdk.mjs", real_cell.api_url, real_cell.api_key, str(npm_install(*PACKAGES)))


def test_projects(seen: Any) -> None:
    assert seen["project"] == ["ACME Corp", "aws-us-east-1"]
    assert (seen["got"], seen["listed"], seen["renamed"]) == ("ACME Corp", True, "ACME Ltd")
    assert seen["paged"] == 2, "one on each page"
    assert (seen["left"], seen["recovered"], seen["deleted"]) == (0, "Globex A", True)


def test_branches(seen: Any) -> None:
    assert seen["main"] == "main"
    assert seen["dev"] == [True, "read_write", [1]], "a branch with its parent's rows, and a connection string"
    assert "+    title text" in seen["diff"]
    assert (seen["reset"], seen["afterReset"]) == (True, [1]), "by the same connection string"
    assert (seen["branch"], seen["default"], seen["bare"]) == (True, True, 0)
    assert seen["branches"] == ["bare", "dev2", "main"]


def test_roles_and_databases(seen: Any) -> None:
    assert (seen["role"], seen["password"], seen["otherPassword"]) == ("alice", True, True)
    assert seen["roles"] == ["alice", "neondb_owner"]
    assert (seen["owner"], seen["database"], seen["databases"]) == ("alice", "sales", ["neondb", "sales"])
    assert seen["gone"]["kind"] == "not_found"


def test_connection_strings(seen: Any) -> None:
    assert "-pooler" not in seen["uri"]
    assert "-pooler" in seen["uriPooled"]
    assert seen["who"] == [["alice in sales"]] * 2
    assert seen["sole"] == ["neondb_owner in neondb"], "the default branch's only role and database"
    assert "found 2" in seen["ambiguous"]["message"]


def test_endpoints(seen: Any) -> None:
    assert seen["endpoint"] == 120
    assert (seen["started"], seen["suspended"], seen["endpoints"]) == ("active", "idle", 3)


def test_snapshots(seen: Any) -> None:
    assert (seen["snapshots"], seen["restored"]) == (["before"], [1])
    assert (seen["preview"], seen["committed"]) == ([1], [1]), "looked at, then put in the branch's place"
    assert seen["schedule"] == "daily"


def test_operations_and_the_generated_layer(seen: Any) -> None:
    assert seen["operation"] == "finished"
    assert seen["operations"] > 1, "kinds of them"
    assert "CREATE TABLE public.tasks" in seen["schema"]


def test_the_account(seen: Any) -> None:
    assert (seen["key"], seen["revoked"], seen["keys"]) == ("ACME Ltd", True, False)
    assert (seen["me"], seen["organization"], seen["consumed"]) == ("operator", True, True)
    assert len(seen["regions"]) == 1


def test_errors_have_the_kind_that_callers_branch_on(seen: Any) -> None:
    for name, kind, status in (
        ("notThere", "not_found", 404),
        ("badName", "api", 400),
        ("revokedKey", "auth", 401),
        ("notHere", "api", 501),
        ("taken", "api", 409),
    ):
        error = seen[name]
        assert (error["kind"], error["status"]) == (kind, status)
        assert error["code"] and error["id"], "a code, and an id to ask with"


def test_a_pooled_connection_string_where_endpoints_have_names(
    domain_cell: Any, npm_install: Callable[..., Path], run_node: Callable[..., Any]
) -> None:
    """The SDK makes it of ``connection_parameters``: it puts the pooled host in the other's place."""
    home = npm_install(*PACKAGES)
    made = run_node("neon_sdk.mjs", domain_cell.api_url, domain_cell.api_key, str(home), "connect")
    uri: str = made["connectionString"]
    host = str(urlsplit(uri).hostname)
    assert host.split(".", maxsplit=1)[0].endswith("-pooler")
    assert host.endswith(".db.example.com")
    with psycopg.connect(uri, hostaddr="127.0.0.1", connect_timeout=30) as connection:
        assert connection.execute("select current_user").fetchone() == ("neondb_owner",)
    with domain_cell.client() as client:
        client.delete_project(ProjectId(made["project"]["id"]))
