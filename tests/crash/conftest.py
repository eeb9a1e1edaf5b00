"""A whole installation that tests kill: ``tenantry up`` in a process of its own, and what must be true of its data."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tenantry.cell.storage.layout import run_directory
from tenantry.testing.throwaway import ThrowawayCell

CellMaker = Callable[..., ThrowawayCell]


@pytest.fixture
def make_cell(workdir: Path, new_cell: Callable[..., ThrowawayCell]) -> Iterator[CellMaker]:
    """Makes cells (without a fleet) below the test's directory, in a hurry; all are closed at the end."""
    made: list[ThrowawayCell] = []

    def make(name: str = "d", *options: str, **environment: str) -> ThrowawayCell:
        settings = {"options": ["--no-fleet", *options], "environment": environment}
        made.append(new_cell(workdir / name, script=HURRIED, **settings))
        return made[-1]

    yield make
    for cell in made:
        cell.close()


HURRIED = Path(__file__).with_name("hurried.py")
ANSWER_SECONDS_MAX = 60.0
"""Longer than the cell itself waits for an operation, as when it is stuck on a full disk."""
RESTARTING = "the server is restarting"
"""Said by a worker of the front door whose cell is gone."""


class Api:
    """The HTTP API of one cell, as plainly as a script would speak to it."""

    def __init__(self, cell: ThrowawayCell) -> None:
        target = cell.target
        self._client = httpx.Client(
            base_url=target.api_url, headers={"Authorization": f"Bearer {target.api_key}"}, timeout=ANSWER_SECONDS_MAX
        )

    def call(self, method: str, path: str, json: Any = None, *, status: int | None = None) -> Any:
        answer = self.send(method, path, json)
        if status is not None:
            assert answer.status_code == status, answer.text
        else:
            answer.raise_for_status()
        return answer.json()

    def post(self, path: str, json: Any) -> httpx.Response:
        return self.send("POST", path, json)

    def send(self, method: str, path: str, json: Any = None) -> httpx.Response:
        """The answer as it is, also when it is an error. Raises TransportError when the cell dies of the request."""
        answer = self._client.request(method, path, json=json)
        if answer.status_code == 503 and RESTARTING in answer.text:
            raise httpx.RemoteProtocolError(answer.text)
        return answer

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


def until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for: {what}"
        time.sleep(0.02)


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., None]:
    return until


@pytest.fixture
def swept() -> Callable[[Path], None]:
    """Waits until nothing of a running cell is to be deleted any more, nor will be: what was begun has ended, too."""

    def wait(data: Path) -> None:
        def done() -> bool:
            with contextlib.closing(sqlite3.connect(f"file:{data / 'cell.db'}?mode=ro", uri=True)) as db:
                left = db.execute(
                    "select (select count(*) from operation where status in ('scheduling', 'running'))"
                    " + (select count(*) from doomed)"
                ).fetchone()
            return left == (0,) and not any(data.glob("trash/*"))

        until(done, "what was begun has ended and what is doomed is deleted")

    return wait


LOG_NAME = re.compile(r"(?:[0-9A-F]{24}(?:\.json)?|[0-9A-F]{8}\.history|released)")
BASE_NAMES = {"base.json", "files.json", "data"}


def check_head(directory: Path, *, runs: bool, uid: int) -> None:
    """What lies in one head's directory: with the data that a branch runs, or the history alone."""
    expected = {"bases", "wal", "data"} if runs else {"bases", "wal"}
    present = {path.name for path in directory.iterdir()}
    assert present <= expected, f"{directory}: what is left over"
    assert (directory / "data").exists() == runs, f"{directory}: data"
    for path in directory.glob("wal/*"):
        assert LOG_NAME.fullmatch(path.name), f"{path} is no part of a log"
        assert path.suffix != ".json" or path.with_suffix("").exists(), f"{path} is about nothing"
    for base in directory.glob("bases/*"):
        names = {path.name for path in base.iterdir()}
        assert "base.json" in names and names <= BASE_NAMES, f"{base} is no base: {names}"
    if runs:
        slots = {path.name for path in directory.glob("data/pg_replslot/*")}
        assert slots <= {"tenantry_history"}, f"{directory}: a slot"
        assert not (directory / "data" / "postmaster.pid").exists(), f"{directory}: was not stopped"
        assert not (directory / "data" / "recovery.signal").exists(), f"{directory}: was not recovered"
        if os.geteuid() == 0:
            owners = {path.lstat().st_uid for path in (directory / "data").rglob("*")}
            assert owners == {uid}, f"{directory}: files of others"


@pytest.fixture
def check_whole() -> Callable[[Path], None]:
    """Asserts, for a stopped cell, that rows and files name each other and nothing is unfinished or left over."""

    def check(data: Path) -> None:
        with sqlite3.connect(f"file:{data / 'cell.db'}?mode=ro", uri=True) as db:
            db.row_factory = sqlite3.Row

            def rows(query: str) -> list[sqlite3.Row]:
                return db.execute(query).fetchall()

            assert rows("select * from operation where status in ('scheduling', 'running')") == []
            assert rows("select * from doomed") == [], "the trash is not emptied"
            projects = {row["id"]: row["uid"] for row in rows("select id, uid from project")}
            heads = {row["id"]: row for row in rows("select * from head")}
            branches = {row["id"]: row for row in rows("select * from branch")}
            snapshots = rows("select * from snapshot")
            spares = rows("select project_id, head_id from spare")
        assert list(data.glob("trash/*")) == []
        for head in heads.values():
            origin = head["origin_head_id"]
            assert origin is None or head["origin_lsn"] is not None, f"{head['id']} was not made"
            assert origin is None or heads[origin]["project_id"] == head["project_id"]
            branch = head["branch_id"]
            assert branch is None or branches[branch]["head_id"] == head["id"], f"{head['id']} is no branch's head"
            needed = branch or any(h["origin_head_id"] == head["id"] for h in heads.values())
            assert needed or any(s["head_id"] == head["id"] for s in snapshots), f"{head['id']} is nobody's past"
            check_head(
                data / "projects" / head["project_id"] / head["id"],
                runs=branch is not None,
                uid=projects[head["project_id"]],
            )
        for branch in branches.values():
            assert branch["state"] == "ready", f"{branch['id']} is {branch['state']}"
            assert heads[branch["head_id"]]["branch_id"] == branch["id"]
            assert branch["parent_id"] is None or branch["parent_id"] in branches
        assert {snapshot["head_id"] for snapshot in snapshots} <= set(heads)
        named = {(head["project_id"], head["id"]) for head in heads.values()}
        named |= {(spare["project_id"], spare["head_id"]) for spare in spares}
        on_disk = {(path.parent.name, path.name) for path in data.glob("projects/*/*")}
        assert on_disk == named, "a directory that nothing names, or a name without one"
        assert {path.name for path in data.glob("projects/*")} == {project for project, _ in named}
        assert list(data.glob("logs/head-*")) == [], "the log of a head that was being made"
        run = run_directory(data, root=os.geteuid() == 0)
        assert list(run.glob("head-*")) == [], "the sockets of a head that was being made"

    return check


@pytest.fixture
def postgres_pids() -> Callable[[Path], list[int]]:
    """Living postmasters whose data directory lies below a path."""

    def find(data: Path) -> list[int]:
        parents: dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                cwd = os.readlink(entry / "cwd")
                command = (entry / "cmdline").read_bytes()
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if cwd.startswith(f"{data}/") and re.search(rb"bin/postgres\0-D\0", command):
                parents[int(entry.name)] = parent
        # What a postmaster has just forked is called like itself for a moment.
        return [pid for pid, parent in parents.items() if parent not in parents]

    return find


@pytest.fixture
def connect() -> Callable[..., psycopg.Connection[Any]]:
    def open_connection(uri: str, **settings: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(uri, autocommit=True, connect_timeout=30, **settings)

    return open_connection


# ---------------------------------------------------------------------------------------- a tenant and its writer


class Writer(threading.Thread):
    """Commits numbers one after another, connecting anew whenever the connection breaks."""

    def __init__(self, uri: str) -> None:
        super().__init__(daemon=True)
        self.uri = uri
        self.acknowledged: list[tuple[int, datetime, datetime]] = []
        """Number, and the moments just before it was sent and just after it was acknowledged."""
        self.done = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.done.is_set():
            try:
                with psycopg.connect(self.uri, autocommit=True, connect_timeout=30) as connection:
                    while not self.done.wait(0.005):
                        number += 1
                        before = datetime.now(UTC)
                        connection.execute("insert into log values (%s)", (number,))
                        self.acknowledged.append((number, before, datetime.now(UTC)))
            except psycopg.Error:
                self.done.wait(0.02)

    def numbers(self, *, until: datetime | None = None, since: datetime | None = None) -> set[int]:
        """What was acknowledged before a moment, and what was sent after one."""
        return {
            number
            for number, sent, told in list(self.acknowledged)
            if (until is None or told <= until) and (since is None or sent >= since)
        }

    def wait_for_more(self, commits: int = 3) -> None:
        before = len(self.acknowledged)
        until(lambda: len(self.acknowledged) >= before + commits, "commits go on")

    def finish(self) -> None:
        self.done.set()
        self.join(60)
        assert not self.is_alive(), "the writer hangs"


@dataclass
class Tenant:
    """One project, spoken to as a script would."""

    client: Api
    project: str
    main: str
    writers: list[Writer] = field(default_factory=list)

    def path(self, rest: str) -> str:
        return f"/projects/{self.project}{rest}"

    def uri(self, branch: str) -> str:
        query = f"database_name=neondb&role_name=neondb_owner&branch_id={branch}"
        return self.client.call("GET", self.path(f"/connection_uri?{query}"))["uri"]

    def run(self, branch: str, *statements: str) -> list[Any]:
        with psycopg.connect(self.uri(branch), autocommit=True, connect_timeout=30) as connection:
            rows: list[Any] = []
            for statement in statements:
                cursor = connection.execute(statement.encode())
                rows = cursor.fetchall() if cursor.description else []
            return rows

    def rows(self, branch: str, table: str = "t") -> set[int]:
        return {row[0] for row in self.run(branch, f"select n from {table}")}

    def branches(self) -> list[Any]:
        return self.client.call("GET", self.path("/branches"))["branches"]

    def names(self) -> set[str]:
        return {branch["name"] for branch in self.branches()}

    def id_of(self, name: str) -> str:
        return next(branch["id"] for branch in self.branches() if branch["name"] == name)

    def named(self, name: str) -> str:
        """The branch of that name, with an endpoint; one without gets it, as a user would do it."""
        branch = self.id_of(name)
        if not self.endpoints(branch):
            self.client.call("POST", self.path("/endpoints"), {"endpoint": {"branch_id": branch, "type": "read_write"}})
        return branch

    def endpoints(self, branch: str) -> list[Any]:
        return self.client.call("GET", self.path(f"/branches/{branch}/endpoints"))["endpoints"]

    def sleep(self, branch: str) -> None:
        for endpoint in self.endpoints(branch):
            self.client.call("POST", self.path(f"/endpoints/{endpoint['id']}/suspend"))

    # Each of these answers as the API does, also with an error.

    def branch(self, name: str, *, compute: bool = True, **how: Any) -> httpx.Response:
        body = {"branch": {"name": name, **how}, "endpoints": [{"type": "read_write"}] if compute else []}
        return self.client.post(self.path("/branches"), body)

    def restore(self, branch: str, source: str, preserve: str | None = None, **to: Any) -> httpx.Response:
        body = {"source_branch_id": source, "preserve_under_name": preserve, **to}
        return self.client.post(self.path(f"/branches/{branch}/restore"), body)

    def snapshot(self, branch: str, name: str) -> httpx.Response:
        return self.client.post(self.path(f"/branches/{branch}/snapshot?name={name}"), None)

    def snapshots(self) -> dict[str, str]:
        found = self.client.call("GET", self.path("/snapshots"))["snapshots"]
        return {snapshot["name"]: snapshot["id"] for snapshot in found}

    def restore_snapshot(self, snapshot: str, **how: Any) -> httpx.Response:
        return self.client.post(self.path(f"/snapshots/{self.snapshots()[snapshot]}/restore"), how)

    def moment(self) -> datetime:
        """A moment that no commit of one who waits for it shares."""
        time.sleep(0.01)
        now = datetime.now(UTC)
        time.sleep(0.01)
        return now

    def settled(self) -> None:
        """Waits until nothing is under way."""

        def done() -> bool:
            operations = self.client.call("GET", self.path("/operations"))["operations"]
            return not any(o["status"] in ("scheduling", "running") for o in operations)

        until(done, "operations end")

    def write(self, branch: str) -> Writer:
        """Begins to write to the branch; ``finish`` it, or it is finished at the end of the test."""
        self.writers.append(Writer(self.uri(branch)))
        self.writers[-1].start()
        self.writers[-1].wait_for_more()
        return self.writers[-1]


@pytest.fixture
def open_tenant() -> Iterator[Callable[..., Tenant]]:
    """Makes a project with tables ``t`` (holding 1) and ``log``, for a writer."""
    opened: list[Tenant] = []

    def make(client: Api, name: str, **project: Any) -> Tenant:
        created = client.create(name, **project)
        tenant = Tenant(client, created["project"]["id"], created["branch"]["id"])
        tenant.run(tenant.main, "create table t (n int)", "insert into t values (1)", "create table log (n int)")
        opened.append(tenant)
        return tenant

    yield make
    for writer in (writer for tenant in opened for writer in tenant.writers):
        writer.done.set()
