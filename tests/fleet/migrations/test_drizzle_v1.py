"""Folders of drizzle-kit 1.x: names, times, and what a ledger of either form means for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tenantry.errors import InvalidInput
from tenantry.fleet.migrations.formats.base import LedgerRow
from tenantry.fleet.migrations.formats.drizzle_v1 import DrizzleV1Folder
from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.plan import states_of


def write(directory: Path, **files: str) -> Path:
    """Folders of migrations: ``_20260101000000_a="select 1"``."""
    for name, text in files.items():
        folder = directory / name.removeprefix("_")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "migration.sql").write_text(text)
        (folder / "snapshot.json").write_text("{}")
    return directory


def judge(folder: DrizzleV1Folder, *ledger: LedgerRow) -> tuple[list[str], list[tuple[str, str]]]:
    judgement = folder.judge(ledger)
    return [each.name[-1] for each in judgement.pending], [(each.kind, each.version) for each in judgement.objections]


def test_judgement(tmp_path: Path) -> None:
    folder = DrizzleV1Folder(write(tmp_path, _20260101000000_a="a", _20260101000000_b="b", _20260102000000_c="c"))
    a, b, c = (LedgerRow(each.version, each.checksum) for each in folder.migrations)
    assert judge(folder) == (["a", "b", "c"], [])
    assert judge(folder, a, b) == (["c"], [])
    assert judge(folder, c, a) == (["b"], [])
    assert judge(folder, LedgerRow(a.key, "other"), b, c) == ([], [("edited", a.key)])
    assert judge(folder, a, b, c, LedgerRow("20260103000000_d", "x")) == ([], [("ahead", "20260103000000_d")])
    # A migration of the distant past may have been removed from the folder.
    assert judge(folder, LedgerRow("20200101000000_x", "x"), a, b, c) == ([], [])
    first, second = "1767225600000", "1767312000123"
    # Rows of 0.x have times: a second of its own says which it is, a shared one needs the hash.
    assert judge(folder, LedgerRow(f"created_at={second}", "whatever")) == (["a", "b"], [("edited", c.key)])
    assert judge(folder, LedgerRow(f"created_at={first}", b.checksum)) == (["a", "c"], [])
    assert judge(folder, LedgerRow(f"created_at={first}", "x"))[1] == [("ahead", f"created_at={first}")]
    assert judge(folder, LedgerRow("created_at=5", c.checksum)) == (["a", "b"], [])


def test_what_is_older_than_what_is_applied_is_applied_too_and_the_catalog_is_right(
    new_fleet: Callable[[int], Any], tmp_path: Path
) -> None:
    fleet = new_fleet(1)
    create = "create table {} ()".format
    roll_out(fleet, write(tmp_path, _20260101000000_a=create("a"), _20260103000000_c=create("c")))
    folder = write(tmp_path, _20260102000000_b=create("b"))
    # The catalog does not know which it lacks.
    assert fleet.plan(folder).tenants[0].standing == "unknown"
    result = roll_out(fleet, folder)
    assert result.results[0].applied == ("20260102000000_b",)
    assert "older than what is applied" in result.results[0].notes[0]
    assert fleet.known["t0"] == states_of(open_folder(folder))[-1]
    assert roll_out(fleet, folder).results[0].outcome == "skipped"


def roll_out(fleet: Any, directory: Path) -> Any:
    folder = open_folder(directory)
    assert folder.name == "drizzle-1"
    return fleet.roll_out(directory)


@pytest.mark.parametrize("name", ["users", "2026_users", "20261301000000_users", "20260101000000"])
def test_names_without_a_time_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="without a time"):
        open_folder(write(tmp_path, **{name: "select 1"}))


def test_a_folder_is_found_within_its_project(tmp_path: Path) -> None:
    write(tmp_path / "drizzle", _20260101000000_a="select 1")
    assert open_folder(tmp_path).directory == tmp_path / "drizzle"
