"""kill -9 at every step of a restore in two steps: the endpoints have moved or not, and never half of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

POINTS = ["finalize_restore.0.before", "finalize_restore.given", "finalize_restore.0.after",
          "finalize_restore.1.before", "finalize_restore.1.after"]  # fmt: skip


def until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for: {what}"
        time.sleep(0.05)


def test_killed_at_every_step_of_a_finalized_restore(make_cell: Any, api: Any, check_whole: Any, connect: Any) -> None:
    cell = make_cell("d", "--spares", "0")
    cell.environment = {"TENANTRY_FAILPOINTS": f"{POINTS[0]}=kill"}
    cell.start()
    client = api(cell)
    made = client.create("ACME")
    project, main = made["project"]["id"], made["branch"]["id"]
    with connect(client.uri(project)) as connection:
        connection.execute("create table t (n int); insert into t values (1)")
    taken = client.call("POST", f"/projects/{project}/branches/{main}/snapshot?name=then")["snapshot"]["id"]
    with connect(client.uri(project)) as connection:
        connection.execute("insert into t values (2)")
    look = client.call("POST", f"/projects/{project}/snapshots/{taken}/restore", {"name": "look"})["branch"]["id"]
    client.call("POST", f"/projects/{project}/branches/{main}/roles/neondb_owner/reset_password")
    who, _, _ = client.uri(project).partition("@")
    with pytest.raises(httpx.HTTPError):
        client.call("POST", f"/projects/{project}/branches/{look}/finalize_restore", {})
    cell.wait_killed()
    for point in POINTS[1:]:
        cell.environment = {"TENANTRY_FAILPOINTS": f"{point}=kill"}
        cell.launch()
        cell.wait_killed()
    cell.environment = {}
    cell.start()
    client = api(cell)

    def status() -> str:
        return client.call("GET", f"/projects/{project}/branches/{look}")["branch"]["restore_status"]

    def settled() -> bool:
        operations = client.call("GET", f"/projects/{project}/operations")["operations"]
        return all(operation["status"] == "finished" for operation in operations)

    until(lambda: status() == "finalized", "it is finalized")
    until(settled, "nothing is under way when the cell stops")
    branches = client.call("GET", f"/projects/{project}/branches")["branches"]
    assert {branch["name"]: branch["id"] for branch in branches} == {"main": look, "main (old)": main}
    assert client.uri(project).startswith(f"{who}@")
    with connect(client.uri(project)) as connection:
        assert connection.execute("select n from t").fetchall() == [(1,)]
    assert cell.stop() == 0
    check_whole(cell.data)
