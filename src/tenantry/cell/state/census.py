"""Which builds the heads of a cell run, and as whom, read beside the cell that may be writing.

Must never write: not the database, and not a journal beside it.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tenantry.cell.model import BuildId, Uid
from tenantry.neon.ids import ProjectId


def heads_by_build(database: Path) -> dict[BuildId, int] | None:
    """How many heads each build has; None where there is no cell, or none that we may read. Blocking."""
    rows = _read(database, "select build_id, count(*) from head group by build_id")
    return None if rows is None else {BuildId(str(build_id)): int(count) for build_id, count in rows}


def projects_by_shared_uid(database: Path) -> dict[Uid, list[ProjectId]]:
    """Those uids that more than one project has, or a project and a spare, with all their projects. Blocking."""
    rows = _read(database, "select uid, id from project union all select uid, project_id from spare order by 1, 2")
    found: dict[Uid, list[ProjectId]] = {}
    for uid, project_id in rows or ():
        found.setdefault(Uid(int(uid)), []).append(ProjectId(str(project_id)))
    return {uid: projects for uid, projects in found.items() if len(projects) > 1}


def _read(database: Path, query: str) -> list[tuple[Any, ...]] | None:
    if not database.exists():
        return None
    with contextlib.suppress(sqlite3.Error):
        connection = sqlite3.connect(f"file:{quote(str(database.absolute()))}?mode=ro", uri=True)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()
    return None
