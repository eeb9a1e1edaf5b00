"""The installation that is measured: one cell with its fleet, used by all measures one after another.

Everything is reached as a user reaches it: the API over HTTP, Postgres through the front door. Only what no user can
see (processes, files, the pool of spares) is looked up on the machine.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import psutil
import psycopg
from psycopg.conninfo import conninfo_to_dict

from tenantry.cell.config import CellConfig, uid_range
from tenantry.cell.storage.layout import Layout, run_directory
from tenantry.fleet.config import Target
from tenantry.fleet.main import Fleet, open_fleet
from tenantry.neon.client import NeonClient
from tenantry.neon.ids import EndpointId, ProjectId
from tenantry.neon.shapes import BranchCreated
from tenantry.postgres import engines
from tenantry.postgres.engines import Engine
from tenantry.postgres.postmaster import running_in
from tenantry.runtime.files import Owner
from tenantry.testing.throwaway import ThrowawayCell

WAIT_SECONDS_MAX: Final = 60.0
_POLL_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class Tenant:
    """A project as its user knows it."""

    project_id: ProjectId
    endpoint_id: EndpointId
    uri: str = field(repr=False)

    @property
    def password(self) -> str:
        return str(conninfo_to_dict(self.uri)["password"])


class Installation:
    """Use ``with``. ``restart`` brings it up again on the same data with another number of spares.

    It lies in a directory of its own, ``within`` another one where the file system matters.
    """

    def __init__(self, *, within: Path | None = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="tenantry-bench-", dir=within))
        self.directory.chmod(0o711)
        self.cell = ThrowawayCell(data=self.directory / "data")
        self.client: NeonClient
        self._number = 0

    def __enter__(self) -> Self:
        try:
            self.restart(spares=4)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.cell.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def restart(self, *, spares: int) -> None:
        """Starts it anew, and waits until the pool of spares is full."""
        if hasattr(self, "client"):
            self.client.close()
            self.cell.stop()
        self.cell.options = ["--spares", str(spares)]
        target = self.cell.start()
        self.client = NeonClient(target.api_url, target.api_key)
        self.wait_for_spares(spares)

    @property
    def target(self) -> Target:
        return self.cell.target

    @property
    def layout(self) -> Layout:
        return Layout(data=self.cell.data, run=run_directory(self.cell.data, root=os.geteuid() == 0))

    @contextmanager
    def fleet(self) -> Generator[Fleet]:
        with open_fleet(self.target.api_url, self.target.api_key, self.target.catalog_url) as fleet:
            yield fleet

    # -- tenants -------------------------------------------------------------------------------------------

    def create(self, *, cu: float | None = None) -> Tenant:
        self._number += 1
        settings = None if cu is None else {"autoscaling_limit_min_cu": cu, "autoscaling_limit_max_cu": cu}
        made = self.client.create_project(name=f"bench {self._number}", default_endpoint_settings=settings)
        return Tenant(
            ProjectId(made.project.id), EndpointId(made.endpoints[0].id), made.connection_uris[0].connection_uri
        )

    def put_to_sleep(self, tenant: Tenant) -> None:
        """Through the API; returns when no process of it or of its branches is left, which sleep already."""
        self.client.suspend_endpoint(tenant.project_id, tenant.endpoint_id)
        wait_until(lambda: not self.processes(tenant.project_id), "the tenant sleeps")

    def endpoint_of(self, made: BranchCreated) -> EndpointId:
        return EndpointId(made.endpoints[0].id)

    def head_data(self, project_id: ProjectId) -> Path:
        """The one data directory of a project without branches."""
        (found,) = self.layout.project(project_id).glob("*/data")
        return found

    def processes(self, project_id: ProjectId) -> list[int]:
        """Every server process that runs in the project's data directories."""
        heads = self.layout.project(project_id).glob("*/data")
        return [process.pid for data in heads for process in running_in(data)]

    def spares(self) -> int:
        """How many stand ready in the pool."""
        with closing(sqlite3.connect(f"file:{self.layout.database}?mode=ro", uri=True, timeout=10)) as connection:
            return int(connection.execute("select count(*) from spare").fetchone()[0])

    def wait_for_spares(self, count: int) -> None:
        wait_until(lambda: self.spares() >= count, f"{count} spares are ready")

    def door_processes(self) -> list[psutil.Process]:
        """Those that a connection passes: the workers, and the control process that they ask."""
        control = psutil.Process(self.cell.process.pid)
        return [control, *(child for child in control.children() if _is_worker(child))]

    # -- what peers need -----------------------------------------------------------------------------------

    def engine(self) -> Engine:
        """The build that the tenants run."""
        found = engines.discover(extra_dirs=[self.layout.engines])
        return engines.choose([each for each in found if each.bin_dir.is_relative_to(self.layout.engines)], 18)

    def owner(self) -> Owner | None:
        """A user for a peer's files and processes that no project has; None: ourselves."""
        if os.geteuid() != 0:
            return None
        last = uid_range(CellConfig(data=self.cell.data), Path("/proc/self/uid_map").read_text())[-1]
        return last, last


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "tenantry.cell.proxy.worker" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {WAIT_SECONDS_MAX:g} s: {what}")
        time.sleep(_POLL_SECONDS)


def first_row(dsn: str) -> float:
    """Seconds from nothing to the first row of a new connection, which is closed again outside of the time."""
    began = time.perf_counter()
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("select 1").fetchone()
        seconds = time.perf_counter() - began
    assert row == (1,)
    return seconds
