"""How much memory carrying out a run takes: a process of its own over so many tenants of the catalog, which lie in a
few databases of one server. ``runner_memory.py CATALOG FOLDER DSN...`` prints what it measured as JSON.

The first that comes to a database applies what is pending, and the others find it done: what a runner keeps in memory
does not depend on that.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, cast

from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.migrated import MigratedTenants
from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.run import RunOptions, begin_run
from tenantry.fleet.migrations.tenant import TenantSlug
from tenantry.fleet.migrations.work import Work, folder_of_run


class FewDatabases(MigratedTenants):
    """Tenants by the numbers in their slugs."""

    def __init__(self, catalog: Catalog, dsns: list[str]) -> None:
        super().__init__(catalog, _nobody)
        self._dsns = dsns

    def dsn(self, slug: TenantSlug) -> str:
        return self._dsns[int(slug.rpartition("-")[2]) % len(self._dsns)]


def _nobody(_: object) -> Any:
    raise AssertionError("no provider is asked")


def main() -> None:
    catalog = Catalog(sys.argv[1])
    tenants = FewDatabases(catalog, sys.argv[3:])
    before = _peak_bytes()
    began = time.perf_counter()
    folder = open_folder(Path(sys.argv[2]))
    begun = begin_run(catalog, folder, lambda: tenants.select(None), options=RunOptions())
    planned = time.perf_counter()
    with folder_of_run(catalog, begun.run) as migrations:
        run = Work(catalog, tenants, begun.run, migrations).execute()
    assert run.state == "finished", run
    print(
        json.dumps(
            {
                "tenants": begun.to_visit,
                "before_bytes": before,
                "peak_bytes": _peak_bytes(),
                "plan_seconds": planned - began,
                "run_seconds": time.perf_counter() - planned,
                "counts": cast("dict[str, int]", run.counts),
            }
        )
    )


def _peak_bytes() -> int:
    """Of this program: the peak that getrusage tells is also that of the one from which it was started."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))) * 1024


if __name__ == "__main__":
    main()
