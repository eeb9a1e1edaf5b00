"""Large objects: they come back with their owners, are counted, and are not committed by themselves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Operator, Query

MINE, THEIRS = 4711, 4712
_PASSWORD = "correct-horse-battery"
_SIZE = "SELECT sum(length(data))::int FROM pg_largeobject"
_BYTES = "(SELECT string_agg(sha256(({0} * i)::text::bytea), '') FROM generate_series(1, 30000) AS i)"
"""A MiB that does not become smaller, and is not the same of each: several pieces of a sealed object."""


@pytest.fixture
def tenant(operator: Operator, query: Query, name: str) -> str:
    """With a large object of the owner's, and one of another role."""
    slug: str = operator.json("create", name)["tenant"]["slug"]
    url = operator.do("url", slug).stdout.strip()
    query(url, f"CREATE TABLE t AS SELECT 1 AS a; CREATE ROLE app LOGIN PASSWORD '{_PASSWORD}'")
    query(url, f"SELECT lo_from_bytea({MINE}, {_BYTES.format(1)})")
    query(re.sub(r"//[^@]+@", f"//app:{_PASSWORD}@", url), f"SELECT lo_from_bytea({THEIRS}, {_BYTES.format(-1)})")
    return slug


def _opened(operator: Operator, query: Query, tenant: str) -> None:
    query(operator.do("url", tenant).stdout, "GRANT app TO neondb_owner")


def test_what_may_not_be_read_is_named_with_what_to_do(
    operator: Operator, query: Query, vault: Path, tenant: str
) -> None:
    failed = operator.json("backup", "run", tenant, code=3)["tenants"][0]["error"]
    assert (
        f"1 large object of other roles in neondb may not be read by neondb_owner, such as {THEIRS} of app"
        in (failed["message"])
    )
    assert not (vault / tenant).exists()
    statement = re.search(r"as neondb_owner: ([^;]+);", failed["next_step"])
    assert statement is not None
    query(operator.do("url", tenant).stdout, statement[1])

    operator.do("backup", "run", tenant)
    restored = operator.json("backup", "restore", tenant, "--as", f"{tenant} again")
    assert not [note for note in restored["notes"] if "WARNING" in note]
    url = operator.do("url", f"{tenant} again").stdout
    assert query(url, _SIZE) == [2 * 30000 * 32]
    owners = "SELECT lomowner::regrole::text FROM pg_largeobject_metadata ORDER BY oid"
    assert query(url, owners) == ["neondb_owner", "app"]
    assert operator.json("backup", "verify", tenant)["passed"] == 1


def test_a_dump_whose_end_is_damaged_leaves_nothing_of_them(
    operator: Operator, query: Query, vault: Path, tenant: str, name: str
) -> None:
    _opened(operator, query, tenant)
    operator.do("backup", "run", tenant)
    (dump,) = vault.glob(f"{tenant}/*/database-0.dump")
    whole = dump.read_bytes()
    dump.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    operator.do("create", f"{name} target")
    url = operator.do("url", f"{name} target").stdout.strip()
    refused = operator.do("backup", "restore", tenant, "--into", url, code=1)
    assert "not what was written" in refused.stderr
    assert query(url, "SELECT count(*)::int FROM pg_class WHERE relname = 't'") == [0]
    assert query(url, "SELECT count(*)::int FROM pg_largeobject_metadata") == [0]

    dump.write_bytes(whole)
    operator.do("backup", "restore", tenant, "--into", url)
    assert query(url, _SIZE) == [2 * 30000 * 32]
    query(url, "DROP TABLE t")
    assert "it has large objects" in operator.do("backup", "restore", tenant, "--into", url, code=1).stderr
