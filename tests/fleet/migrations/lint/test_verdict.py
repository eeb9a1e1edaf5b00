"""Verdicts over real folders, with the real squawk: levels, overrides, and nothing said twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tenantry.errors import InvalidInput
from tenantry.fleet.catalog import events
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.main import Fleet
from tenantry.fleet.migrations.formats.base import Migration
from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.formats.sql import SqlFolder
from tenantry.fleet.migrations.lint import squawk
from tenantry.fleet.migrations.lint.rules import rules
from tenantry.fleet.migrations.lint.squawk import HOW_TO_INSTALL, find_squawk
from tenantry.fleet.migrations.lint.verdict import level_of, lint_verdict, parse_allowed, versions_after
from tenantry.fleet.providers.neon_account import NeonAccount

DROPS = "create table t (a int);\nselect 'ä'; alter table users drop column name;\n"


def test_squawk_and_our_rules_are_one_verdict(sql_folder: Callable[..., Path]) -> None:
    folder = open_folder(
        sql_folder(_0001_a=DROPS, _0002_b="set lock_timeout = 0;\nupdate users set x = 1; alter table users add y int;")
    )
    verdict = lint_verdict(folder, {})
    assert [(each.file, each.line, each.rule, each.level, each.source) for each in verdict.findings] == [
        ("0001_a.sql", 2, "ban-drop-column", "warn", "squawk"),
        ("0002_b.sql", 1, "lock-timeout-disabled", "block", "tenantry"),
        ("0002_b.sql", 2, "data-change-with-ddl", "warn", "tenantry"),
    ]
    first = verdict.findings[0]
    assert (first.column, first.statement) == (len("select 'ä'; alter table users ") + 1, 3)
    assert first.excerpt == "alter table users drop column name"
    assert "later rollout" in first.instead
    assert [each.rule for each in verdict.blocking] == ["lock-timeout-disabled"]
    assert verdict.squawk is not None and verdict.squawk.startswith("squawk ")
    assert verdict.notes == ()
    assert verdict.as_dict()["blocked"] is True


def test_without_squawk_the_same_rules_have_the_same_names(sql_folder: Callable[..., Path]) -> None:
    text = (
        "alter table users drop column a, rename b to c, add d int not null, alter e set not null, alter f type bigint;"
        "drop table t; drop index i; create index i on users (x); alter table users rename to u;"
        "alter table u add constraint c check (a > 0);"
    ).replace(", rename b to c", "; alter table users rename b to c; alter table users add g int")
    folder = open_folder(sql_folder(_0001_a=text))
    alone = lint_verdict(folder, {}, without_squawk=True)
    assert alone.notes == (HOW_TO_INSTALL,)
    assert alone.squawk is None
    shared = {rule.name for rule in rules() if rule.shared}
    assert {each.rule for each in alone.findings} == shared
    both = lint_verdict(folder, {})
    assert shared <= {each.rule for each in both.findings}
    assert all(each.source == "squawk" for each in both.findings if each.rule in shared)
    said = [(each.rule, each.statement) for each in both.findings]
    assert len(said) == len(set(said))


def test_the_settings_decide(sql_folder: Callable[..., Path]) -> None:
    folder = open_folder(sql_folder(_0001_a=DROPS + "set lock_timeout = 0; create table s.v (b int);"))
    levels = {"ban-drop-column": "block", "lock-timeout-disabled": "off", "prefer-bigint-over-int": "warn"}
    verdict = lint_verdict(folder, levels | {"require-table-schema": "warn"})  # type: ignore[operator]
    assert {(each.rule, each.level) for each in verdict.findings} == {
        ("ban-drop-column", "block"),
        ("prefer-bigint-over-int", "warn"),
        ("require-table-schema", "warn"),  # one that squawk leaves out by itself
    }
    assert level_of("of-a-newer-squawk", {}) == "warn"


def test_a_rule_that_nobody_has_is_a_mistake(sql_folder: Callable[..., Path]) -> None:
    folder = open_folder(sql_folder(_0001_a=DROPS))
    with pytest.raises(InvalidInput, match="'ban-drop-colum'") as raised:
        lint_verdict(folder, {"renaming-table": "off", "ban-drop-colum": "block"})
    assert raised.value.next_step == "did you mean ban-drop-column?"
    with pytest.raises(InvalidInput, match="'no-such'"):
        lint_verdict(folder, {}, allowed={"no-such": "because"})


def test_what_is_allowed_has_its_reason(sql_folder: Callable[..., Path]) -> None:
    folder = open_folder(
        sql_folder(
            _0001_a="-- tenantry:allow ban-drop-column nobody reads it\nalter table users drop column a;\n"
            "-- tenantry:allow ban-drop-column\nalter table users drop column b;",
            _0002_b="alter table users rename to u;",
        )
    )
    levels = {"ban-drop-column": "block", "renaming-table": "block"}
    verdict = lint_verdict(folder, levels, allowed=parse_allowed(["renaming-table=a view has the old name"]))  # type: ignore[arg-type]
    assert [(each.line, each.allowed and (each.allowed.by, each.allowed.reason)) for each in verdict.findings] == [
        (2, ("comment", "nobody reads it")),
        (4, None),
        (1, ("flag", "a view has the old name")),
    ]
    assert [each.message.endswith("(line 3 allows it and gives no reason)") for each in verdict.blocking] == [True]
    assert verdict.allowed_by_flag == {"renaming-table": ("a view has the old name", ("0002_b.sql",))}
    for said in ["renaming-table", "renaming-table=", "renaming-table=" + "x" * 501]:
        with pytest.raises(InvalidInput):
            lint_verdict(folder, {}, allowed=parse_allowed([said]))


def test_an_override_is_kept_in_the_log_of_events(catalog: Catalog, sql_folder: Callable[..., Path]) -> None:
    folder = open_folder(sql_folder(_0001_a="drop table a;", _0002_b="drop table b; drop table c;"))
    verdict = lint_verdict(folder, {}, allowed={"ban-drop-table": "both are empty", "explicit-lock": "not needed"})
    with Fleet(catalog, NeonAccount.at("http://127.0.0.1:1/api/v2", "none")) as fleet:
        fleet.note_allowed(verdict)
        with catalog.transaction() as connection:
            noted = events.events_page(connection, verb="allow lint rule", limit=10)
    assert [each.detail for each in noted] == [
        {"rule": "ban-drop-table", "reason": "both are empty", "files": ["0001_a.sql", "0002_b.sql"]}
    ]


def test_only_what_is_asked_for_is_judged(sql_folder: Callable[..., Path]) -> None:
    folder = open_folder(sql_folder(_0001_a="drop table a;", _0002_b="drop table b;", _0003_c="drop table c;"))
    assert versions_after(folder, "0001") == {"0002", "0003"}
    verdict = lint_verdict(folder, {}, versions=versions_after(folder, "0001") - {"0003"})
    assert verdict.judged == ("0002",)
    assert [each.version for each in verdict.findings] == ["0002"]
    with pytest.raises(InvalidInput, match="0009"):
        versions_after(folder, "0009")
    assert lint_verdict(folder, {}, versions=()).findings == ()


class MadeSql(SqlFolder):
    """A format whose migrations are programs."""

    def sql_of(self, migration: Migration) -> str | None:
        return None if migration.version == "0002" else "drop table made;"


def test_a_format_may_say_what_its_sql_is(sql_folder: Callable[..., Path]) -> None:
    folder = MadeSql(sql_folder(_0001_a="select 1;", _0002_b="drop table b;"))
    verdict = lint_verdict(folder, {})
    assert verdict.unread == ("0002",)
    assert [(each.version, each.excerpt) for each in verdict.findings] == [("0001", "drop table made")]


def test_squawks_own_settings_and_comments_count(sql_folder: Callable[..., Path]) -> None:
    directory = sql_folder(
        _0001_a="-- squawk-ignore ban-drop-column\nalter table users drop column a; alter table users rename to u;",
        _0002_b="-- a[b]*\ndrop table t;",
    )
    (directory / ".squawk.toml").write_text('excluded_rules = ["renaming-table"]\n')
    assert [each.rule for each in lint_verdict(open_folder(directory), {}).findings] == ["ban-drop-table"]


def test_a_statement_outside_of_transactions_is_judged_as_such(sql_folder: Callable[..., Path]) -> None:
    folder = open_folder(sql_folder(_0001_a="create index concurrently i on t (a);"))
    levels = {"ban-concurrent-index-creation-in-transaction": "block"}
    assert lint_verdict(folder, levels).findings == ()  # type: ignore[arg-type]


def test_the_example_of_the_guide_passes(example_folder: Path) -> None:
    assert lint_verdict(open_folder(example_folder), {}).blocking == ()


def test_squawk_is_the_one_of_this_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_squawk()
    assert found is not None
    assert squawk.version_of(found).startswith("squawk ")
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_squawk() is None
    broken = tmp_path / "squawk"
    broken.write_text("#!/bin/sh\necho broken >&2; exit 3\n")
    broken.chmod(0o755)
    assert find_squawk() == broken


def test_a_squawk_that_does_not_answer_is_named(sql_folder: Callable[..., Path], tmp_path: Path) -> None:
    broken = tmp_path / "squawk"
    broken.write_text("#!/bin/sh\necho broken >&2; exit 3\n")
    broken.chmod(0o755)
    folder = open_folder(sql_folder(_0001_a="select 1;"))
    with pytest.raises(Exception, match="squawk ended with 3 and no report: broken"):
        lint_verdict(folder, {}, program=broken)
