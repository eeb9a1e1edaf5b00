"""Prune: backups that need not stay any more, and what is left in the vault of those that failed.

Planned by a pure rule, shown, then done: the catalog takes the backup out first, and refuses a tenant's last good one
whoever asks; then the manifest goes, then the rest. What is interrupted a sweep finishes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

from tenantry.errors import VaultError
from tenantry.fleet.backups.keys import KEYS_FOLDER, destroy_in_vault
from tenantry.fleet.backups.retention import parse_keep, to_delete
from tenantry.fleet.backups.take import Surroundings, remove_objects
from tenantry.fleet.catalog import backups as rows
from tenantry.fleet.catalog import events, queries
from tenantry.fleet.catalog.backups import BackupRecord, KeyId, Standing
from tenantry.runtime.failpoints import failpoint

T = TypeVar("T")

TENANTS_AT_ONCE: Final = 200
PLACES_AT_ONCE: Final = 500
FORGOTTEN_DAYS: Final = 400
"""How long the catalog remembers backups that failed or were deleted."""
FORGOTTEN_MAX: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """What a prune would do."""

    delete: Sequence[BackupRecord]
    """Not the last good one of any tenant."""
    of_deleted_tenants: Sequence[BackupRecord]
    """Their keys are destroyed, so that nobody can read them."""
    kept: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """How far a prune came."""

    gone: Sequence[BackupRecord]
    said: Sequence[str]
    """What else was cleared up."""
    failure: VaultError | None = None
    """What ended it. The backup that it had come to counts for nothing any more, and goes with a later one."""


def plan_prune(around: Surroundings, standings: Iterable[Standing], *, default_keep: str, now: datetime) -> Pruning:
    """Wakes nobody and changes nothing. Raises InvalidInput for a rule that is none, naming whose."""
    going: list[BackupRecord] = []
    kept = 0
    for some in _by(TENANTS_AT_ONCE, standings):
        with around.catalog.transaction() as connection:
            good = rows.good_backups(connection, [each.tenant_id for each in some])
        for each in some:
            own = [backup for backup in good if backup.tenant_id == each.tenant_id]
            # Of each vault by itself: a copy elsewhere is no reason to have none here.
            here = [backup for backup in own if backup.vault == around.vault.url]
            gone = to_delete(here, parse_keep(each.keep or default_keep), now)
            going += gone
            kept += len(own) - len(gone)
    with around.catalog.transaction() as connection:
        orphans = rows.backups_of_deleted_tenants(connection, vault=around.vault.url, limit=FORGOTTEN_MAX)
    return Pruning(delete=going, of_deleted_tenants=orphans, kept=kept)


def carry_out(around: Surroundings, pruning: Pruning, gone: Callable[[BackupRecord], None]) -> None:
    """Tells of each that is gone. One that has become a tenant's last good one meanwhile stays."""
    for each, orphan in [*((b, False) for b in pruning.delete), *((b, True) for b in pruning.of_deleted_tenants)]:
        with around.catalog.transaction() as connection:
            mine = rows.mark_orphan_deleting(connection, each.id) if orphan else rows.mark_deleting(connection, each.id)
        if not mine:
            continue
        failpoint("prune.marked")
        remove_objects(around.vault, each.place)
        failpoint("prune.removed")
        with around.catalog.transaction() as connection:
            rows.mark_deleted(connection, each.id)
            tenant = None if orphan else queries.tenant_by_slug(connection, each.slug)
            events.record(connection, "prune backup", tenant, backup=each.id, of=each.slug)
        gone(each)


def remove_leftovers(around: Surroundings) -> list[str]:
    """Objects of backups that failed or were deleted, which a killed process left; a sentence for each.

    What the catalog does not know is left alone: a vault may be older than its catalog.
    """
    said: list[str] = []
    for places in _by(PLACES_AT_ONCE, _places(around)):
        with around.catalog.transaction() as connection:
            dead = rows.dead_places(connection, vault=around.vault.url, places=places)
        for place in dead:
            remove_objects(around.vault, place)
            said.append(f"{place}: what a backup that failed had left is removed")
    return said


def destroy_shredded_keys(around: Surroundings) -> list[str]:
    """The vault's copies of keys whose tenants were deleted; a sentence for each."""
    said: list[str] = []
    ids = (KeyId(each.key.rpartition("/")[2].removesuffix(".json")) for each in around.vault.list(KEYS_FOLDER))
    for some in _by(PLACES_AT_ONCE, ids):
        with around.catalog.transaction() as connection:
            shredded = rows.shredded_among(connection, some)
        for key_id in shredded:
            destroy_in_vault(around.vault, key_id)
            said.append(f"the key {key_id} of a deleted tenant is destroyed, and its backups with it")
    return said


def forget(around: Surroundings) -> int:
    """Rows of what failed or was deleted long ago."""
    with around.catalog.transaction() as connection:
        return rows.forget_backups(connection, kept_days=FORGOTTEN_DAYS, limit=FORGOTTEN_MAX)


def _places(around: Surroundings) -> Iterator[str]:
    """Every folder of a backup that is in the vault; the vault lists in no order, so one may come twice."""
    last = ""
    for each in around.vault.list(""):
        parts = each.key.split("/")
        if len(parts) < 3 or parts[0] == KEYS_FOLDER:
            continue
        place = "/".join(parts[:2])
        if place != last:
            yield place
        last = place


def _by(count: int, things: Iterable[T]) -> Iterator[list[T]]:
    some: list[T] = []
    for each in things:
        some.append(each)
        if len(some) == count:
            yield some
            some = []
    if some:
        yield some
