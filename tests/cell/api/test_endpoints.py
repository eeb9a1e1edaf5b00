"""Endpoints over HTTP."""

from __future__ import annotations

from typing import Any

import pytest


async def test_list_get_and_change(ask: Any, project: Any, project_path: str, endpoint_path: str) -> None:
    made = project["endpoints"][0]
    assert (await ask("GET", f"{project_path}/endpoints"))["endpoints"] == [made]
    assert (await ask("GET", endpoint_path))["endpoint"] == made
    changed = await ask(
        "PATCH",
        endpoint_path,
        {
            "endpoint": {
                "name": "primary",
                "autoscaling_limit_min_cu": 1,
                "autoscaling_limit_max_cu": 4.0,
                "suspend_timeout_seconds": 3600,
                "settings": {"pg_settings": {"work_mem": "8MB"}},
                "pooler_mode": "transaction",
                "provisioner": "k8s-neonvm",
            }
        },
    )
    endpoint = changed["endpoint"]
    assert (endpoint["name"], endpoint["suspend_timeout_seconds"]) == ("primary", 3600)
    assert (endpoint["autoscaling_limit_min_cu"], endpoint["autoscaling_limit_max_cu"]) == (1, 4)
    assert endpoint["settings"] == {"pg_settings": {"work_mem": "8MB"}}
    assert changed["operations"][0]["action"] == "apply_config"


async def test_start_suspend_restart(ask: Any, endpoint_path: str) -> None:
    started = await ask("POST", f"{endpoint_path}/start")
    assert started["endpoint"]["current_state"] == "active"
    assert started["operations"][0]["action"] == "start_compute"
    assert (await ask("POST", f"{endpoint_path}/suspend"))["endpoint"]["current_state"] == "idle"
    restarted = await ask("POST", f"{endpoint_path}/restart")
    assert [operation["action"] for operation in restarted["operations"]] == ["suspend_compute", "start_compute"]
    await ask("PATCH", endpoint_path, {"endpoint": {"disabled": True}})
    assert "disabled" in (await ask("POST", f"{endpoint_path}/start", expect=409))["message"]


async def test_create_and_delete(ask: Any, project: Any, project_path: str, endpoint_path: str) -> None:
    body = {"endpoint": {"branch_id": project["branch"]["id"], "type": "read_write"}}
    await ask("POST", f"{project_path}/endpoints", body, expect=409)
    await ask("DELETE", endpoint_path)
    await ask("DELETE", endpoint_path, expect=204)
    await ask("DELETE", "/projects/not-there-1/endpoints/ep-x-y-a1234567", expect=404)
    made = await ask("POST", f"{project_path}/endpoints", body, expect=201)
    assert made["endpoint"]["branch_id"] == project["branch"]["id"]


@pytest.mark.parametrize(
    ("said", "status", "named"),
    [
        ({"autoscaling_limit_min_cu": 0.1}, 400, "endpoint.autoscaling_limit_min_cu"),
        ({"autoscaling_limit_min_cu": "1"}, 400, "endpoint.autoscaling_limit_min_cu"),
        ({"autoscaling_limit_min_cu": 2, "autoscaling_limit_max_cu": 1}, 400, "autoscaling_limit_min_cu"),
        ({"suspend_timeout_seconds": 604801}, 400, "endpoint.suspend_timeout_seconds"),
        ({"suspend_timeout_seconds": 1.5}, 400, "endpoint.suspend_timeout_seconds"),
        ({"disabled": "yes"}, 400, "endpoint.disabled"),
        ({"pooler_mode": "session"}, 400, "endpoint.pooler_mode"),
        ({"settings": {"pg_settings": {"work_mem": 8}}}, 400, "endpoint.settings.pg_settings.work_mem"),
        ({"passwordless_access": True}, 501, "endpoint.passwordless_access"),
        ({"settings": {"preload_libraries": {"enabled_libraries": ["x"]}}}, 501, "preload_libraries"),
        ({"name": ""}, 400, "endpoint.name"),
    ],
)
async def test_a_wrong_change_names_the_field(
    ask: Any, endpoint_path: str, said: object, status: int, named: str
) -> None:
    assert named in (await ask("PATCH", endpoint_path, {"endpoint": said}, expect=status))["message"]


async def test_an_unknown_endpoint_is_not_found(ask: Any, project_path: str) -> None:
    for method, word in (("GET", ""), ("POST", "/start"), ("POST", "/suspend"), ("POST", "/restart")):
        await ask(method, f"{project_path}/endpoints/ep-not-there-a1234567{word}", expect=404)
