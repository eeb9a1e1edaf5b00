"""The same statements have one fingerprint on every major that npm's registry has an engine of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import psycopg
import pytest

from tenantry.fleet.migrations.fingerprint import Schema, differences, read_schema
from tenantry.neon.client import NeonClient
from tenantry.neon.ids import ProjectId
from tenantry.testing.throwaway import ThrowawayCell

pytestmark = pytest.mark.timeout(600)

INSTALL_SECONDS_MAX: Final = 200
MAJORS: Final = (14, 15, 16, 17)
STATEMENTS: Final = """
create schema app;
create type app.mood as enum ('sad', 'happy');
create domain app.short as text check (length(value) < 10);
create table app.people (
    id bigint generated always as identity primary key, name text not null default 'nobody', mood app.mood,
    nick app.short, old_id serial, born timestamptz default '2000-01-01', price numeric(10, 2) default 0.5,
    double bigint generated always as (id * 2) stored, constraint name_check check (name <> '' and id > 0)
);
create table app.notes (id int unique, person bigint not null references app.people on delete cascade, body text);
create index notes_body_idx on app.notes using gin (to_tsvector('simple', body)) where id > 0;
create statistics app.notes_stats on id, person from app.notes;
create materialized view app.counted as select count(*) as n from app.people;
create function app.touch() returns trigger language plpgsql as $$ begin return new; end $$;
create function app.one(a int default 1) returns int language sql immutable as 'select a';
create trigger touches before update of name on app.people for each row when (old.name is distinct from new.name)
    execute function app.touch();
alter table app.notes enable row level security;
create policy mine on app.notes for select using (person > 0);
create table app.parts (id int, at date, primary key (id, at)) partition by range (at);
create table app.parts_1 partition of app.parts for values from ('2026-01-01') to ('2027-01-01');
create index on app.parts (at);
grant all on app.people to public;
revoke execute on function app.one(int) from public;
"""


@pytest.fixture(scope="module")
def cell(new_workdir: Callable[[str], Path]) -> Iterator[ThrowawayCell]:
    with ThrowawayCell(data=new_workdir("prints") / "d", options=["--no-fleet", "--spares", "0"]) as cell:
        yield cell


def fingerprinted(cell: ThrowawayCell, major: int) -> Schema:
    with NeonClient(str(cell.target.api_url), str(cell.target.api_key)) as client:
        made = client.create_project(name=f"major {major}", pg_version=major)
        project = ProjectId(made.project.id)
        client.wait_for_operations(project, made.operations)
        home = made.databases[0]
        uri = client.connection_uri(project, database_name=home.name, role_name=home.owner_name)
    with psycopg.connect(uri) as connection:
        connection.execute(STATEMENTS.encode())
        return read_schema(connection)


@pytest.fixture(scope="module")
def newest(cell: ThrowawayCell) -> Schema:
    return fingerprinted(cell, 18)


@pytest.mark.parametrize("major", MAJORS)
def test_another_major_has_the_same_fingerprint(cell: ThrowawayCell, newest: Schema, major: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tenantry", "engine", "install", str(major), "--json", "--data", str(cell.data)],
        capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS_MAX,
    )  # fmt: skip
    document = json.loads(done.stdout)
    if done.returncode != 0 and document["error"]["code"] == "UNAVAILABLE":
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"npm's registry: {document['error']['message']}")
    assert done.returncode == 0, document
    found = fingerprinted(cell, major)
    assert differences(newest, found) == ()
    assert found.fingerprint == newest.fingerprint
