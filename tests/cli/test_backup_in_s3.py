"""Backups in a real S3, from the first to the last verb: taken, verified, restored, and taken again."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tenantry.fleet.backups.open import open_vault

from ..seaweed import BUCKET, Seaweed

if TYPE_CHECKING:
    from conftest import Operator, Query


@pytest.fixture
def bucket(s3: Seaweed, fleet_key: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder of its own in the bucket, named by the environment as a workflow would."""
    url = f"s3://{BUCKET}/{secrets.token_hex(4)}"
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TENANTRY_BACKUPS__VAULT", url)
    monkeypatch.setenv("TENANTRY_BACKUPS__KEY_FROM", f"file:{fleet_key}")
    return url


@pytest.mark.parametrize("count", [pytest.param(3), pytest.param(50, marks=[pytest.mark.slow])])
@pytest.mark.timeout(900)
def test_tenants_go_into_a_bucket_and_come_back(
    operator: Operator, query: Query, s3: Seaweed, bucket: str, name: str, workdir: Path, count: int
) -> None:
    slugs = [f"{name.lower().replace(' ', '-')}-{number:02}" for number in range(count)]
    (workdir / "new.csv").write_text("name\n" + "".join(f"{slug}\n" for slug in slugs))
    operator.do("create", "--csv", str(workdir / "new.csv"))
    first = operator.do("url", slugs[0]).stdout
    query(first, "CREATE TABLE t AS SELECT i, repeat(md5(i::text), 100) AS x FROM generate_series(1, 3000) AS i")
    query(first, "ALTER TABLE t ADD PRIMARY KEY (i)")

    done = operator.json("backup", "run", *slugs)
    assert (done["taken"], done["failed"]) == (count, 0)
    vault = open_vault(bucket, s3.options, credentials=s3.credentials())
    stored = [each.key for each in vault.list("")]
    assert sorted(key.split("/")[0] for key in stored if key.endswith("manifest.json")) == slugs

    done = operator.json("backup", "verify", *slugs)
    assert (done["passed"], done["failed"], done["broken"]) == (count, 0, 0)
    report = operator.json("backup", "report", *slugs)
    assert report["ok"]
    assert {line["standing"] for line in report["tenants"]} == {"verified"}

    restored = operator.json("backup", "restore", slugs[0], "--as", f"{slugs[0]}-back")
    assert restored["rows"] == 3000
    assert query(operator.do("url", f"{slugs[0]}-back").stdout, "SELECT sum(i)::int FROM t") == [4501500]


def test_a_bucket_that_may_not_be_written_to_fails_all_and_says_what_is_missing(
    operator: Operator, s3: Seaweed, bucket: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slug = operator.json("create", name)["tenant"]["slug"]
    for variable, value in s3.environment("reader").items():
        monkeypatch.setenv(variable, value)
    failed = operator.do("backup", "run", slug, code=3)
    assert "s3:PutObject" in failed.stdout + failed.stderr
    for variable, value in s3.environment().items():
        monkeypatch.setenv(variable, value)
    assert [each.key for each in open_vault(bucket).list("") if not each.key.startswith(".keys/")] == []
