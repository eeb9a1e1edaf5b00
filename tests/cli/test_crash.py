"""kill -9 of the program between the API and the catalog: the next run completes it, and nothing is orphaned."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from tenantry.fleet.catalog import queries
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.main import open_fleet
from tenantry.neon.client import NeonClient
from tenantry.neon.ids import ProjectId
from tenantry.testing.throwaway import ThrowawayCell

if TYPE_CHECKING:
    from conftest import Operator

pytestmark = pytest.mark.crash


@pytest.mark.parametrize(
    ("point", "state", "projects"),
    [
        ("create_tenant.intended", "creating", 0),
        ("create_tenant.called", "creating", 1),
        ("create_tenant.recorded", "creating", 1),
        ("create_tenant.committed", "ready", 1),
    ],
)
def test_a_killed_create_is_completed_by_the_next(
    operator: Operator, name: str, point: str, state: str, projects: int
) -> None:
    operator.run("create", name, code=-signal.SIGKILL, TENANTRY_FAILPOINTS=f"{point}=kill")
    assert operator.json("show", name)["tenant"]["state"] == state
    assert len(operator.projects(name)) == projects

    again = operator.json("create", name)
    assert again["created"] is (state == "creating")
    (project,) = operator.projects(name)
    assert again["tenant"]["project_id"] == project.id
    assert operator.run("psql", name, "-X", "-At", "-c", "SELECT 1").stdout == "1\n"


@pytest.mark.parametrize(
    ("point", "projects"), [("delete_tenant.marked", 1), ("delete_tenant.called", 0), ("delete_tenant.committed", 0)]
)
def test_a_killed_delete_is_completed_by_the_next(operator: Operator, name: str, point: str, projects: int) -> None:
    operator.do("create", name)
    operator.run("delete", name, "--now", "--yes", code=-signal.SIGKILL, TENANTRY_FAILPOINTS=f"{point}=kill")
    assert len(operator.projects(name)) == projects
    if point != "delete_tenant.committed":
        assert "is being deleted" in operator.do("create", name, code=1).stderr
        operator.do("delete", name, "--yes")
    assert operator.projects(name) == []
    assert operator.json("create", name)["created"] is True


def _admitted(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError as refused:
        assert "disabled" in str(refused)
        return False
    return True


@pytest.mark.parametrize("point", ["delete_tenant.marked", "door.moved", "door.recorded"])
def test_a_killed_leave_is_completed_by_the_next(operator: Operator, name: str, point: str) -> None:
    operator.do("create", name)
    url = operator.do("url", name).stdout.strip()
    operator.run("delete", name, "--yes", code=-signal.SIGKILL, TENANTRY_FAILPOINTS=f"{point}=kill")
    assert operator.json("show", name)["tenant"]["state"] == "leaving"
    assert _admitted(url) is (point == "delete_tenant.marked")
    operator.do("delete", name, "--yes")
    assert not _admitted(url)
    operator.do("undelete", name)
    assert _admitted(url)


@pytest.mark.parametrize("point", ["undelete_tenant.marked", "door.moved", "door.recorded"])
def test_a_killed_undelete_is_completed_by_the_next(operator: Operator, name: str, point: str) -> None:
    operator.do("create", name)
    url = operator.do("url", name).stdout.strip()
    operator.do("delete", name, "--yes")
    operator.run("undelete", name, code=-signal.SIGKILL, TENANTRY_FAILPOINTS=f"{point}=kill")
    assert operator.json("show", name)["tenant"]["state"] == "ready"
    assert _admitted(url) is (point != "undelete_tenant.marked")
    operator.do("undelete", name)
    assert _admitted(url)


@pytest.mark.parametrize("point", ["rename_tenant.recorded", "settle.renamed"])
def test_a_killed_rename_is_completed_by_the_next(operator: Operator, name: str, point: str) -> None:
    slug = operator.json("create", name)["tenant"]["slug"]
    words = ("rename", slug, f"{name} Ltd", "--slug", f"{slug}-ltd")
    operator.run(*words, code=-signal.SIGKILL, TENANTRY_FAILPOINTS=f"{point}=kill")
    assert operator.json("show", f"{slug}-ltd")["tenant"]["name"] == f"{name} Ltd"
    assert operator.json(*words)["renamed"] is False
    (project,) = operator.projects(name)
    assert project.name.startswith(f"{name} Ltd [")


@pytest.mark.parametrize("point", ["change_plan.recorded", "change_limits.endpoint", "settle.limited"])
def test_a_killed_change_of_plan_is_completed_by_the_pass(operator: Operator, name: str, point: str) -> None:
    project = operator.json("create", name)["tenant"]["project_id"]
    operator.run("plan", "set", name, "scale", code=-signal.SIGKILL, TENANTRY_FAILPOINTS=f"{point}=kill")
    target = operator.cell.target
    with open_fleet(target.api_url, target.api_key, target.catalog_url) as fleet:
        said = fleet.mend_drift()
        assert any(operator.json("show", name)["tenant"]["slug"] in sentence for sentence in said) is (
            point != "settle.limited"
        )
        (endpoint,) = fleet.client.list_endpoints(ProjectId(project))
        shown = fleet.client.get_project(ProjectId(project))
        assert (endpoint.autoscaling_limit_max_cu, endpoint.current_state) == (1, "idle")
        assert shown.history_retention_seconds == 604_800
        assert fleet.mend_drift() == []


@pytest.mark.parametrize(
    "point", ["create_tenant.intended", "create_tenant.claimed", "settle.renamed", "settle.limited"]
)
def test_a_killed_claim_is_completed_by_the_pass(operator: Operator, name: str, point: str) -> None:
    target = operator.cell.target
    with open_fleet(target.api_url, target.api_key, target.catalog_url) as fleet:
        fleet.keep_ready(1)
        try:
            operator.run("create", name, code=-signal.SIGKILL, TENANTRY_FAILPOINTS=f"{point}=kill")
            tenant = operator.json("show", name)["tenant"]
            assert tenant["state"] == "ready"
            assert operator.run("psql", name, "-X", "-At", "-c", "SELECT 1").stdout == "1\n"
            fleet.mend_drift()
            (project,) = operator.projects(name)
            assert (project.id, project.name) == (tenant["project_id"], f"{name} [{tenant['id']}]")
            assert project.settings is not None
            assert project.settings.quota is not None
            assert project.settings.quota.logical_size_bytes == 10 * 2**30
            assert operator.json("create", name)["created"] is False
        finally:
            fleet.keep_ready(0)


@pytest.mark.parametrize("point", ["ready.intended", "ready.called", "ready.recorded", "ready.unmade", "ready.removed"])
def test_a_killed_pass_over_ready_projects_is_completed_by_the_next(operator: Operator, point: str) -> None:
    target = operator.cell.target
    program = (
        "import sys; from tenantry.fleet.main import open_fleet\n"
        "with open_fleet(*sys.argv[1:4]) as fleet: fleet.keep_ready(2); fleet.keep_ready(1)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", program, target.api_url, target.api_key, target.catalog_url or ""],
        check=False,
        env={**os.environ, "TENANTRY_FAILPOINTS": f"{point}=kill"},
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL
    with open_fleet(target.api_url, target.api_key, target.catalog_url) as fleet:
        fleet.keep_ready(2)
        assert len(operator.projects("ready [")) == 2
        fleet.keep_ready(0)
        assert operator.projects("ready [") == []


def test_creates_of_one_name_at_once_make_one_project(operator: Operator, name: str) -> None:
    with ThreadPoolExecutor(3) as pool:
        answers = [
            json.loads(done.stdout) for done in pool.map(lambda _: operator.run("create", name, "--json"), range(3))
        ]
    assert len({answer["tenant"]["id"] for answer in answers}) == 1
    assert len(operator.projects(name)) == 1


def test_up_finds_its_catalog_again_and_finishes_what_was_interrupted(
    new_workdir: Callable[[str], Path], new_cell: Callable[..., ThrowawayCell]
) -> None:
    cell = new_cell(new_workdir("crash") / "data", options=["--spares", "1"])
    cell.environment["TENANTRY_FAILPOINTS"] = "catalog.created=kill"
    try:
        cell.launch()
        cell.wait_killed()
        assert not (cell.data / "fleet.json").exists()
        cell.environment.clear()
        target = cell.start()
        with NeonClient(target.api_url, target.api_key) as client:
            assert len([project for project in client.projects() if project.name == "tenantry-catalog"]) == 1

        catalog = Catalog(target.catalog_url or "")
        with catalog.transaction() as connection:
            queries.intend_tenant(
                connection, slug="acme", name="ACME", email=None, plan="launch", region=None, pg_version=None
            )
        catalog.close()
        assert cell.stop() == 0
        assert not (cell.data / "ready.json").exists()

        target = cell.start()
        with open_fleet(target.api_url, target.api_key) as fleet:
            deadline = time.monotonic() + 30
            while (tenant := fleet.show("acme").tenant).state != "ready":
                assert time.monotonic() < deadline, tenant
                time.sleep(0.05)
    finally:
        cell.close()
