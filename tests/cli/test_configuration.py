"""``tenantry init``, and what tenantry.toml says to the other commands, on a real cell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tenantry.testing.throwaway import ThrowawayCell

    from ..forks import Nurseries


def tenantry(directory: Path, *arguments: str, **said: str) -> subprocess.CompletedProcess[str]:
    """As somebody who works in ``directory`` types it, with nothing of a cell in the environment but what is said."""
    return subprocess.run(
        [Path(sys.executable).parent / "tenantry", *arguments],
        cwd=directory,
        env=_environment() | said,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TENANTRY_")}


def test_a_repository_says_which_cell_and_how(cell: ThrowawayCell, tmp_path: Path, nurseries: Nurseries) -> None:
    def forked(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return nurseries.run(arguments, _environment(), timeout=60, directory=directory)

    repository = tmp_path / "repository"
    (repository / ".git").mkdir(parents=True)
    folder = repository / "migrations"
    folder.mkdir()
    (folder / "0001_one.sql").write_text("create table one (i int)")

    done = tenantry(repository, "init")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in repository.iterdir()} == {
        ".git",
        "migrations",
        "tenantry.schema.json",
        "tenantry.toml",
    }
    again = forked(repository, "init")
    assert again.returncode == 1
    assert "is there already" in again.stderr

    key = repository / "key"
    key.write_text(cell.target.api_key + "\n")
    key.chmod(0o600)
    settings = repository / "tenantry.toml"
    settings.write_text(
        f'[cell]\napi_url = "{cell.target.api_url}"\napi_key_file = "key"\n[migrations]\ndir = "migrations"\njobs = 2\n'
    )
    listed = forked(folder, "list", "--json")
    assert listed.returncode == 0, listed.stderr
    planned = forked(folder, "migrate", "plan", "--json")
    assert planned.returncode == 0, planned.stderr
    assert '"0001"' in planned.stdout

    settings.write_text(settings.read_text().replace("jobs = 2", "jobs = 0"))
    wrong = forked(folder, "migrate", "run")
    assert wrong.returncode == 2
    assert "tenantry.toml, line 6: migrations.jobs: " in wrong.stderr

    settings.write_text(settings.read_text().replace("jobs = 0", "jobs = 2"))
    key.chmod(0o644)
    open_to_all = forked(folder, "list")
    assert open_to_all.returncode == 2
    assert str(key) in open_to_all.stderr and cell.target.api_key not in open_to_all.stderr


def test_the_environment_says_which_cell_without_a_file(cell: ThrowawayCell, tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    listed = tenantry(tmp_path, "list", "--json", TENANTRY_CELL__DATA=str(cell.data))
    assert listed.returncode == 0, listed.stderr
    elsewhere = tenantry(tmp_path, "list", TENANTRY_CELL__DATA=str(tmp_path))
    assert str(tmp_path) in elsewhere.stderr
