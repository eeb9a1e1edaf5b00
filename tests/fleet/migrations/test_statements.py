"""Where statements begin and end, and which may not run inside a transaction."""

from __future__ import annotations

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantry.fleet.migrations.statements import split


def texts(sql: str) -> list[str]:
    return [sql[each.start : each.end] for each in split(sql)]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("", []),
        (" ;; -- x;\n /* a /* ; */ b; */ ;", []),
        ("select 1", ["select 1"]),
        ("select ';'; select 2;", ["select ';'", "select 2"]),
        ("select 'it''s;'; select 2", ["select 'it''s;'", "select 2"]),
        (r"select e'\';'; select 2", [r"select e'\';'", "select 2"]),
        (r"select '\'; select 2", [r"select '\'", "select 2"]),
        ('create table "a;""b" (x int); select 2', ['create table "a;""b" (x int)', "select 2"]),
        ("do $$ begin a; end $$; select $x$ $$;$x; $x$", ["do $$ begin a; end $$", "select $x$ $$;$x; $x$"]),
        ("select a$1; select 2", ["select a$1", "select 2"]),
        ("create rule r as on insert to t do (select 1; select 2); x", [
            "create rule r as on insert to t do (select 1; select 2)", "x"]),
        ("create or replace function f() returns int begin atomic select case 1 when 1 then 2 end; end; x", [
            "create or replace function f() returns int begin atomic select case 1 when 1 then 2 end; end", "x"]),
        ("select begin; select 2", ["select begin", "select 2"]),
        ("select 'open", ["select 'open"]),
        ("select /* open ; ", ["select"]),
    ],
)  # fmt: skip
def test_split(sql: str, expected: list[str]) -> None:
    assert texts(sql) == expected


@given(st.text(alphabet="ab;'\"$/*-\\() \n\te", max_size=60))
def test_any_text_is_split_into_ordered_parts_that_lie_within_it(sql: str) -> None:
    end = 0
    for each in split(sql):
        assert end <= each.start < each.end <= len(sql)
        end = each.end


FRAGMENTS = st.sampled_from(
    ["select 1", "select ';'", "select $a$;$a$", "/* ; */ select 2", "select e'\\';'", "-- ;\nselect 3", "", " ",
     "create or replace function f() returns int language sql begin atomic select 1; end", "select U&'\\0061;'",
     "do $$ begin perform 1; end $$", 'select 1 as ";"', "select (';')", "select '\\'", "select 1 /* /* ; */ ; */"]
)  # fmt: skip


@pytest.fixture(scope="module")
def connection(postgres_server: str):
    with psycopg.connect(postgres_server, dbname="postgres", autocommit=True) as connection:
        yield connection


@settings(max_examples=60, deadline=None)
@given(st.lists(FRAGMENTS, max_size=6))
def test_the_server_counts_the_same_statements(connection: psycopg.Connection, parts: list[str]) -> None:
    """The failing statement is found by counting results, so our count is the server's."""
    sql = ";\n".join(parts)
    connection.execute("begin")
    cursor = connection.execute(sql.encode())
    results = 1 if split(sql) else 0
    while cursor.nextset():
        results += 1
    connection.execute("rollback")
    assert results == len(split(sql))


@pytest.mark.parametrize(
    ("sql", "obstacle"),
    [
        ("CREATE UNIQUE INDEX CONCURRENTLY i ON t (x)", "outside_transaction"),
        ("drop index concurrently i", "outside_transaction"),
        ("reindex (verbose, concurrently) table t", "outside_transaction"),
        ("reindex table concurrently t", "outside_transaction"),
        ("alter table t detach partition p concurrently", "outside_transaction"),
        ("VACUUM t", "outside_transaction"),
        ("create database d", "outside_transaction"),
        ("alter system set x = 1", "server_wide"),
        ("create tablespace s location '/x'", "server_wide"),
        ("discard all", "discard"),
        ("discard plans", None),
        ("reindex schema s", "outside_transaction"),
        ("cluster verbose", "outside_transaction"),
        ("cluster t", None),
        ("/* c */ Begin", "transaction_control"),
        ("start transaction", "transaction_control"),
        ("commit", "transaction_control"),
        ("rollback", "transaction_control"),
        ("end", "transaction_control"),
        ("copy t (a, b) from stdin with (format csv)", "copy_stream"),
        ("copy t to stdout", "copy_stream"),
        ("\\set x 1", "psql_command"),
        ("rollback to savepoint s", None),
        ("rollback work to s", None),
        ("savepoint s", None),
        ("release s", None),
        ("refresh materialized view concurrently v", None),
        ("copy t from '/tmp/x'", None),
        ("create index i on t (x)", None),
        ("comment on index i is 'create index concurrently'", None),
        ('create index "concurrently" on t (x)', None),
        ("insert into t values ('commit')", None),
        ("do $$ begin commit; end $$", None),
    ],
)
def test_obstacles(sql: str, obstacle: str | None) -> None:
    (statement,) = split(sql)
    assert statement.obstacle == obstacle


@pytest.mark.parametrize(
    ("sql", "temporary", "session"),
    [
        ("create temp table t (x int)", True, False),
        ("create local temporary table t (x int)", True, False),
        ("create or replace temp view v as select 1", True, False),
        ("create table temp (x int)", False, False),
        ("set search_path = app", False, True),
        ("set session role app", False, True),
        ("set local role app", False, False),
        ("set constraints all deferred", False, False),
        ("reset role", False, True),
        ("select pg_catalog.set_config('search_path', '', false)", False, True),
        ("select set_config from t", False, True),
        ("insert into t select set_config('a.b', '', false)", False, False),
    ],
)
def test_what_ends_with_the_session(sql: str, temporary: bool, session: bool) -> None:
    (statement,) = split(sql)
    assert (statement.makes_temporary_table, statement.sets_session) == (temporary, session)
