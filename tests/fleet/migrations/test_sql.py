"""Folders of plain SQL: names, order, checksums, and what a ledger means for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenantry.errors import InvalidInput
from tenantry.fleet.migrations.formats.base import LedgerRow
from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.formats.sql import SqlFolder


def test_names_and_order(sql_folder: Callable[..., Path]) -> None:
    directory = sql_folder(
        **{"9-first": "", "0010_second": "", "20260102030405_third.up": "", "0010_second.down": "drop table x"}
    )
    (directory / "README.md").write_text("not SQL")
    folder = SqlFolder(directory)
    assert [(each.version, each.name) for each in folder.migrations] == [
        ("9", "first"),
        ("0010", "second"),
        ("20260102030405", "third"),
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"users": ""}, "name without a version"),
        ({"_0001_a": "", "1_b": ""}, r"0001_a.sql and 1_b.sql have the same version"),
        ({"_0001_a": "select '\0'"}, "NUL"),
    ],
)
def test_folders_that_are_refused(sql_folder: Callable[..., Path], files: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        open_folder(sql_folder(**files))


def test_folders_of_no_tool_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="has no"):
        open_folder(tmp_path)
    (tmp_path / "20260101_init").mkdir()
    (tmp_path / "20260101_init/migration.sql").write_text("select 1")
    with pytest.raises(InvalidInput, match=r"neither migration_lock.toml"):
        open_folder(tmp_path)


def test_line_endings_are_no_edit(sql_folder: Callable[..., Path]) -> None:
    directory = sql_folder(_0001_a="select 1;\nselect 2;\n")
    unix = SqlFolder(directory)
    (directory / "0001_a.sql").write_bytes(b"select 1;\r\nselect 2;\r\n")
    assert SqlFolder(directory).migrations[0].checksum == unix.migrations[0].checksum


def test_judgement(sql_folder: Callable[..., Path]) -> None:
    folder = SqlFolder(sql_folder(_0001_a="a", _0002_b="b", _0003_c="c"))
    rows = [LedgerRow(each.version, each.checksum) for each in folder.migrations]

    def judge(*ledger: LedgerRow) -> tuple[list[str], list[tuple[str, str]]]:
        judgement = folder.judge(ledger)
        return (
            [each.version for each in judgement.pending],
            [(each.kind, each.version) for each in judgement.objections],
        )

    assert judge() == (["0001", "0002", "0003"], [])
    assert judge(*rows[:2]) == (["0003"], [])
    assert judge(*reversed(rows)) == ([], [])
    assert judge(rows[0], rows[2]) == ([], [("out_of_order", "0002")])
    assert judge(LedgerRow("0001", "other"), rows[1]) == (["0003"], [("edited", "0001")])
    assert judge(*rows, LedgerRow("0004", "x")) == ([], [("ahead", "0004")])
    assert judge(*rows, LedgerRow("by hand", "x")) == ([], [("ahead", "by hand")])
    # A file of the distant past may have been removed from the folder.
    assert judge(LedgerRow("0000", "x"), *rows) == ([], [])


def test_an_owner_without_the_right_to_make_a_ledger_is_told_so(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path], postgres_server: str
) -> None:
    fleet = new_fleet(1)
    fields = psycopg.conninfo.conninfo_to_dict(fleet.dsns["t0"])
    role = f"poor_{fields['dbname']}"
    with psycopg.connect(postgres_server, dbname="postgres", autocommit=True) as admin:
        admin.execute(f"create role {role} login password 'x'".encode())
        try:
            fleet.dsns["t0"] = psycopg.conninfo.make_conninfo("", **{**fields, "user": role, "password": "x"})
            result = fleet.roll_out(sql_folder(_0001_a="select 1;"))
        finally:
            admin.execute(f"drop role {role}".encode())
    failure = result.failed[0].failure
    assert failure is not None
    assert (failure.sqlstate, failure.message[:17]) == ("42501", "making the ledger")
