"""Schema-only branches: all of the structure, none of the rows, in no file; on real Postgres."""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenantry.cell.loops.retention import collect
from tenantry.cell.model import (
    BranchCreate,
    BranchEndpointCreate,
    BranchRestore,
    ConnectionRequest,
    DatabaseCreate,
    ProjectChange,
    SchemaPoint,
)
from tenantry.errors import Conflict, InvalidInput, NotFound

SECRET = "geheim4711"

STRUCTURE = f"""
create role app login password 'x';
grant app to neondb_owner;
create type mood as enum ('low', 'high');
create domain positive as int check (value > 0);
create table customer (
    id serial primary key, name text unique, mood mood default 'low', age positive,
    seen int generated always as identity, twice int generated always as (length(name) * 2) stored, note text);
alter table customer alter note set storage external;
comment on table customer is 'who pays';
create index by_expression on customer (lower(name)) where age > 3;
create index by_words on customer using gin (to_tsvector('english', note));
create statistics pair on name, age from customer;
create table payment (id int primary key, customer_id int not null references customer (id) on delete cascade);
alter table payment enable row level security;
create policy mine on payment using (customer_id > 0);
create unlogged table fleeting (n int primary key);
create table event (at date, what text, primary key (at, what)) partition by range (at);
create table event_2026 partition of event for values from ('2026-01-01') to ('2027-01-01');
create materialized view names as select name from customer;
create unique index on names (name);
create view both_names as select * from names;
create function shout() returns trigger language plpgsql as $$ begin new.name := upper(new.name); return new; end $$;
create trigger loud before insert on customer for each row execute function shout();
create sequence counter start 100;
grant select on customer to app;
alter default privileges grant select on tables to app;
alter database neondb set work_mem = '5MB';
insert into customer (name, age, note)
    select '{SECRET}' || n, n, repeat('{SECRET}', 500) from generate_series(1, 300) n;
insert into payment select n, n from generate_series(1, 300) n;
insert into fleeting select generate_series(1, 300);
insert into event select date '2026-01-01' + n, '{SECRET}' || n from generate_series(1, 300) n;
refresh materialized view names;
select nextval('counter') from generate_series(1, 50);
select lo_from_bytea(4711, '{SECRET}');
analyze
"""

HOSTILE = """
create table marks (what text);
create function grab() returns int language plpgsql volatile as $$
begin
    begin execute 'reset role'; execute 'alter role neondb_owner superuser'; exception when others then null; end;
    begin execute 'reset session authorization'; execute 'alter role neondb_owner superuser';
    exception when others then null; end;
    begin execute 'insert into public.marks values (current_user)'; exception when others then null; end;
    return 1;
end $$;
create function looks_harmless(int) returns int language plpgsql immutable as $$ begin return public.grab(); end $$;
create function on_truncate() returns trigger language plpgsql as $$ begin perform public.grab(); return null; end $$;
create table bait (n int check (n + looks_harmless(1) > 0));
create index on bait ((n + looks_harmless(1)));
create table pieces (n int) partition by range ((n + looks_harmless(1)));
create table piece partition of pieces for values from (0) to (10);
create trigger always before truncate on bait for each statement execute function on_truncate();
alter table bait enable always trigger always;
create materialized view seen as select public.looks_harmless(n) from bait;
create function public.eq(oid, oid) returns bool language plpgsql as $$
begin perform public.grab(); return true; end $$;
create operator public.= (leftarg = oid, rightarg = oid, function = public.eq);
truncate marks;
alter database neondb set search_path = public, pg_catalog;
alter database neondb set default_transaction_read_only = on;
alter database neondb set role = 'neondb_owner'
"""


def bytes_of(tree: Path) -> bytes:
    """Of all files that are there: those of a running instance come and go while they are looked at."""
    found: list[bytes] = []
    for place, _, names in os.walk(tree):
        for path in (Path(place) / name for name in sorted(names)):
            with contextlib.suppress(FileNotFoundError):
                found.append(path.read_bytes() if path.is_file() else b"")
    return b"".join(found)


async def schema_only(one: Any, name: str = "bare", **how: Any) -> Any:
    request = BranchCreate(name=name, init_source="schema-only", endpoints=(BranchEndpointCreate(),), **how)
    return (await one.cell.create_branch(one.project, request)).branch


async def head_directory(one: Any, branch: Any) -> Path:
    found = await one.bare.context.state.read(lambda t: t.branch(branch.id))
    return one.bare.context.layout.head(one.project, found.head_id)


async def dump(one: Any, branch: Any, database: str = "neondb") -> str:
    return await one.cell.branch_schema(one.project, SchemaPoint(branch_id=branch, database_name=database))


async def count(one: Any, table: str, branch: Any) -> int:
    ((number,),) = await one.run(f"select count(*) from {table}", branch)
    return number


async def execute(one: Any, text: str, branch: Any = None) -> None:
    await one.run(text, branch)


async def test_all_of_the_structure_and_none_of_the_rows(tenant: Any) -> None:
    async with tenant() as one:
        await one.run("drop table t")
        await execute(one, STRUCTURE)
        other = DatabaseCreate(name="Other db", owner_name="app")
        await one.cell.create_database(one.project, one.main, other)
        await one.run('alter database "Other db" connection limit 7')
        branch = await schema_only(one)
        assert (branch.parent_id, branch.parent_lsn, branch.init_source) == (None, None, "schema-only")
        assert (branch.state, branch.default, branch.protected) == ("ready", False, False)
        directory = await head_directory(one, branch)
        assert SECRET.encode() in bytes_of(one.bare.context.layout.project(one.project)), "the parent has it"
        assert SECRET.encode() not in bytes_of(directory), "a row of the parent lies in a file of the branch"
        async with await one.connect(branch.id) as connection:
            settings = await (await connection.execute("show work_mem")).fetchone()
            assert settings == ("5MB",)

        for database in ("neondb", "Other db"):
            assert await dump(one, branch.id, database) == await dump(one, one.main, database)
        assert (await one.cell.get_database(one.project, branch.id, "Other db")).owner_name == "app"
        assert await one.run("select datconnlimit from pg_database where datname = 'Other db'", branch.id) == [(7,)]
        for table in ("customer", "payment", "fleeting", "event", "event_2026", "pg_largeobject_metadata", "pg_stats"):
            where = " where schemaname = 'public'" if table == "pg_stats" else ""
            assert await count(one, table + where, branch.id) == 0, table
        sizes = "select sum(reltuples), sum(relpages) from pg_class where relkind in ('r', 'm') and oid >= 16384"
        assert await one.run(sizes, branch.id) == [(0, 0)]
        with pytest.raises(psycopg.Error, match="not been populated"):
            await one.run("select * from names", branch.id)

        # Everything works as in a new database: numbers begin anew, and rules hold.
        await one.run("insert into customer (name, age) values ('ada', 5)", branch.id)
        assert await one.run("select id, name, seen, twice from customer", branch.id) == [(1, "ADA", 1, 6)]
        assert await one.run("select nextval('counter')", branch.id) == [(100,)]
        with pytest.raises(psycopg.errors.UniqueViolation):
            await one.run("insert into customer (name, age) values ('ada', 5)", branch.id)
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            await one.run("insert into payment values (1, 2)", branch.id)
        await one.run("insert into event values ('2026-05-05', 'x'); insert into fleeting values (1)", branch.id)
        await one.run("refresh materialized view names", branch.id)
        assert await one.run("select * from both_names", branch.id) == [("ADA",)]
        found = "set enable_seqscan = off; select id from customer where lower(name) = 'ada' and age > 3"
        async with await one.connect(branch.id) as connection:
            for part in found.split("; "):
                cursor = await connection.execute(part)
            assert await cursor.fetchall() == [(1,)]
            plan = await (await connection.execute("explain " + part)).fetchall()
            assert "by_expression" in str(plan)
        await one.run("drop owned by app; create extension if not exists citext", branch.id)
        assert await count(one, "customer", one.main) == 300
        assert await one.run("select last_value from counter", one.main) == [(149,)]
        directory = await head_directory(one, branch)
        await one.sleep(branch.id)
        assert SECRET.encode() not in bytes_of(directory)


async def test_its_roles_log_in_and_its_history_is_its_own(tenant: Any) -> None:
    async with tenant() as one:
        before = await one.cell.reveal_password(one.project, one.main, "neondb_owner")
        branch = await schema_only(one)
        assert await one.cell.reveal_password(one.project, branch.id, "neondb_owner") == before
        assert await one.rows(branch.id) == []
        await one.run("insert into t values (7)", branch.id)
        moment = datetime.now(UTC)
        await one.run("insert into t values (8)", branch.id)
        assert await one.rows(await one.branch("past", parent_id=branch.id, parent_timestamp=moment)) == [7]
        with pytest.raises(InvalidInput, match="before the history"):
            await one.branch("x", parent_id=branch.id, parent_timestamp=branch.created_at - timedelta(milliseconds=1))
        with pytest.raises(Conflict, match="no parent"):
            await one.cell.compare_schema(one.project, SchemaPoint(branch_id=branch.id, database_name="neondb"), None)
        restored = await one.cell.restore_branch(
            one.project,
            branch.id,
            BranchRestore(source_branch_id=branch.id, source_timestamp=moment, preserve_under_name="kept"),
        )
        assert await one.rows(restored.branch.id) == [7]
        # Neither needs the other: of both the history may go, and both may be deleted.
        await one.cell.update_project(one.project, ProjectChange(history_retention_seconds=0))
        await collect(one.bare.context, await one.cell.get_project(one.project))
        await one.cell.set_default_branch(one.project, branch.id)
        await one.cell.delete_branch(one.project, one.main, hard=True)
        assert await one.rows(branch.id) == [7]
        await one.sleep()
        await one.run("insert into t values (9)", branch.id)
        assert await one.rows(await one.branch("again", parent_id=branch.id)) == [7, 9]


async def test_of_a_moment_and_of_a_parent_that_sleeps(tenant: Any) -> None:
    async with tenant() as one:
        await one.cell.reset_password(one.project, one.main, "neondb_owner")
        moment = datetime.now(UTC)
        await one.run("alter table t add column later text")
        await one.cell.reset_password(one.project, one.main, "neondb_owner")
        await one.sleep()
        past = await schema_only(one, "past", parent_timestamp=moment)
        now = await schema_only(one, "now")
        columns = "select column_name from information_schema.columns where table_name = 't' order by 1"
        assert await one.run(columns, past.id) == [("n",)], "with today's password"
        assert await one.run(columns, now.id) == [("later",), ("n",)]
        # A branch of such a branch, also with the schema only, after it has lived.
        await one.run("insert into t values (1); create index on t (n)", past.id)
        await one.sleep(past.id)
        leaf = await schema_only(one, "leaf", parent_id=past.id)
        assert await one.rows(leaf.id) == []
        assert await dump(one, leaf.id) == await dump(one, past.id)
        assert await one.bare.context.state.read(lambda t: len(t.heads(one.project))) == 4
        names = {path.name for path in one.bare.context.layout.project(one.project).iterdir()}
        assert len(names) == 4, "what it was made through is gone"


async def test_no_code_of_the_tenant_runs_with_the_cells_rights(tenant: Any) -> None:
    async with tenant() as one:
        await execute(one, HOSTILE)
        branch = await schema_only(one)
        found = await one.run("select rolname from pg_catalog.pg_roles where rolsuper", branch.id)
        assert found == [("cloud_admin",)]
        marks = {row[0] for row in await one.run("select what from public.marks", branch.id)}
        assert marks <= {"neondb_owner"}, "whatever ran, ran as its owner"
        enabled = "select tgenabled::text from pg_catalog.pg_trigger where tgname = 'always'"
        assert await one.run(enabled, branch.id) == [("A",)]


async def test_a_database_that_lets_nobody_in_comes_along(tenant: Any) -> None:
    async with tenant() as one:
        await one.cell.create_database(one.project, one.main, DatabaseCreate(name="shut", owner_name="neondb_owner"))
        found = await one.cell.connection(
            one.project, ConnectionRequest(database_name="neondb", role_name="neondb_owner")
        )
        async with one.bare.context.instances.admin(found.endpoint.id, "shut") as admin:
            await admin.execute(f"create table public.s as select '{SECRET}'::text as what")
        async with one.bare.context.instances.admin(found.endpoint.id) as admin:
            await admin.execute("alter database shut allow_connections false")
        branch = await schema_only(one)
        (endpoint,) = await one.cell.list_endpoints(one.project, branch.id)
        async with one.bare.context.instances.admin(endpoint.id) as admin:
            rows = await (await admin.execute("select datallowconn from pg_database where datname = 'shut'")).fetchall()
            assert rows == [(False,)]
            await admin.execute("alter database shut allow_connections true")
        async with one.bare.context.instances.admin(endpoint.id, "shut") as admin:
            assert await (await admin.execute("select count(*) from public.s")).fetchall() == [(0,)]
        assert SECRET.encode() not in bytes_of(await head_directory(one, branch))


async def test_an_index_that_cannot_be_built_is_named_and_nothing_is_left(tenant: Any) -> None:
    async with tenant() as one:
        await execute(
            one,
            "create function f(int) returns int language plpgsql immutable as $$ begin return $1; end $$;\n"
            "create index broken on t ((n + f(1)));\n"
            "create or replace function f(int) returns int language plpgsql immutable as $$ begin"
            " raise exception 'no'; end $$",
        )
        with pytest.raises(Conflict, match=r"indexes of public\.t"):
            await schema_only(one)
        assert [b.name for b in await one.cell.list_branches(one.project, deleted=True)] == ["main"]
        with pytest.raises(NotFound):
            await one.cell.get_branch(one.project, "br-bare-a1b2c3d4")
        await one.run("drop index broken")
        assert (await one.rows(), await one.rows((await schema_only(one)).id)) == ([1], [])
