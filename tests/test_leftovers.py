"""The tests' own safety net: a process that outlives them fails the run and dies; a failure keeps its files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

_LEAVES_AN_ORPHAN = """
import os, subprocess, sys

def test_leaves_one(workdir):
    launcher = 'setsid "$@" >{pid_file}.out 2>&1 & echo $! >{pid_file}'
    sleeper = [sys.executable, "-c", "import time; time.sleep(100)"]
    subprocess.run(["sh", "-c", launcher, "sh", *sleeper, {argument}], {how}, check=True)
    pid = open("{pid_file}").read().strip()
    while not open(f"/proc/{{pid}}/cmdline").read().startswith(sys.executable):
        pass  # it is still the shell, or setsid
"""


def _is_dead(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _run(home: Path, source: str, *options: str) -> subprocess.CompletedProcess[str]:
    tests = home / "tests"
    tests.mkdir()
    conftest = Path(__file__).with_name("conftest.py").read_text()
    hurried, places = re.subn(r"LEAVE_SECONDS_MAX: Final = .+", "LEAVE_SECONDS_MAX = 0.2", conftest)
    assert places == 1
    (tests / "conftest.py").write_text(hurried)
    (home / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\nmarkers =\n  crash: c\n")
    (tests / "test_inner.py").write_text(source)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    unused = [f"-pno:{plugin}" for plugin in ("cacheprovider", "hypothesispytest", "schemathesis", "anyio", "timeout")]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *unused, *options, str(tests)],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("parallel", ["0", "1"])
@pytest.mark.parametrize(
    ("how", "argument"),
    [
        pytest.param("cwd='/'", "''", id="by its mark"),
        pytest.param("env={}, cwd=workdir", "''", id="by where it works"),
        pytest.param("env={}, cwd='/'", "str(workdir / 'data')", id="by its arguments"),
    ],
)
def test_a_process_left_behind_fails_the_run_and_is_killed(
    workdir: Path, how: str, argument: str, parallel: str
) -> None:
    pid_file = workdir / "pid"
    source = _LEAVES_AN_ORPHAN.format(how=how, argument=argument, pid_file=pid_file)
    outcome = _run(workdir, source, "-n", parallel)
    assert outcome.returncode == 1, outcome.stdout
    assert "1 passed, 1 error" in outcome.stdout
    pid = int(pid_file.read_text())
    assert f"{pid} {sys.executable}" in outcome.stdout
    assert _is_dead(pid)


def test_what_a_killed_worker_left_is_ended_by_the_run(workdir: Path) -> None:
    pid_file = workdir / "pid"
    source = _LEAVES_AN_ORPHAN.format(how="cwd='/'", argument="''", pid_file=pid_file)
    outcome = _run(workdir, source + "    os.kill(os.getpid(), 9)\n", "-n", "1", "--max-worker-restart=0")
    assert outcome.returncode != 0
    pid = int(pid_file.read_text())
    assert f"{pid} {sys.executable}" in outcome.stdout
    assert _is_dead(pid)


def test_a_failure_keeps_its_files_and_a_success_leaves_nothing(workdir: Path) -> None:
    source = """
import socket, pytest

@pytest.mark.parametrize("fails", [True, False])
def test_it(workdir, fails):
    assert len(str(workdir)) < 40
    assert workdir.stat().st_mode & 0o777 == 0o711
    (workdir / "cell.log").write_text("what happened")
    (workdir / "engines").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(workdir / "s"))
    print("run directory:", workdir.parent.parent)
    assert not fails
"""
    outcome = _run(workdir, source, "-rP")
    assert "1 failed, 1 passed" in outcome.stdout, outcome.stdout
    kept = [path for path in (workdir / "test-logs").rglob("*") if path.is_file()]
    assert [path.name for path in kept] == ["cell.log"]
    assert "test_it_True" in str(kept[0])
    assert str(kept[0].parent.parent) in outcome.stdout
    roots = {line.partition(": ")[2] for line in outcome.stdout.splitlines() if line.startswith("run directory")}
    assert len(roots) == 1
    assert not any(Path(root).exists() for root in roots)


def test_nothing_is_left_and_nothing_is_said_of_a_process_that_ended(workdir: Path) -> None:
    source = "import subprocess\n\ndef test_it(workdir):\n    subprocess.run(['true'], check=True, cwd=workdir)\n"
    outcome = _run(workdir, source, "-n", "1")
    assert outcome.returncode == 0, outcome.stdout
    assert not (workdir / "test-logs").exists()
