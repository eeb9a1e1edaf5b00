"""kill -9 of the control process while it looks at a schema of the past: of the copy nothing is left."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest


def test_killed_while_a_copy_runs(
    make_cell: Any, api: Any, check_whole: Any, connect: Any, postgres_pids: Any, swept: Any, until: Any
) -> None:
    cell = make_cell("d", "--spares", "0", TENANTRY_FAILPOINTS="passing_head.running=kill")
    cell.start()
    project = api(cell).create("ACME")
    path = f"/projects/{project['project']['id']}/branches/{project['branch']['id']}/schema?db_name=neondb"
    with connect(api(cell).uri(project["project"]["id"])) as session:
        session.execute("create table t (n int)")
        moment = datetime.now(UTC)
        session.execute("drop table t")
        with pytest.raises(httpx.HTTPError):
            api(cell).call("GET", f"{path}&timestamp={moment:%Y-%m-%dT%H:%M:%S.%fZ}")
        cell.wait_killed()
    assert len(postgres_pids(cell.data)) == 2, "the tenant's, and the copy's"
    cell.environment = {}
    cell.start()
    until(lambda: len(postgres_pids(cell.data)) <= 1, "the copy ends")
    assert "CREATE TABLE" in api(cell).call("GET", f"{path}&timestamp={moment:%Y-%m-%dT%H:%M:%S.%fZ}")["sql"]
    swept(cell.data)
    cell.stop()
    assert postgres_pids(cell.data) == []
    check_whole(cell.data)
