"""Tenants registered: how long a page of the list takes when thousands of projects exist as rows.

Only rows are made, not files: what is measured is the list. The installation is of no use for anything else then.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from installation import Installation, Tenant
from report import Row, milliseconds, percentile, skipped

import tenantry.cell.state
from tenantry.cell.model import Uid
from tenantry.cell.state.tables import Tables, open_connection
from tenantry.neon.ids import new_branch_id, new_endpoint_id, new_head_id, new_project_id

_PROJECTS = 10_000
_LIST_GOAL = 0.100
_PAGES = 40
_UID_FIRST = 3_000_000_000
"""Not a range that anybody gives to projects."""


def measure(installation: Installation, *, quick: bool) -> Iterator[Row]:
    what = f"{_PROJECTS:,} projects registered, one page of the list (100): p50 / p95"
    if quick:
        yield skipped(what, "--quick")
        return
    installation.restart(spares=0)
    _register(installation, installation.create())
    pages: list[float] = []
    cursor: str | None = None
    for _ in range(_PAGES):
        began = time.perf_counter()
        page = installation.client.list_projects(cursor=cursor, limit=100)
        pages.append(time.perf_counter() - began)
        assert len(page.projects) == 100
        assert page.pagination is not None
        cursor = page.pagination.cursor
    searches: list[float] = []
    for number in range(_PAGES):
        began = time.perf_counter()
        installation.client.list_projects(search=f"registered {number}7", limit=100)
        searches.append(time.perf_counter() - began)
    yield Row(
        what=what,
        ours=milliseconds(pages),
        goal="p95 < 100 ms",
        met=percentile(pages, 95) < _LIST_GOAL,
        note=f"with the client's reading of it; a search by name {milliseconds(searches)}; rows without files",
        numbers={"projects": _PROJECTS, "seconds": pages, "search_seconds": searches},
    )


def _register(installation: Installation, like: Tenant) -> None:
    """Copies of one project's rows, under other ids."""
    scripts = Path(tenantry.cell.state.__file__).parent
    connection = open_connection(str(installation.layout.database), scripts)
    with closing(connection):
        tables = Tables(connection)
        project = tables.project(like.project_id)
        (branch,), (endpoint,) = tables.branches(like.project_id), tables.endpoints(like.project_id)
        head = tables.head(branch.head_id)
        assert project is not None
        assert head is not None
        connection.execute("begin immediate")
        now = datetime.now(UTC)
        for number in range(_PROJECTS):
            here, there, where = new_project_id(), new_branch_id(), new_head_id()
            name, uid = f"registered {number}", Uid(_UID_FIRST + number)
            for record in (
                dataclasses.replace(project, id=here, name=name, uid=uid),
                dataclasses.replace(branch, id=there, project_id=here, head_id=where),
                dataclasses.replace(head, id=where, project_id=here, branch_id=there),
                dataclasses.replace(endpoint, id=new_endpoint_id(), project_id=here, branch_id=there, last_active=now),
            ):
                tables.insert(record)
            for role in tables.roles(branch.id):
                tables.insert(dataclasses.replace(role, branch_id=there))
            for database in tables.databases(branch.id):
                tables.insert(dataclasses.replace(database, id=0, branch_id=there))
        connection.execute("commit")
