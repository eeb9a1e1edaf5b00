"""What a cell makes of its data directory before anything else."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from tenantry.cell.storage import directories
from tenantry.cell.storage.directories import OPEN_DIRECTORY, spread
from tenantry.cell.storage.layout import Layout, prepare


def lies_apart(directory: Path) -> bool:
    """Whether the file system is told that what is made in this directory belongs apart."""
    descriptor = os.open(directory, OPEN_DIRECTORY)
    try:
        flags = bytearray(8)
        fcntl.ioctl(descriptor, directories._GET_FLAGS, flags)
        return bool(int.from_bytes(flags, "little") & directories._TOP_DIRECTORY)
    finally:
        os.close(descriptor)


def test_each_project_gets_a_region_of_its_own_of_the_file_system(workdir: Path) -> None:
    (workdir / "tried").mkdir()
    if not spread(workdir / "tried"):
        pytest.skip("this file system knows no regions")
    layout = Layout(data=workdir / "d", run=workdir / "run" / "r")
    prepare(layout, root=os.geteuid() == 0)
    assert lies_apart(layout.projects)
    assert not lies_apart(layout.logs)
