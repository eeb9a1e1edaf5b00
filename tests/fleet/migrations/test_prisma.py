"""Prisma's folder, and what a ledger means for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenantry.errors import InvalidInput
from tenantry.fleet.migrations.formats.base import LedgerRow
from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.formats.prisma import PrismaFolder
from tenantry.fleet.migrations.plan import states_of
from tenantry.fleet.migrations.results import Failure

LEDGER_TABLE = "select to_regclass('public._prisma_migrations')"
USERS = 'CREATE TABLE "User" (\n    "id" SERIAL NOT NULL,\n\n    CONSTRAINT "User_pkey" PRIMARY KEY ("id")\n);\n'


def write(directory: Path, **files: str) -> Path:
    """A Prisma folder: ``_20260101000000_a="select 1"``."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "migration_lock.toml").write_text('provider = "postgresql"\n')
    for name, text in files.items():
        folder = directory / name.removeprefix("_")
        folder.mkdir(exist_ok=True)
        (folder / "migration.sql").write_text(text)
    return directory


def run(fleet: Any, directory: Path, slug: str = "t0", through: str | None = None) -> Any:
    folder = open_folder(directory, through=through)
    assert folder.name == "prisma"
    return fleet.roll_out(directory, [slug], through=through, trust_catalog=False)


def outcome(fleet: Any, directory: Path, slug: str = "t0", through: str | None = None) -> str:
    (result,) = run(fleet, directory, slug, through).results
    assert result.failure is None, result.failure
    return result.outcome


def failure_of(result: Any) -> Failure:
    (each,) = result.results
    assert each.failure is not None
    return each.failure


def test_judgement(tmp_path: Path) -> None:
    folder = PrismaFolder(write(tmp_path, _1_a="a\n", _2_b="b", _3_c="c"))
    a, b, c = (LedgerRow(each.version, each.checksum) for each in folder.migrations)

    def judge(*ledger: LedgerRow) -> tuple[list[str], list[tuple[str, str]]]:
        judgement = folder.judge(ledger)
        return (
            [each.version for each in judgement.pending],
            [(each.kind, each.version) for each in judgement.objections],
        )

    assert judge() == (["1_a", "2_b", "3_c"], [])
    assert judge(c, a) == (["2_b"], [])
    assert "older than what is applied" in folder.judge([a, c]).notes[0]
    assert judge(LedgerRow("1_a", "other"), b, c) == ([], [("edited", "1_a")])
    assert judge(a, b, c, LedgerRow("4_d", "x")) == ([], [("ahead", "4_d")])
    assert judge(LedgerRow("0_x", "x"), a, b, c) == ([], [])
    assert judge(a, LedgerRow("9_gone", "x", finished=False)) == (["2_b", "3_c"], [("half_applied", "9_gone")])
    begun = folder.judge([a, LedgerRow("2_b", b.checksum, finished=False)])
    assert begun.half_applied == {"2_b"}
    assert [each.version for each in begun.pending] == ["2_b", "3_c"]


def test_line_endings_are_no_edit(tmp_path: Path) -> None:
    unix, windows = PrismaFolder(write(tmp_path / "a", _1_a="a\nb\n")), tmp_path / "b"
    write(windows, _1_a="")
    (windows / "1_a/migration.sql").write_bytes(b"a\r\nb\r\n")
    ledger = [LedgerRow("1_a", unix.migrations[0].checksum)]
    judgement = PrismaFolder(windows).judge(ledger)
    assert judgement.objections == ()
    assert judgement.state == states_of(PrismaFolder(windows))[-1]


def test_a_folder_is_found_within_its_project(tmp_path: Path) -> None:
    directory = write(tmp_path / "prisma/migrations", _1_a="select 1")
    assert open_folder(tmp_path).directory == directory
    assert open_folder(tmp_path / "prisma").directory == directory


@pytest.mark.parametrize(
    ("lock", "message"), [('provider = "mysql"', "provider 'mysql'"), ("provider", "not TOML"), ("", "provider None")]
)
def test_folders_of_other_databases_are_refused(tmp_path: Path, lock: str, message: str) -> None:
    directory = write(tmp_path, _1_a="select 1")
    (directory / "migration_lock.toml").write_text(lock)
    with pytest.raises(InvalidInput, match=message):
        open_folder(directory)


def test_a_migration_without_its_file_is_named(tmp_path: Path) -> None:
    directory = write(tmp_path, _1_a="select 1")
    (directory / "2_b").mkdir()
    with pytest.raises(InvalidInput, match=r"2_b/migration.sql cannot be read"):
        open_folder(directory)


def test_prisma_at_work_in_the_tenant_is_waited_out_by_another_run(
    new_fleet: Callable[[int], Any], tmp_path: Path
) -> None:
    fleet, directory = new_fleet(1), write(tmp_path, _1_a=USERS)
    with psycopg.connect(fleet.dsns["t0"]) as connection:
        connection.execute("select pg_advisory_lock(72707369)")
        assert (failure_of(run(fleet, directory)).kind, fleet.sql("t0", LEDGER_TABLE)) == ("locked", [(None,)])
    assert outcome(fleet, directory) == "applied"
