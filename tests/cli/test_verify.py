"""Backups of real tenants restored for proof on a real cell: what is good, what is not, and what a crash leaves."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tenantry.fleet.backups.container import seal
from tenantry.fleet.backups.verify import NAME
from tenantry.fleet.main import Fleet, open_fleet
from tenantry.fleet.tenants.find import find_ready

if TYPE_CHECKING:
    from conftest import Operator, Query

CHECKS = "TENANTRY_BACKUPS__VERIFY_CHECKS"


@pytest.fixture
def tenant(operator: Operator, query: Query, name: str) -> str:
    """With rows, constraints and an index, and a second database."""
    slug: str = operator.json("create", name)["tenant"]["slug"]
    url = operator.do("url", slug).stdout.strip()
    for statement in (
        "CREATE TABLE users (id serial PRIMARY KEY, email text UNIQUE, age int CHECK (age > 0))",
        "INSERT INTO users (email, age) SELECT 'u' || i, i FROM generate_series(1, 300) AS i",
        "CREATE TABLE orders (user_id int REFERENCES users, at timestamptz)",
        "CREATE INDEX ON orders (at)",
        "CREATE DATABASE other",
    ):
        query(url, statement)
    query(url.replace("/neondb?", "/other?"), "CREATE TABLE notes AS SELECT 'kept' AS text")
    return slug


def _fleet(operator: Operator) -> Fleet:
    target = operator.cell.target
    return open_fleet(target.api_url, target.api_key, target.catalog_url)


def _line(operator: Operator, slug: str) -> dict[str, Any]:
    (line,) = operator.json("backup", "report", slug)["tenants"]
    return line


def _object(vault: Path, slug: str, name: str) -> Path:
    (found,) = sorted((vault / slug).rglob(name))
    return found


def test_a_verified_backup_was_restored_and_compared_and_its_project_is_gone(
    operator: Operator, vault: Path, tenant: str, tmp_path: Path
) -> None:
    (taken,) = operator.json("backup", "run", tenant)["tenants"]
    assert _line(operator, tenant)["standing"] == "unproven"
    operator.do("backup", "report", tenant, "--check", code=1)
    with _fleet(operator) as fleet:
        assert tenant in fleet.proofs().due()
    operator.do("suspend", tenant)

    done = operator.json("backup", "verify", tenant)
    (verified,) = done["tenants"]
    assert (done["passed"], verified["state"], verified["backup"]) == (1, "passed", taken["backup"])
    proof = verified["proof"]
    assert (proof["databases"], proof["tables"], proof["rows"], proof["fingerprints"]) == (2, 3, 301, 2)
    assert proof["indexes"] >= 3
    assert proof["constraints"] >= 4
    assert operator.projects(NAME) == []
    with _fleet(operator) as fleet:
        ready, project_id, _ = find_ready(fleet.catalog, tenant)
        (endpoint,) = fleet.provider_of(ready).endpoints(project_id)
    assert endpoint.state == "idle", "a verification wakes no tenant"

    line = _line(operator, tenant)
    assert (line["standing"], line["verified"], line["rows"]) == ("verified", taken["backup"], 301)
    operator.do("backup", "report", tenant, "--check", "--out", str(tmp_path / "report.md"))
    document = (tmp_path / "report.md").read_text()
    assert "1 of 1 tenants have a backup that was restored and compared within 7 d" in document
    with _fleet(operator) as fleet:
        assert tenant not in fleet.proofs().due()
        assert fleet.verify_backup(tenant)["backup"] == taken["backup"], "as a worker does it"


def test_a_damaged_backup_is_not_good_and_counts_as_none_any_more(operator: Operator, vault: Path, tenant: str) -> None:
    operator.do("backup", "run", tenant)
    operator.do("backup", "verify", tenant)
    dump = _object(vault, tenant, "database-0.dump")
    whole = dump.read_bytes()
    for spoiled in (whole[:-20], whole[:200] + bytes([whole[200] ^ 1]) + whole[201:]):
        dump.write_bytes(spoiled)
        done = operator.json("backup", "verify", tenant, code=1)
        assert done["failed"] == 1
        assert done["tenants"][0]["error"]["code"] == "DAMAGED_BACKUP"
    line = _line(operator, tenant)
    assert (line["standing"], line["verified"]) == ("damaged", None)
    assert operator.projects(NAME) == []
    operator.do("suspend", tenant)
    assert operator.json("backup", "run", tenant)["taken"] == 1
    dump.unlink()
    first = dump.parent.name
    missing = operator.json("backup", "verify", tenant, "--backup", first, code=1)["tenants"][0]
    assert "is missing" in missing["error"]["message"]
    assert operator.json("backup", "verify", tenant)["passed"] == 1


def _write_anew(operator: Operator, slug: str, change: Callable[[dict[str, Any]], None]) -> None:
    """A backup whose content says something else than its dump holds, and is whole in every other respect."""
    with _fleet(operator) as fleet:
        backups = fleet.backups()
        record = backups.find(slug, None)
        opened = backups.open(record)
        contents = json.loads(opened.contents.to_json())
        change(contents)
        sealed = b"".join(seal([json.dumps(contents).encode()], opened.key, compress=True))
        kept = opened.manifest.contents
        opened.vault.write(opened.manifest.key_of(kept), [sealed])
        said = replace(kept, size_bytes=len(sealed), sha256=hashlib.sha256(sealed).hexdigest())
        objects = [said if each.name == kept.name else each for each in opened.manifest.objects]
        manifest = replace(opened.manifest, objects=objects)
        opened.vault.write(f"{record.place}/manifest.json", [manifest.to_json()])
        with fleet.catalog.transaction() as connection:
            connection.exec_driver_sql(
                "UPDATE backup SET manifest_sha256 = %s WHERE id = %s", (manifest.sha256, record.id)
            )


def test_a_backup_that_is_not_what_it_says_is_not_good(operator: Operator, vault: Path, tenant: str) -> None:
    def other_rows(contents: dict[str, Any]) -> None:
        for database in contents["databases"]:
            database["tables"] = {table: count + 1 for table, count in database["tables"].items()}

    def other_schema(contents: dict[str, Any]) -> None:
        for database in contents["databases"]:
            database["fingerprint"] = "0" * 64

    for change, word in ((other_rows, "rows, not"), (other_schema, "fingerprint")):
        operator.do("backup", "run", tenant)
        _write_anew(operator, tenant, change)
        (done,) = operator.json("backup", "verify", tenant, code=1)["tenants"]
        assert (done["state"], done["error"]["code"]) == ("failed", "DAMAGED_BACKUP")
        assert word in done["error"]["message"]


OWN_CHECKS = [
    ("SELECT count(*) = 300 FROM users", ""),
    ("SELECT NULL::boolean", ""),
    ("SELECT count(*) > 300 FROM users", "is not true"),
    ("SELECT count(*) FROM users", "no single boolean"),
    ("SELECT true FROM nowhere", "does not exist"),
    ("DELETE FROM users RETURNING true", "read-only"),
]


def test_own_checks_are_asked_of_what_was_restored(
    operator: Operator, vault: Path, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.do("backup", "run", tenant)
    for query_said, word in reversed(OWN_CHECKS):
        monkeypatch.setenv(CHECKS, json.dumps({"mine": query_said}))
        (done,) = operator.json("backup", "verify", tenant, code=1 if word else 0)["tenants"]
        if word:
            assert word in done["error"]["message"], query_said
            assert _line(operator, tenant)["standing"] == "unproven", "it is whole, and proves nothing"
        else:
            assert done["proof"]["checks"] == ["mine"], query_said


def test_a_vault_that_is_away_says_nothing_about_backups(operator: Operator, vault: Path, tenant: str) -> None:
    operator.do("backup", "run", tenant)
    operator.do("backup", "verify", tenant)
    (vault / tenant).chmod(0)
    away = vault.with_name("away")
    vault.rename(away)
    vault.write_text("a mount that is not there")
    (done,) = operator.json("backup", "verify", tenant, code=1)["tenants"]
    assert done["state"] == "broken"
    vault.unlink()
    away.rename(vault)
    (vault / tenant).chmod(0o700)
    assert _line(operator, tenant)["standing"] == "verified"


@pytest.mark.crash
@pytest.mark.parametrize(
    "point", ["verify.written", "verify.created", "verify.restored", "verify.compared", "verify.recorded"]
)
def test_a_killed_verification_proves_nothing_and_its_project_goes(
    operator: Operator, vault: Path, tenant: str, point: str
) -> None:
    operator.do("backup", "run", tenant)
    operator.run("backup", "verify", tenant, code=-signal.SIGKILL, TENANTRY_FAILPOINTS=f"{point}=kill")
    recorded = point == "verify.recorded"
    assert _line(operator, tenant)["standing"] == ("verified" if recorded else "unproven")
    left = operator.projects(NAME)
    assert len(left) == (point != "verify.written")
    assert not any(project.id in operator.do("doctor").stdout for project in left), "the next one clears it up"
    if not recorded:
        assert "by somebody else" in operator.do("backup", "verify", tenant, code=1).stdout
    with _fleet(operator) as fleet:
        said = fleet.proofs().sweep(silent_seconds=0)
    assert any("had died" in each for each in said)
    assert operator.projects(NAME) == []
    assert operator.json("backup", "verify", tenant)["passed"] == 1
