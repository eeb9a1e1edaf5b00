"""Roles, their passwords, and databases over HTTP; names may hold whatever Postgres allows."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

ODD_NAMES = ["a b", "a/b", "a/reveal_password", "täglich", 'quo"te', "100%", "a?b#c", "x" * 63]


async def test_life_of_a_role(ask: Any, branch_path: str) -> None:
    made = await ask("POST", f"{branch_path}/roles", {"role": {"name": "alice"}}, expect=201)
    password = made["role"]["password"]
    assert (await ask("GET", f"{branch_path}/roles/alice/reveal_password"))["password"] == password
    assert (await ask("POST", f"{branch_path}/roles/alice/reveal_password"))["password"] == password
    fresh = (await ask("POST", f"{branch_path}/roles/alice/reset_password"))["role"]["password"]
    assert fresh != password
    assert (await ask("GET", f"{branch_path}/roles/alice/reveal_password"))["password"] == fresh
    listed = (await ask("GET", f"{branch_path}/roles"))["roles"]
    assert sorted(role["name"] for role in listed) == ["alice", "neondb_owner"]
    assert all("password" not in role for role in listed)
    assert "password" not in (await ask("GET", f"{branch_path}/roles/alice"))["role"]
    await ask("POST", f"{branch_path}/roles", {"role": {"name": "alice"}}, expect=409)
    await ask("DELETE", f"{branch_path}/roles/alice")
    await ask("DELETE", f"{branch_path}/roles/alice", expect=204)
    for method, path in (("GET", ""), ("GET", "/reveal_password"), ("POST", "/reset_password")):
        await ask(method, f"{branch_path}/roles/alice{path}", expect=404)


async def test_an_owner_cannot_be_deleted(ask: Any, branch_path: str) -> None:
    assert "owns" in (await ask("DELETE", f"{branch_path}/roles/neondb_owner", expect=409))["message"]


async def test_a_password_that_is_not_stored_is_not_shown(ask: Any) -> None:
    made = await ask("POST", "/projects", {"project": {"store_passwords": False}}, expect=201)
    branch_path = f"/projects/{made['project']['id']}/branches/{made['branch']['id']}"
    answer = await ask("GET", f"{branch_path}/roles/neondb_owner/reveal_password", expect=412)
    assert "reset" in answer["message"]
    names = {"database_name": "neondb", "role_name": "neondb_owner"}
    uri = (await ask("GET", f"/projects/{made['project']['id']}/connection_uri", params=names))["uri"]
    assert uri.startswith("postgresql://neondb_owner@")


async def test_life_of_a_database(ask: Any, branch_path: str) -> None:
    body = {"database": {"name": "crm", "owner_name": "neondb_owner"}}
    made = await ask("POST", f"{branch_path}/databases", body, expect=201)
    assert made["database"]["owner_name"] == "neondb_owner"
    await ask("POST", f"{branch_path}/databases", body, expect=409)
    await ask("POST", f"{branch_path}/roles", {"role": {"name": "alice"}}, expect=201)
    changed = await ask("PATCH", f"{branch_path}/databases/crm", {"database": {"name": "c2", "owner_name": "alice"}})
    assert (changed["database"]["name"], changed["database"]["owner_name"]) == ("c2", "alice")
    await ask("GET", f"{branch_path}/databases/crm", expect=404)
    assert len((await ask("GET", f"{branch_path}/databases"))["databases"]) == 2
    await ask("DELETE", f"{branch_path}/databases/c2")
    await ask("DELETE", f"{branch_path}/databases/c2", expect=204)


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_odd_names_survive_the_path(ask: Any, branch_path: str, name: str) -> None:
    roles, databases, path = f"{branch_path}/roles", f"{branch_path}/databases", quote(name, safe="")
    made = await ask("POST", roles, {"role": {"name": name}}, expect=201)
    assert (await ask("GET", f"{roles}/{path}/reveal_password"))["password"] == made["role"]["password"]
    if not name.endswith("reveal_password"):  # the path cannot tell it from the question for a's password
        assert (await ask("GET", f"{roles}/{path}"))["role"]["name"] == name
    await ask("POST", databases, {"database": {"name": name, "owner_name": name}}, expect=201)
    assert (await ask("GET", f"{databases}/{path}"))["database"]["owner_name"] == name
    await ask("DELETE", f"{databases}/{path}")
    await ask("DELETE", f"{roles}/{path}")


@pytest.mark.parametrize("name", ["", "x" * 64, "ä" * 32, "nul\0", "line\nbreak", 7, None, ["a"], {}])
async def test_impossible_names_are_refused_by_field(ask: Any, branch_path: str, name: object) -> None:
    assert "role.name" in (await ask("POST", f"{branch_path}/roles", {"role": {"name": name}}, expect=400))["message"]
    body = {"database": {"name": "db", "owner_name": name}}
    assert "database.owner_name" in (await ask("POST", f"{branch_path}/databases", body, expect=400))["message"]


@pytest.mark.parametrize("path", ["x" * 64, "%00", "a%09b"])
async def test_impossible_names_in_the_path_are_refused(ask: Any, branch_path: str, path: str) -> None:
    assert "role_name" in (await ask("GET", f"{branch_path}/roles/{path}", expect=400))["message"]
    await ask("DELETE", f"{branch_path}/databases/{path}", expect=400)


async def test_reserved_names_are_refused(ask: Any, branch_path: str) -> None:
    for name in ("neon_superuser", "pg_read_all_data", "postgres"):
        await ask("POST", f"{branch_path}/roles", {"role": {"name": name}}, expect=400)
