"""Which tenants have another schema than their version's, and in what: each is looked at, then compared.

What a version's schema is, is found by making it: the folder is applied through that version to an empty database of
the same major at the same provider. Where there is no room for one, or the tenant's version is not the folder's, most
of the tenants of a version say what it is, and the report says which it was.

Looking wakes a tenant that sleeps, and changes nothing in it. Deciding is pure (``judge``).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Literal, Protocol

import psycopg

from tenantry.errors import TenantryError
from tenantry.fleet.migrations import schema_sql
from tenantry.fleet.migrations.apply import NO_FOLDER, Bounds, Halt, Migrator
from tenantry.fleet.migrations.fingerprint import Difference, Schema, differences, read_schema
from tenantry.fleet.migrations.formats.base import AppliedByTool, Format
from tenantry.fleet.migrations.formats.per_tenant import folder_of
from tenantry.fleet.migrations.plan import states_of
from tenantry.fleet.migrations.results import Failure, MigrationFailed
from tenantry.fleet.migrations.session import TenantSession, connect, sql_failure
from tenantry.fleet.migrations.tenant import SchemaState, TenantRef, TenantSlug

SCHEMAS_KEPT_MAX: Final = 200
"""Different schemas that one report holds; of a tenant beyond them it says that it differs, not in what."""
DIFFERENCES_MAX: Final = 1_000
"""Differences of one tenant that a report holds."""
STATEMENT_SECONDS: Final = 60.0
"""How long one question about a schema may take."""

Source = Literal["made", "remembered", "majority", "tenant"]
"""How a reference came to be. ``made``: by applying the folder; ``remembered``: so, at an earlier time."""
Standing = Literal["same", "drifted", "unknown", "failed"]
"""``unknown``: nobody can say what its schema should be."""


@dataclass(frozen=True, slots=True)
class ReferenceKey:
    """What has one schema: a version with its whole history, on one major, at one place."""

    format: str
    version: str | None
    chain: str
    """``SchemaState.fingerprint`` of that version."""
    major: int
    place: str
    """The provider: one may give new databases something that another does not."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of one tenant."""

    tenant: TenantRef
    place: str
    major: int = 0
    state: SchemaState | None = None
    """What its ledger says."""
    fingerprint: str | None = None
    """Of its schema; None where it could not be read."""
    failure: Failure | None = None

    @property
    def key(self) -> ReferenceKey | None:
        if self.state is None or self.fingerprint is None:
            return None
        state = self.state
        return ReferenceKey(state.format, state.version, state.fingerprint, self.major, self.place)


@dataclass(frozen=True, slots=True)
class Reference:
    """What a schema should be."""

    fingerprint: str
    source: Source
    note: str = ""
    """Of whom it is, or how many say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantDrift:
    """One tenant's schema against what it should be."""

    slug: TenantSlug
    standing: Standing
    version: str | None = None
    major: int = 0
    fingerprint: str | None = None
    reference: Reference | None = None
    differences: tuple[Difference, ...] = ()
    count: int = 0
    """All of the differences, also those that are not held."""
    failure: Failure | None = None
    note: str = ""

    def as_dict(self) -> dict[str, object]:
        reference = self.reference
        return {
            "tenant": self.slug,
            "standing": self.standing,
            "schema_version": self.version,
            "pg_version": self.major or None,
            "fingerprint": self.fingerprint,
            "expected": reference.fingerprint if reference else None,
            "expected_from": reference.source if reference else None,
            "differences": [each.as_dict() for each in self.differences],
            "differences_total": self.count,
            "failure": str(self.failure) if self.failure else None,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReport:
    """Every tenant once, in the order it was given."""

    tenants: tuple[TenantDrift, ...]
    references: tuple[tuple[ReferenceKey, Reference], ...]
    notes: tuple[str, ...]

    def of(self, standing: Standing) -> tuple[TenantDrift, ...]:
        return tuple(each for each in self.tenants if each.standing == standing)

    def as_dict(self) -> dict[str, object]:
        return {
            "tenants": [each.as_dict() for each in self.tenants],
            "references": [
                {"format": key.format, "schema_version": key.version, "pg_version": key.major, "provider": key.place,
                 "fingerprint": reference.fingerprint, "from": reference.source, "note": reference.note}
                for key, reference in self.references
            ],
            "notes": list(self.notes),
        }  # fmt: skip


class Memory(Protocol):
    """What is remembered of schemas. Raises TenantryError."""

    def reference(self, key: ReferenceKey) -> Schema | None:
        """What was made for this key before."""
        ...

    def keep_reference(self, key: ReferenceKey, schema: Schema) -> None: ...

    def saw(self, tenants: Sequence[TenantDrift]) -> None:
        """What came of looking; one that could not be looked at is left as it was."""
        ...


class Makes(Protocol):
    """Makes empty databases for references."""

    def empty_database(self, place: str, major: int) -> AbstractContextManager[str]:
        """The DSN of a database like those of new tenants, which is gone afterwards. Raises TenantryError."""
        ...


@dataclass(frozen=True, slots=True)
class Expect:
    """What to compare with, where that is not each tenant's own version: one of the three, or none."""

    tenant: TenantSlug | None = None
    version: str | None = None
    majority: bool = False


def expectation(folder: Format, said: str | None) -> Expect:
    """What an operator means by ``--expect``: a version of the folder, else a tenant."""
    if said is None or said == "majority":
        return Expect(majority=said is not None)
    if any(migration.version == said for migration in folder.migrations):
        return Expect(version=said)
    return Expect(tenant=TenantSlug(said))


@dataclass(slots=True)
class _Seen:
    """Schemas by their fingerprints, as many as are kept."""

    schemas: dict[str, Schema] = field(default_factory=dict)

    def keep(self, schema: Schema) -> str:
        fingerprint = schema.fingerprint
        if fingerprint in self.schemas or len(self.schemas) < SCHEMAS_KEPT_MAX:
            self.schemas[fingerprint] = schema
        return fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftLook:
    """Looks for drift. ``ledgers`` are tables that do not count beside the usual ones."""

    folder: Format
    folder_through: Callable[[Format, str], Format]
    """A folder as it was at a version."""
    dsn: Callable[[TenantSlug], str]
    place_of: Callable[[TenantRef], str]
    memory: Memory | None = None
    makes: Makes | None = None
    jobs: int = 8
    bounds: Bounds = field(default_factory=Bounds)
    comments: bool = False
    ledgers: Sequence[str] = ()

    def report(
        self,
        tenants: Iterable[TenantRef],
        expect: Expect | None = None,
        *,
        on_looked: Callable[[Look], None] = lambda _: None,
    ) -> DriftReport:
        """Looks at all of them, ``jobs`` at a time. ``on_looked`` is called in this thread, in their order."""
        expect = expect or Expect()
        seen = _Seen()
        looks: list[Look] = []
        for look in self._looks(tenants, seen):
            looks.append(look)
            on_looked(look)
        notes: list[str] = []
        if expect.tenant is not None:
            references = _of_tenant(looks, expect.tenant)
        else:
            references = self._references(looks, seen, expect, notes)
        drifts = judge(looks, references, seen.schemas)
        keys = dict.fromkeys(look.key for look in looks if look.key is not None)
        told = {key: references[key] for key in keys if key in references}
        if self.memory is not None and not (expect.tenant or expect.version or self.comments):
            try:
                self.memory.saw(drifts)
            except TenantryError as error:
                notes.append(f"what was seen was not written to the catalog: {error}")
        return DriftReport(tenants=drifts, references=tuple(told.items()), notes=tuple(notes))

    # -- looking ---------------------------------------------------------------------------------------------

    def _looks(self, tenants: Iterable[TenantRef], seen: _Seen) -> Iterator[Look]:
        waiting = iter(tenants)
        with ThreadPoolExecutor(self.jobs, thread_name_prefix="drift") as pool:
            # In batches: a fleet of any size has a bounded number of schemas in memory.
            while batch := list(islice(waiting, self.jobs * 4)):
                for look, schema in pool.map(self._look, batch):
                    if schema is not None:
                        seen.keep(schema)
                    yield look

    def _look(self, tenant: TenantRef) -> tuple[Look, Schema | None]:
        place = self.place_of(tenant)
        folder = folder_of(self.folder, tenant.slug)
        if folder is None:
            return Look(tenant, place, failure=NO_FOLDER), None
        try:
            connection = connect(
                self.dsn(tenant.slug),
                deadline_seconds=self.bounds.connect_deadline_seconds,
                connect_seconds=self.bounds.connect_seconds,
                stopping=lambda: False,
            )
            with closing(connection):
                connection.execute(
                    schema_sql.begin(lock_seconds=self.bounds.lock_seconds, statement_seconds=STATEMENT_SECONDS)
                )
                judged = folder.judge(folder.read_ledger(TenantSession(connection)))
                major, schema = self._schema(connection)
        except MigrationFailed as error:
            return Look(tenant, place, failure=error.failure), None
        except psycopg.Error as error:
            return Look(tenant, place, failure=sql_failure(error, lost=False)), None
        except TenantryError as error:
            failure = Failure(kind="connect", message=error.message, next_step=error.next_step)
            return Look(tenant, place, failure=failure), None
        return Look(tenant, place, major, judged.state, schema.fingerprint), schema

    def _schema(self, connection: psycopg.Connection) -> tuple[int, Schema]:
        row = connection.execute(schema_sql.MAJOR).fetchone()
        assert row is not None, "the question has one answer"
        return int(row[0]), read_schema(connection, self.ledgers, comments=self.comments)

    # -- what it should be -----------------------------------------------------------------------------------

    def _references(
        self, looks: Sequence[Look], seen: _Seen, expect: Expect, notes: list[str]
    ) -> dict[ReferenceKey, Reference]:
        """For each key that a tenant has: made, remembered, or by the majority."""
        folders = self._folders(looks)
        wanted = next(
            (state for folder in folders[:1] for state in states_of(folder) if state.version == expect.version), None
        )
        folder_by_chain = {state.fingerprint: folder for folder in folders for state in states_of(folder)}
        references: dict[ReferenceKey, Reference] = {}
        made: dict[ReferenceKey, Reference | None] = {}
        for key in dict.fromkeys(look.key for look in looks if look.key is not None):
            source = key
            if expect.version is not None:
                assert wanted is not None, "the caller has looked for the version in the folder"
                source = ReferenceKey(wanted.format, wanted.version, wanted.fingerprint, key.major, key.place)
            reference = None
            if not expect.majority and (folder := folder_by_chain.get(source.chain)) is not None:
                if source not in made:
                    made[source] = self._made(source, folder, seen, notes)
                reference = made[source]
            if reference is None:
                reference = majority([look for look in looks if look.key == source])
            if reference is not None:
                references[key] = reference
        return references

    def _folders(self, looks: Sequence[Look]) -> list[Format]:
        """The folder of all, or those of the customers that were looked at."""
        found = (folder_of(self.folder, look.tenant.slug) for look in looks)
        return list({id(folder): folder for folder in found if folder is not None}.values())

    def _made(self, key: ReferenceKey, folder: Format, seen: _Seen, notes: list[str]) -> Reference | None:
        if self.memory is not None and not self.comments:
            try:
                known = self.memory.reference(key)
            except TenantryError as error:
                notes.append(f"the catalog was not asked for what is known of {key.version}: {error}")
                known = None
            if known is not None:
                seen.schemas[known.fingerprint] = known
                return Reference(known.fingerprint, "remembered")
        if self.makes is None:
            return None
        try:
            schema = self._make(key, folder)
        except (TenantryError, psycopg.Error) as error:
            words = " ".join(str(error).split())
            notes.append(f"{key.version or 'the empty schema'} on Postgres {key.major} could not be made: {words}")
            return None
        seen.schemas[schema.fingerprint] = schema
        if self.memory is not None and not self.comments:
            try:
                self.memory.keep_reference(key, schema)
            except TenantryError as error:
                notes.append(f"what was made was not written to the catalog: {error}")
        return Reference(schema.fingerprint, "made")

    def _make(self, key: ReferenceKey, folder: Format) -> Schema:
        """Applies the folder through the key's version to an empty database. Raises TenantryError and psycopg.Error."""
        assert self.makes is not None
        with self.makes.empty_database(key.place, key.major) as dsn:
            if key.version is not None:
                self._apply_through(key, folder, dsn)
            with closing(
                connect(
                    dsn,
                    deadline_seconds=self.bounds.connect_deadline_seconds,
                    connect_seconds=self.bounds.connect_seconds,
                    stopping=lambda: False,
                )
            ) as connection:
                connection.execute(
                    schema_sql.begin(lock_seconds=self.bounds.lock_seconds, statement_seconds=STATEMENT_SECONDS)
                )
                return self._schema(connection)[1]

    def _apply_through(self, key: ReferenceKey, whole: Format, dsn: str) -> None:
        assert key.version is not None
        newest = whole.migrations[-1].version if whole.migrations else None
        # A project of a tool costs a second to load, and a command has no other version than its newest.
        folder = whole if key.version == newest else self.folder_through(whole, key.version)
        try:
            migrator = Migrator(folder=folder, dsn=lambda _: dsn, bounds=self.bounds, accept_edited=False, halt=Halt())
            result = migrator.migrate(TenantSlug("reference"))
        finally:
            if folder is not whole and isinstance(folder, AppliedByTool):
                folder.close()
        if result.failure is not None:
            raise MigrationFailed(result.failure)
        if result.state is None or result.state.fingerprint != key.chain:
            message = "the folder came to another version than the tenants have"
            raise MigrationFailed(Failure(kind="ahead", message=message))


def majority(looks: Sequence[Look]) -> Reference | None:
    """What more than half of two or more tenants have. Pure."""
    counted = Counter(look.fingerprint for look in looks if look.fingerprint is not None)
    if counted.total() < 2:
        return None
    fingerprint, tenants = counted.most_common(1)[0]
    if tenants * 2 <= counted.total():
        return None
    return Reference(fingerprint, "majority", f"{tenants} of {counted.total()} tenants have it")


def _of_tenant(looks: Sequence[Look], slug: TenantSlug) -> dict[ReferenceKey, Reference]:
    """The schema of one tenant for all others."""
    model = next((look for look in looks if look.tenant.slug == slug), None)
    if model is None or model.fingerprint is None:
        return {}
    reference = Reference(model.fingerprint, "tenant", f"of {slug}")
    return {look.key: reference for look in looks if look.key is not None}


def judge(
    looks: Sequence[Look], references: Mapping[ReferenceKey, Reference], schemas: Mapping[str, Schema]
) -> tuple[TenantDrift, ...]:
    """Each tenant against its reference. Pure. Equal pairs of schemas are compared once."""
    compared: dict[tuple[str, str], tuple[Difference, ...]] = {}
    groups: defaultdict[ReferenceKey, int] = defaultdict(int)
    for look in looks:
        if look.key is not None:
            groups[look.key] += 1
    judged: list[TenantDrift] = []
    for look in looks:
        slug, key = look.tenant.slug, look.key
        if key is None or look.fingerprint is None or look.state is None:
            judged.append(TenantDrift(slug=slug, standing="failed", failure=look.failure))
            continue
        reference = references.get(key)
        version, major, fingerprint = look.state.version, look.major, look.fingerprint
        if reference is None:
            alone = "the only tenant of its version" if groups[key] == 1 else "tenants of its version have no majority"
            judged.append(
                TenantDrift(
                    slug=slug, standing="unknown", version=version, major=major, fingerprint=fingerprint,
                    note=f"nothing says what its schema should be: {alone}",
                )
            )  # fmt: skip
            continue
        found: tuple[Difference, ...] = ()
        note = ""
        if fingerprint != reference.fingerprint:
            expected, there = schemas.get(reference.fingerprint), schemas.get(fingerprint)
            if expected is None or there is None:
                note = "it differs; look at it alone to see in what"
            else:
                pair = reference.fingerprint, fingerprint
                if pair not in compared:
                    compared[pair] = differences(expected, there)
                found = compared[pair]
        judged.append(
            TenantDrift(
                slug=slug,
                standing="same" if fingerprint == reference.fingerprint else "drifted",
                version=version,
                major=major,
                fingerprint=fingerprint,
                reference=reference,
                differences=found[:DIFFERENCES_MAX],
                count=len(found),
                note=note,
            )
        )
    return tuple(judged)
