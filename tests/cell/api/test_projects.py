"""Projects over HTTP: made, found, changed, deleted, recovered, connected to."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import psycopg.conninfo
import pytest

from tenantry.cell.consumption import period_of
from tenantry.neon.ids import ProjectId
from tenantry.postgres.dsn import parse_uri


async def test_a_created_project_comes_with_all_it_takes_to_connect(ask: Any) -> None:
    made = await ask("POST", "/projects", {"project": {"name": "ACME Corp", "region_id": "aws-us-east-1"}}, expect=201)
    project, endpoint, role = made["project"], made["endpoints"][0], made["roles"][0]
    assert (project["name"], project["region_id"], project["pg_version"]) == ("ACME Corp", "aws-us-east-1", 18)
    assert made["branch"]["default"]
    assert made["branch"]["name"] == "main"
    assert endpoint["region_id"] == "aws-us-east-1"
    assert endpoint["host"] == f"{endpoint['id']}.localhost:7701"
    assert made["databases"][0]["name"] == "neondb"
    assert role["name"] == "neondb_owner"
    details = made["connection_uris"][0]
    assert details["connection_parameters"] == {
        "database": "neondb",
        "role": "neondb_owner",
        "password": role["password"],
        "host": endpoint["host"],
        "pooler_host": f"{endpoint['id']}-pooler.localhost:7701",
    }
    assert psycopg.conninfo.conninfo_to_dict(details["connection_uri"]) == {
        "host": "127.0.0.1",
        "port": "7701",
        "dbname": "neondb",
        "user": "neondb_owner",
        "password": role["password"],
        "options": f"endpoint={endpoint['id']}",
        "sslmode": "require",
    }


async def test_names_sizes_and_settings_are_taken_as_said(ask: Any) -> None:
    asked = {
        "name": "Payroll Inc",
        "pg_version": 17,
        "store_passwords": False,
        "history_retention_seconds": 0,
        "branch": {"name": "production", "role_name": "alice", "database_name": "payroll"},
        "default_endpoint_settings": {
            "autoscaling_limit_min_cu": 0.5,
            "autoscaling_limit_max_cu": 2,
            "suspend_timeout_seconds": -1,
            "pg_settings": {"work_mem": "8MB"},
        },
        "autoscaling_limit_max_cu": 1,
        "provisioner": "k8s-neonvm",
        "org_id": "org-x",
        "a_field_of_next_year": {"whatever": [1]},
    }
    made = await ask("POST", "/projects", {"project": asked}, expect=201)
    assert made["project"]["history_retention_seconds"] == 0
    assert made["project"]["default_endpoint_settings"]["pg_settings"] == {"work_mem": "8MB"}
    assert (made["branch"]["name"], made["roles"][0]["name"]) == ("production", "alice")
    assert (made["databases"][0]["name"], made["databases"][0]["owner_name"]) == ("payroll", "alice")
    endpoint = made["endpoints"][0]
    assert (endpoint["autoscaling_limit_min_cu"], endpoint["autoscaling_limit_max_cu"]) == (0.5, 2)
    assert endpoint["suspend_timeout_seconds"] == -1


async def test_the_owner_is_named_after_the_database(ask: Any) -> None:
    made = await ask("POST", "/projects", {"project": {"branch": {"database_name": "crm"}}}, expect=201)
    assert made["roles"][0]["name"] == "crm_owner"
    assert made["project"]["name"] == made["project"]["id"]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"block_vpc_connections": True}, "block_vpc_connections"),
        ({"hipaa": True, "enable_logical_replication": True}, "enable_logical_replication, hipaa"),
        ({"preload_libraries": {"enabled_libraries": ["timescaledb"]}}, "preload_libraries"),
    ],
)
async def test_a_setting_that_nothing_enforces_is_refused(
    ask: Any, project_path: str, settings: object, named: str
) -> None:
    created = await ask("POST", "/projects", {"project": {"settings": settings}}, expect=501)
    changed = await ask("PATCH", project_path, {"project": {"settings": settings}}, expect=501)
    assert created["message"] == changed["message"]
    assert named in created["message"]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"allowed_ips": {"ips": ["10.0.0.0/8", "10.0.0.0/33"]}}, "settings.allowed_ips.ips: '10.0.0.0/33'"),
        ({"quota": {"active_time_seconds": -1}}, "project.settings.quota.active_time_seconds"),
        ({"quota": {"active_time_seconds": "10"}}, "project.settings.quota.active_time_seconds"),
        ({"maintenance_window": {"weekdays": [0], "start_time": "01:00", "end_time": "02:00"}}, "weekdays"),
        ({"maintenance_window": {"weekdays": [], "start_time": "01:00", "end_time": "02:00"}}, "weekdays"),
        ({"maintenance_window": {"weekdays": [7], "start_time": "24:00", "end_time": "02:00"}}, "start_time"),
        ({"maintenance_window": {"weekdays": [7], "start_time": "01:00", "end_time": "2:00"}}, "end_time"),
        ({"maintenance_window": {"weekdays": [7], "start_time": "01:00"}}, "end_time"),
    ],
)
async def test_a_limit_that_means_nothing_is_refused(ask: Any, project_path: str, settings: object, named: str) -> None:
    created = await ask("POST", "/projects", {"project": {"settings": settings}}, expect=400)
    changed = await ask("PATCH", project_path, {"project": {"settings": settings}}, expect=400)
    assert created["message"] == changed["message"]
    assert named in created["message"]


async def test_limits_are_kept_and_given_back(ask: Any, project_path: str) -> None:
    limits = {
        "quota": {"active_time_seconds": 100, "logical_size_bytes": 5 * 2**20},
        "allowed_ips": {"ips": ["10.0.0.0/8", "192.0.2.1-192.0.2.9"], "protected_branches_only": True},
        "block_public_connections": True,
        "maintenance_window": {"weekdays": [1, 7], "start_time": "01:00", "end_time": "02:00"},
    }
    changed = await ask("PATCH", project_path, {"project": {"settings": limits}})
    assert changed["project"]["settings"] == limits
    assert changed["project"]["branch_logical_size_limit_bytes"] == 5 * 2**20
    assert changed["project"]["branch_logical_size_limit"] == 5
    assert changed["project"]["quota_status"] == [
        {"quota": "active_time_seconds", "used": 0, "limit": 100, "level": "within"},
        {"quota": "logical_size_bytes", "used": 0, "limit": 5 * 2**20, "level": "within"},
    ]
    # Key by key of the first level: what is said replaces what was.
    freed = await ask("PATCH", project_path, {"project": {"settings": {"quota": {}, "allowed_ips": {"ips": []}}}})
    assert "quota_status" not in freed["project"]
    assert freed["project"]["settings"]["maintenance_window"] == limits["maintenance_window"]


async def test_an_operators_way_in(ask: Any, project_path: str) -> None:
    wanted = {"database_name": "neondb", "role_name": "neondb_owner"}
    given = await ask("POST", f"{project_path}/operator_access", {"operator_access": wanted}, expect=201)
    plain = (await ask("GET", f"{project_path}/connection_uri?database_name=neondb&role_name=neondb_owner"))["uri"]
    operators = parse_uri(given["uri"])
    assert operators.parameters["options"] == f"{parse_uri(plain).parameters['options']} operator={given['token']}"
    assert given["expires_at"].endswith("Z")
    for wrong in ({**wanted, "expires_in_seconds": 3601}, {**wanted, "expires_in_seconds": 0}, {}):
        await ask("POST", f"{project_path}/operator_access", {"operator_access": wrong}, expect=400)
    nobody = {**wanted, "role_name": "nobody"}
    await ask("POST", f"{project_path}/operator_access", {"operator_access": nobody}, expect=404)
    await ask("POST", "/projects/gone-sun-1/operator_access", {"operator_access": wanted}, expect=404)


async def test_an_operators_way_into_many(ask: Any, project_path: str) -> None:
    project_id = project_path.rpartition("/")[2]
    wanted = {"project_id": project_id, "database_name": "neondb", "role_name": "neondb_owner"}
    several = [wanted, {**wanted, "project_id": "gone-sun-1"}, {**wanted, "role_name": "nobody"}]
    given = await ask("POST", "/operator_access", {"operator_access": several}, expect=201)
    (only,) = given["operator_access"]  # whoever is not there is left out
    alone = await ask("POST", f"{project_path}/operator_access", {"operator_access": wanted}, expect=201)
    assert only["project_id"] == project_id
    assert only["uri"].partition("operator")[0] == alone["uri"].partition("operator")[0]
    assert await ask("POST", "/operator_access", {"operator_access": []}, expect=201) == {"operator_access": []}
    for wrong in ([wanted] * 65, [{**wanted, "project_id": "../x"}], [{"project_id": project_id}], None):
        await ask("POST", "/operator_access", {"operator_access": wrong}, expect=400)


async def test_settings_that_promise_nothing_are_accepted(ask: Any) -> None:
    nothing = {
        "quota": {"active_time_seconds": 0},
        "allowed_ips": {"ips": [], "protected_branches_only": False},
        "enable_logical_replication": False,
        "maintenance_window": {"weekdays": [1], "start_time": "01:00", "end_time": "02:00"},
    }
    made = await ask("POST", "/projects", {"project": {"settings": nothing}}, expect=201)
    assert made["project"]["settings"] == nothing


async def test_pages_follow_the_cursor_and_end(ask: Any) -> None:
    ids = {(await ask("POST", "/projects", {"project": {}}, expect=201))["project"]["id"] for _ in range(12)}
    first = await ask("GET", "/projects")
    assert len(first["projects"]) == 10
    assert first["applications"] == first["integrations"] == {}
    second = await ask("GET", f"/projects?cursor={first['pagination']['cursor']}")
    assert "pagination" not in second
    assert {project["id"] for project in first["projects"] + second["projects"]} == ids
    exact = await ask("GET", "/projects?limit=12")
    assert (await ask("GET", f"/projects?cursor={exact['pagination']['cursor']}"))["projects"] == []


async def test_search_finds_by_part_of_the_name(ask: Any, project: Any) -> None:
    await ask("POST", "/projects", {"project": {"name": "Finance Co"}}, expect=201)
    found = (await ask("GET", "/projects?search=acme&limit=400&timeout=1000&org_id=org-x"))["projects"]
    assert [entry["id"] for entry in found] == [project["project"]["id"]]


async def test_nothing_is_shared_with_the_one_account(ask: Any) -> None:
    assert (await ask("GET", "/projects/shared?limit=100"))["projects"] == []


async def test_change_delete_recover(ask: Any, project_path: str) -> None:
    changed = await ask("PATCH", project_path, {"project": {"name": "ACME Ltd", "history_retention_seconds": 3600}})
    assert changed["project"]["name"] == "ACME Ltd"
    assert (await ask("GET", project_path))["project"]["history_retention_seconds"] == 3600
    await ask("DELETE", project_path)
    await ask("GET", project_path, expect=404)
    await ask("DELETE", project_path, expect=404)
    gone = (await ask("GET", "/projects?recoverable=true"))["projects"][0]
    assert gone["deleted_at"] < gone["recoverable_until"]
    await ask("POST", f"{project_path}/recover")
    assert (await ask("GET", project_path))["project"]["name"] == "ACME Ltd"


async def test_a_project_under_change_is_locked(ask: Any, cell: Any, project: Any, project_path: str) -> None:
    cell.hold(ProjectId(project["project"]["id"]))
    assert (await ask("DELETE", project_path, expect=423))["code"] == "LOCKED"
    cell.release(ProjectId(project["project"]["id"]))
    await ask("DELETE", project_path)


async def test_connection_uris(ask: Any, project: Any, project_path: str) -> None:
    names = {"database_name": "neondb", "role_name": "neondb_owner"}
    plain = (await ask("GET", f"{project_path}/connection_uri", params=names))["uri"]
    assert plain == project["connection_uris"][0]["connection_uri"]
    endpoint = project["endpoints"][0]["id"]
    for pooled in ("true", "True", "1"):
        uri = (await ask("GET", f"{project_path}/connection_uri", params={**names, "pooled": pooled}))["uri"]
        assert f"options=endpoint%3D{endpoint}-pooler" in uri
    for pooled in ("false", "False"):
        assert (await ask("GET", f"{project_path}/connection_uri", params={**names, "pooled": pooled}))["uri"] == plain
    chosen = {**names, "branch_id": project["branch"]["id"], "endpoint_id": endpoint}
    assert (await ask("GET", f"{project_path}/connection_uri", params=chosen))["uri"] == plain


@pytest.mark.parametrize(
    ("change", "status", "named"),
    [
        ({"database_name": "other"}, 404, "other"),
        ({"role_name": "other"}, 404, "other"),
        ({"branch_id": "br-not-there-a1234567"}, 404, "br-not-there-a1234567"),
        ({"endpoint_id": "ep-not-there-a1234567"}, 404, "ep-not-there-a1234567"),
        ({"database_name": ""}, 400, "database_name"),
        ({"branch_id": "NO ID"}, 400, "branch_id"),
        ({"pooled": "maybe"}, 400, "pooled"),
    ],
)
async def test_a_wrong_connection_uri_request_names_what_is_wrong(
    ask: Any, project_path: str, change: dict[str, str], status: int, named: str
) -> None:
    params = {"database_name": "neondb", "role_name": "neondb_owner", **change}
    answer = await ask("GET", f"{project_path}/connection_uri", params=params, expect=status)
    assert named in answer["message"]


async def test_without_the_two_names_there_is_no_uri(ask: Any, project_path: str) -> None:
    message = (await ask("GET", f"{project_path}/connection_uri", expect=400))["message"]
    assert "database_name" in message
    assert "role_name" in message


async def test_permissions_are_nobodys(ask: Any, project_path: str) -> None:
    assert (await ask("GET", f"{project_path}/permissions"))["project_permissions"] == []
    await ask("GET", "/projects/not-there-1/permissions", expect=404)


def test_the_consumption_period_is_the_calendar_month() -> None:
    period = period_of(datetime(2026, 12, 31, 23, 59, tzinfo=UTC))
    assert period == (datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
