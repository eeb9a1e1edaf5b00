"""Drift among real databases: what was planted is found, and nothing else; what a version is, is made or voted."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.errors import OperatorError, Unavailable
from tenantry.fleet.migrations.apply import Bounds, Halt, Migrator
from tenantry.fleet.migrations.drift import (
    DIFFERENCES_MAX,
    DriftLook,
    Expect,
    Look,
    Reference,
    ReferenceKey,
    TenantDrift,
    judge,
    majority,
)
from tenantry.fleet.migrations.fingerprint import Schema, SchemaObject, schema_of
from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.tenant import SchemaState, TenantRef, TenantSlug

BOUNDS = Bounds(connect_deadline_seconds=0.5)
PLANTED = {
    "t3": "create index planted on people (name)",
    "t7": "alter table people drop column born",
    "t11": "create or replace function age(people) returns int language sql as 'select 42'",
}
FILES = {
    "_0001_people": "create table people (id bigint primary key, name text not null, born date);",
    "_0002_age": "create function age(people) returns int language sql as 'select 1';",
}


@dataclass
class Remembered:
    """Memory in memory."""

    schemas: dict[ReferenceKey, Schema] = field(default_factory=dict)
    seen: list[TenantDrift] = field(default_factory=list)
    down: bool = False

    def reference(self, key: ReferenceKey) -> Schema | None:
        self._check()
        return self.schemas.get(key)

    def keep_reference(self, key: ReferenceKey, schema: Schema) -> None:
        self._check()
        self.schemas[key] = schema

    def saw(self, tenants: Sequence[TenantDrift]) -> None:
        self._check()
        self.seen = list(tenants)

    def _check(self) -> None:
        if self.down:
            raise Unavailable("the catalog does not answer")


@dataclass
class Empties:
    """Empty databases of the test's server."""

    server: str
    made: list[str] = field(default_factory=list)
    full: bool = False

    @contextmanager
    def empty_database(self, place: str, major: int) -> Generator[str]:
        if self.full:
            raise OperatorError("there is no room")
        assert (place, major) == ("home", 18)
        name = f"e_{secrets.token_hex(6)}"
        self.made.append(name)
        with psycopg.connect(self.server, dbname="postgres", autocommit=True) as connection:
            connection.execute(f"create database {name}".encode())
            try:
                yield f"{self.server} dbname={name}"
            finally:
                connection.execute(f"drop database {name}".encode())


def migrated(fleet: Any, folder: Any) -> None:
    """Every tenant of the fleet has all of the folder."""
    migrator = Migrator(folder=folder, dsn=fleet.dsn, bounds=BOUNDS, accept_edited=False, halt=Halt())
    for slug in fleet.dsns:
        assert migrator.migrate(slug).failure is None


def look(fleet: Any, folder: Any, **others: Any) -> DriftLook:
    return DriftLook(
        folder=folder,
        folder_through=lambda whole, version: open_folder(whole.directory, through=version),
        dsn=fleet.dsn,
        place_of=lambda _: "home",
        bounds=BOUNDS,
        **others,
    )


def refs(fleet: Any) -> list[TenantRef]:
    return [TenantRef(slug) for slug in fleet.dsns]


@pytest.mark.parametrize("size", [20, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_planted_drift_is_found_and_only_it(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path], postgres_server: str, size: int
) -> None:
    fleet, folder = new_fleet(size), open_folder(sql_folder(**FILES))
    migrated(fleet, folder)
    for slug, statement in PLANTED.items():
        fleet.sql(slug, statement)
    memory, empties = Remembered(), Empties(postgres_server)
    seen: list[Look] = []
    drift = look(fleet, folder, memory=memory, makes=empties, jobs=4)
    report = drift.report(refs(fleet), on_looked=seen.append)
    assert {each.slug for each in report.of("drifted")} == set(PLANTED)
    assert len(report.of("same")) == size - len(PLANTED)
    assert report.notes == ()
    assert [each.tenant.slug for each in seen] == [each.slug for each in report.tenants] == list(fleet.dsns)
    told = {each.slug: [line for one in each.differences for line in one.lines()] for each in report.of("drifted")}
    assert told["t3"] == ["+ CREATE INDEX planted ON public.people USING btree (name)"]
    assert told["t7"] == ["- alter table public.people add column born date"]
    assert [line[0] for line in told["t11"] if "select" in line] == ["-", "+"]
    assert {each.reference.source for each in report.tenants if each.reference} == {"made"}
    assert len(empties.made) == 1
    assert len(memory.seen) == size

    again = drift.report(refs(fleet))
    assert {each.reference.source for each in again.tenants if each.reference} == {"remembered"}
    assert {each.slug for each in again.of("drifted")} == set(PLANTED)
    assert len(empties.made) == 1


def test_where_no_database_can_be_made_the_most_say_what_it_is(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path], postgres_server: str
) -> None:
    fleet, folder = new_fleet(3), open_folder(sql_folder(**FILES))
    migrated(fleet, folder)
    fleet.sql("t1", PLANTED["t3"])
    drift = look(fleet, folder, makes=Empties(postgres_server, full=True), memory=Remembered())
    report = drift.report(refs(fleet))
    assert [each.standing for each in report.tenants] == ["same", "drifted", "same"]
    assert [reference.note for _, reference in report.references] == ["2 of 3 tenants have it"]
    assert "could not be made: there is no room" in report.notes[0]
    fleet.sql("t2", PLANTED["t7"])
    report = drift.report(refs(fleet))
    assert {each.standing for each in report.tenants} == {"unknown"}
    assert report.tenants[0].note.endswith("tenants of its version have no majority")
    assert [each.standing for each in look(fleet, folder).report(refs(fleet)[:1]).tenants] == ["unknown"]


def test_each_version_has_its_own_schema(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path], postgres_server: str
) -> None:
    fleet, directory = new_fleet(4), sql_folder(**FILES)
    folder = open_folder(directory)
    first = open_folder(directory, through="0001")
    for slug, at in {"t0": first, "t1": first, "t2": folder}.items():
        Migrator(folder=at, dsn=fleet.dsn, bounds=BOUNDS, accept_edited=False, halt=Halt()).migrate(TenantSlug(slug))
    fleet.sql("t1", "drop table people")
    empties = Empties(postgres_server)
    drift = look(fleet, folder, makes=empties)
    report = drift.report(refs(fleet))
    assert [(each.version, each.standing) for each in report.tenants] == [
        ("0001", "same"),
        ("0001", "drifted"),
        ("0002", "same"),
        (None, "same"),
    ]
    assert len(empties.made) == 3
    expecting = drift.report(refs(fleet), Expect(version="0002"))
    assert [each.standing for each in expecting.tenants] == ["drifted", "drifted", "same", "drifted"]
    like = drift.report(refs(fleet), Expect(tenant=TenantSlug("t0")))
    assert [each.standing for each in like.tenants] == ["same", "drifted", "drifted", "drifted"]
    assert {each.reference.note for each in like.tenants if each.reference} == {"of t0"}


def test_a_tenant_of_other_files_is_judged_by_its_equals(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path], postgres_server: str
) -> None:
    fleet, directory = new_fleet(3), sql_folder(**FILES)
    migrated(fleet, open_folder(directory))
    (directory / "0002_age.sql").write_text("select 'edited';")
    report = look(fleet, open_folder(directory), makes=Empties(postgres_server)).report(refs(fleet))
    assert {(each.standing, each.reference and each.reference.source) for each in report.tenants} == {
        ("same", "majority")
    }


def test_one_that_cannot_be_looked_at_is_named_and_stops_nobody(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet, folder = new_fleet(3), open_folder(sql_folder(**FILES))
    migrated(fleet, folder)
    fleet.dsns[TenantSlug("gone")] = "host=/nonexistent"
    with psycopg.connect(fleet.dsns[TenantSlug("t1")]) as holder:
        holder.execute("create view v as select * from people; commit; begin; lock table v in access exclusive mode")
        quick = Bounds(connect_deadline_seconds=0.5, lock_seconds=0.2)
        report = DriftLook(
            folder=folder, folder_through=lambda whole, _: whole, dsn=fleet.dsn, place_of=lambda _: "home", bounds=quick
        ).report(refs(fleet))
    failed = {each.slug: each.failure for each in report.of("failed")}
    assert set(failed) == {"t1", "gone"}
    assert failed[TenantSlug("t1")] is not None
    assert failed[TenantSlug("t1")].sqlstate == "55P03"
    assert [each.slug for each in report.of("same")] == ["t0", "t2"]
    assert report.as_dict()["tenants"][3]["failure"]  # type: ignore[index]


def test_nothing_is_changed_and_a_catalog_that_is_down_is_told(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path], postgres_server: str
) -> None:
    fleet, folder = new_fleet(2), open_folder(sql_folder(**FILES))
    migrated(fleet, folder)
    rows = (
        "select count(*), max(xmin::text::bigint) from pg_class union all select count(*), 0 from tenantry.migrations"
    )
    before = fleet.sql("t0", rows)
    drift = look(fleet, folder, memory=Remembered(down=True), makes=Empties(postgres_server))
    report = drift.report(refs(fleet))
    assert len(report.of("same")) == 2
    assert len(report.notes) == 3
    assert fleet.sql("t0", rows) == before


def test_customers_with_folders_of_their_own_are_compared_with_those(
    new_fleet: Callable[[int], Any], tmp_path: Path, postgres_server: str, write_drizzle: Callable[..., Path]
) -> None:
    fleet = new_fleet(3)
    for slug in ("t0", "t1"):
        write_drizzle(tmp_path / slug, ("0000_own", 1, f"create table of_{slug} (a int);"))
    folder = open_folder(tmp_path)
    migrator = Migrator(folder=folder, dsn=fleet.dsn, bounds=BOUNDS, accept_edited=False, halt=Halt())
    for slug in ("t0", "t1"):
        assert migrator.migrate(TenantSlug(slug)).failure is None
    fleet.sql("t1", "drop table of_t1")
    report = look(fleet, folder, makes=Empties(postgres_server)).report(refs(fleet))
    assert [(each.slug, each.standing) for each in report.tenants] == [
        ("t0", "same"),
        ("t1", "drifted"),
        ("t2", "failed"),
    ]
    assert {each.reference.source for each in report.tenants if each.reference} == {"made"}


KEYS = st.sampled_from([ReferenceKey("sql", version, version, 18, "home") for version in ("1", "2")])


def looked(index: int, key: ReferenceKey, fingerprint: str | None) -> Look:
    tenant = TenantRef(TenantSlug(f"t{index}"))
    if fingerprint is None:
        return Look(tenant, "home")
    return Look(tenant, "home", 18, SchemaState("sql", key.version, key.chain), fingerprint)


@given(st.lists(st.tuples(KEYS, st.sampled_from(["a", "b", None])), max_size=12), st.booleans())
def test_everybody_is_judged_once_and_by_his_own_version(
    said: list[tuple[ReferenceKey, str | None]], with_reference: bool
) -> None:
    looks = [looked(index, key, fingerprint) for index, (key, fingerprint) in enumerate(said)]
    schemas = {name: schema_of([SchemaObject("table", name, name)]) for name in "ab"}
    references = {key: Reference("a", "made") for key, _ in said if with_reference and key.version == "1"}
    judged = judge(looks, references, schemas)
    assert [each.slug for each in judged] == [each.tenant.slug for each in looks]
    for look_, each in zip(looks, judged, strict=True):
        if look_.fingerprint is None:
            assert each.standing == "failed"
        elif look_.key not in references:
            assert each.standing == "unknown"
        else:
            assert each.standing == ("same" if look_.fingerprint == "a" else "drifted")
            assert each.count == (0 if look_.fingerprint == "a" else 2)


def test_a_majority_is_more_than_half_of_two_or_more() -> None:
    key = ReferenceKey("sql", "1", "1", 18, "home")

    def vote(*fingerprints: str | None) -> str | None:
        found = majority([looked(index, key, each) for index, each in enumerate(fingerprints)])
        return found and found.fingerprint

    assert vote("a", "a", "b") == "a"
    assert vote("a", "a", None) == "a"
    assert vote("a", "b") is None
    assert vote("a", "a", "b", "b") is None
    assert vote("a") is None
    assert vote() is None


def test_what_a_report_holds_is_bounded() -> None:
    key = ReferenceKey("sql", "1", "1", 18, "home")
    many = schema_of([SchemaObject("table", str(number), "x") for number in range(DIFFERENCES_MAX + 5)])
    looks = [looked(0, key, "many"), looked(1, key, "not kept")]
    judged = judge(looks, {key: Reference("a", "made")}, {"a": schema_of([]), "many": many})
    assert (len(judged[0].differences), judged[0].count) == (DIFFERENCES_MAX, DIFFERENCES_MAX + 5)
    assert judged[1].note == "it differs; look at it alone to see in what"
