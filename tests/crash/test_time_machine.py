"""Random lives of a project against a model: whatever is written, branched, put to sleep, killed, restored and let go,
every state that can be read is the one that the model remembers.

The cell is a real one, in a process of its own that is killed like every other; it lives through all lives of a run.
A branch of the model is a list of entries: what it held from a moment (and a position of its log) on. A new head's
list is its source's up to the point that it was made from, and goes on from there.

A failure prints every step of the life, and a line that lives all lives of the run again (``TENANTRY_SEED``; kills
fall where the machine's load lets them). ``TENANTRY_SOAK_SECONDS`` says how long the long form goes on.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tenantry.cell.storage.layout import run_directory
from tenantry.runtime import child
from tenantry.testing.throwaway import ThrowawayCell

SOAK_SECONDS = float(os.environ.get("TENANTRY_SOAK_SECONDS", "600"))
LIVES, STEPS = 1, 20
LIVES_LONG, STEPS_LONG = 5, 40
BRANCHES_MAX = 7
SNAPSHOTS_MAX = 4
PROBES, PROBES_LONG = 1, 3
"""Points of each branch's past that are looked at when a life ends."""
WAIT_SECONDS_MAX = 60.0
DAY = 86_400
WINDOWS = [DAY, 30, 5, 0]
"""``history_retention_seconds`` that a life may have."""
ENDED = {"finished", "failed", "skipped"}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FORGIVEN = re.compile(r'event="(a front door worker died|cannot ask whether busy|roles not refreshed)"')
"""Errors that the log of a cell may have whose processes are killed."""

Rows = frozenset[int]
Kill = Callable[[], None]


@dataclass(frozen=True)
class Entry:
    """From ``moment`` on, and from ``lsn`` on, the branch holds ``rows``."""

    moment: datetime
    lsn: str
    rows: Rows


Past = tuple[Entry, ...]


@dataclass(frozen=True)
class Kept:
    """A snapshot: of the branch, in the last entry's state."""

    branch: str
    past: Past


@dataclass(frozen=True)
class Target:
    """A point of a branch's past as a request names it; neither time nor position is now."""

    index: int
    """Of the entry whose state it is."""
    timestamp: datetime | None = None
    lsn: str | None = None

    @property
    def now(self) -> bool:
        return self.timestamp is None and self.lsn is None

    def __str__(self) -> str:
        return self.lsn or (f"{self.timestamp:%H:%M:%S.%f}" if self.timestamp else "now")

    def named(self, prefix: str) -> dict[str, str]:
        if self.lsn is not None:
            return {f"{prefix}lsn": self.lsn}
        return {} if self.timestamp is None else {f"{prefix}timestamp": self.timestamp.isoformat()}


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any

    @property
    def text(self) -> str:
        return f"{self.status} {self.body.get('code')}: {self.body.get('message')}" if self.status >= 400 else "done"


def shown(rows: Rows) -> str:
    return "{" + ", ".join(map(str, sorted(rows)[:12])) + (", ...}" if len(rows) > 12 else "}")


def until(condition: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS_MAX) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for: {what}"
        time.sleep(0.02)


# ------------------------------------------------------------------------------------------------ the cell


class World:
    """The cell that the lives share, and how it is spoken to and killed."""

    def __init__(self, cell: ThrowawayCell) -> None:
        self.cell = cell
        self.clients: list[httpx.Client] = []
        """One for each start: a request to an earlier one may still be under way."""

    def start(self) -> None:
        target = self.cell.start()
        headers = {"Authorization": f"Bearer {target.api_key}"}
        self.clients.append(httpx.Client(base_url=target.api_url, headers=headers, timeout=WAIT_SECONDS_MAX))

    def revive(self) -> None:
        if self.cell.process.poll() is not None:
            self.start()

    def call(self, method: str, path: str, body: Any = None) -> Answer | None:
        """The answer; None when the cell died before it gave one."""
        try:
            answer = self.clients[-1].request(method, path, json=body)
        except httpx.TransportError:
            return None
        told: Any = answer.json() if answer.content else {}
        # The front door outlives the cell, and does not know either what became of the request.
        died = answer.status_code == 503 and told["message"].startswith("the server is restarting")
        return None if died else Answer(answer.status_code, told)

    def rows(self, query: str, *values: str) -> list[Any]:
        """What the cell has written down."""
        db = sqlite3.connect(f"file:{self.cell.data / 'cell.db'}?mode=ro", uri=True, timeout=WAIT_SECONDS_MAX)
        try:
            return db.execute(query, values).fetchall()
        finally:
            db.close()

    def postmasters(self, project: str) -> list[child.Identity]:
        """Of the project's heads, those that run."""
        heads = self.cell.data / "projects" / project
        found = [each for each in self.cell.leftovers() if _inside(each, heads)]
        parents = {each.pid for each in found}
        return sorted((each for each in found if _parent(each) not in parents), key=lambda each: each.pid)

    def kill_cell(self) -> None:
        self.cell.kill()

    def kill_everything(self) -> None:
        """As a power cut does, but for what the kernel has in memory."""
        self.cell.kill()
        for process in self.cell.leftovers():
            child.kill(process, signal.SIGKILL)
        until(lambda: not self.cell.leftovers(), "everything is dead")

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.cell.close()


def _inside(process: child.Identity, directory: Path) -> bool:
    try:
        return Path(f"/proc/{process.pid}/cwd").readlink().is_relative_to(directory)
    except OSError:
        return False


def _parent(process: child.Identity) -> int | None:
    try:
        return int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


class Writer(threading.Thread):
    """Commits the numbers one after another, connecting anew whenever the connection breaks."""

    def __init__(self, numbers: Iterator[int], connect: Callable[[], psycopg.Connection[Any]]) -> None:
        super().__init__(daemon=True)
        self.numbers = numbers
        self.connect = connect
        self.sent: list[int] = []
        self.acknowledged: list[int] = []
        self.failure: BaseException | None = None
        self.done = threading.Event()

    def run(self) -> None:
        try:
            while not self.done.is_set():
                try:
                    with self.connect() as connection:
                        while not self.done.is_set():
                            self.sent.append(next(self.numbers))
                            connection.execute("insert into t values (%s)", (self.sent[-1],))
                            self.acknowledged.append(self.sent[-1])
                except psycopg.OperationalError:
                    time.sleep(0.01)
        except BaseException as failure:
            self.failure = failure

    def wait_for_more(self) -> None:
        before = len(self.acknowledged)
        until(lambda: len(self.acknowledged) > before or self.failure is not None, "commits go on")

    def finish(self) -> None:
        self.done.set()
        self.join(WAIT_SECONDS_MAX)
        assert self.failure is None and not self.is_alive(), self.failure


# ------------------------------------------------------------------------------------------------ one life

PICK = st.integers(0, 10_000)
"""Which one, modulo how many there are by then: what is drawn never depends on what happened."""
WHEN = st.integers(-3, 10_000)
"""A moment or a position, from all there are; below zero: now."""
DELAY = st.integers(0, 150)
"""Milliseconds until a kill."""
VICTIM = st.sampled_from(["postgres", "postgres", "cell", "everything"])


class Life(RuleBasedStateMachine):
    """One project, what should be in it, and what may happen to it."""

    world: ClassVar[World]
    said: ClassVar[str] = ""
    probes: ClassVar[int] = PROBES

    def __init__(self) -> None:
        super().__init__()
        self.branches: dict[str, Past] = {}
        self.deleted: dict[str, Past] = {}
        self.formers: dict[str, str] = {}
        """What a branch was before it was restored, itself a branch now, and that branch."""
        """Branches that can be recovered."""
        self.snapshots: dict[str, Kept] = {}
        self.numbers = itertools.count(1)
        self.told: list[str] = []
        self.project = ""
        self.window = DAY
        self.let_go = EPOCH
        """A moment before this one may be refused; what is answered has to be right even then."""
        self.log_seen = self.world.cell.log.stat().st_size

    # -- telling and asking ------------------------------------------------------------------------------

    def tell(self, text: str) -> None:
        self.told.append(f"{datetime.now(UTC):%H:%M:%S.%f} {text}")

    def ask(self, method: str, path: str, body: Any = None) -> Answer | None:
        return self.world.call(method, f"/projects/{self.project}{path}", body)

    def get(self, path: str) -> Any:
        return self.done(self.ask("GET", path))

    def done(self, answer: Answer | None) -> Any:
        assert answer is not None, f"the cell has died:\n{self.world.cell.log_tail()}"
        assert answer.status < 300, answer.text
        return answer.body

    def settle(self) -> None:
        """Waits until nothing is under way."""

        def settled() -> bool:
            return all(o["status"] in ENDED for o in self.get("/operations")["operations"])

        until(settled, "operations end")

    def forget(self, now: datetime) -> None:
        """By ``now`` the window has let go of what was before it."""
        self.let_go = max(self.let_go, now - timedelta(seconds=self.window))

    def listed(self) -> dict[str, Any]:
        return {branch["id"]: branch for branch in self.get("/branches")["branches"]}

    def named(self, name: str) -> str | None:
        return next((id_ for id_, branch in self.listed().items() if branch["name"] == name), None)

    # -- choosing ----------------------------------------------------------------------------------------

    def branch(self, pick: int) -> str:
        return list(self.branches)[pick % len(self.branches)]

    def new_name(self) -> str:
        return f"b{next(self.numbers)}"

    def rows(self, branch: str) -> Rows:
        return self.branches[branch][-1].rows

    def targets(self, branch: str) -> list[Target]:
        """Each position that was noted of its past, and each moment since, also those of others' changes."""
        past = self.branches[branch]
        by_lsn = [Target(index, lsn=entry.lsn) for index, entry in enumerate(past)]
        moments = sorted({entry.moment for other in self.branches.values() for entry in other})
        by_time = [
            Target(sum(entry.moment <= moment for entry in past) - 1, timestamp=moment)
            for moment in moments
            if moment >= past[0].moment
        ]
        return [*by_time, *by_lsn]

    def target(self, branch: str, when: int) -> Target:
        if when < 0:
            return Target(len(self.branches[branch]) - 1)
        found = self.targets(branch)
        return found[when % len(found)]

    def upto(self, branch: str, target: Target) -> Past:
        return self.branches[branch][: target.index + 1]

    def may_refuse(self, branch: str, target: Target) -> bool:
        """Call it after the answer."""
        self.forget(datetime.now(UTC))
        if target.timestamp is not None:
            return target.timestamp < self.let_go
        if target.lsn is None:
            return False
        # The window begins with a state. Positions in that state before its end are none that it must hold.
        past = self.branches[branch]
        return past[max(target.index - 1, 0)].moment < self.let_go

    def refused(self, answer: Answer, branch: str, target: Target) -> bool:
        if answer.status < 300:
            return False
        assert self.may_refuse(branch, target), answer.text
        assert answer.status in (400, 503), answer.text
        self.tell(f"  refused: {answer.text}")
        return True

    # -- reading -----------------------------------------------------------------------------------------

    def connect(self, branch: str) -> psycopg.Connection[Any]:
        """As a client that tries again: an instance may have been killed a moment ago."""
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        uri = self.get(f"/connection_uri?database_name=neondb&role_name=neondb_owner&branch_id={branch}")["uri"]
        while True:
            try:
                return psycopg.connect(uri, autocommit=True, connect_timeout=30)
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def look(self, branch: str) -> tuple[Rows, str]:
        """What the branch holds, and the position up to which it does; one without an endpoint gets one."""
        if not self.get(f"/branches/{branch}/endpoints")["endpoints"]:
            body = {"endpoint": {"branch_id": branch, "type": "read_write"}}
            self.done(self.ask("POST", "/endpoints", body))
        with self.connect(branch) as connection:
            lsn = connection.execute("select pg_current_wal_flush_lsn()::text").fetchone()
            return frozenset(n for (n,) in connection.execute("select n from t")), lsn[0] if lsn else ""

    def check(self, branch: str, why: str, expected: Rows | None = None) -> str:
        """Fails when the branch holds anything else; answers the position."""
        expected = self.rows(branch) if expected is None else expected
        found, lsn = self.look(branch)
        assert found == expected, f"{why}: {branch} has {shown(found)} and not {shown(expected)}"
        return lsn

    def note(self, branch: str, past: Past, rows: Rows, why: str) -> None:
        """The branch holds ``rows``, after ``past``: what was committed so far is before the moment, all else after."""
        self.note_both({branch: (past, rows)}, why)

    def note_both(self, states: dict[str, tuple[Past, Rows]], why: str) -> None:
        """The same of branches that changed together, for which there is no moment in between."""
        lsns = {branch: self.check(branch, why, rows) for branch, (_, rows) in states.items()}
        time.sleep(0.003)
        moment = datetime.now(UTC)
        for branch, (past, rows) in states.items():
            self.branches[branch] = (*past, Entry(moment, lsns[branch], rows))
        time.sleep(0.003)

    # -- dying -------------------------------------------------------------------------------------------

    def kill_postgres(self, pick: int) -> None:
        """One of those of the project, or one of its processes; nothing when all sleep."""
        running = self.world.postmasters(self.project)
        if not running:
            self.tell("  all sleep")
            return
        victim = running[pick % len(running)]
        family = [victim, *sorted(child.descendants(victim), key=lambda each: each.pid)]
        victim = family[pick % len(family)] if pick % 3 == 0 else victim
        self.tell(f"  SIGKILL for {victim.pid}, of {_head(victim)}")
        child.kill(victim, signal.SIGKILL)

    def kill(self, victim: str, pick: int) -> None:
        match victim:
            case "cell":
                self.world.kill_cell()
            case "everything":
                self.world.kill_everything()
            case _:
                self.kill_postgres(pick)

    def revive(self) -> None:
        """After a kill: the cell runs, and what was under way is finished."""
        self.world.revive()
        self.settle()

    def while_dying(self, work: Callable[[], Answer | None], victim: str, pick: int, delay: int) -> Answer | None:
        """What ``work`` was answered, if it was, when something is killed ``delay`` ms after its begin."""
        self.tell(f"  and {victim} is killed after {delay} ms")
        with ThreadPoolExecutor(1) as pool:
            working = pool.submit(work)
            time.sleep(delay / 1000)  # the point is the moment, which nothing marks
            self.kill(victim, pick)
            self.world.revive()  # what has come meanwhile waits for it at the front door
            answer = working.result(2 * WAIT_SECONDS_MAX)
        self.settle()
        self.tell(f"  {answer.text if answer else 'never answered'}")
        assert answer is not None or victim != "postgres", "the cell died of an instance's death"
        return answer

    # -- the beginning -----------------------------------------------------------------------------------

    @initialize(number=st.integers(0, 2**32 - 1), window=st.sampled_from(WINDOWS[:2]), sleepy=st.booleans())
    def begin(self, number: int, window: int, sleepy: bool) -> None:
        self.chance = random.Random(number)
        self.window = window
        project = {
            "name": "ACME",
            "history_retention_seconds": window,
            "default_endpoint_settings": {"suspend_timeout_seconds": 0 if sleepy else -1},
        }
        self.world.revive()
        made = self.done(self.world.call("POST", "/projects", {"project": project}))
        self.project = made["project"]["id"]
        self.tell(f"{self.project}, window {window} s")
        self.settle()
        main = made["branch"]["id"]
        with self.connect(main) as connection:
            connection.execute("create table t (n int)")
        self.note(main, (), frozenset(), "the new project")

    # -- rules: reading and writing ----------------------------------------------------------------------

    @rule()
    def compare(self) -> None:
        """The rule that a failing life is shrunk to: it changes nothing."""
        self.tell("compare")
        for branch in self.branches:
            self.check(branch, "now")

    @rule(pick=PICK)
    def insert(self, pick: int) -> None:
        self._write(pick, "insert", lambda rows, n: ([f"insert into t values ({n})"], rows | {n}))

    @rule(pick=PICK)
    def remove(self, pick: int) -> None:
        def plan(rows: Rows, _: int) -> tuple[list[str], Rows]:
            gone = sorted(rows)[pick % len(rows)] if rows else 0
            return [f"delete from t where n = {gone}"], rows - {gone}

        self._write(pick, "remove", plan)

    @rule(pick=PICK)
    def truncate(self, pick: int) -> None:
        self._write(pick, "truncate", lambda _, n: (["truncate t", f"insert into t values ({n})"], frozenset({n})))

    @rule(pick=PICK, thousands=st.integers(5, 60))
    def bulk(self, pick: int, thousands: int) -> None:
        """Several segments of log in one transaction."""
        filler = f"insert into t select -generate_series(1, {thousands}000)"
        self._write(
            pick, f"bulk of {thousands}", lambda rows, n: (
                ["begin", f"insert into t values ({n})", filler, "delete from t where n < 0", "commit"], rows | {n}
            ),
        )  # fmt: skip

    @rule(pick=PICK)
    def roll_back(self, pick: int) -> None:
        self._write(pick, "roll back", lambda rows, n: (["begin", f"insert into t values ({n})", "rollback"], rows))

    @rule(pick=PICK, what=st.sampled_from(["vacuum full t", "checkpoint", "select pg_switch_wal()"]))
    def tidy(self, pick: int, what: str) -> None:
        self._write(pick, what, lambda rows, _: ([what], rows))

    def _write(self, pick: int, name: str, plan: Callable[[Rows, int], tuple[Sequence[str], Rows]]) -> None:
        branch = self.branch(pick)
        statements, after = plan(self.rows(branch), next(self.numbers))
        self.tell(f"{name} in {branch}: {shown(after)}")
        self.look(branch)
        with self.connect(branch) as connection:
            for statement in statements:
                try:
                    connection.execute(statement.encode())
                except psycopg.errors.InsufficientPrivilege:
                    self.tell(f"  an owner may not: {statement}")
        self.note(branch, self.branches[branch], after, "after a write")

    @rule(pick=PICK, victim=VICTIM, delay=DELAY)
    def write_while_dying(self, pick: int, victim: str, delay: int) -> None:
        """What was acknowledged is there; of what was not, the commits under way may be."""
        branch = self.branch(pick)
        self.tell(f"{branch} is written to")
        before = self.rows(branch)
        self.check(branch, "before it is killed")
        uri = self.get(f"/connection_uri?database_name=neondb&role_name=neondb_owner&branch_id={branch}")["uri"]

        def connect() -> psycopg.Connection[Any]:
            return psycopg.connect(uri, autocommit=True, connect_timeout=30)

        writer = Writer(self.numbers, connect)
        writer.start()
        try:
            writer.wait_for_more()
            time.sleep(delay / 1000)
            self.kill(victim, pick)
        finally:
            writer.done.set()
        self.revive()
        writer.finish()
        found, _ = self.look(branch)
        missing, strange = {*before, *writer.acknowledged} - found, found - {*before, *writer.sent}
        self.tell(f"  {len(writer.acknowledged)} of {len(writer.sent)} commits were acknowledged")
        assert not missing, f"acknowledged and lost: {shown(frozenset(missing))}"
        assert not strange, f"never written: {shown(frozenset(strange))}"
        self.note(branch, self.branches[branch], found, "after it was killed")

    # -- rules: sleeping and dying -----------------------------------------------------------------------

    @rule(pick=PICK)
    def sleep(self, pick: int) -> None:
        branch = self.branch(pick)
        self.tell(f"{branch} sleeps")
        for endpoint in self.get(f"/branches/{branch}/endpoints")["endpoints"]:
            self.done(self.ask("POST", f"/endpoints/{endpoint['id']}/suspend"))

    @rule(pick=PICK, victim=VICTIM)
    def die(self, pick: int, victim: str) -> None:
        self.tell(f"{victim} is killed")
        self.kill(victim, pick)
        self.revive()

    @rule(pick=PICK)
    def change_password(self, pick: int) -> None:
        """Whoever comes with the old one is refused from now on, also in what is made of the past."""
        branch = self.branch(pick)
        self.tell(f"new password in {branch}")
        self.look(branch)
        self.done(self.ask("POST", f"/branches/{branch}/roles/neondb_owner/reset_password"))
        self.settle()
        self.check(branch, "with a new password")

    @rule(window=st.sampled_from(WINDOWS))
    def change_window(self, window: int) -> None:
        """A short one lets go of what it does not hold within moments, and a long one does not bring it back."""
        self.tell(f"window of {window} s")
        self.done(self.ask("PATCH", "", {"project": {"history_retention_seconds": window}}))
        self.forget(datetime.now(UTC))
        self.window = window
        self.forget(datetime.now(UTC))

    # -- rules: branches ---------------------------------------------------------------------------------

    def _full(self, pick: int) -> bool:
        """Whether there is no room for another branch; then one goes instead."""
        if len(self.branches) < BRANCHES_MAX:
            return False
        self._delete(self.branch(pick), hard=False)
        return True

    def _create(self, parent: str, target: Target, name: str) -> Answer | None:
        body = {
            "branch": {"name": name, "parent_id": parent, **target.named("parent_")},
            "endpoints": [{"type": "read_write"}],
        }
        return self.ask("POST", "/branches", body)

    def _branched(self, parent: str, target: Target, name: str, answer: Answer | None) -> str | None:
        """Takes the new branch into the model, if there is one."""
        if answer is not None and self.refused(answer, parent, target):
            assert self.named(name) is None, "refused and made"
            return None
        made = self.named(name)
        if made is None:
            assert answer is None, "made and not listed"
            return None
        assert self.get(f"/branches/{made}")["branch"]["current_state"] == "ready"
        self.tell(f"  {made}")
        past = self.upto(parent, target)
        self.note(made, past, past[-1].rows, f"the new branch of {parent} at {target}")
        return made

    @rule(pick=PICK, when=WHEN)
    def create_branch(self, pick: int, when: int) -> None:
        if self._full(pick):
            return
        parent, name = self.branch(pick), self.new_name()
        target = self.target(parent, when)
        self.tell(f"branch of {parent} at {target}: {shown(self.branches[parent][target.index].rows)}")
        answer = self._create(parent, target, name)
        assert answer is not None, "the cell has died"
        self._branched(parent, target, name, answer)

    @rule(pick=PICK, when=WHEN, victim=VICTIM, delay=DELAY)
    def create_branch_while_dying(self, pick: int, when: int, victim: str, delay: int) -> None:
        if self._full(pick):
            return
        parent, name = self.branch(pick), self.new_name()
        target = self.target(parent, when)
        self.tell(f"branch of {parent} at {target}: {shown(self.branches[parent][target.index].rows)}")
        if pick % 2:
            self.check(parent, "before it is killed")  # it is awake
        answer = self.while_dying(lambda: self._create(parent, target, name), victim, pick, delay)
        self._branched(parent, target, name, answer)
        self.check(parent, "the parent")

    @rule(pick=PICK)
    def create_branch_under_writes(self, pick: int) -> None:
        """It holds all commits up to some moment of its making, and none after it."""
        if self._full(pick):
            return
        parent, name = self.branch(pick), self.new_name()
        self.tell(f"branch of {parent} under writes")
        past, before = self.branches[parent], self.rows(parent)
        self.look(parent)
        writer = Writer(self.numbers, lambda: self.connect(parent))
        writer.start()
        try:
            writer.wait_for_more()
            known = len(writer.acknowledged)
            self.done(self._create(parent, Target(0), name))
            writer.wait_for_more()
        finally:
            writer.finish()
        self.settle()
        made = self.named(name)
        assert made is not None
        self.tell(f"  {made}")
        rows, _ = self.look(made)
        news = sorted(rows - before)
        assert before <= rows and news == writer.sent[: len(news)] and len(news) >= known, (
            f"the branch has {news} of {writer.sent}, {known} were acknowledged before"
        )
        states = {parent: (past, before | {*writer.acknowledged}), made: (past, rows)}
        self.note_both(states, "a branch under writes")

    @rule(pick=PICK, hard=st.booleans())
    def delete_branch(self, pick: int, hard: bool) -> None:
        self._delete(self.branch(pick), hard)

    def _outlives(self, child: str, parent: str) -> bool:
        """What was restored has its former state for a parent, and so has what that was before: neither holds it."""
        restored = self.formers.get(parent)
        return restored is not None and restored in (child, self.formers.get(child))

    def _delete(self, branch: str, hard: bool) -> None:
        listed = self.listed()
        held = (
            listed[branch]["default"]
            or any(
                other.get("parent_id") == branch and not self._outlives(child, branch)
                for child, other in listed.items()
            )
            or any(kept.branch == branch for kept in self.snapshots.values())
        )
        self.tell(f"delete {branch}{' for good' if hard else ''}{' (held)' if held else ''}")
        answer = self.ask("DELETE", f"/branches/{branch}{'?hard_delete=true' if hard else ''}")
        if held:
            assert answer is not None and answer.status in (409, 422), answer and answer.text
            return
        self.done(answer)
        self.settle()
        assert branch not in self.listed()
        past = self.branches.pop(branch)
        if not hard:
            self.deleted[branch] = past

    @rule(pick=PICK)
    def recover_branch(self, pick: int) -> None:
        if not self.deleted or self._full(pick):
            return
        branch = list(self.deleted)[pick % len(self.deleted)]
        self.tell(f"recover {branch}: {shown(self.deleted[branch][-1].rows)}")
        answer = self.ask("POST", f"/branches/{branch}/recover")
        if answer is not None and answer.status == 409:
            self.tell(f"  {answer.text}")
            return
        self.done(answer)
        self.branches[branch] = self.deleted.pop(branch)
        self.check(branch, "the recovered branch")

    @rule(cut=st.booleans())
    def recover_project(self, cut: bool) -> None:
        self.tell(f"the project is deleted{', everything killed' if cut else ''} and recovered")
        self.done(self.ask("DELETE", ""))
        if cut:
            self.world.kill_everything()
            self.world.start()
        self.done(self.ask("POST", "/recover"))
        for branch in self.branches:
            self.check(branch, "in the recovered project")

    # -- rules: restores ---------------------------------------------------------------------------------

    def _restore(self, branch: str, source: str, target: Target, preserve: str | None) -> Answer | None:
        body = {"source_branch_id": source, "preserve_under_name": preserve, **target.named("source_")}
        return self.ask("POST", f"/branches/{branch}/restore", body)

    def _restored(self, branch: str, past: Past, preserve: str | None) -> None:
        """``branch`` has become what ``past`` ends with; what it was itself is a branch if it was given a name."""
        before = self.branches.get(branch, ())
        self.note(branch, past, past[-1].rows, "the restored branch")
        if preserve is None:
            return
        backup = self.named(preserve)
        assert backup is not None, "what was before the restore is gone"
        self.tell(f"  what it was is {backup}")
        self.formers[backup] = branch
        self.branches[backup] = before
        self.check(backup, "what was before the restore")

    @rule(pick=PICK, other=PICK, when=WHEN, keep=st.booleans())
    def restore(self, pick: int, other: int, when: int, keep: bool) -> None:
        """To a point of its own past, of another's, or to another's present."""
        if self._full(pick):
            return
        branch, source = self.branch(pick), self.branch(other)
        if branch == source and when < 0:
            return  # a branch is what it is
        target = self.target(source, when)
        needed = branch == source or any(b.get("parent_id") == branch for b in self.listed().values())
        preserve = self.new_name() if keep or needed else None
        past = self.upto(source, target)
        self.tell(f"restore {branch} to {source} at {target}, preserve {preserve}: {shown(past[-1].rows)}")
        answer = self._restore(branch, source, target, preserve)
        assert answer is not None, "the cell has died"
        if self.refused(answer, source, target):
            self.check(branch, "a restore that was refused")
            return
        self._restored(branch, past, preserve)

    @rule(pick=PICK, when=st.integers(0, 10_000), victim=VICTIM, delay=DELAY)
    def restore_while_dying(self, pick: int, when: int, victim: str, delay: int) -> None:
        """It is its old or its new state, and never neither."""
        if self._full(pick):
            return
        branch, preserve = self.branch(pick), self.new_name()
        target = self.target(branch, when)
        past = self.upto(branch, target)
        self.tell(f"restore {branch} to {target}, preserve {preserve}: {shown(past[-1].rows)}")
        answer = self.while_dying(lambda: self._restore(branch, branch, target, preserve), victim, pick, delay)
        refused = answer is not None and self.refused(answer, branch, target)
        if self.named(preserve) is None:
            assert refused or answer is None, "answered and not done"
            self.check(branch, "a restore that never was")
            return
        assert not refused, "refused and done"
        self._restored(branch, past, preserve)

    @rule(pick=PICK, when=st.integers(0, 10_000))
    def restore_under_writes(self, pick: int, when: int) -> None:
        """Each acknowledged commit is in what was or in what is: the connection string stays, and writers go on."""
        if self._full(pick):
            return
        branch, preserve = self.branch(pick), self.new_name()
        target = self.target(branch, when)
        past, before = self.branches[branch], self.rows(branch)
        to = self.upto(branch, target)
        self.tell(f"restore {branch} to {target} under writes, preserve {preserve}: {shown(to[-1].rows)}")
        self.look(branch)
        writer = Writer(self.numbers, lambda: self.connect(branch))
        writer.start()
        try:
            writer.wait_for_more()
            answer = self._restore(branch, branch, target, preserve)
            writer.wait_for_more()
        finally:
            writer.finish()
        assert answer is not None, "the cell has died"
        self.settle()
        if self.refused(answer, branch, target):
            rows, _ = self.look(branch)
            assert before | {*writer.acknowledged} <= rows <= before | {*writer.sent}
            self.note(branch, past, rows, "a restore that was refused")
            return
        backup = self.named(preserve)
        assert backup is not None, "what was before the restore is gone"
        self.tell(f"  what it was is {backup}")
        self.formers[backup] = branch
        old, _ = self.look(backup)
        new, _ = self.look(branch)
        old_news, new_news = sorted(old - before), sorted(new - to[-1].rows)
        assert before <= old and to[-1].rows <= new, "rows from before the restore are gone"
        assert {*writer.acknowledged} <= {*old_news, *new_news} <= {*writer.sent}, "acknowledged commits are gone"
        assert not old_news or not new_news or old_news[-1] < new_news[0], "the old head went on after the swap"
        self.note_both({branch: (to, new), backup: (past, old)}, "a restore under writes")

    @contextmanager
    def _not_to_be_stopped(self, branch: str) -> Iterator[None]:
        """It is awake, and what waits for its server to end goes on waiting."""
        self.look(branch)
        ((head,),) = self.world.rows("select head_id from branch where id = ?", branch)
        servers = [each for each in self.world.postmasters(self.project) if _head(each) == head]
        for server in servers:
            child.kill(server, signal.SIGSTOP)
        try:
            yield
        finally:
            for server in servers:
                child.kill(server, signal.SIGCONT)

    @rule(pick=PICK, first=st.integers(0, 10_000), second=st.integers(0, 10_000))
    def restore_twice_at_once(self, pick: int, first: int, second: int) -> None:
        """One of them is first; the other hears that it is not."""
        if self._full(pick):
            return
        branch = self.branch(pick)
        targets = [self.target(branch, first), self.target(branch, second)]
        names = [self.new_name(), self.new_name()]
        self.tell(f"two restores of {branch}, to {targets[0]} and {targets[1]}")
        with ThreadPoolExecutor(2) as pool:
            with self._not_to_be_stopped(branch):  # else one might be over before the other has come
                asked = list(map(pool.submit, [self._restore] * 2, [branch] * 2, [branch] * 2, targets, names))
                wait(asked, return_when=FIRST_COMPLETED)
            answers = [each.result() for each in asked]
        self.settle()
        done: list[int] = []
        for number, answer in enumerate(answers):
            assert answer is not None, "the cell has died"
            if answer.status != 423 and not self.refused(answer, branch, targets[number]):
                done.append(number)
        self.tell(f"  done: {done}")
        assert len(done) < 2, "the second was written down before the first had ended"
        for number in done:
            self._restored(branch, self.upto(branch, targets[number]), names[number])
        self.check(branch, "after two restores")

    # -- rules: snapshots --------------------------------------------------------------------------------

    def _snapshots(self) -> dict[str, Any]:
        return {snapshot["id"]: snapshot for snapshot in self.get("/snapshots")["snapshots"]}

    @rule(pick=PICK, when=WHEN)
    def take_snapshot(self, pick: int, when: int) -> None:
        if len(self.snapshots) == SNAPSHOTS_MAX:
            self.delete_snapshot(pick)
            return
        branch, name = self.branch(pick), self.new_name()
        target = self.target(branch, when)
        past = self.upto(branch, target)
        self.tell(f"snapshot {name} of {branch} at {target}: {shown(past[-1].rows)}")
        query = "&".join(f"{k}={v}" for k, v in {"name": name, **target.named("")}.items()).replace("+00:00", "Z")
        answer = self.ask("POST", f"/branches/{branch}/snapshot?{query}")
        assert answer is not None, "the cell has died"
        if not self.refused(answer, branch, target):
            self.snapshots[answer.body["snapshot"]["id"]] = Kept(branch, past)

    def _restore_snapshot(self, snapshot: str, name: str, into: str | None) -> Answer | None:
        body = {"name": name} if into is None else {"name": name, "target_branch_id": into, "finalize_restore": True}
        return self.ask("POST", f"/snapshots/{snapshot}/restore", body)

    @rule(pick=PICK, other=PICK, in_place=st.booleans())
    def restore_snapshot(self, pick: int, other: int, in_place: bool) -> None:
        if not self.snapshots or self._full(other):
            return
        snapshot, name = list(self.snapshots)[pick % len(self.snapshots)], self.new_name()
        into = self.branch(other) if in_place else None
        past = self.snapshots[snapshot].past
        self.tell(f"snapshot {snapshot} becomes {into or 'a branch'}, {name}: {shown(past[-1].rows)}")
        made = self.done(self._restore_snapshot(snapshot, name, into))["branch"]["id"]
        self._restored(made, past, name if in_place else None)

    @rule(pick=PICK, other=PICK, in_place=st.booleans(), victim=VICTIM, delay=DELAY)
    def restore_snapshot_while_dying(self, pick: int, other: int, in_place: bool, victim: str, delay: int) -> None:
        if not self.snapshots or self._full(other):
            return
        snapshot, name = list(self.snapshots)[pick % len(self.snapshots)], self.new_name()
        into = self.branch(other) if in_place else None
        past = self.snapshots[snapshot].past
        self.tell(f"snapshot {snapshot} becomes {into or 'a branch'}, {name}: {shown(past[-1].rows)}")
        answer = self.while_dying(lambda: self._restore_snapshot(snapshot, name, into), victim, other, delay)
        if answer is not None:
            self.done(answer)
        made = self.named(name)
        if made is None:
            assert answer is None, "answered and not done"
        elif into is None:
            self._restored(made, past, None)
        else:
            self._restored(into, past, name)

    @rule(pick=PICK)
    def delete_snapshot(self, pick: int) -> None:
        if not self.snapshots:
            return
        snapshot = list(self.snapshots)[pick % len(self.snapshots)]
        self.tell(f"snapshot {snapshot} is deleted")
        self.done(self.ask("DELETE", f"/snapshots/{snapshot}"))
        del self.snapshots[snapshot]
        assert {*self._snapshots()} == {*self.snapshots}

    # -- the end -----------------------------------------------------------------------------------------

    def teardown(self) -> None:
        if not self.project:
            return
        try:
            if sys.exception() is None:
                self.judge()
        finally:
            if sys.exception() is not None:
                print(self.said, *self.told, sep="\n")

    def judge(self) -> None:
        """Every branch as it is and as it was, every snapshot; and that nothing lies about that no row names."""
        self.tell("judgement")
        for branch in self.branches:
            self.check(branch, "at the end")
        for branch in list(self.branches):
            targets = self.targets(branch)
            for target in self.chance.sample(targets, min(self.probes, len(targets))):
                self._probe(branch, target)
        for snapshot, kept in self.snapshots.items():
            name = self.new_name()
            self.tell(f"snapshot {snapshot}: {shown(kept.past[-1].rows)}")
            made = self.done(self._restore_snapshot(snapshot, name, None))["branch"]["id"]
            self.check(made, f"snapshot {snapshot}", kept.past[-1].rows)
        until(self._tidy, "rows and directories name each other, and bases are whole")
        run = run_directory(self.world.cell.data, root=os.geteuid() == 0)
        assert not list(run.glob("head-*")), "a socket directory of a head that was made"
        assert not list(self.world.cell.data.glob("logs/head-*")), "a log of a head that was made"
        errors = self._errors()
        assert not errors, "the log has errors:\n" + "\n".join(errors)
        self.done(self.ask("DELETE", "?hard_delete=true"))

    def _probe(self, branch: str, target: Target) -> None:
        rows, name = self.branches[branch][target.index].rows, self.new_name()
        self.tell(f"{branch} at {target}: {shown(rows)}")
        answer = self._create(branch, target, name)
        assert answer is not None, "the cell has died"
        if self.refused(answer, branch, target):
            return
        made = answer.body["branch"]["id"]
        self.check(made, f"{branch} at {target}", rows)
        self.done(self.ask("DELETE", f"/branches/{made}?hard_delete=true"))
        self.settle()

    def _tidy(self) -> bool:
        rows = {id_ for (id_,) in self.world.rows("select id from head where project_id = ?", self.project)}
        heads = self.world.cell.data / "projects" / self.project
        try:
            whole = all((base / "base.json").exists() for base in heads.glob("*/bases/*"))
        except FileNotFoundError:  # one has gone while it was looked at
            return False
        return whole and rows == {path.name for path in heads.iterdir()}

    def _errors(self) -> list[str]:
        with self.world.cell.log.open(errors="replace") as log:
            log.seek(self.log_seen)
            lines = [line.strip() for line in log if "level=error" in line]
        return [line for line in lines if not FORGIVEN.search(line)]


def _head(process: child.Identity) -> str:
    try:
        return Path(f"/proc/{process.pid}/cwd").readlink().parent.name
    except OSError:
        return "?"


# ------------------------------------------------------------------------------------------------ many lives


@pytest.fixture
def world(make_cell: Callable[..., ThrowawayCell]) -> Iterator[World]:
    options = ["--spares", "0", "--suspend-after", "1"]
    opened = World(make_cell("d", *options, HURRIED_BASES="1"))
    opened.start()
    yield opened
    opened.close()


def live(world: World, number: int, *, lives: int, steps: int, probes: int, shrink: bool) -> None:
    Life.world = world
    Life.probes = probes
    Life.said = f"TENANTRY_SEED={number} lives these lives again"
    seed(number)(Life)
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=lives,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
            phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        ),
    )


def end(world: World) -> None:
    """It stops as a whole one does, and nothing of all the lives is left."""
    data = world.cell.data
    until(lambda: not list(data.glob("projects/*")) and not list(data.glob("trash/*")), "the projects' files go")
    assert world.cell.stop() == 0
    assert world.cell.leftovers() == []


def first_seed() -> int:
    return int(os.environ.get("TENANTRY_SEED") or random.randrange(2**32))


@pytest.mark.timeout(300)
def test_every_state_that_can_be_read_is_the_one_that_was_written(world: World) -> None:
    live(world, first_seed(), lives=LIVES, steps=STEPS, probes=PROBES, shrink=False)
    end(world)


@pytest.mark.slow
@pytest.mark.timeout(SOAK_SECONDS + 1_200)
def test_many_lives(world: World) -> None:
    deadline = time.monotonic() + SOAK_SECONDS
    for number in itertools.count(first_seed()):
        print(f"{datetime.now(UTC):%H:%M:%S} TENANTRY_SEED={number}", flush=True)
        live(world, number, lives=LIVES_LONG, steps=STEPS_LONG, probes=PROBES_LONG, shrink=True)
        if time.monotonic() > deadline:
            break
    end(world)
