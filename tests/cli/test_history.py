"""``tenantry migrate history`` and the grown ``status``: what people read, and what a pull request is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Operator, Query


@pytest.fixture(autouse=True)
def without_golden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a folder of its own, and the fleet's golden database is of one folder."""
    monkeypatch.setenv("TENANTRY_MIGRATIONS__GOLDEN", "false")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    directory = tmp_path / "sql"
    directory.mkdir()
    (directory / "0001_people.sql").write_text("create table people (id bigint primary key);")
    (tmp_path / ".git").mkdir()
    return directory


def test_what_was_rolled_out_is_told(
    operator: Operator, name: str, query: Query, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slugs = [operator.json("create", f"{name} {number}")["tenant"]["slug"] for number in range(2)]
    some = ["--dir", str(folder), "--tenants", ",".join(slugs)]
    job = folder.parent / "job.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(job))
    plan = operator.do("migrate", "plan", *some, "--markdown").stdout
    assert plan.startswith("## Migration plan\n\n**2** of 2 tenants are behind `0001`")
    operator.do("migrate", "run", *some)
    assert job.read_text().startswith("## Migration `0001`: finished")

    (folder / "0002_names.sql").write_text("alter table people add column name text;")
    query(operator.do("url", slugs[1]).stdout, "alter table people add column name text")
    file = folder.parent / "summary.md"
    operator.do("migrate", "run", *some, "--summary", str(file), code=3)
    assert "| `42701` | `0002_names.sql:1`, statement 1 |" in file.read_text()
    assert job.read_text().count("## Migration") == 2

    newest = operator.json("migrate", "history")["runs"][0]
    assert newest["target"] == "0002"
    assert newest["run_id"] in operator.do("migrate", "history").stdout
    run = newest["run_id"]
    told = operator.do("migrate", "history", "--run", run[:12]).stdout
    assert f"{slugs[1]}" in told
    assert "42701" in told
    assert operator.do("migrate", "history", "--run", run, "--markdown").stdout == file.read_text()
    document = operator.json("migrate", "history", "--run", run)
    assert [each["tenant"] for each in document["failed"]] == [slugs[1]]

    status = operator.do("migrate", "status", *some).stdout
    assert "skew: 1 migration between the tenants, from 0001 to 0002" in status
    assert "0002_names.sql:1, statement 1" in status.replace(":22", "")
    quarantined = operator.json("migrate", "status", *some)["quarantined"]
    assert [(each["tenant"], each["run_id"]) for each in quarantined] == [(slugs[1], run)]


def test_a_tenants_history_stands_beside_its_ledger(operator: Operator, name: str, query: Query, folder: Path) -> None:
    slug = operator.json("create", name)["tenant"]["slug"]
    assert "no run that is remembered has visited" in operator.do("migrate", "history", "--tenant", slug).stdout
    where = ["--dir", str(folder)]
    operator.do("migrate", "run", *where, "--tenants", slug)
    document = operator.json("migrate", "history", "--tenant", slug, "--check", *where)
    assert [each["applied"] for each in document["runs"]] == [["0001"]]
    assert [(each["version"], each["in_ledger"], each["disagrees"]) for each in document["ledger"]] == [
        ("0001", True, False)
    ]
    query(operator.do("url", slug).stdout, "delete from tenantry.migrations")
    told = operator.do("migrate", "history", "--tenant", slug, "--check", *where).stdout
    assert "and its ledger lacks it: somebody went back since" in told


def test_lint_is_asked_before_a_run(operator: Operator, name: str, folder: Path) -> None:
    slug = operator.json("create", name)["tenant"]["slug"]
    where = ["--dir", str(folder), "--tenants", slug]
    (folder / "0002_fast.sql").write_text("set lock_timeout = 0;")
    assert "lock-timeout-disabled" in operator.do("migrate", "plan", *where, code=1).stdout
    refused = operator.do("migrate", "run", *where, code=1).stderr
    assert "0002_fast.sql:1: lock-timeout-disabled" in refused
    assert "--allow lock-timeout-disabled=REASON" in refused
    done = operator.do("migrate", "run", *where, "--allow", "lock-timeout-disabled=only one tenant, at night")
    assert "1 migrated" in done.stdout
    events = operator.json("log", "--limit", "50")["events"]
    (noted,) = [each for each in events if each["verb"] == "allow lint rule" and "at night" in str(each["detail"])]
    assert noted["detail"]["files"] == ["0002_fast.sql"]
    # What nobody lacks any more is not judged again.
    operator.do("migrate", "run", *where)


@pytest.mark.parametrize(
    "arguments",
    [("--run", "run-1", "--tenant", "a"), ("--check",), ("--markdown",)],
)
def test_what_does_not_go_together_is_refused(operator: Operator, arguments: tuple[str, ...]) -> None:
    operator.do("migrate", "history", *arguments, code=2)
