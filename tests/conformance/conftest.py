"""Where clients written by others are pointed: the API over a fake cell, and a whole installation."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tenantry.testing.fake_api import FakeApi
from tenantry.testing.throwaway import ThrowawayCell

INSTALL_SECONDS_MAX: Final = 100


@dataclass(frozen=True)
class Address:
    api_url: str
    """Includes ``/api/v2``."""
    api_key: str
    real: bool


@pytest.fixture(scope="session")
def fake_cell() -> Iterator[Address]:
    with FakeApi() as api:
        yield Address(api.base_url, api.key, real=False)


@pytest.fixture(scope="session")
def real_cell(new_workdir: Callable[[str], Path]) -> Iterator[Address]:
    cell = ThrowawayCell(data=new_workdir("real") / "d", options=["--no-fleet"])
    try:
        target = cell.start()
        yield Address(str(target.api_url), str(target.api_key), real=True)
    finally:
        cell.close()


@pytest.fixture(params=["fake", "real"])
def address(request: pytest.FixtureRequest) -> Address:
    return request.getfixturevalue(f"{request.param}_cell")


@pytest.fixture(scope="session")
def npm_install(new_workdir: Callable[[str], Path]) -> Callable[..., Path]:
    """Installs packages into a directory and returns it; skips, saying why, where that cannot be done."""

    def install(*packages: str) -> Path:
        if shutil.which("node") is None or shutil.which("npm") is None:
            pytest.skip("node and npm are not installed; they run the published JavaScript clients")
        directory = new_workdir("npm")
        (directory / "package.json").write_text('{"private": true, "type": "module"}')
        _run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *packages], directory)
        return directory

    return install


@pytest.fixture(scope="session")
def pip_install(new_workdir: Callable[[str], Path]) -> Callable[..., Path]:
    """The same for packages of Python, kept apart from our own environment."""

    def install(*packages: str) -> Path:
        directory = new_workdir("pip")
        _run([sys.executable, "-m", "pip", "install", "--quiet", "--target", str(directory), *packages], directory)
        return directory

    return install


def _run(command: list[str], directory: Path) -> None:
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=INSTALL_SECONDS_MAX, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"{' '.join(command[:3])} failed, is there a registry? {done.stderr.strip()[-300:]}")
