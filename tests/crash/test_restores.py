"""Changes of one tenant that meet each other or its sleep, and a past that rots on disk: each is right or refused with
a reason, and the tenant is served meanwhile.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.timeout(600)
DONE, LOCKED = (200, 201), 423


@contextmanager
def held(data: Path, project: str, branch: str) -> Iterator[None]:
    """The branch's server cannot be stopped, and what waits for that does not end."""
    with closing(sqlite3.connect(f"file:{data / 'cell.db'}?mode=ro", uri=True)) as db:
        (head,) = db.execute("select head_id from branch where id = ?", (branch,)).fetchone()
    pidfile = data / "projects" / project / head / "data" / "postmaster.pid"
    pid = int(pidfile.read_text().splitlines()[0])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def together(
    *calls: Callable[[], httpx.Response], until_one_is_answered: AbstractContextManager[None] | None = None
) -> list[httpx.Response]:
    """The answers of calls that begin at the same moment."""
    barrier = threading.Barrier(len(calls))

    def one(call: Callable[[], httpx.Response]) -> httpx.Response:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        with until_one_is_answered or nullcontext():
            answers = [pool.submit(one, call) for call in calls]
            wait(answers, return_when=FIRST_COMPLETED)
        return [answer.result() for answer in answers]


@pytest.mark.parametrize("rounds", [2, pytest.param(40, marks=[pytest.mark.slow, pytest.mark.timeout(3_600)])])
def test_changes_of_one_tenant_that_meet(
    make_cell: Any, api: Any, open_tenant: Any, swept: Any, check_whole: Any, chance: random.Random, rounds: int
) -> None:
    cell = make_cell("d", "--spares", "0", "--recover-for", "0")
    cell.start()
    tenant = open_tenant(api(cell), "ACME")
    main, elsewhere = tenant.main, set[int]()
    dev = tenant.branch("dev").json()["branch"]["id"]
    writer = tenant.write(main)

    def restore(branch: str, name: str, moment: Any) -> Callable[[], httpx.Response]:
        return lambda: tenant.restore(branch, branch, name, source_timestamp=moment.isoformat())

    def suspend(branch: str) -> Callable[[], httpx.Response]:
        (endpoint,) = tenant.endpoints(branch)
        return lambda: tenant.client.post(tenant.path(f"/endpoints/{endpoint['id']}/suspend"), None)

    def branch(name: str, parent: str, delay: float) -> Callable[[], httpx.Response]:
        def call() -> httpx.Response:
            time.sleep(delay)
            return tenant.branch(name, parent_id=parent)

        return call

    for number in range(rounds):
        # Two restores of one branch: the one that comes second is told so, and is right when it comes again.
        tenant.run(main, "truncate t", "insert into t values (1)")
        one = tenant.moment()
        tenant.run(main, "insert into t values (2)")
        two = tenant.moment()
        tenant.run(main, "drop table t")
        wanted = {f"one-{number}": (one, {1}), f"two-{number}": (two, {1, 2})}
        answers = together(
            *(restore(main, name, moment) for name, (moment, _) in wanted.items()),
            until_one_is_answered=held(cell.data, tenant.project, main),  # neither is over before the other has come
        )
        assert sorted(answer.status_code for answer in answers) == [200, LOCKED], [a.text for a in answers]
        (first,) = set(wanted) & tenant.names()
        (second,) = set(wanted) - tenant.names()
        assert tenant.rows(main) == wanted[first][1]
        elsewhere |= tenant.rows(tenant.named(first), "log")
        # What came after the first one's moment is not in the new head's past, but in that of what it replaced.
        moment, rows = wanted[second]
        source = main if moment < wanted[first][0] else tenant.id_of(first)
        answer = tenant.restore(main, source, second, source_timestamp=moment.isoformat())
        assert answer.status_code == 200, answer.text
        assert tenant.rows(main) == rows
        elsewhere |= tenant.rows(tenant.named(second), "log")
        writer.wait_for_more()  # with the connection string that it had

        # A branch of a parent that is being restored, and of one that falls asleep.
        tenant.run(dev, f"insert into t values ({10 + number})")
        present, moment = tenant.rows(dev), tenant.moment()
        tenant.run(dev, "insert into t values (0)")
        for name, change in (
            (f"of-restored-{number}", restore(dev, f"dev-{number}", moment)),
            (f"of-sleeping-{number}", suspend(dev)),
        ):
            made, changed = together(branch(name, dev, chance.random() * 0.1), change)
            codes = {made.status_code, changed.status_code}
            assert codes <= {*DONE, LOCKED} and codes & {*DONE}, (made.text, changed.text)
            if made.status_code != LOCKED:
                child = made.json()["branch"]["id"]
                found = tenant.rows(child)
                assert found in (present, present | {0}), f"the parent as it was, or as it is now, and not {found}"
                tenant.client.call("DELETE", tenant.path(f"/branches/{child}"))
    writer.finish()
    assert writer.numbers() <= tenant.rows(main, "log") | elsewhere, "an acknowledged commit is lost"
    swept(cell.data)
    assert cell.stop() == 0
    check_whole(cell.data)


def test_a_rotten_past_is_told_and_the_tenant_served(
    make_cell: Any, api: Any, open_tenant: Any, until: Any, swept: Any, check_whole: Any, chance: random.Random
) -> None:
    cell = make_cell("d", "--spares", "0", "--recover-for", "0")
    cell.start()
    tenant = open_tenant(api(cell), "ACME")
    early = tenant.moment()
    fill = "create table big as select i, repeat('x', 900) from generate_series(1, 45000) i"
    tenant.run(tenant.main, "insert into log values (0)", fill, "drop table big", "insert into t values (2)")
    tenant.sleep(tenant.main)
    (head,) = (cell.data / "projects" / tenant.project).iterdir()
    until((head / "bases" / "000002" / "base.json").exists, "a base is taken")
    late = tenant.moment()
    tenant.run(tenant.main, "insert into t values (3)")

    def branch(name: str, moment: Any) -> httpx.Response:
        return tenant.branch(name, parent_timestamp=moment.isoformat())

    # A base gives way to an older one, and the log from there.
    files = sorted(path for path in (head / "bases" / "000002" / "data").rglob("*") if path.is_file())
    flip(chance.choice([path for path in files if path.stat().st_size > 0]), chance)
    assert branch("past a base", late).status_code == 201
    assert tenant.rows(tenant.id_of("past a base")) == {1, 2}
    assert "base passed over" in cell.log.read_text()

    # Without the log there is no way, and the answer says where it ends.
    closed = sorted(head.glob("wal/*.json"))
    segment = chance.choice(closed[2:-2]).with_suffix("")
    flip(segment, chance)
    answer = branch("past a segment", late)
    assert (answer.status_code, answer.json()["code"]) == (503, "HISTORY_DAMAGED"), answer.text
    position = f"{int(segment.name[8:16], 16):X}/{int(segment.name[16:], 16) << 20:X}"
    assert f"is damaged at {position}" in answer.json()["message"], (answer.text, segment.name)
    assert segment.name in cell.log.read_text(), "the log names the file"
    answer = tenant.restore(tenant.main, tenant.main, "before", source_timestamp=late.isoformat())
    assert answer.status_code == 503, answer.text

    # Everything else is as it was: what is served, what was before, and what is made of now.
    assert tenant.names() == {"main", "past a base"}
    assert tenant.rows(tenant.main) == {1, 2, 3}
    assert branch("before it", early).status_code == 201
    assert tenant.rows(tenant.id_of("before it")) == {1}
    assert tenant.branch("of now").status_code == 201
    assert tenant.rows(tenant.id_of("of now")) == {1, 2, 3}
    assert tenant.snapshot(tenant.main, "s").status_code == 200
    swept(cell.data)
    assert cell.stop() == 0
    check_whole(cell.data)


def flip(path: Path, chance: random.Random) -> None:
    """One bit."""
    content = bytearray(path.read_bytes())
    place = chance.randrange(len(content))
    content[place] ^= 1 << chance.randrange(8)
    with path.open("r+b") as file:
        file.write(content)
    print(f"{path}: byte {place} of {len(content)}")
