"""kill -9 of the control process at every step of what goes back in time: what was begun is finished, a branch is in
its old state or its new one and never neither, and nobody's commits, files or processes are lost or left over.

One change is begun for each kind. The cell dies at the kind's first point, comes back and dies while it goes on, at
the next one, and so on: each start takes up what all the deaths before it have left.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest

pytestmark = pytest.mark.timeout(900)  # dozens of starts, on machines with other things to do
DIE_SECONDS_MAX = 60.0
STEPS_SOME = 1
"""Of each piece of work, drawn anew in each run: the long form dies at all of them."""


class Life:
    """A cell that dies again and again, and its tenants."""

    def __init__(self, cell: Any, api: Any, chosen: Callable[[list[str]], list[str]]) -> None:
        self.chosen = chosen
        self.cell = cell
        self.api = api
        self.tenants: list[Any] = []

    def start(self, point: str | None = None) -> Any:
        self.cell.environment = {"TENANTRY_FAILPOINTS": f"{point}=kill"} if point else {}
        self.cell.start()
        client = self.api(self.cell)
        for tenant in self.tenants:
            tenant.client = client
        return client

    def die_at(self, points: list[str], begin: Callable[[], object] | None = None) -> None:
        """Dies at the points that are chosen; ``begin`` gets it to the first, or it comes there by itself. It runs
        after."""
        self.cell.kill()
        for number, point in enumerate(self.chosen(points)):
            if number == 0 and begin is not None:
                self.start(point)
                # Who begins it may or may not wait for what dies.
                with contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError):
                    begin()
            else:
                self.cell.environment = {"TENANTRY_FAILPOINTS": f"{point}=kill"}
                self.cell.launch()
            print(f"{datetime.now(UTC):%H:%M:%S} {point}")
            self.cell.wait_killed(DIE_SECONDS_MAX)
        self.start()
        for tenant in self.tenants:
            tenant.settled()


@pytest.fixture(params=[pytest.param(STEPS_SOME, id="some"), pytest.param(100, id="all", marks=pytest.mark.slow)])
def new_life(request: pytest.FixtureRequest, make_cell: Any, api: Any, chance: Any) -> Callable[[], Life]:
    def chosen(points: list[str]) -> list[str]:
        places = chance.sample(range(len(points)), min(request.param, len(points)))
        return [points[place] for place in sorted(places)]

    def make() -> Life:
        life = Life(make_cell("d", "--spares", "0", "--recover-for", "0"), api, chosen)
        life.start()
        return life

    return make


def end(life: Life, swept: Any, check_whole: Any) -> None:
    """Nothing of what was interrupted lies or runs about."""
    for tenant in life.tenants:
        for writer in tenant.writers:
            writer.finish()
    swept(life.cell.data)
    assert life.cell.stop() == 0
    check_whole(life.cell.data)
    assert life.cell.leftovers() == []


def test_killed_at_every_step_of_branches(
    new_life: Any, open_tenant: Any, swept: Any, check_whole: Any, until: Any
) -> None:
    life = new_life()
    asleep, busy = life.tenants = [open_tenant(life.api(life.cell), name) for name in ("asleep", "busy")]
    past = busy.moment()
    busy.run(busy.main, "insert into t values (2)")
    asleep.sleep(asleep.main)
    writer = busy.write(busy.main)

    life.die_at(
        ["create_branch.0.before", "fork.copied", "fork.durable", "create_branch.0.after"],
        lambda: asleep.branch("of-sleeping"),
    )
    assert asleep.rows(asleep.named("of-sleeping")) == {1}
    assert asleep.rows(asleep.main) == {1}

    before: set[int] = set()

    def begin() -> None:
        writer.wait_for_more()
        before.update(writer.numbers())
        busy.branch("of-running", compute=False)

    life.die_at(["freeze.stopped", "fork.copied", "fork.durable"], begin)
    writer.wait_for_more()  # the parent does not stand still for ever

    # A copy of a running head has to be started once before it can be copied itself.
    life.die_at(["new_head.woken", "fork.copied"], lambda: busy.branch("again", parent_id=busy.id_of("of-running")))
    for name in ("again", "of-running"):
        assert before <= busy.rows(busy.named(name), "log")
        assert busy.rows(busy.named(name)) == {1, 2}

    life.die_at(
        ["recover.laid_out", "recover.promoted", "recover.durable", "new_head.opened", "new_head.stopped"],
        lambda: busy.branch("of-past", parent_timestamp=past.isoformat()),
    )
    assert busy.rows(busy.named("of-past")) == {1}
    assert busy.rows(busy.named("of-past"), "log") == set()

    life.die_at(
        ["passing_head.running", "outline_head.copied", "outline_head.built"],
        lambda: busy.branch("outline", init_source="schema-only"),
    )
    assert busy.rows(busy.named("outline")) == busy.rows(busy.named("outline"), "log") == set()

    doomed = asleep.named("of-sleeping")

    def delete() -> None:
        assert asleep.rows(doomed) == {1}, "it runs"
        asleep.client.call("DELETE", asleep.path(f"/branches/{doomed}"))

    life.die_at(
        ["delete_branch.0.before", "delete_branch.0.after", "delete_branch.1.before", "delete_branch.1.after"], delete
    )
    assert asleep.names() == {"main"}

    # Whoever deletes does not wait for the files. What earlier deaths left is gone first: it would be met at a start.
    swept(life.cell.data)

    def soon() -> str:
        return (datetime.now(UTC) + timedelta(seconds=1)).isoformat()

    def expire() -> None:
        # Refused where that is past when it is read.
        until(lambda: asleep.branch("short", expires_at=soon()).status_code == 201, "it is made in time")

    life.die_at(["discard.renamed"], expire)
    assert asleep.names() == {"main"}
    assert asleep.rows(asleep.main) == {1}

    writer.finish()
    assert writer.numbers() <= busy.rows(busy.main, "log"), "an acknowledged commit is lost"
    end(life, swept, check_whole)


def test_killed_at_every_step_of_restores(new_life: Any, open_tenant: Any, swept: Any, check_whole: Any) -> None:
    life = new_life()
    one, gone = life.tenants = [open_tenant(life.api(life.cell), name) for name in ("one", "gone")]
    writer = one.write(one.main)
    past = one.moment()
    one.run(one.main, "drop table t")
    writer.wait_for_more()

    life.die_at(
        ["restore_branch.0.before", "recover.laid_out", "recover.promoted", "recover.durable", "new_head.opened",
         "new_head.stopped", "restore_branch.made", "restore_branch.asleep", "restore_branch.swapped",
         "restore_branch.0.after"],
        lambda: one.restore(one.main, one.main, "before", source_timestamp=past.isoformat()),
    )  # fmt: skip
    writer.wait_for_more()  # with the connection string that it had
    assert one.rows(one.main) == {1}
    now, then = one.rows(one.main, "log"), one.rows(one.named("before"), "log")
    known = writer.numbers()
    assert writer.numbers(until=past) <= now & then
    assert not known & now & then & writer.numbers(since=past), "what came later is not in the past"
    with pytest.raises(psycopg.errors.UndefinedTable):
        one.rows(one.named("before"))

    # Reset: the child's own head goes, what it had as well.
    assert one.branch("dev").status_code == 201
    dev = one.named("dev")
    one.run(dev, "insert into t values (66)")
    life.die_at(
        ["fork.copied", "fork.durable", "new_head.started", "new_head.opened", "restore_branch.made",
         "restore_branch.asleep", "restore_branch.swapped", "discard.renamed"],
        lambda: one.restore(dev, one.main),
    )  # fmt: skip
    assert one.rows(dev) == {1}
    assert now <= one.rows(dev, "log")

    # Another branch's past takes this one's place.
    life.die_at(
        ["recover.promoted", "restore_branch.made", "restore_branch.swapped"],
        lambda: one.restore(dev, one.named("before"), "dev before", source_timestamp=past.isoformat()),
    )
    assert one.rows(dev) == {1}
    assert writer.numbers(until=past) <= one.rows(dev, "log") and not writer.numbers(since=past) & one.rows(dev, "log")
    assert now <= one.rows(one.named("dev before"), "log")
    assert one.names() == {"main", "before", "dev", "dev before"}

    assert gone.branch("child").status_code == 201
    assert gone.snapshot(gone.main, "s").status_code == 200
    assert gone.rows(gone.named("child")) == {1}
    projects = life.cell.data / "projects"
    life.tenants.remove(gone)

    def delete() -> None:
        life.api(life.cell).call("DELETE", gone.path(""))

    life.die_at(
        ["delete_project.0.before", "delete_project.0.after", "delete_project.1.before", "delete_project.1.after"],
        delete,
    )
    swept(life.cell.data)
    assert {path.name for path in projects.iterdir()} == {one.project}

    writer.finish()
    assert writer.numbers() <= one.rows(one.main, "log") | then, "an acknowledged commit is lost"
    end(life, swept, check_whole)


def test_killed_while_history_is_kept_and_let_go(
    new_life: Any, open_tenant: Any, swept: Any, check_whole: Any, until: Any
) -> None:
    life = new_life()
    # Nothing of the past is kept longer than needed, but for snapshots.
    (one,) = life.tenants = [open_tenant(life.api(life.cell), "one", history_retention_seconds=0)]

    life.die_at(["snapshot.placed"], lambda: one.snapshot(one.main, "first"))
    assert one.snapshots() == {}
    life.die_at(["snapshot.written"], lambda: one.snapshot(one.main, "first"))
    assert set(one.snapshots()) == {"first"}

    # So much log that the next sleep leaves a base, at whatever moment after it.
    one.run(one.main, "create table big as select i, repeat('x', 900) from generate_series(1, 45000) i",
            "insert into t values (2)")  # fmt: skip
    life.die_at(["archive.linked", "archive.synced"])
    (head,) = (life.cell.data / "projects" / one.project).iterdir()

    def bases() -> set[str]:
        return {path.parent.name for path in head.glob("bases/*/base.json")}

    assert bases() == {"000001"}
    life.die_at(["base.cloned", "base.synced", "base.kept"], lambda: one.sleep(one.main))
    until(lambda: len(bases()) == 2, "the base that was begun is kept")
    segments = len(list(head.glob("wal/*")))

    # What the snapshot holds is there. Without it, and the branch that began there, the first base is nobody's.
    life.die_at(["recover.laid_out", "new_head.opened"], lambda: one.restore_snapshot("first", name="of-snapshot"))
    assert one.rows(one.named("of-snapshot")) == {1}
    one.client.call("DELETE", one.path(f"/branches/{one.named('of-snapshot')}"))
    first = one.snapshots()["first"]
    life.die_at(
        ["snapshot.deleted", "base.unmarked", "retention.bases", "archive.released", "archive.unlinked",
         "retention.segments"],
        lambda: one.client.call("DELETE", one.path(f"/snapshots/{first}")),
    )  # fmt: skip
    assert one.snapshots() == {}
    until(lambda: len(bases()) == 1 and len(list(head.glob("wal/*"))) < segments, "what nobody needs is let go")
    assert one.rows(one.main) == {1, 2}

    # In place, by a snapshot whose branch goes on; the head that is replaced stays for the snapshot, and goes with it.
    assert one.snapshot(one.main, "second").status_code == 200
    one.run(one.main, "insert into t values (3)")
    life.die_at(
        ["recover.promoted", "restore_branch.made", "restore_branch.asleep", "restore_branch.swapped"],
        lambda: one.restore_snapshot("second", name="before", finalize_restore=True, target_branch_id=one.main),
    )
    assert one.rows(one.main) == {1, 2}
    assert one.rows(one.named("before")) == {1, 2, 3}
    end(life, swept, check_whole)
