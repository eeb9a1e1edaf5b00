"""The runner is killed, interrupted, or loses its connection: every tenant has everything once, or is told of."""

from __future__ import annotations

import json
import random
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import psycopg
import pytest

from tenantry.fleet.catalog import runs
from tenantry.fleet.catalog.records import Run
from tenantry.fleet.migrations.apply import Bounds
from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.plan import states_of
from tenantry.fleet.migrations.run import RunOptions

if TYPE_CHECKING:
    from conftest import Runner, StartRunner

POINTS = ["migrate.claimed", "migrate.judged", "migrate.applied", "migrate.committed", "migrate.recorded"]
MIGRATIONS = [(f"{number:04}_m", number + 1, f"insert into applied values ('{number:04}_m')") for number in range(3)]
# Between two breakpoints, so that a kill finds a transaction half done.
SLOW = "--> statement-breakpoint\nselect pg_sleep(0.01)"
LOCK_SECONDS_MAX = 60.0


class Killed:
    """Five tenants whose migrations count themselves, and runners of theirs that die."""

    def __init__(self, fleet: Any, directory: Path, start_runner: StartRunner) -> None:
        self.fleet = fleet
        self.directory = directory
        self._start = start_runner
        (directory / "catalog").write_text(fleet.catalog.url)
        for slug, dsn in fleet.dsns.items():
            fleet.sql(slug, "create table applied (tag text)")
            (directory / f"{slug}.dsn").write_text(dsn)

    def begin(self, folder: Path, jobs: int = 2) -> str:
        options = RunOptions(jobs=jobs, bounds=Bounds(lock_seconds=LOCK_SECONDS_MAX))
        return self.fleet.begin(folder, options=options).run.id

    def started(self, run: str, failpoints: str = "") -> AbstractContextManager[Runner]:
        return self._start(run, self.directory, failpoints)

    def run_to_the_end(self, run: str, failpoints: str = "") -> int:
        with self.started(run, failpoints) as runner:
            return runner.end()

    def ended(self, run: str) -> Run:
        """What the catalog says of the run; nobody has anything of it in hand."""
        with self.fleet.catalog.transaction() as connection:
            assert runs.workers_of(connection, run, stalled_seconds=45) == {}
            found = runs.run_by_id(connection, run)
        assert found is not None
        return found


@pytest.fixture
def killed(new_fleet: Callable[[int], Any], tmp_path: Path, start_runner: StartRunner) -> Killed:
    directory = tmp_path / "fleet"
    directory.mkdir()
    return Killed(new_fleet(5), directory, start_runner)


def applied(dsn: str) -> list[str]:
    with psycopg.connect(dsn) as connection:
        # Behind the lock, so that a killed runner's session has ended before anybody counts.
        connection.execute("select pg_advisory_xact_lock(x'74656E616E747279'::bigint)")
        return [tag for (tag,) in connection.execute("select tag from applied order by tag")]


def ledger(dsn: str) -> list[str]:
    with psycopg.connect(dsn) as connection:
        exists = connection.execute("select to_regclass('drizzle.__drizzle_migrations') is not null").fetchone()
        if exists != (True,):
            return []
        rows = connection.execute("select created_at from drizzle.__drizzle_migrations order by created_at")
        return [f"{created_at - 1:04}_m" for (created_at,) in rows]


def agree(fleet: Path) -> list[list[str]]:
    """What each tenant has, once its ledger and its tables are found to say the same."""
    found: list[list[str]] = []
    for path in sorted(fleet.glob("*.dsn")):
        dsn = path.read_text()
        found.append(applied(dsn))
        assert found[-1] == ledger(dsn), path.stem
    return found


@pytest.mark.crash
@pytest.mark.timeout(400)  # a dozen starts of a process, on machines with other things to do
@pytest.mark.parametrize("seed", [1, 2])
def test_kill_9_at_any_point_then_going_on_applies_everything_once(
    killed: Killed, drizzle_folder: Callable[..., Path], seed: int
) -> None:
    """A run that was killed is gone on with, or a new one takes its place."""
    choice = random.Random(seed)
    growing = [(tag, when, f"{text}{SLOW}") for tag, when, text in MIGRATIONS]
    deaths = 0
    for size in (1, 2, 3):
        run = killed.begin(drizzle_folder(*growing[:size]))
        for _ in range(choice.randint(1, 2)):
            point = f"{choice.choice(POINTS)}=kill:{choice.randint(1, 4)}"
            deaths += killed.run_to_the_end(run, point) == -signal.SIGKILL
            for tags in agree(killed.directory):
                assert tags == [tag for tag, _, _ in growing[: len(tags)]], point
    assert deaths, "no failpoint was reached"
    assert killed.run_to_the_end(run) == 0
    assert agree(killed.directory) == [[tag for tag, _, _ in MIGRATIONS]] * 5
    assert killed.ended(run).state == "finished"
    assert {state.version for state in killed.fleet.known.values()} == {MIGRATIONS[-1][0]}


@pytest.mark.crash
def test_kill_9_from_outside_while_transactions_are_open(killed: Killed, drizzle_folder: Callable[..., Path]) -> None:
    run = killed.begin(drizzle_folder(*[(tag, when, f"{text}{SLOW}") for tag, when, text in MIGRATIONS]))
    with killed.started(run) as process:
        # When the first tenant is done, the transaction of another is open.
        next(line for line in process.stdout if json.loads(line)["event"] == "tenant_finished")
        process.kill()
    assert set(map(len, agree(killed.directory))) <= {0, 3}
    assert killed.run_to_the_end(run) == 0
    assert agree(killed.directory) == [[tag for tag, _, _ in MIGRATIONS]] * 5
    ended = killed.ended(run)
    assert (ended.state, sum(cast("int", number) for number in ended.counts.values())) == ("finished", 5)


def test_ctrl_c_ends_what_is_under_way_and_exits_1(
    killed: Killed, drizzle_folder: Callable[..., Path], postgres_server: str
) -> None:
    (tag, when, text), fleet = MIGRATIONS[0], killed.fleet
    run = killed.begin(drizzle_folder((tag, when, f"{text}--> statement-breakpoint\n{fleet.GATE}")))
    at_work = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and wait_event = 'advisory'"
    events: list[dict[str, Any]] = []
    with (
        fleet.shut(*fleet.dsns) as open_all,
        killed.started(run) as process,
        psycopg.connect(postgres_server, dbname="postgres", autocommit=True) as connection,
    ):
        while connection.execute(at_work).fetchone() != (2,):
            assert process.poll() is None, "it ended before two tenants were seen at work"
        process.send_signal(signal.SIGINT)
        for line in process.stdout:
            events.append(json.loads(line))
            if events[-1]["event"] == "stopping":
                open_all()
        assert process.wait(timeout=60) == 1, events
    finished = [event for event in events if event["event"] == "tenant_finished" and event["outcome"] == "applied"]
    assert len(finished) == 2
    assert (events[-1]["state"], events[-1]["counts"]["waiting"]) == ("paused", 3)
    assert killed.ended(run).state == "paused"
    assert sorted(agree(killed.directory)) == [[], [], [], [tag], [tag]]


class CutsAtCommit:
    """A proxy before the server's socket that forwards a COMMIT and swallows the answer, or swallows the COMMIT."""

    def __init__(self, directory: Path, server: Path, *, forward: bool) -> None:
        self.cuts = 0
        self._server, self._forward = server, forward
        self._sockets: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / ".s.PGSQL.5432"))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._server))
            self._sockets += [client, server]
            for source, sink in ((client, server), (server, client)):
                thread = threading.Thread(target=self._pump, args=(source, sink, source is client))
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, from_client: bool) -> None:
        try:
            while data := source.recv(65536):
                if from_client and b"COMMIT\0" in data:
                    self.cuts += 1
                    source.shutdown(socket.SHUT_RDWR)
                    if self._forward:
                        sink.sendall(data)
                    break
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return  # the other side has gone, which is what this proxy is for

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)
        for each in self._sockets:
            each.close()


@pytest.fixture
def cut(workdir: Path, postgres_server: str) -> Iterator[Callable[[bool], CutsAtCommit]]:
    made: list[CutsAtCommit] = []
    server = Path(str(psycopg.conninfo.conninfo_to_dict(postgres_server)["host"])) / ".s.PGSQL.5432"

    def make(forward: bool) -> CutsAtCommit:
        made.append(CutsAtCommit(workdir, server, forward=forward))
        return made[0]

    yield make
    for each in made:
        each.close()


def run_through(fleet: Any, folder: Path, directory: Path) -> Any:
    fields = psycopg.conninfo.conninfo_to_dict(fleet.dsns["t0"], host=str(directory))
    fleet.dsns["t0"] = psycopg.conninfo.make_conninfo("", **fields)
    return fleet.roll_out(folder)


@pytest.mark.parametrize("forward", [True, False])
def test_a_commit_whose_answer_is_lost_is_looked_up(
    new_fleet: Callable[[int], Any],
    cut: Callable[[bool], CutsAtCommit],
    workdir: Path,
    sql_folder: Callable[..., Path],
    forward: bool,
) -> None:
    fleet = new_fleet(1)
    proxy = cut(forward)
    folder = sql_folder(_0001_a="create table a (x int);")
    result = run_through(fleet, folder, workdir)
    assert proxy.cuts == 1
    (only,) = result.results
    if forward:
        assert (only.outcome, only.applied) == ("applied", ("0001",))
        assert fleet.known["t0"] == states_of(open_folder(folder))[-1]
    else:
        assert only.failure is not None
        assert only.failure.kind == "connection_lost"
        assert fleet.known["t0"].version is None
