"""``tenantry`` whose front door lets callers wait for two seconds only for a cell that does not run."""

from __future__ import annotations

from functools import partial

import tenantry.cell.main as cell
from tenantry.cli.main import main

setattr(cell, "Settings", partial(cell.Settings, patience_seconds=2.0))  # noqa: B010 - the type is not to change
main()
