"""Where the engines of one data directory lie: asked by the cell that runs on it, and by ``tenantry engine``.

Must make nothing: a question about a cell that does not exist yet leaves no trace.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from tenantry.cell.compute.engines import SHARED_ENGINES
from tenantry.cell.config import CellConfig, uid_range
from tenantry.runtime.files import traversable_for

_UID_MAP: Final = Path("/proc/self/uid_map")


def project_uids(config: CellConfig) -> range | None:
    """The uids for projects; None for a cell that is not root. Blocking."""
    return uid_range(config, _UID_MAP.read_text()) if os.geteuid() == 0 else None


def engines_directory(data: Path, uids: range | None) -> Path:
    """The data directory's own, unless the uids of projects cannot pass to it. Blocking."""
    existing = next(path for path in (data, *data.parents) if path.exists())
    if uids is None or traversable_for(existing, uids[0], uids[0]):
        return data / "engines"
    return SHARED_ENGINES
