"""Who carries a run out, by name: whether it lives is known of this machine only, and never by the pid alone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from tenantry.fleet.migrations.run import is_alive, worker_name


def test_one_lives_until_its_process_has_ended() -> None:
    assert is_alive(worker_name())
    program = "from tenantry.fleet.migrations.run import worker_name; print(worker_name(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        name = other.stdout.readline().strip()
        assert is_alive(name)
        other.communicate("\n")
    assert not is_alive(name)


def test_another_process_that_has_its_pid_by_now_is_not_it() -> None:
    host, pid, mark = worker_name().split("/")
    started, _, token = mark.partition("-")
    assert not is_alive(f"{host}/{pid}/{int(started) - 1}-{token}")


def test_what_cannot_be_known_lives() -> None:
    host = socket.gethostname()
    assert is_alive(f"elsewhere/{os.getpid()}/1-ab")
    assert is_alive(f"{host}/{os.getpid()}/0a1b2c3d"), "a name of an earlier version, without when it started"
    assert is_alive(f"{host}/{os.getpid()}/-0a1b2c3d"), "or of a machine that does not tell"
