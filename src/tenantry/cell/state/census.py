"""Which builds the heads of a cell run, read beside the cell that may be writing.

Must never write: not the database, and not a journal beside it.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from urllib.parse import quote

from tenantry.cell.model import BuildId


def heads_by_build(database: Path) -> dict[BuildId, int] | None:
    """How many heads each build has; None where there is no cell, or none that we may read. Blocking."""
    if not database.exists():
        return None
    with contextlib.suppress(sqlite3.Error):
        connection = sqlite3.connect(f"file:{quote(str(database.absolute()))}?mode=ro", uri=True)
        try:
            rows = connection.execute("select build_id, count(*) from head group by build_id").fetchall()
        finally:
            connection.close()
        return {BuildId(str(build_id)): int(count) for build_id, count in rows}
    return None
