"""The fleet's key is changed while there are backups: from then on the old one opens nothing that is needed."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tenantry.fleet.backups.keys import add_fleet_key

if TYPE_CHECKING:
    from conftest import Operator, Query


@pytest.fixture
def key_file(
    operator: Operator, vault: Path, fleet_key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The fleet's key in a file of the test's own. The tests share a catalog, so at the end all is as it was."""
    del vault
    path = tmp_path / "rotated"
    path.write_text(fleet_key.read_text())
    path.chmod(0o600)
    monkeypatch.setenv("TENANTRY_BACKUPS__KEY_FROM", f"file:{path}")
    yield path
    path.write_text(fleet_key.read_text() + path.read_text())
    operator.do("vault", "rewrap", code=None)


def test_a_new_key_before_the_old_one_and_then_without_it(
    operator: Operator, query: Query, vault: Path, key_file: Path, name: str
) -> None:
    slugs: list[str] = []
    for number in range(3):
        slugs.append(operator.json("create", f"{name} {number}")["tenant"]["slug"])
        query(operator.do("url", slugs[-1]).stdout, "CREATE TABLE t AS SELECT i FROM generate_series(1, 5) AS i")
    operator.do("backup", "run", *slugs)
    before = operator.json("vault", "rewrap", "--dry-run", code=None)
    old = before["fleet_key"]
    foreign = set(before["failed"])  # other tests have fleets of their own in this catalog
    code = 3 if foreign else 0
    assert before["vault"] == before["catalog"] == 0

    new = operator.json("vault", "key", str(key_file), "--before")["key"]
    assert key_file.stat().st_mode & 0o777 == 0o600
    planned = operator.json("vault", "rewrap", "--dry-run", code=code)
    assert (planned["fleet_key"], planned["vault"], planned["not_needed"]) == (new, 3, [])
    assert planned["under"][old] >= 3
    finding = next(each for each in operator.json("doctor", code=None)["findings"] if each["name"] == "backup keys")
    assert finding["level"] == ("wrong" if foreign else "note")

    # Killed between the catalog's copy and the vault's, and behind the vault's: the same command goes on.
    for point in ("rewrap.catalog", "rewrap.vault"):
        operator.run("vault", "rewrap", "--jobs", "1", code=-signal.SIGKILL, TENANTRY_FAILPOINTS=f"{point}=kill")
    operator.do("backup", "restore", slugs[0], "--as", f"{name} between")
    done = operator.json("vault", "rewrap", code=code)
    assert done["under"] == {new: done["looked_at"] - len(foreign)}
    assert set(done["failed"]) == foreign
    assert {json.loads(each.read_text())["fleet_key"] for each in (vault / ".keys").iterdir()} == {new}
    again = operator.do("vault", "rewrap", code=code)
    assert "0 keys of the catalog and 0 of the vault" in again.stdout
    if not foreign:
        assert done["not_needed"] == [old]
        assert f"{old} is needed no more here" in again.stdout

    key_file.write_text(key_file.read_text().splitlines()[0] + "\n")
    for slug in slugs:
        assert operator.json("backup", "restore", slug, "--as", f"{slug} again")["rows"] == 5
    assert operator.json("backup", "verify", *slugs)["passed"] == 3
    assert operator.json("vault", "restore", _place(operator, slugs[0]), "--as", f"{name} alone")["rows"] == 5


def test_a_key_that_is_nowhere_is_named_and_the_others_go_on(
    operator: Operator, vault: Path, key_file: Path, name: str
) -> None:
    lost, kept = (operator.json("create", f"{name} {number}")["tenant"]["slug"] for number in range(2))
    operator.do("backup", "run", lost)
    theirs = next((vault / ".keys").iterdir()).stem
    usual = key_file.read_text()
    operator.do("vault", "key", str(key_file), "--before")
    key_file.write_text(key_file.read_text().splitlines()[0] + "\n")
    operator.do("backup", "run", lost, code=3)
    operator.do("backup", "run", kept)
    done = operator.json("vault", "rewrap", code=3)
    assert "add that key to it as another line" in done["failed"][theirs]["next_step"]
    assert done["not_needed"] == [], "nobody is told to remove a key while something cannot be opened"
    key_file.write_text(key_file.read_text() + usual)
    assert theirs not in operator.json("vault", "rewrap", code=None)["failed"]
    operator.do("backup", "restore", lost, "--as", f"{name} again")


def test_a_file_is_not_filled_without_end(tmp_path: Path, operator: Operator) -> None:
    path = tmp_path / "keys"
    operator.do("vault", "key", str(path))
    operator.do("vault", "key", str(path), code=2)
    for _ in range(15):
        add_fleet_key(path)
    refused = operator.do("vault", "key", str(path), "--before", code=2)
    assert "as many as are read" in refused.stderr


def _place(operator: Operator, slug: str) -> str:
    return operator.json("backup", "list", slug)["backups"][0]["place"]
