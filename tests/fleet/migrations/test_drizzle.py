"""Drizzle folders: the same rules as Drizzle's own migrator, proved beside the real one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantry.errors import InvalidInput
from tenantry.fleet.migrations.formats.base import LedgerRow
from tenantry.fleet.migrations.formats.drizzle import DrizzleFolder
from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.plan import states_of


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def drizzle_pending(entries: list[tuple[str, int, str]], ledger: list[tuple[str, int]]) -> list[str]:
    """drizzle-orm's rule: what is later than the row with the latest created_at."""
    last = max((created_at for _, created_at in ledger), default=None)
    return [tag for tag, when, _ in entries if last is None or last < when]


WHENS = st.lists(st.integers(0, 8), unique=True, max_size=6)


@settings(deadline=None)
@given(whens=WHENS, applied=WHENS, edited=st.sets(st.integers(0, 8)))
def test_pending_is_what_drizzle_calls_pending(
    tmp_path_factory: pytest.TempPathFactory, whens: list[int], applied: list[int], edited: set[int]
) -> None:
    entries = [(f"{index:04}_m", when, f"select {when}") for index, when in enumerate(whens)]
    directory = tmp_path_factory.mktemp("drizzle")
    (directory / "meta").mkdir()
    journal = [{"idx": 0, "version": "7", "when": when, "tag": tag, "breakpoints": True} for tag, when, _ in entries]
    (directory / "meta/_journal.json").write_text(json.dumps({"dialect": "postgresql", "entries": journal}))
    for tag, _, text in entries:
        (directory / f"{tag}.sql").write_text(text)
    rows = [(sha256("old" if when in edited else f"select {when}"), when) for when in applied]
    judgement = DrizzleFolder(directory).judge([LedgerRow(str(when), hash_) for hash_, when in rows])
    assert [each.version for each in judgement.pending] == drizzle_pending(entries, rows)
    kinds = {each.kind for each in judgement.objections}
    assert ("edited" in kinds) == any(when in edited and when in applied for when in whens)
    assert ("ahead" in kinds) == bool(applied and max(applied) not in whens)


def test_a_database_baselined_with_one_row_is_taken_as_drizzle_takes_it(drizzle_folder: Callable[..., Path]) -> None:
    folder = DrizzleFolder(drizzle_folder(("0000_a", 5, "select 1"), ("0001_b", 6, "select 2"), ("0002_c", 7, "s")))
    for created_at in ("6", "6000"):
        judgement = folder.judge([LedgerRow(created_at, sha256("select 2"))])
        assert judgement.objections == ()
    judgement = folder.judge([LedgerRow("6", sha256("select 2"))])
    assert [each.version for each in judgement.pending] == ["0002_c"]
    assert judgement.state == states_of(folder)[2]
    assert "0000_a is not in the ledger" in judgement.notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda journal: journal.pop("entries"), r"journal.json is not a journal of drizzle-kit 0.x: entries"),
        (lambda journal: journal.update(dialect="mysql"), "dialect 'mysql'"),
        (lambda journal: journal["entries"][0].update(when="5"), "entries.0.when"),
        (lambda journal: journal["entries"][0].update(tag="../../etc/x"), "entries.0.tag"),
        (lambda journal: journal["entries"][0].update(when=6), "two entries with the when 6"),
        (lambda journal: journal["entries"][0].update(tag="0001_b"), "two entries with the tag 0001_b"),
        (lambda journal: journal["entries"][0].update(tag="0009_gone"), r"0009_gone.sql cannot be read: No such file"),
    ],
)
def test_a_folder_that_is_damaged(
    drizzle_folder: Callable[..., Path], change: Callable[[Any], object], message: str
) -> None:
    directory = drizzle_folder(("0000_a", 5, "select 1"), ("0001_b", 6, "select 2"))
    path = directory / "meta/_journal.json"
    journal = json.loads(path.read_text())
    change(journal)
    path.write_text(json.dumps(journal))
    with pytest.raises(InvalidInput, match=message):
        open_folder(directory)


def test_texts_that_no_server_takes(drizzle_folder: Callable[..., Path]) -> None:
    directory = drizzle_folder(("0000_a", 5, "select '\0'"))
    with pytest.raises(InvalidInput, match="NUL"):
        open_folder(directory)
    (directory / "0000_a.sql").write_bytes(b"select '\xff'")
    with pytest.raises(InvalidInput, match="not UTF-8"):
        open_folder(directory)


def test_the_example_is_found_from_its_project_folder(example_folder: Path) -> None:
    assert open_folder(example_folder.parent).directory == example_folder
    with pytest.raises(InvalidInput, match="newest is 0001_one_title_per_project"):
        open_folder(example_folder, through="0007")


def test_a_ledger_flooded_by_the_tenant_is_not_read_into_memory(
    new_fleet: Callable[[int], Any], drizzle_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(1)
    fleet.sql("t0", "create schema drizzle")
    fleet.sql(
        "t0",
        "create view drizzle.__drizzle_migrations as select 'x' hash, n created_at from generate_series(1, 20000) n",
    )
    result = fleet.roll_out(drizzle_folder(("0000_a", 5, "select 1")))
    assert result.failed[0].failure is not None
    assert "rows or more" in result.failed[0].failure.message
