"""SQL over HTTP of a whole cell: waking and sleeping, and the end of the control process in between."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tenantry.neon.client import NeonClient
from tenantry.neon.ids import EndpointId, ProjectId
from tenantry.testing.throwaway import ThrowawayCell

WAIT_SECONDS_MAX = 60.0


class Tenant:
    """A project, and its database by way of HTTP."""

    def __init__(self, cell: ThrowawayCell, client: NeonClient) -> None:
        created = client.create_project(name="ACME Corp")
        self._client = client
        self._project = ProjectId(created.project.id)
        self._endpoint = EndpointId(created.endpoints[0].id)
        self.uri = client.connection_uri(self._project, database_name="neondb", role_name="neondb_owner")
        self.url = f"http://{urlsplit(str(cell.target.api_url)).netloc}/sql"

    def query(self, sql: str, *, uri: str = "") -> httpx.Response:
        headers = {"Neon-Connection-String": uri or self.uri}
        return httpx.post(self.url, json={"query": sql}, headers=headers, timeout=60)

    def state(self) -> str:
        return self._client.get_endpoint(self._project, self._endpoint).current_state


@pytest.fixture
def cell(new_workdir: Callable[[str], Path], new_cell: Callable[..., ThrowawayCell]) -> Iterator[ThrowawayCell]:
    made = new_cell(new_workdir("http") / "d", options=["--no-fleet", "--suspend-after", "1"])
    made.start()
    yield made
    made.close()


@pytest.fixture
def client(cell: ThrowawayCell) -> Iterator[NeonClient]:
    with NeonClient(str(cell.target.api_url), str(cell.target.api_key)) as made:
        yield made


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + WAIT_SECONDS_MAX
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_queries_wake_and_what_is_kept_for_the_next_lets_sleep(cell: ThrowawayCell, client: NeonClient) -> None:
    tenant = Tenant(cell, client)
    assert tenant.query("select 1 as n", uri=tenant.uri.replace(":npg_", ":wrong")).status_code == 400
    assert tenant.state() == "idle", "who proves no password wakes nobody"
    assert tenant.query("create table t (n int)").status_code == 200
    assert tenant.query("insert into t values (1)").json()["rowCount"] == 1
    # It falls asleep after a second, which may be over before its state is read.
    until(lambda: tenant.query("select 1").status_code == 200 and tenant.state() == "active")
    until(lambda: tenant.state() == "idle")
    assert tenant.query("select n from t").json()["rows"] == [{"n": 1}]


def test_queries_are_answered_while_no_control_process_is_there(cell: ThrowawayCell, client: NeonClient) -> None:
    tenant = Tenant(cell, client)
    assert tenant.query("select 1 as n").json()["rows"] == [{"n": 1}]
    cell.http = urlsplit(tenant.url).netloc
    cell.kill()
    with ThreadPoolExecutor(1) as pool:
        # What has to be asked of the control process waits for the next one, as any client of the front door does.
        answer = pool.submit(tenant.query, "select 2 as n")
        cell.start()
        assert answer.result(WAIT_SECONDS_MAX).status_code in {200, 503}
    assert tenant.query("select 3 as n").json()["rows"] == [{"n": 3}]
    assert client.list_projects().projects[0].name == "ACME Corp", "on the same port"
    until(lambda: tenant.state() == "idle")
