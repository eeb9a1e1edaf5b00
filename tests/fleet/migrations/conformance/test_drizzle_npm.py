"""Three versions of the real drizzle-kit: each goes on where we stopped, and we where it did, on the same folder."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.plan import states_of

pytestmark = pytest.mark.timeout(600)
"""The first one installs the tool."""

LEDGER = "select id, hash, created_at from drizzle.__drizzle_migrations order by id"
COLUMNS = (
    "select column_name, data_type, is_nullable, column_default from information_schema.columns"
    " where table_schema = 'drizzle' order by ordinal_position"
)


def roll_out(fleet: Any, directory: Path, slug: str, through: str | None = None) -> str:
    result = fleet.roll_out(directory, [slug], through=through, trust_catalog=False)
    assert not result.failed, result.failed
    return result.results[0].outcome


@pytest.mark.node
def test_either_tool_goes_on_where_the_other_stopped(
    new_fleet: Callable[[int], Any], drizzle_kit: Any, example_folder: Path, tmp_path: Path
) -> None:
    folder = drizzle_kit.converted(example_folder, tmp_path / "drizzle")
    first = open_folder(folder).migrations[0].version
    fleet = new_fleet(3)
    drizzle_kit.migrate(folder, fleet.dsns["t0"])
    theirs = fleet.sql("t0", LEDGER)
    assert len(theirs) == 2
    assert roll_out(fleet, folder, "t0") == "current"

    assert roll_out(fleet, folder, "t1") == "applied"
    assert fleet.sql("t1", LEDGER) == theirs
    assert fleet.sql("t1", COLUMNS) == fleet.sql("t0", COLUMNS)
    drizzle_kit.migrate(folder, fleet.dsns["t1"])
    assert fleet.sql("t1", LEDGER) == theirs

    assert roll_out(fleet, folder, "t2", through=first) == "applied"
    drizzle_kit.migrate(folder, fleet.dsns["t2"])
    assert fleet.sql("t2", LEDGER) == theirs
    assert roll_out(fleet, folder, "t2") == "current"
    # Asked again without a word of trust, the catalog has what each ledger says.
    assert set(fleet.known.values()) == {states_of(open_folder(folder))[-1]}


ODD = [
    ("0000_crlf", 1767225600000, ""),
    ("0001_several", 1767225601000, "create table b (x int); create table c (x int);--> statement-breakpoint\n"),
    ("0002_empty", 1767225602000, "-- Custom SQL migration file, put your code below! --"),
    (
        "0003_last",
        1767225603000,
        "insert into b values (1)--> statement-breakpoint\n\n--> statement-breakpoint\ninsert into c values (1)",
    ),
]


@pytest.mark.node
def test_texts_that_are_easily_hashed_wrongly(
    new_fleet: Callable[[int], Any], drizzle_kit: Any, drizzle_folder: Callable[..., Path], tmp_path: Path
) -> None:
    directory = drizzle_folder(*ODD)
    (directory / "0000_crlf.sql").write_bytes('create table "größe" (\r\n x int\r\n);\r\n'.encode())
    if drizzle_kit.first:
        directory = as_v1(directory, tmp_path / "v1")
    fleet = new_fleet(2)
    drizzle_kit.migrate(directory, fleet.dsns["t0"])
    assert roll_out(fleet, directory, "t0") == "current"
    assert roll_out(fleet, directory, "t1") == "applied"
    assert fleet.sql("t1", LEDGER) == fleet.sql("t0", LEDGER)


def as_v1(old: Path, new: Path) -> Path:
    """The form of 1.x, made by hand: ``drizzle-kit up`` wants snapshots, and keeps no text that it does not know."""
    kept: list[object] = []
    for entry in json.loads((old / "meta/_journal.json").read_text())["entries"]:
        at = datetime.fromtimestamp(entry["when"] / 1000, UTC)
        folder = new / f"{at:%Y%m%d%H%M%S}_{entry['tag'][5:]}"
        folder.mkdir(parents=True)
        (folder / "migration.sql").write_bytes((old / f"{entry['tag']}.sql").read_bytes())
        before = kept[-1] if kept else "00000000-0000-0000-0000-000000000000"
        snapshot = {"version": "9", "dialect": "postgres", "id": str(uuid.uuid4()), "prevIds": [before]}
        rest = {"type": "diff", "deltas": []} if kept else {"type": "base", "ddl": []}
        (folder / "snapshot.json").write_text(json.dumps({**snapshot, **rest, "footprints": []}))
        kept.append(snapshot["id"])
    return new


@pytest.mark.node
def test_a_ledger_of_the_old_form_gets_its_names_as_from_the_new_drizzle_kit(
    new_fleet: Callable[[int], Any], drizzle_kit: Any, drizzle_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """Tenants migrated with 0.x by either of us go on with the folder of 1.x."""
    if not drizzle_kit.first:
        pytest.skip("the ledger has one form up to 0.x")
    new = as_v1(drizzle_folder(*ODD), tmp_path / "v1")
    fleet = new_fleet(2)
    for slug in ("t0", "t1"):
        assert roll_out(fleet, drizzle_folder(*ODD[:3]), slug) == "applied"
    assert roll_out(fleet, new, "t0") == "applied"
    drizzle_kit.migrate(new, fleet.dsns["t1"])
    named = "select id, hash, created_at, name, applied_at is null from drizzle.__drizzle_migrations order by id"
    assert fleet.sql("t0", named) == fleet.sql("t1", named)
    assert len(fleet.sql("t0", named)) == 4
    assert roll_out(fleet, new, "t1") == "current"
    drizzle_kit.migrate(new, fleet.dsns["t0"])
    assert len(fleet.sql("t0", named)) == 4
