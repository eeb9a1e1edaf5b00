"""Where clients written by others are pointed: the API over a fake cell, and a whole installation.

What a client is made of is installed from its registry once for a run, whatever the number of its workers. Where node
is missing, or outside of CI the registry, its tests are skipped and say so.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tenantry.neon.client import NeonClient
from tenantry.neon.ids import ProjectId, RegionId
from tenantry.testing.fake_api import FakeApi
from tenantry.testing.throwaway import ThrowawayCell

from ..cell.api.conftest import Contract

INSTALL_SECONDS_MAX: Final = 100
NODE_SECONDS_MAX: Final = 90
HERE: Final = Path(__file__).parent
CONTRACT: Final = HERE.parent / "data" / "neon-v2.shapes.json"


@dataclass(frozen=True)
class Address:
    api_url: str
    """Includes ``/api/v2``."""
    api_key: str
    real: bool
    ca: Path | None = None
    """The authority that a real cell's front door is certified by."""

    def client(self) -> NeonClient:
        return NeonClient(self.api_url, self.api_key)

    def http(self) -> httpx.Client:
        """As plainly as a script would speak to it."""
        return httpx.Client(base_url=self.api_url, headers={"Authorization": f"Bearer {self.api_key}"}, timeout=30)


@pytest.fixture(scope="session")
def fake_cell() -> Iterator[Address]:
    with FakeApi() as api:
        yield Address(api.base_url, api.key, real=False)


@pytest.fixture(scope="session")
def real_cell(new_workdir: Callable[[str], Path]) -> Iterator[Address]:
    """One whole cell for all tests of a worker."""
    cell = ThrowawayCell(data=new_workdir("real") / "d", options=["--no-fleet"])
    try:
        target = cell.start()
        yield Address(str(target.api_url), str(target.api_key), real=True, ca=cell.data / "tls" / "ca.crt")
    finally:
        cell.close()


@pytest.fixture(scope="session")
def domain_cell(new_workdir: Callable[[str], Path]) -> Iterator[Address]:
    """One whole cell whose endpoints have host names of their own, which nobody resolves here."""
    cell = ThrowawayCell(data=new_workdir("names") / "d", options=["--no-fleet", "--domain", "db.example.com"])
    try:
        target = cell.start()
        yield Address(str(target.api_url), str(target.api_key), real=True, ca=cell.data / "tls" / "ca.crt")
    finally:
        cell.close()


@pytest.fixture(params=["fake", "real"])
def address(request: pytest.FixtureRequest) -> Address:
    return request.getfixturevalue(f"{request.param}_cell")


@dataclass(frozen=True)
class Tenant:
    """A project of the real cell, as its API shows it."""

    project_id: ProjectId
    branch_id: str
    endpoint_id: str
    endpoint_host: str
    """With the port."""
    uri: str
    """As a cell on loopback gives it: without TLS."""

    @property
    def tls_uri(self) -> str:
        return self.uri.replace("sslmode=disable", "sslmode=require")


@pytest.fixture(scope="module")
def tenant(real_cell: Address) -> Iterator[Tenant]:
    with real_cell.client() as client:
        created = client.create_project(name="ACME Corp", region_id=RegionId("aws-us-east-1"))
        project_id, endpoint = ProjectId(created.project.id), created.endpoints[0]
        uri = client.connection_uri(project_id, database_name="neondb", role_name="neondb_owner")
        yield Tenant(project_id, created.branch.id, endpoint.id, endpoint.host, uri)
        client.delete_project(project_id)


@pytest.fixture(scope="session")
def neon_contract() -> Contract:
    return Contract(json.loads(CONTRACT.read_text()))


# -------------------------------------------------------------------------------------------- others' programs


@pytest.fixture(scope="session")
def npm_install() -> Callable[..., Path]:
    """Installs packages into a directory of their own and returns it."""

    def install(*packages: str) -> Path:
        _need_node()
        return _once("node_modules", packages, lambda directory: _npm(directory, packages))

    return install


@pytest.fixture(scope="session")
def pip_install() -> Callable[..., Path]:
    """The same for packages of Python, kept apart from our own environment."""

    def install(*packages: str) -> Path:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile"]
        return _once(
            "site-packages",
            packages,
            lambda directory: _install([*pip, "--target", str(directory / "site-packages"), *packages], directory),
        )

    return install


@pytest.fixture(scope="session")
def run_node() -> Callable[..., Any]:
    """Runs one of the scripts beside this file and returns the JSON that it prints."""

    def run(script: str, *arguments: str, environment: dict[str, str] | None = None) -> Any:
        _need_node()
        done = subprocess.run(
            ["node", str(HERE / script), *arguments],
            capture_output=True,
            text=True,
            timeout=NODE_SECONDS_MAX,
            check=False,
            env={**os.environ, **(environment or {})},
        )
        assert done.returncode == 0, f"{script}: {done.stderr[-5000:]}"
        return json.loads(done.stdout)

    return run


def _need_node() -> None:
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed; it runs the published JavaScript clients")


def _npm(directory: Path, packages: tuple[str, ...]) -> None:
    (directory / "package.json").write_text('{"private": true, "type": "module"}')
    _install(
        [
            "npm",
            "install",
            "--no-audit",
            "--no-fund",
            "--no-progress",
            "--ignore-scripts",
            "--prefer-offline",
            *packages,
        ],
        directory,
    )


def _once(kind: str, packages: tuple[str, ...], install: Callable[[Path], None]) -> Path:
    """The directory where ``install`` has put the packages, by whichever worker of the run came first."""
    name = "".join(letter if letter.isalnum() or letter in ".-" else "-" for letter in "+".join(packages))
    directory = Path(tempfile.gettempdir()).parent / "installed" / f"{kind[:4]}{name}"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory.parent / f"{directory.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        failure = directory / "failure.txt"
        if not (directory / "done").exists() and not failure.exists():
            try:
                install(directory)
                (directory / "done").touch()
            except _NotInstalled as error:
                failure.write_text(str(error))
    if failure.exists():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(failure.read_text())
    return directory


class _NotInstalled(Exception):
    """Says what failed; outside of CI a reason to skip."""


def _install(command: list[str], directory: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=INSTALL_SECONDS_MAX, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise _NotInstalled(f"{' '.join(command)} took more than {INSTALL_SECONDS_MAX} seconds") from error
    if done.returncode != 0:
        raise _NotInstalled(f"{' '.join(command)} failed, is there a registry? {done.stderr.strip()[-300:]}")
