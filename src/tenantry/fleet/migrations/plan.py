"""Who is behind by what: decided from the folder and the catalog alone, without waking anybody. Pure.

The catalog is a cache, so a plan may be wrong about a tenant that another tool has migrated since; the run reads each
ledger before it acts, and only a tenant that the plan calls current is not asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal

from tenantry.fleet.migrations.formats.base import Format, Migration, TellsStanding, empty_state, next_state
from tenantry.fleet.migrations.formats.per_tenant import FolderPerTenant, folder_of
from tenantry.fleet.migrations.tenant import SchemaState, TenantRef
from tenantry.fleet.migrations.waves import Rules, Waves, waves_of

Standing = Literal["current", "behind", "unknown", "edited", "ahead", "no_folder"]
"""``unknown``: nobody has read its ledger in this format. ``edited``: it has this version of other files.
``ahead``: it has a version that the folder lacks. ``no_folder``: other tenants have folders of their own."""


@dataclass(frozen=True, slots=True)
class TenantPlan:
    """One tenant's place in a plan."""

    tenant: TenantRef
    standing: Standing
    pending: tuple[str, ...]
    """Versions that it lacks; for ``unknown`` the most that it can lack, for ``edited`` and ``ahead`` none."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A pending migration with a statement that is never run."""

    version: str
    file: str
    statement: int
    line: int
    excerpt: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will do. ``tenants`` has every selected tenant once, in the order it was given."""

    format: str
    directory: str
    target: str | None
    """The folder's newest version; None for an empty folder, and where each tenant has its own."""
    tenants: tuple[TenantPlan, ...]
    refused: tuple[Refused, ...]
    """Not empty: nothing is run."""
    accept_edited: bool = False
    rules: Rules = field(default_factory=Rules)
    stepwise: tuple[str, ...] = ()
    """Files of pending migrations that no transaction can hold: where one fails, the statements before stay."""

    @cached_property
    def _waves(self) -> Waves:
        return waves_of((each.tenant for each in self.to_visit), self.rules)

    def wave_of(self, planned: TenantPlan) -> str:
        """The wave in which a tenant that is visited comes."""
        return self._waves.name_of(planned.tenant)

    @property
    def waves(self) -> dict[str, int]:
        """The waves in their order, and how many tenants each has."""
        counted = Counter(self.wave_of(each) for each in self.to_visit)
        return {name: counted[name] for name in self._waves.names if counted[name]}

    @property
    def to_visit(self) -> tuple[TenantPlan, ...]:
        """The tenants that the run connects to."""
        return tuple(each for each in self.tenants if each.standing != "current")

    def of(self, standing: Standing) -> tuple[TenantPlan, ...]:
        return tuple(each for each in self.tenants if each.standing == standing)

    def as_dict(self) -> dict[str, object]:
        return {
            "format": self.format,
            "directory": self.directory,
            "target": self.target,
            "waves": [{"wave": name, "tenants": count} for name, count in self.waves.items()],
            "refused": [
                {"version": each.version, "file": each.file, "statement": each.statement, "line": each.line,
                 "excerpt": each.excerpt, "reason": each.reason}
                for each in self.refused
            ],
            "stepwise": list(self.stepwise),
            "tenants": [
                {
                    "tenant": each.tenant.slug,
                    "standing": each.standing,
                    "wave": None if each.standing == "current" else self.wave_of(each),
                    "schema_version": each.tenant.known.version if each.tenant.known else None,
                    "pending": list(each.pending),
                }
                for each in self.tenants
            ],
        }  # fmt: skip


REFUSED_NEXT_STEP: Final = "take the statement out of the migration; apply it to the tenants by hand where it is needed"
_REASONS: Final = {
    "transaction_control": "it would end the tenant's transaction, which holds the ledger row",
    "copy_stream": "COPY from or to the client has no client here",
    "psql_command": "it is a command of psql, not SQL",
    "server_wide": "it changes the server, which is not the tenant's",
    "discard": "it would give up the lock that keeps other runners out",
    "unnamed_index": "an index built concurrently needs a name, by which a broken attempt is found and mended",
    "unreadable": "it cannot run inside a transaction, and is not written in a form whose names are read for certain",
    "temporary_table": "this migration has several transactions, and may go on in another session without the table",
}


def make_plan(
    folder: Format,
    tenants: Iterable[TenantRef],
    *,
    accept_edited: bool = False,
    trust_catalog: bool = True,
    rules: Rules | None = None,
) -> Plan:
    """The plan for ``tenants``.

    ``accept_edited`` takes files that changed after they were applied as applied. Without ``trust_catalog`` every
    tenant is unknown, and a run asks each of them.
    """
    ways = Ways(folder)
    planned = tuple(plan_tenants(ways, tenants, accept_edited=accept_edited, trust_catalog=trust_catalog))
    return Plan(
        format=folder.name,
        directory=str(folder.directory),
        target=target_of(folder),
        tenants=planned,
        refused=ways.refused,
        stepwise=ways.stepwise,
        accept_edited=accept_edited,
        rules=rules or Rules(),
    )


def plan_tenants(
    ways: Ways, tenants: Iterable[TenantRef], *, accept_edited: bool = False, trust_catalog: bool = True
) -> Iterator[TenantPlan]:
    """The same one after another, for a fleet of any size. ``ways`` remembers what was wanted."""
    for tenant in tenants:
        way = ways.of(tenant)
        if way is None:
            yield TenantPlan(tenant, "no_folder", ())
            continue
        applied, standing = way.standing(tenant.known if trust_catalog else None)
        if accept_edited and standing == "edited":
            standing = "current" if applied == len(way.index_of) else "behind"
        pending = way.pending_of[applied] if standing in {"behind", "unknown"} else ()
        way.wanted.update(pending)
        yield TenantPlan(tenant, standing, pending)


def target_of(folder: Format) -> str | None:
    """The folder's newest version; None for an empty folder, and where each tenant has its own."""
    if isinstance(folder, FolderPerTenant) or not folder.migrations:
        return None
    return folder.migrations[-1].version


class Ways:
    """What a plan needs of the folders that its tenants are judged by."""

    def __init__(self, folder: Format) -> None:
        self._folder = folder
        self._ways: dict[int, _Way] = {}

    def of(self, tenant: TenantRef) -> _Way | None:
        """None where the tenant has no folder."""
        own = folder_of(self._folder, tenant.slug)
        if own is None:
            return None
        return self._ways.get(id(own)) or self._ways.setdefault(id(own), _Way(own))

    @property
    def wanted(self) -> frozenset[str]:
        """Versions that some of the tenants lack."""
        return frozenset(version for way in self._ways.values() for version in way.wanted)

    @property
    def refused(self) -> tuple[Refused, ...]:
        """Migrations that were wanted and are not run."""
        return tuple(found for migration in self._wanted if (found := refused(migration)))

    @property
    def stepwise(self) -> tuple[str, ...]:
        """Files of what was wanted and no transaction can hold."""
        return tuple(migration.file for migration in self._wanted if migration.stepwise)

    @property
    def _wanted(self) -> Iterator[Migration]:
        return (each for way in self._ways.values() for each in way.folder.migrations if each.version in way.wanted)


class _Way:
    """One folder, for all its tenants."""

    def __init__(self, folder: Format) -> None:
        self.folder = folder
        self._states = states_of(folder)
        self._applied_of = {state: applied for applied, state in enumerate(self._states)}
        versions = tuple(migration.version for migration in folder.migrations)
        self.index_of = {version: index for index, version in enumerate(versions)}
        self.pending_of = [versions[applied:] for applied in range(len(versions) + 1)]
        self.wanted: set[str] = set()

    def standing(self, known: SchemaState | None) -> tuple[int, Standing]:
        """How many of the folder's migrations a tenant has by the catalog, and what to call that."""
        if known is None or known.format != self.folder.name:
            return 0, "unknown"
        # First what nearly all of a large fleet are.
        if (applied := self._applied_of.get(known)) is not None:
            return applied, "current" if applied == len(self._states) - 1 else "behind"
        if isinstance(self.folder, TellsStanding):
            return 0, self.folder.standing_of(known)
        if known.version is None:
            return 0, "edited"
        if known.version in self.index_of:
            return self.index_of[known.version] + 1, "edited"
        return 0, "ahead"


def refused(migration: Migration) -> Refused | None:
    """Why this migration is not run, or None."""
    found = migration.refusal
    if found is None:
        return None
    reason = _REASONS.get(found.obstacle, found.obstacle)
    return Refused(migration.version, migration.file, found.statement, found.line, found.excerpt, reason)


def states_of(folder: Format) -> tuple[SchemaState, ...]:
    """The state after each number of migrations, from none to all."""
    states = [empty_state(folder.name)]
    for migration in folder.migrations:
        states.append(next_state(states[-1], migration.version, migration.checksum))
    return tuple(states)
