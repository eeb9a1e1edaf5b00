"""kill -9 at every step of a schema-only branch: it is made in the end, and nothing of the ways to it is left."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tenantry.cell.storage.layout import run_directory

POINTS = ["passing_head.running", "outline_head.copied", "outline_head.built", "create_branch.0.after"]


def until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for: {what}"
        time.sleep(0.05)


def test_killed_at_every_step_of_a_schema_only_branch(
    make_cell: Any, api: Any, check_whole: Any, connect: Any, postgres_pids: Any
) -> None:
    cell = make_cell("d", "--spares", "0")
    cell.start()
    project = api(cell).create("ACME")["project"]["id"]
    with connect(api(cell).uri(project)) as connection:
        connection.execute("create table t (n serial primary key); insert into t default values")
    assert cell.stop() == 0
    cell.environment = {"TENANTRY_FAILPOINTS": f"{POINTS[0]}=kill"}
    cell.start()
    body = {"branch": {"name": "bare", "init_source": "schema-only"}, "endpoints": [{"type": "read_write"}]}
    with pytest.raises(httpx.TransportError):
        api(cell).call("POST", f"/projects/{project}/branches", body)
    cell.wait_killed()
    for point in POINTS[1:]:
        # What it goes on with at its start dies at the next point.
        cell.environment = {"TENANTRY_FAILPOINTS": f"{point}=kill"}
        cell.launch()
        cell.wait_killed()
    cell.environment = {}
    cell.start()
    client = api(cell)

    def branch() -> Any:
        found = client.call("GET", f"/projects/{project}/branches")["branches"]
        return next(each for each in found if each["name"] == "bare")

    until(lambda: branch()["current_state"] == "ready", "it is made")
    uri = client.call(
        "GET",
        f"/projects/{project}/connection_uri?database_name=neondb&role_name=neondb_owner&branch_id={branch()['id']}",
    )["uri"]
    with connect(uri) as connection:
        assert connection.execute("select n from t").fetchall() == []
        assert connection.execute("insert into t default values returning n").fetchall() == [(1,)]
    until(lambda: not list(cell.data.glob("trash/*")), "the trash is emptied")
    assert list(run_directory(cell.data, root=os.geteuid() == 0).glob("head-*")) == []
    assert cell.stop() == 0
    check_whole(cell.data)
    assert postgres_pids(cell.data) == []
