"""The real program against a real cell: one cell for each pytest process, names of its own for each test."""

from __future__ import annotations

import io
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenantry.cli.main import run
from tenantry.fleet.backups.keys import write_fleet_key
from tenantry.neon.client import NeonClient
from tenantry.neon.shapes import ProjectListItem
from tenantry.testing.throwaway import ThrowawayCell

from ..forks import Nurseries
from ..seaweed import s3

__all__ = ["s3"]

COMMAND_SECONDS_MAX = 60
Query = Callable[[str, str], list[Any]]
_OURS = ("TENANTRY_API", "TENANTRY_CATALOG", "TENANTRY_DATA", "TENANTRY_TRACEBACK")


def program(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the program as a shell would. What the caller's environment says of other cells does not count."""
    return subprocess.run(
        [sys.executable, "-m", "tenantry", *arguments],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=COMMAND_SECONDS_MAX,
        env=_without_ours() | environment,
    )


def _without_ours() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}


def within(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The same without a process, which costs a second of imports each time. Not for psql, which replaces it."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name in [name for name in os.environ if name.startswith(_OURS)]:
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(sys, "stdin", io.StringIO())
        code = run(arguments)
    return subprocess.CompletedProcess(list(arguments), code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session", name="program")
def _program() -> Callable[..., subprocess.CompletedProcess[str]]:
    return program


@pytest.fixture(scope="session", name="within")
def _within() -> Callable[..., subprocess.CompletedProcess[str]]:
    return within


@dataclass
class Operator:
    """Somebody at a terminal on the machine of a running cell."""

    cell: ThrowawayCell
    nurseries: Nurseries

    def run(self, *arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """In a process of its own."""
        return self._checked(self._forked, arguments, code, environment)

    def _forked(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.nurseries.run(arguments, _without_ours() | environment, timeout=COMMAND_SECONDS_MAX)

    def do(self, *arguments: str, code: int | None = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """In this process."""
        return self._checked(within, arguments, code, environment)

    def json(self, *arguments: str, code: int | None = 0) -> dict[str, Any]:
        return json.loads(self.do(*arguments, "--json", code=code).stdout)

    def _checked(
        self,
        how: Callable[..., subprocess.CompletedProcess[str]],
        arguments: tuple[str, ...],
        code: int | None,
        environment: dict[str, str],
    ) -> subprocess.CompletedProcess[str]:
        done = how(*arguments, **{"TENANTRY_DATA": str(self.cell.data)} | environment)
        assert code in (None, done.returncode), f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def projects(self, name: str) -> list[ProjectListItem]:
        """What the provider has, not what the catalog believes."""
        target = self.cell.target
        with NeonClient(target.api_url, target.api_key) as client:
            return [project for project in client.projects(search=name) if name in project.name]


@pytest.fixture(scope="session")
def cell(new_workdir: Callable[[str], Path], new_cell: Callable[..., ThrowawayCell]) -> Iterator[ThrowawayCell]:
    # Its worker does jobs and no passes: whoever tests a pass runs it, and counts on nobody else doing so meanwhile.
    jobs_alone = {"TENANTRY_WORKER__QUEUES": '["tenants"]'}
    with new_cell(new_workdir("cli") / "data", options=["--spares", "2"], environment=jobs_alone) as cell:
        yield cell


@pytest.fixture
def operator(cell: ThrowawayCell, nurseries: Nurseries) -> Operator:
    return Operator(cell, nurseries)


@pytest.fixture(scope="session")
def query() -> Query:
    """Statements over the connection string that a command has printed; the first column of the last one's rows."""

    def ask(url: str, sql: str) -> list[Any]:
        with psycopg.connect(url.strip(), autocommit=True) as connection:
            cursor = connection.execute(sql.encode())
            return [row[0] for row in cursor.fetchall()] if cursor.description else []

    return ask


@pytest.fixture
def name() -> str:
    """A customer that no other test has."""
    return f"Customer {secrets.token_hex(4)}"


@pytest.fixture(scope="session")
def fleet_key(new_workdir: Callable[[str], Path]) -> Path:
    """The fleet's: the tests share a catalog, so they share it."""
    path = new_workdir("key") / "fleet-key"
    write_fleet_key(path)
    return path


@pytest.fixture
def vault(workdir: Path, fleet_key: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory, named with the fleet's key by the environment."""
    vault = workdir / "vault"
    vault.mkdir()
    monkeypatch.setenv("TENANTRY_BACKUPS__VAULT", f"file://{vault}")
    monkeypatch.setenv("TENANTRY_BACKUPS__KEY_FROM", f"file:{fleet_key}")
    return vault
