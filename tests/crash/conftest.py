"""A whole installation that tests kill: ``tenantry up`` in a process of its own, and what must be true of its data."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tenantry.testing.throwaway import ThrowawayCell

CellMaker = Callable[..., ThrowawayCell]


@pytest.fixture
def make_cell(workdir: Path) -> Iterator[CellMaker]:
    """Makes cells (without a fleet) below the test's directory; all are closed at the end."""
    made: list[ThrowawayCell] = []

    def make(name: str = "d", *options: str, **environment: str) -> ThrowawayCell:
        cell = ThrowawayCell(data=workdir / name, options=["--no-fleet", *options], environment=environment)
        made.append(cell)
        return cell

    yield make
    for cell in made:
        cell.close()


class Api:
    """The HTTP API of one cell, as plainly as a script would speak to it."""

    def __init__(self, cell: ThrowawayCell) -> None:
        target = cell.target
        self._client = httpx.Client(
            base_url=target.api_url, headers={"Authorization": f"Bearer {target.api_key}"}, timeout=30
        )

    def call(self, method: str, path: str, json: Any = None, *, status: int | None = None) -> Any:
        answer = self._client.request(method, path, json=json)
        if status is not None:
            assert answer.status_code == status, answer.text
        else:
            answer.raise_for_status()
        return answer.json()

    def post(self, path: str, json: Any) -> httpx.Response:
        """The answer as it is, also when it is an error."""
        return self._client.post(path, json=json)

    def create(self, name: str, **project: Any) -> Any:
        return self.call("POST", "/projects", {"project": {"name": name, **project}}, status=201)

    def projects(self) -> list[Any]:
        return self.call("GET", "/projects?limit=400")["projects"]

    def uri(self, project_id: str, database: str = "neondb", role: str = "neondb_owner") -> str:
        return self.call("GET", f"/projects/{project_id}/connection_uri?database_name={database}&role_name={role}")[
            "uri"
        ]

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def api() -> Iterator[Callable[[ThrowawayCell], Api]]:
    opened: list[Api] = []

    def make(cell: ThrowawayCell) -> Api:
        opened.append(Api(cell))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def facts_of(data: Path) -> dict[str, set[str]]:
    """What cell.db names, and what lies on disk: relative paths of heads and of project directories."""
    with sqlite3.connect(f"file:{data / 'cell.db'}?mode=ro", uri=True) as db:
        named = {f"projects/{p}/{h}" for p, h in db.execute("select project_id, id from head")}
        spares = {f"projects/{p}/{h}" for p, h in db.execute("select project_id, head_id from spare")}
        doomed = {row[0] for row in db.execute("select path from doomed")}
        unfinished = {
            row[0] for row in db.execute("select id from operation where status in ('scheduling', 'running')")
        }
    on_disk = {str(path.relative_to(data)) for path in data.glob("projects/*/*")}
    projects = {str(path.relative_to(data)) for path in data.glob("projects/*")}
    return {
        "named": named,
        "spares": spares,
        "doomed": doomed,
        "unfinished": unfinished,
        "on_disk": on_disk,
        "projects": projects,
        "trash": {path.name for path in data.glob("trash/*")},
    }


@pytest.fixture
def check_whole() -> Callable[[Path], None]:
    """Asserts, for a stopped cell, that rows and files name each other and nothing is unfinished."""

    def check(data: Path) -> None:
        facts = facts_of(data)
        assert facts["unfinished"] == set()
        assert facts["named"] <= facts["on_disk"], "a project lost its files"
        kept = facts["named"] | facts["spares"]
        orphans = {
            path
            for path in facts["on_disk"] - kept
            if not any(path.startswith(f"{d}/") or path == d for d in facts["doomed"])
        }
        assert orphans == set(), "a directory that nothing names"
        empty = {p for p in facts["projects"] if not any(k.startswith(f"{p}/") for k in kept)} - facts["doomed"]
        assert empty == set(), "a project directory that nothing names"

    return check


@pytest.fixture
def postgres_pids() -> Callable[[Path], list[int]]:
    """Living postmasters whose data directory lies below a path."""

    def find(data: Path) -> list[int]:
        pids: list[int] = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                cwd = os.readlink(entry / "cwd")
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if cwd.startswith(f"{data}/") and re.search(rb"bin/postgres\0-D\0", command):
                pids.append(int(entry.name))
        return pids

    return find


@pytest.fixture
def connect() -> Callable[..., psycopg.Connection[Any]]:
    def open_connection(uri: str, **settings: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(uri, autocommit=True, connect_timeout=30, **settings)

    return open_connection
