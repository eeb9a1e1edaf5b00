"""Our own rules, each with SQL that it objects to and the SQL that one writes instead."""

from __future__ import annotations

import pytest

from tenantry.fleet.migrations.lint.rules import rules
from tenantry.fleet.migrations.lint.script import read_script

OBJECTIONABLE = [
    ("lock-timeout-disabled", "SET lock_timeout = 0;", 1),
    ("lock-timeout-disabled", "set local lock_timeout to '0s'", 1),
    ("lock-timeout-disabled", "SET SESSION lock_timeout TO DEFAULT", 1),
    ("lock-timeout-disabled", "create table a (); RESET lock_timeout;", 2),
    ("lock-timeout-disabled", "reset all", 1),
    ("lock-timeout-disabled", "select pg_catalog.set_config('lock_timeout', '0', true)", 1),
    ("setting-outlives-migration", "set search_path = app, public; create table a ();", 1),
    ("setting-outlives-migration", "SELECT pg_catalog.set_config('search_path', '', false);", 1),
    ("setting-outlives-migration", "set local role reader; select 1", 1),
    ("data-change-with-ddl", "alter table t add column a int; update t set a = b", 2),
    ("data-change-with-ddl", 'delete from only "t"; alter table only public.u drop column b', 1),
    ("mixed-nontransactional", "create table a (); create index concurrently i on b (c);", 2),
    ("explicit-lock", "lock table t in exclusive mode", 1),
    ("drop-cascade", "drop table t cascade", 1),
    ("drop-cascade", "alter table t drop column a, drop constraint b cascade", 1),
    ("enum-value-used-at-once", "alter type mood add value if not exists 'calm'; update t set m = 'calm' where a", 2),
    ("require-concurrent-index-creation", "create unique index on app.t using btree (a)", 1),
    ("require-concurrent-index-deletion", "drop index i", 1),
    ("ban-drop-column", "alter table if exists t add column b int, drop column a", 1),
    ("ban-drop-column", "alter table t drop a", 1),
    ("ban-drop-table", "drop table if exists t", 1),
    ("renaming-column", 'alter table t rename column a to b', 1),
    ("renaming-table", "alter table t rename to u", 1),
    ("adding-required-field", "alter table t add column a numeric(10, 2) not null", 1),
    ("adding-not-nullable-field", "alter table t alter column a set not null", 1),
    ("changing-column-type", "alter table t alter a type bigint", 1),
    ("changing-column-type", "alter table t alter column a set data type bigint using a::bigint", 1),
    ("constraint-missing-not-valid", "alter table t add constraint c check (a > 0)", 1),
    ("constraint-missing-not-valid", "alter table t add foreign key (a) references u (id)", 1),
]  # fmt: skip

FINE = [
    "set local lock_timeout = '2s'",
    "set lock_timeout = 500",
    "set search_path = app; create table a (); reset search_path;",
    "set search_path = app; create table a (); set search_path to default",
    "select set_config('search_path', '', true); reset search_path; set lock_timeout = '1s'",
    "alter table t add column a int; update t set a = b where id < 10",
    "create table t (a int); alter table t add b int; update t set b = a",
    "update t set a = 1; delete from u",
    "create index concurrently i on t (a)",
    "create table t (a int); create index on t (a); alter table t add constraint c check (a > 0)",
    'create table "t" (a int); drop table t',
    "alter type mood add value 'calm'; select 'other'",
    "create type mood as enum (); alter type mood add value 'calm'; select 'calm'",
    "alter table t add column a int not null default 0, add column b bigserial not null",
    "alter table t add column id bigint not null generated always as identity",
    "alter table t alter column type set default 'x'",
    "alter table t add constraint c check (a > 0) not valid",
    "alter table t validate constraint c",
    "-- drop table t cascade; lock table t\nselect 'alter table t drop column a; set lock_timeout = 0'",
    "create function f() returns void language sql as $$ update t set a = 1; drop table t cascade $$",
    'select "set lock_timeout = 0" from t',
    "rollback to savepoint a",
]


def found(text: str) -> list[tuple[str, int]]:
    script = read_script(text)
    return [(rule.name, hit.statement.number) for rule in rules() for hit in rule.check(script)]


@pytest.mark.parametrize(("rule", "text", "statement"), OBJECTIONABLE)
def test_each_rule_objects(rule: str, text: str, statement: int) -> None:
    assert (rule, statement) in found(text)


@pytest.mark.parametrize("text", FINE)
def test_what_is_fine_is_left_alone(text: str) -> None:
    assert found(text) == []


def test_every_rule_has_an_example() -> None:
    assert {rule.name for rule in rules()} == {rule for rule, _, _ in OBJECTIONABLE}


def test_a_hit_says_what_to_write_instead() -> None:
    for _, text, _ in OBJECTIONABLE:
        script = read_script(text)
        assert all(hit.message and hit.instead for rule in rules() for hit in rule.check(script))


def test_a_comment_is_about_its_statement() -> None:
    text = """\
-- tenantry:allow-file drop-cascade: all tenants were looked at
-- tenantry:allow ban-drop-column, ban-drop-table no release uses it
alter table t
    -- tenantry:allow renaming-column
    drop column a;  -- tenantry:allow explicit-lock - behind it
select '-- tenantry:allow explicit-lock in a string';
-- tenantry:allow explicit-lock of nothing
"""
    said = [(sorted(each.rules), each.reason, each.line, each.statement) for each in read_script(text).allowances]
    assert said == [
        (["drop-cascade"], "all tenants were looked at", 1, None),
        (["ban-drop-column", "ban-drop-table"], "no release uses it", 2, 1),
        (["renaming-column"], "", 4, 1),
        (["explicit-lock"], "behind it", 5, 1),
    ]


def test_long_and_broken_texts_are_read_to_their_end() -> None:
    many = "insert into t values " + ", ".join(f"({number}, 'x')" for number in range(20_000))
    for text in [many, "select 'open", 'select "open', "/* /* open */ select 1", "select $a$ open", "", ";;", "\\d"]:
        read_script(text)
