"""A runner in a process of its own, to be killed: tenants and their cached states are files of one directory.

``runner.py FOLDER FLEET [JOBS]`` prints one line of JSON for each event and exits as the command line does.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.plan import make_plan
from tenantry.fleet.migrations.run import Run, RunOptions
from tenantry.fleet.migrations.tenant import SchemaState, TenantRef, TenantSlug


class FileFleet:
    """``FLEET/slug.dsn`` reaches a tenant, ``FLEET/slug.state`` is what the catalog knows of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def select(self, _slugs: Sequence[str] | None = None) -> list[TenantRef]:
        slugs = sorted(path.stem for path in self.directory.glob("*.dsn"))
        return [TenantRef(TenantSlug(slug), self.known(slug)) for slug in slugs]

    def known(self, slug: str) -> SchemaState | None:
        path = self.directory / f"{slug}.state"
        return SchemaState(**json.loads(path.read_text())) if path.exists() else None

    def dsn(self, slug: TenantSlug) -> str:
        return (self.directory / f"{slug}.dsn").read_text()

    def record(self, slug: TenantSlug, state: SchemaState) -> None:
        draft = self.directory / f"{slug}.draft"
        draft.write_text(json.dumps(asdict(state)))
        os.replace(draft, self.directory / f"{slug}.state")


def main() -> int:
    folder, fleet = open_folder(Path(sys.argv[1])), FileFleet(Path(sys.argv[2]))
    run = Run(
        make_plan(folder, fleet.select()),
        folder,
        fleet,
        options=RunOptions(jobs=int(sys.argv[3])),
        on_event=lambda event: print(json.dumps(event.as_dict()), flush=True),
    )
    return run.execute().exit_code


if __name__ == "__main__":
    sys.exit(main())
