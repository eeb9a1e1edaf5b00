"""Ctrl-C at a terminal, which tells every program in it: what is under way ends, or the second one ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

if TYPE_CHECKING:
    from conftest import Operator, Query

SOON_SECONDS = 30.0
"""Half of what a dump waits for a table."""


def until(condition: Callable[[], bool], what: str) -> None:
    pause, deadline = threading.Event(), time.monotonic() + SOON_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"it did not come to: {what}"
        pause.wait(0.05)


@pytest.fixture
def url(operator: Operator, query: Query, name: str) -> str:
    operator.json("create", name)
    url = operator.do("url", name).stdout.strip()
    query(url, "CREATE TABLE t AS SELECT i FROM generate_series(1, 100) AS i")
    return url


@contextmanager
def at_work(operator: Operator, url: str, name: str) -> Iterator[tuple[subprocess.Popen[str], psycopg.Connection]]:
    """A backup in a terminal of its own, whose dump waits for a table until the session that holds it rolls back."""
    with psycopg.connect(url) as holder:
        holder.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        terminal = subprocess.Popen(
            [sys.executable, "-m", "tenantry", "backup", "run", name],
            env=os.environ | {"TENANTRY_DATA": str(operator.cell.data)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            with psycopg.connect(url, autocommit=True) as looking:
                waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                until(lambda: bool((looking.execute(waits).fetchone() or (0,))[0]), "the dump waits")
            yield terminal, holder
        finally:
            if terminal.poll() is None:
                os.killpg(terminal.pid, signal.SIGKILL)
            terminal.wait()
            for stream in (terminal.stdout, terminal.stderr):
                assert stream is not None
                stream.close()


def interrupt(terminal: subprocess.Popen[str]) -> str:
    """Ctrl-C, and what is said of it."""
    os.killpg(terminal.pid, signal.SIGINT)
    assert terminal.stderr is not None
    return next(line for line in terminal.stderr if line.startswith("stopping"))


def test_the_backup_under_way_ends(operator: Operator, url: str, name: str, vault: Path) -> None:
    del vault
    with at_work(operator, url, name) as (terminal, holder):
        assert "backups under way end first" in interrupt(terminal)
        holder.rollback()
        assert terminal.wait(SOON_SECONDS) != 0
    assert [each["state"] for each in operator.json("backup", "list", name, "--all")["backups"]] == ["done"]


def test_a_second_one_ends_the_command_at_once(operator: Operator, url: str, name: str, vault: Path) -> None:
    del vault
    with at_work(operator, url, name) as (terminal, _):
        interrupt(terminal)
        os.killpg(terminal.pid, signal.SIGINT)
        assert terminal.wait(SOON_SECONDS) != 0
    assert [each["state"] for each in operator.json("backup", "list", name, "--all")["backups"]] == ["running"]
