"""Plans, people and the log as the operator types them, on a real cell."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from tenantry.neon.client import NeonClient
from tenantry.neon.ids import EndpointId, ProjectId

if TYPE_CHECKING:
    from conftest import Operator


def test_a_change_of_plan_is_shown_asked_for_and_holds(operator: Operator, name: str) -> None:
    created = operator.json("create", name)["tenant"]
    slug, project = created["slug"], ProjectId(created["project_id"])
    shown = operator.do("plan", "set", slug, "business", "--dry-run").stdout
    assert shown.startswith(f"would change {slug}: launch -> business (")
    assert "history_seconds 1d -> 14d" in shown
    assert operator.json("plan", "set", slug, "business")["tenant"]["plan"] == "business"
    target = operator.cell.target
    with NeonClient(target.api_url, target.api_key) as client:
        (endpoint,) = client.list_endpoints(project)
        assert (endpoint.autoscaling_limit_max_cu, endpoint.suspend_timeout_seconds) == (4, 3600)
        assert endpoint.current_state == "idle"
        assert client.get_project(project).history_retention_seconds == 14 * 86_400

        # Some of its history would go: that is asked for first.
        refused = operator.do("plan", "set", slug, "launch", code=2)
        assert "goes for ever" in refused.stderr
        assert client.get_project(project).history_retention_seconds == 14 * 86_400
        operator.do("plan", "set", slug, "launch", "--yes")
        assert client.get_project(project).history_retention_seconds == 86_400
        assert "its limits are the same" in operator.do("plan", "set", slug, "launch").stdout
    assert "there is no plan 'gold'" in operator.do("plan", "set", slug, "gold", code=2).stderr


def test_drift_is_shown_then_mended(operator: Operator, name: str) -> None:
    created = operator.json("create", name)["tenant"]
    slug, project = created["slug"], ProjectId(created["project_id"])

    def mine(*options: str, code: int) -> list[str]:
        drifted = operator.json("plan", "drift", *options, code=code)["tenants"]
        return [one["what"] for each in drifted if each["tenant"] == slug for one in each["differences"]]

    operator.do("plan", "drift", "--apply", "--deep")
    assert mine(code=0) == []
    target = operator.cell.target
    with NeonClient(target.api_url, target.api_key) as client:
        client.update_project(project, name="somebody was here", settings={"quota": {"written_data_bytes": 7}})
        assert mine(code=1) == ["name", "quota_written_bytes", "quota_logical_bytes"]
        table = operator.do("plan", "drift", code=1).stdout
        assert "10GiB" in table
        assert "somebody was here" in table
        assert mine("--apply", code=0) == ["name", "quota_written_bytes", "quota_logical_bytes"]
        assert mine(code=0) == []
        assert client.get_project(project).name == f"{name} [{created['id']}]"

        (endpoint,) = client.list_endpoints(project)
        changed = client.update_endpoint(project, EndpointId(endpoint.id), max_cu=2)
        client.wait_for_operations(project, changed.operations)
        assert mine(code=0) == []
        assert mine("--deep", code=1) == ["cu_max"]
        assert mine("--deep", "--apply", code=0) == ["cu_max"]
        assert client.list_endpoints(project)[0].autoscaling_limit_max_cu == 0.25


def test_plans_are_data(operator: Operator) -> None:
    plan = f"plan-{secrets.token_hex(3)}"
    table = operator.do("plan", "list").stdout
    assert "INCLUDED" in table
    assert "Business" in table
    operator.do("plan", "add", plan, "cu_min=0.25", "cu_max=2", "price_usd_monthly=49", "name=Gold")
    assert "cu_max 2 -> 1, history_seconds none -> 7d" in operator.do(
        "plan", "edit", plan, "cu_max=1", "history_seconds=7d"
    ).stdout  # fmt: skip
    shown = operator.do("plan", "show", plan).stdout.splitlines()
    assert ["quota_sent_bytes", "none"] in [line.split() for line in shown]
    assert operator.json("plan", "show", plan)["plan"]["cu_max"] == "1.00"
    assert "did you mean cu_max" in operator.do("plan", "edit", plan, "cu_mx=1", code=2).stderr
    operator.do("plan", "remove", plan)
    assert "there is no plan" in operator.do("plan", "show", plan, code=1).stderr


def test_people_and_the_log(operator: Operator, name: str) -> None:
    slug = operator.json("create", name)["tenant"]["slug"]
    operator.do("contact", "add", slug, "ada@acme.example", "--kind", "billing", "--name", "Ada")
    assert "Ada" in operator.do("contact", "list", slug).stdout
    assert operator.json("contact", "list", slug)["contacts"][0]["kind"] == "billing"
    operator.do("contact", "remove", slug, "ada@acme.example")
    operator.do("suspend", slug)
    operator.do("branch", "create", "pr-1", "--tenant", slug)
    operator.do("rename", slug, f"{name} Ltd", TENANTRY_ACTOR="ada")
    operator.do("delete", slug, "--now", "--yes")
    told = operator.json("log", slug)["events"]
    assert [event["verb"] for event in told] == [
        "purge", "delete", "rename", "create branch", "remove contact", "add contact", "create",
    ]  # fmt: skip
    assert [event["actor"] for event in told if event["verb"] == "rename"] == ["ada"]
    assert "create branch" in operator.do("log", slug, "--since", "1h").stdout
    assert operator.json("log", slug, "--verb", "rename", "-n", "1")["events"][0]["detail"] == {"name": f"{name} Ltd"}
