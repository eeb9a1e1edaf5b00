"""kill -9 of the control process at every step of create and delete: it resumes, and nothing is lost or left over."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

CREATE_POINTS = [
    "create_project.start",
    "head.directories",
    "head.cloned",
    "create_project.cloned",
    "create_project.written",
    "create_project.0.before",
    "create_project.0.after",
    "create_project.1.before",
    "create_project.1.after",
]
DELETE_POINTS = [
    "delete_project.0.before",
    "delete_project.0.after",
    "delete_project.1.before",
    "delete_project.1.after",
    "discard.renamed",
]


UNFINISHED = "operation where status in ('scheduling', 'running')"


def until(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for: {what}"
        time.sleep(0.05)


def count(data: Path, query: str) -> int:
    """What a running cell has written down."""
    with contextlib.closing(sqlite3.connect(f"file:{data / 'cell.db'}?mode=ro", uri=True)) as db:
        return db.execute(f"select count(*) from {query}").fetchone()[0]


def test_killed_at_every_step_of_create(
    make_cell: Any, api: Any, check_whole: Any, connect: Any, swept: Callable[[Path], None]
) -> None:
    cell = make_cell("d", "--spares", "0")
    cell.environment = {"TENANTRY_FAILPOINTS": f"{CREATE_POINTS[0]}=kill"}
    cell.start()
    for point, following in zip(CREATE_POINTS, [*CREATE_POINTS[1:], None], strict=True):
        # Names of its own take the longest path: clone, write, rename, ready.
        with pytest.raises(httpx.HTTPError):
            api(cell).create(point, branch={"role_name": "app", "database_name": "appdb"})
        cell.wait_killed()
        # What was resumed must not die of the next point: it is reached only by the next create.
        cell.environment = {"TENANTRY_FAILPOINTS": f"{following}=kill:{1 + _passages(following)}"} if following else {}
        cell.start()
        client = api(cell)
        found = [p for p in client.projects() if p["name"] == point]
        written = point not in CREATE_POINTS[:4]
        assert len(found) == written, f"{point}: {len(found)} projects"
        for project in found:
            until(
                lambda p=project, c=client: all(
                    o["status"] == "finished" for o in c.call("GET", f"/projects/{p['id']}/operations")["operations"]
                ),
                f"{point}: its operations finish",
            )
            with connect(client.uri(project["id"], "appdb", "app")) as connection:
                assert connection.execute("select current_user, current_database()").fetchone() == ("app", "appdb")
    swept(cell.data)
    assert cell.stop() == 0
    check_whole(cell.data)
    assert cell.leftovers() == []


def _passages(point: str) -> int:
    """How often resuming what the point before it interrupted passes this one."""
    steps = ["create_project.0.before", "create_project.0.after", "create_project.1.before", "create_project.1.after"]
    return int(point in steps)


def test_killed_while_making_spares(make_cell: Any, api: Any, check_whole: Any, swept: Callable[[Path], None]) -> None:
    cell = make_cell("d", "--spares", "1")
    for point in ("head.directories", "head.cloned", "spare.before_row"):
        cell.environment = {"TENANTRY_FAILPOINTS": f"{point}=kill"}
        cell.launch()
        cell.wait_killed()
    cell.environment = {}
    cell.start()
    api(cell).create("after")
    assert cell.stop() == 0
    cell.start()
    # One that is being made when the cell stops is deleted at the next start.
    until(lambda: count(cell.data, "spare") == 1, "the pool is full")
    swept(cell.data)
    assert cell.stop() == 0
    check_whole(cell.data)


def test_killed_at_every_step_of_delete(
    make_cell: Any,
    api: Any,
    check_whole: Any,
    connect: Any,
    postgres_pids: Callable[[Path], list[int]],
    swept: Callable[[Path], None],
) -> None:
    cell = make_cell("d", "--spares", "0", "--recover-for", "0")
    cell.start()
    client = api(cell)
    kept = client.create("kept")["project"]["id"]
    doomed = {point: client.create(f"doomed {point}")["project"]["id"] for point in DELETE_POINTS}
    with connect(client.uri(kept)) as connection:
        connection.execute("create table t (n int); insert into t values (41)")
    assert cell.stop() == 0
    for number, (point, project_id) in enumerate(doomed.items()):
        # What the point before this one interrupted is resumed at the start, and passes this one once.
        resumed = 0 < number < len(DELETE_POINTS) - 1
        if point == "discard.renamed":
            cell.environment = {}
            cell.start()
            expected = {kept, project_id}
            until(lambda expected=expected: set(_names(cell)) == expected, "what was interrupted before is finished")
            assert cell.stop() == 0
        cell.environment = {"TENANTRY_FAILPOINTS": f"{point}=kill:{2 if resumed else 1}"}
        cell.start()
        if resumed:
            until(lambda: count(cell.data, UNFINISHED) == 0, "what was interrupted before has passed the point")
        client = api(cell)
        with connect(client.uri(project_id)) as connection:
            connection.execute("select 1")
        # It dies before it answers; but the files, for which nobody waits, may be looked at after the answer or before.
        with suppress(httpx.HTTPError):
            client.call("DELETE", f"/projects/{project_id}")
        cell.wait_killed()
    cell.environment = {}
    cell.start()
    client = api(cell)
    for project_id in doomed.values():
        client.call("GET", f"/projects/{project_id}", status=404)
    until(lambda: _names(cell) == [kept], "the files are gone")
    swept(cell.data)
    with connect(client.uri(kept)) as connection:
        assert connection.execute("select n from t").fetchone() == (41,)
    assert cell.stop() == 0
    check_whole(cell.data)
    assert postgres_pids(cell.data) == []


def test_killed_while_deleting_what_can_be_recovered(
    make_cell: Any, api: Any, check_whole: Any, connect: Any, postgres_pids: Callable[[Path], list[int]]
) -> None:
    """It is gone from the first moment on, its instance ends when the cell comes back, and nothing of it is lost."""
    cell = make_cell("d", "--spares", "0")
    cell.start()
    client = api(cell)
    project = client.create("ACME")["project"]["id"]
    who, _, _ = client.uri(project).partition("@")
    with connect(client.uri(project)) as connection:
        connection.execute("create table t (n int); insert into t values (41)")
    for point in DELETE_POINTS[:4]:
        assert cell.stop() == 0
        cell.environment = {"TENANTRY_FAILPOINTS": f"{point}=kill"}
        cell.start()
        with connect(api(cell).uri(project)) as connection:
            assert connection.execute("select n from t").fetchone() == (41,), point
        with pytest.raises(httpx.HTTPError):
            api(cell).call("DELETE", f"/projects/{project}")
        cell.wait_killed()
        cell.environment = {}
        cell.start()
        client = api(cell)
        client.call("GET", f"/projects/{project}", status=404)
        until(lambda: postgres_pids(cell.data) == [], "its instance ends")
        until(lambda c=client: c.post(f"/projects/{project}/recover", {}).status_code == 200, "it can be recovered")
    assert client.uri(project).startswith(f"{who}@")
    with connect(client.uri(project)) as connection:
        assert connection.execute("select n from t").fetchone() == (41,)
    assert cell.stop() == 0
    check_whole(cell.data)


def _names(cell: Any) -> list[str]:
    return [path.name for path in (cell.data / "projects").iterdir()]
