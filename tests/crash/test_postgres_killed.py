"""kill -9 of Postgres while a tenant is branched, restored or kept: of the tenant's own instance, of a backend, and of
the private instance that makes the new head. The change succeeds or is refused with a reason and leaves nothing, the
writer goes on, and what was acknowledged is where it belongs.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.timeout(600)
VICTIMS = ("postmaster", "backend", "maker")


def servers(data: Path, *, postmasters: bool) -> Iterator[tuple[int, str]]:
    """Processes of Postgres below a directory, each with the name of its head."""
    for entry in filter(lambda entry: entry.name.isdigit(), Path("/proc").iterdir()):
        try:
            cwd, command = os.readlink(entry / "cwd"), (entry / "cmdline").read_bytes()
        except OSError:
            continue
        wanted = b"/postgres\0-D\0" in command if postmasters else command.startswith(b"postgres: neondb_owner")
        if cwd.startswith(f"{data}/projects/") and wanted:
            yield int(entry.name), Path(cwd.removesuffix(" (deleted)")).parent.name


def head_of(data: Path, branch: str) -> str:
    with sqlite3.connect(f"file:{data / 'cell.db'}?mode=ro", uri=True) as db:
        return db.execute("select head_id from branch where id = ?", (branch,)).fetchone()[0]


def victims(data: Path, victim: str, known: set[str], source: str) -> set[int]:
    """Of the head that is changed, or of one that was not there before."""
    found = servers(data, postmasters=victim != "backend")
    return {pid for pid, head in found if (head not in known if victim == "maker" else head == source)}


class Killer(threading.Thread):
    """Waits for a victim to be there, and for so long, and kills it."""

    def __init__(self, find: Callable[[], set[int]], delay: float) -> None:
        super().__init__(daemon=True)
        self.find = find
        self.delay = delay
        self.killed = False
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.is_set():
            for pid in self.find():
                time.sleep(self.delay)
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:  # it had ended by itself
                    continue
                self.killed = True
                return

    def finish(self) -> bool:
        self.done.set()
        self.join(30)
        return self.killed


@pytest.mark.parametrize("rounds", [2, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(3_600)])])
def test_postgres_is_killed_during_every_change(
    make_cell: Any, api: Any, open_tenant: Any, swept: Any, check_whole: Any, chance: random.Random, rounds: int
) -> None:
    cell = make_cell("d", "--spares", "0", "--recover-for", "0")
    cell.start()
    tenant = open_tenant(api(cell), "ACME")
    past = tenant.moment()
    tenant.run(tenant.main, "insert into t values (2)")
    assert tenant.snapshot(tenant.main, "past").status_code == 200
    assert tenant.branch("dev").status_code == 201
    dev = tenant.id_of("dev")
    writer = tenant.write(tenant.main)
    elsewhere: set[int] = set()

    def branch(name: str) -> httpx.Response:
        return tenant.branch(name)

    def branch_of_past(name: str) -> httpx.Response:
        return tenant.branch(name, parent_timestamp=past.isoformat())

    def outline(name: str) -> httpx.Response:
        return tenant.branch(name, init_source="schema-only")

    def snapshot(name: str) -> httpx.Response:
        return tenant.snapshot(tenant.main, name)

    def of_snapshot(name: str) -> httpx.Response:
        return tenant.restore_snapshot("past", name=name)

    def restore(name: str) -> httpx.Response:
        return tenant.restore(tenant.main, tenant.main, name, source_timestamp=past.isoformat())

    def reset(name: str) -> httpx.Response:
        return tenant.restore(dev, tenant.main, name)

    changes = [branch, branch_of_past, outline, snapshot, of_snapshot, restore, reset]
    for number in range(rounds * len(changes)):
        change, victim = changes[number % len(changes)], chance.choice(VICTIMS)
        name, delay = f"{change.__name__}-{number}", chance.random() * 0.2
        before = writer.numbers()
        if change is reset:
            tenant.run(dev, "insert into t values (66)")
        known = {head for _, head in servers(cell.data, postmasters=True)}
        source = head_of(cell.data, tenant.main)

        killer = Killer(lambda v=victim, k=known, s=source: victims(cell.data, v, k, s), delay)
        killer.start()
        answer = change(name)
        killed = killer.finish()
        print(f"{name}: {victim} killed after {delay:.3f} s: {killed}, {answer.status_code}")
        tenant.settled()
        writer.wait_for_more()  # with the connection string that it had
        assert answer.status_code in (200, 201, 503), answer.text
        done = answer.status_code != 503
        assert done or answer.json()["message"] not in ("", "internal error"), answer.text
        match change.__name__:
            case "snapshot":
                assert (name in tenant.snapshots()) == done
                if done:
                    tenant.client.call("DELETE", tenant.path(f"/snapshots/{tenant.snapshots()[name]}"))
                continue
            case "restore":
                assert (name in tenant.names()) == done
                now = tenant.rows(tenant.main, "log")
                if done:
                    assert tenant.rows(tenant.main) == {1}
                    kept = tenant.named(name)
                    assert tenant.rows(kept) == {1, 2}
                    elsewhere |= tenant.rows(kept, "log")
                    # The next one is to find what this one has taken away.
                    past = tenant.moment()
                    tenant.run(tenant.main, "insert into t values (2)")
                assert before <= now | elsewhere, "an acknowledged commit is lost"
                continue
            case "reset":
                assert tenant.rows(dev) == ({1, 2} if done else {1, 2, 66})
                assert not done or before <= tenant.rows(dev, "log") | elsewhere
            case _:
                assert (name in tenant.names()) == done
                if done:
                    rows: list[int] = {"branch_of_past": [1], "outline": []}.get(change.__name__, [1, 2])
                    assert tenant.rows(tenant.named(name)) == set(rows)
        if name in tenant.names():
            tenant.client.call("DELETE", tenant.path(f"/branches/{tenant.id_of(name)}"))
    writer.finish()
    assert writer.numbers() <= tenant.rows(tenant.main, "log") | elsewhere, "an acknowledged commit is lost"
    swept(cell.data)
    assert cell.stop() == 0
    check_whole(cell.data)
    assert cell.leftovers() == []
