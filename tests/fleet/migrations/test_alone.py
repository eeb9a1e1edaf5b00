"""What is read of statements that no transaction holds: names as the catalogs have them, or no for an answer."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from tenantry.fleet.migrations.alone import (
    CreateIndex,
    Database,
    DetachPartition,
    DropIndex,
    Reindex,
    Repeatable,
    folded,
    read,
    same_definition,
)
from tenantry.fleet.migrations.statements import split


def read_one(sql: str) -> object:
    (statement,) = split(sql)
    assert statement.obstacle == "outside_transaction"
    return read(sql, statement)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("drop index concurrently i", DropIndex("i")),
        ('DROP INDEX CONCURRENTLY IF EXISTS app."I" CASCADE', DropIndex('app."I"')),
        ("reindex (verbose, concurrently) table a.t", Reindex("table", "a.t")),
        ("reindex table concurrently t", Reindex("table", "t")),
        ('reindex index concurrently "I"', Reindex("index", '"I"')),
        ("reindex schema s", Reindex("schema", "s")),
        ("reindex database", Reindex("database", None)),
        ("alter table only a.t detach partition p concurrently", DetachPartition("a.t", "p")),
        ("create database D with owner x", Database("create", "d")),
        ('drop database if exists "D"', Database("drop", "D")),
        ("vacuum (analyze) t", Repeatable()),
        ("create index concurrently on t (x)", "unnamed_index"),
        ("create index concurrently if not exists i on t (x)", CreateIndex("i", "t", ("using", "btree", "(", "x", ")"),
            unique=False, if_not_exists=True)),
        ('create unique index concurrently "I""" on only a . "T" using gin (x)', CreateIndex('I"', 'a."T"',
            ("using", "gin", "(", "x", ")"), unique=True, if_not_exists=False)),
        ('create index concurrently U&"i" on t (x)', "unreadable"),
        ('create index concurrently i on U&"t" (x)', "unreadable"),
        ("create index i on t (concurrently)", "unreadable"),
        ('drop index concurrently U&"i"', "unreadable"),
        ('create database U&"d"', "unreadable"),
        ("alter table t rename concurrently to b", "unreadable"),
    ],
)  # fmt: skip
def test_read(sql: str, expected: object) -> None:
    assert read_one(sql) == expected


NAMES = ["Plain", '"Quoted ""Name"""', "größe_Ä", "x" * 70, '"' + "é" * 40 + '"', '"ends é' + "x" * 61 + 'é"']


@pytest.mark.parametrize("name", NAMES)
def test_names_are_those_of_the_catalog(new_database: Callable[[], str], name: str) -> None:
    tables = "select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"
    with psycopg.connect(new_database(), autocommit=True) as connection:
        connection.execute(f"create table {name} ()".encode())
        assert connection.execute(tables.encode()).fetchone() == (folded(name),)


def test_definitions_are_compared_as_postgres_writes_them(new_database: Callable[[], str]) -> None:
    """What is made by the statement is the same; each variant of it is not."""
    heads = ["create unique index concurrently", "create index concurrently"]
    tails = [
        '("Name")', "(x)", "(x DESC)", "using hash (x)", "(x, y)", "(lower(z))", "(x) include (y)",
        "(x) nulls not distinct", "(x) with (fillfactor='70')", "(x) where (y > 0)",
    ]  # fmt: skip
    made: dict[str, str] = {}
    with psycopg.connect(new_database(), autocommit=True) as connection:
        connection.execute('create table t (x int, y int, z text, "Name" text)')
        for head in heads:
            for number, tail in enumerate(tails):
                if tail.startswith("using") and "unique" in head:
                    continue
                sql = f"{head} i{number} on t {tail}"
                connection.execute(sql.encode())
                row = connection.execute(f"select pg_get_indexdef('i{number}'::regclass)".encode()).fetchone()
                assert row is not None
                made[sql] = str(row[0])
                connection.execute(f"drop index i{number}".encode())
    for sql in made:
        wanted = read_one(sql)
        assert isinstance(wanted, CreateIndex)
        assert [other for other, indexdef in made.items() if same_definition(wanted, indexdef)] == [sql]
