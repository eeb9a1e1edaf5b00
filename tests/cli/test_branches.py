"""Branches, restores and snapshots as the operator types them, on a real cell."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Operator, Query


@pytest.fixture
def acme(operator: Operator, name: str) -> str:
    """The slug of a tenant of its own."""
    return str(operator.json("create", name)["tenant"]["slug"])


@pytest.fixture
def ask(operator: Operator, acme: str, query: Query) -> Callable[[str], list[Any]]:
    """SQL through the one connection string that the tenant has had from the beginning."""
    url = operator.do("url", acme).stdout
    return lambda sql: query(url, sql)


def test_a_developers_branch_from_create_to_delete(operator: Operator, query: Query) -> None:
    """The only test that uses the fleet's non-production project."""
    assert operator.json("branch", "list") == {"branches": []}
    assert "branch url main" in operator.do("branch", "list").stderr
    assert "no branch 'dev'" in operator.do("branch", "reset", "dev", code=1).stderr
    main = operator.do("branch", "url", "main").stdout
    query(main, "create table t (n int); insert into t values (1)")

    created = operator.json("branch", "create", "dev", "--from", "main", "--expires", "7d")
    assert created["created"] is True
    left = datetime.fromisoformat(created["branch"]["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=6) < left <= timedelta(days=7)
    assert "dev was there already" in operator.do("branch", "create", "dev").stdout
    dev = operator.do("branch", "url", "dev").stdout
    query(dev, "insert into t values (2)")
    query(main, "insert into t values (3)")
    assert sorted(query(dev, "select n from t")) == [1, 2]
    assert "is what main is now" in operator.do("branch", "reset", "dev").stdout
    assert sorted(query(dev, "select n from t")) == [1, 3]
    assert operator.run("branch", "psql", "dev", "-X", "-At", "-c", "select max(n) from t").stdout == "3\n"

    assert [b["name"] for b in operator.json("branch", "list")["branches"]] == ["main", "dev"]
    refused = operator.do("branch", "delete", "dev", code=2).stderr
    assert "this would delete branch dev of the non-production project" in refused
    assert "--yes" in refused
    assert operator.json("branch", "delete", "dev", "--yes")["deleted"] is True
    assert "no branch 'dev'" in operator.do("branch", "delete", "dev", "--yes", code=1).stderr
    assert "default branch" in operator.do("branch", "delete", "main", "--yes", code=1).stderr


def test_somebody_drops_a_table_and_the_tenant_goes_back(
    operator: Operator, acme: str, ask: Callable[[str], list[Any]], workdir: Path, query: Query
) -> None:
    (workdir / "0001_t.sql").write_text("create table t (n int);")
    operator.do("migrate", "run", "--dir", str(workdir), "--tenants", acme)
    ask("insert into t values (1); create role app login password 'then'")
    moment = datetime.now(UTC).isoformat()
    ask("insert into t values (2)")
    ask("drop table t")

    shown = operator.run("restore", acme, "--to", moment.removesuffix("+00:00"), "--dry-run", TZ="UTC").stderr
    assert "(UTC, this machine's zone)" in shown
    assert "the present is kept as branch main-until-" in shown
    assert "nothing was changed" in operator.do("restore", acme, "--to", moment, code=2).stderr
    assert "future" in operator.do("restore", acme, "--to", "2199-01-01T00:00Z", "--yes", code=2).stderr
    assert ask("select count(*) from pg_class where relname = 't'") == [0]

    done = operator.json("restore", acme, "--to", moment, "--yes")
    assert ask("select n from t") == [1]
    assert done["result"]["roles_of_the_past"] == ["app"]
    assert operator.json("show", acme)["tenant"]["schema_version"] is None
    assert operator.json("migrate", "run", "--dir", str(workdir), "--tenants", acme)["counts"]["current"] == 1

    kept = done["result"]["preserved_as"]
    undone = operator.do("restore", acme, "--from", kept, "--yes").stdout
    assert f"restored {acme} to branch {kept} as it is now" in undone
    assert ask("select count(*) from pg_class where relname = 't'") == [0]
    # A moment that was replaced is still in reach, from the branch that holds it.
    operator.do("branch", "create", "look", "--tenant", acme, "--from", kept, "--at", moment)
    assert query(operator.do("branch", "url", "look", "--tenant", acme).stdout, "select n from t") == [1]


def test_a_time_means_what_was_seen_then_whatever_was_restored_since(
    operator: Operator, acme: str, ask: Callable[[str], list[Any]]
) -> None:
    def now() -> str:
        return datetime.now(UTC).isoformat()

    ask("create table t (n int); insert into t values (1)")
    first = now()
    ask("insert into t values (2)")
    second = now()
    operator.do("snapshot", "create", acme, "two")
    ask("insert into t values (3)")
    operator.do("restore", acme, "--to", first, "--yes")
    assert ask("select n from t") == [1]
    between = now()
    ask("insert into t values (4)")
    # Ends an era of its own, whatever the provider calls what was there.
    kept = operator.json("snapshot", "restore", acme, "two", "--yes")["result"]["preserved_as"]
    assert kept.startswith("main-until-")
    assert sorted(ask("select n from t")) == [1, 2]

    shown = operator.do("restore", acme, "--to", second, "--dry-run").stderr
    assert "main was restored since; what it showed then is in the past of main-until-" in shown
    for moment, seen in ((second, [1, 2]), (between, [1]), (now(), [1, 2]), (first, [1])):
        done = operator.json("restore", acme, "--to", moment, "--yes")
        assert sorted(ask("select n from t")) == seen
        assert done["plan"]["source"].startswith("main-until-")
        ask("insert into t values (5)")
    last = now()
    ask("insert into t values (6)")
    done = operator.json("restore", acme, "--to", last, "--yes")
    assert (done["plan"]["source"], sorted(ask("select n from t"))) == ("main", [1, 5])


def test_a_snapshot_is_taken_looked_at_and_gone_back_to(
    operator: Operator, acme: str, ask: Callable[[str], list[Any]], query: Query
) -> None:
    ask("create table t (n int); insert into t values (1)")
    assert operator.json("snapshot", "create", acme, "before", "--expires", "1d")["snapshot"]["branch"] == "main"
    assert "already exists" in operator.do("snapshot", "create", acme, "before", code=1).stderr
    ask("insert into t values (2)")
    operator.do("snapshot", "restore", acme, "before", "--branch", "look")
    assert query(operator.do("branch", "url", "look", "--tenant", acme).stdout, "select n from t") == [1]
    assert ask("select count(*) from t") == [2]

    assert "nothing was changed" in operator.do("snapshot", "restore", acme, "before", code=2).stderr
    done = operator.json("snapshot", "restore", acme, "before", "--yes")
    assert ask("select n from t") == [1]
    kept = done["result"]["preserved_as"]
    assert query(operator.do("branch", "url", kept, "--tenant", acme).stdout, "select count(*) from t") == [2]
    assert "before" in operator.do("snapshot", "list", acme).stdout
    assert "nothing was deleted" in operator.do("snapshot", "delete", acme, "before", code=2).stderr
    assert operator.json("snapshot", "delete", acme, "before", "--yes")["deleted"] is True
    assert operator.json("snapshot", "list", acme) == {"snapshots": []}
