"""Operations, keys, the account, regions and snapshots over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from tenantry.testing.fake_cell import FakeCell


async def test_operations_page_from_the_newest(ask: Any, project: Any, project_path: str, endpoint_path: str) -> None:
    for word in ("start", "suspend", "start"):
        await ask("POST", f"{endpoint_path}/{word}")
    everything = (await ask("GET", f"{project_path}/operations"))["operations"]
    assert [operation["action"] for operation in everything][:2] == ["start_compute", "suspend_compute"]
    first = await ask("GET", f"{project_path}/operations?limit=3")
    rest = await ask("GET", f"{project_path}/operations?limit=3&cursor={first['pagination']['cursor']}")
    assert first["operations"] + rest["operations"] == everything
    one = everything[0]
    assert (await ask("GET", f"{project_path}/operations/{one['id']}"))["operation"] == one
    await ask("GET", f"{project_path}/operations/d8ac46eb-a757-42b1-9907-f78322ee394e", expect=404)
    await ask("GET", f"{project_path}/operations?limit=1001", expect=400)


class TestUnfinished:
    @pytest.fixture
    def cell(self) -> FakeCell:
        return FakeCell(looks=1)

    async def test_a_running_operation_is_shown_as_such(self, ask: Any, project: Any, project_path: str) -> None:
        assert {operation["status"] for operation in project["operations"]} == {"running"}
        await ask("DELETE", project_path, expect=423)
        for operation in project["operations"]:
            got = await ask("GET", f"{project_path}/operations/{operation['id']}")
            assert got["operation"]["status"] == "finished"
        await ask("DELETE", project_path)


async def test_a_key_opens_until_it_is_revoked(ask: Any, client: Any) -> None:
    made = await ask("POST", "/api_keys", {"key_name": "ci"})
    headers = {"Authorization": f"bearer {made['key']}"}
    assert (await client.get("/api/v2/users/me", headers=headers)).status_code == 200
    listed = await ask("GET", "/api_keys")
    assert [key["name"] for key in listed] == ["test", "ci"]
    assert all(made["key"] not in str(key) for key in listed)
    assert (await ask("DELETE", f"/api_keys/{made['id']}"))["revoked"] is True
    assert (await client.get("/api/v2/users/me", headers=headers)).status_code == 401
    await ask("DELETE", f"/api_keys/{made['id']}", expect=404)
    for wrong in ("x", str(2**63), "-1"):
        assert "key_id" in (await ask("DELETE", f"/api_keys/{wrong}", expect=400))["message"]
    for name in ("", "x" * 65, 5):
        assert "key_name" in (await ask("POST", "/api_keys", {"key_name": name}, expect=400))["message"]


async def test_the_account_is_complete(ask: Any) -> None:
    me = await ask("GET", "/users/me")
    assert me["billing_account"]["subscription_type"] == "UNKNOWN"
    assert (await ask("GET", "/auth"))["account_id"] == me["id"]
    assert (await ask("GET", "/regions?org_id=org-x"))["regions"][0]["region_id"] == "local"


async def test_life_of_a_snapshot(ask: Any, project: Any, project_path: str, branch_path: str) -> None:
    query = "name=before&expires_at=2030-01-01T00:00:00Z&timestamp=2026-01-01T00:00:00Z"
    made = (await ask("POST", f"{branch_path}/snapshot?{query}"))["snapshot"]
    assert (made["name"], made["expires_at"]) == ("before", "2030-01-01T00:00:00Z")
    assert made["created_at"].endswith("Z")
    assert (await ask("GET", f"{project_path}/snapshots"))["snapshots"] == [made]
    path = f"{project_path}/snapshots/{made['id']}"
    assert (await ask("PATCH", path, {"snapshot": {"name": "after"}}))["snapshot"]["name"] == "after"
    restored = await ask("POST", f"{path}/restore", {"name": "back"})
    assert restored["branch"]["name"] == "back"
    await ask("POST", f"{path}/restore?name=again")
    await ask("DELETE", path, expect=202)
    await ask("POST", f"{path}/restore", expect=404)
    await ask("POST", f"{branch_path}/snapshot?lsn=0/1&timestamp=2026-01-01T00:00:00Z", expect=400)


async def test_backup_schedules(ask: Any, branch_path: str) -> None:
    schedule = {"schedule": [{"frequency": "daily", "hour": 3, "retention_seconds": 86400}, {"frequency": "hourly"}]}
    assert await ask("PUT", f"{branch_path}/backup_schedule", schedule) == {}
    assert await ask("GET", f"{branch_path}/backup_schedule") == schedule
    for wrong, named in (
        ({"frequency": "sometimes"}, "schedule.0.frequency"),
        ({"frequency": "daily", "hour": 24}, "hour"),
    ):
        answer = await ask("PUT", f"{branch_path}/backup_schedule", {"schedule": [wrong]}, expect=400)
        assert named in answer["message"]
