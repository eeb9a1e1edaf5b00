"""A runner in a process of its own, to be killed: tenants are files of one directory, the run is in the catalog.

``runner.py FLEET CATALOG_FILE RUN`` carries the run out, prints one line of JSON for each event and exits as the
command line does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tenantry.errors import TenantryError
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.migrations.results import exit_code
from tenantry.fleet.migrations.run import find_run
from tenantry.fleet.migrations.tenant import TenantSlug
from tenantry.fleet.migrations.work import Work, folder_of_run


class FileFleet:
    """``FLEET/slug.dsn`` reaches a tenant: all that carrying out a run asks of the rest of the fleet."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def dsn(self, slug: TenantSlug) -> str:
        return (self.directory / f"{slug}.dsn").read_text()


def main() -> int:
    catalog = Catalog(Path(sys.argv[2]).read_text())
    run = find_run(catalog, sys.argv[3])
    try:
        with folder_of_run(catalog, run) as folder:
            work = Work(
                catalog,
                FileFleet(Path(sys.argv[1])),
                run,
                folder,
                on_event=lambda event: print(json.dumps(event.as_dict()), flush=True),
            )
            return exit_code(work.execute())
    except TenantryError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        catalog.close()


if __name__ == "__main__":
    sys.exit(main())
