"""The worker beside a cell works in the data directory, and does as tenantry.toml says where `up` was started."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tenantry.testing.throwaway import ThrowawayCell


def test_the_worker_of_up_reads_the_settings_of_whoever_started_it(
    new_workdir: Callable[[str], Path],
    new_cell: Callable[..., ThrowawayCell],
    workdir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (workdir / "tenantry.toml").write_text("[tenants]\nready = 1\n")
    monkeypatch.chdir(workdir)
    with new_cell(new_workdir("res") / "data", options=["--spares", "0"]) as cell:
        deadline = time.monotonic() + 60
        while not (found := _worker(cell)):
            assert time.monotonic() < deadline, "no worker was started"
            time.sleep(0.05)
        assert found.environ()["TENANTRY_CONFIG"] == str(workdir / "tenantry.toml")


def _worker(cell: ThrowawayCell) -> psutil.Process | None:
    """The process that `up` keeps beside the cell, once it has become the program that it is to be."""
    for child in psutil.Process(cell.process.pid).children():
        try:
            if "--with-parent" in child.cmdline():
                return child
        except psutil.NoSuchProcess:
            continue
    return None
