"""After the fleet has a new key: wraps the tenants' data keys anew, in the catalog and in a vault.

Looks at all that there is and takes no input, so doing it again is resuming. What is sealed stays as it is: a data key
never changes by this, only what it is wrapped in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tenantry.errors import NotFound, TenantryError
from tenantry.fleet.backups.keys import (
    KEYS_FOLDER,
    WRAPPED_BYTES_MAX,
    FleetKeys,
    WrappedKey,
    destroy_in_vault,
    keep_in_vault,
    key_object,
)
from tenantry.fleet.backups.many import Done, VaultWatch, work_on
from tenantry.fleet.backups.vault import Vault
from tenantry.fleet.catalog import backups as rows
from tenantry.fleet.catalog import events
from tenantry.fleet.catalog.backups import KeyId
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.runtime.failpoints import failpoint

PAGE: Final = 1_000
TRIES_MAX: Final = 3
"""At a key that somebody else changes meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewrappedKey:
    """What became of one data key. None: it is not there."""

    id: str
    in_catalog: str | None = None
    in_vault: str | None = None
    """The fleet's key that each copy was under."""
    shredded: bool = False
    """Its tenant was deleted; the next prune destroys the vault's copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrapping:
    """What a call did, or would do."""

    dry_run: bool
    fleet_key: str
    """Under which they are now."""
    looked_at: int
    catalog: int
    """Keys that were wrapped anew, or would be, in the catalog; ``vault``: in the vault."""
    vault: int
    under: Mapping[str, int]
    """Of each key of the fleet's: how many data keys have a copy under it now. Those that failed are not among them."""
    failed: Mapping[str, TenantryError]
    not_needed: Sequence[str]
    """Older keys of the fleet's that neither the catalog nor this vault has anything under."""
    other_vaults: Sequence[str]
    """Where there are backups, too: their copies of keys are looked at with ``--vault``."""
    vault_away: TenantryError | None = None


def rewrap(
    catalog: Catalog,
    vault: Vault,
    fleet_keys: FleetKeys,
    *,
    jobs: int,
    dry_run: bool,
    begun: Callable[[int], None] = lambda _: None,
    tell: Callable[[str, TenantryError | None], None] = lambda _, __: None,
) -> Rewrapping:
    """``begun`` hears how many keys there are, ``tell`` of each that is done. Raises VaultError, Unavailable."""
    known = _known(catalog, vault)
    begun(len(known))
    under: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    failed: dict[str, TenantryError] = {}
    watch = VaultWatch(jobs)

    def finished(done: Done[RewrappedKey]) -> None:
        if done.error is not None:
            failed[done.slug] = done.error
        elif done.result is not None:
            copies = {"catalog": done.result.in_catalog, "vault": done.result.in_vault}
            for where, was in copies.items():
                counts[where] += was not in (None, fleet_keys.id)
            there = {each for each in copies.values() if each is not None}
            under.update({fleet_keys.id} if there and not dry_run else there)
        tell(done.slug, done.error)

    left = work_on(
        known,
        lambda key_id: _one(catalog, vault, fleet_keys, KeyId(key_id), dry_run=dry_run),
        jobs=max(1, min(jobs, len(known))),
        tell=finished,
        goes_on=lambda done: watch.still_answers(done.error),
    )
    with catalog.transaction() as connection:
        others = [each for each in rows.vaults_in_use(connection) if each != vault.url]
        if not dry_run and (counts["catalog"] or counts["vault"]):
            events.record(connection, "rewrap keys", keys=len(known), catalog=counts["catalog"], vault=counts["vault"])
    whole = not failed and not left
    return Rewrapping(
        dry_run=dry_run,
        fleet_key=fleet_keys.id,
        looked_at=len(known) - len(left),
        catalog=counts["catalog"],
        vault=counts["vault"],
        under=dict(under),
        failed=failed,
        not_needed=[each for each in fleet_keys.ids[1:] if not under[each]] if whole else [],
        other_vaults=others,
        vault_away=watch.away,
    )


def _known(catalog: Catalog, vault: Vault) -> list[str]:
    """Of the catalog and of the vault, which may be older than the catalog, or another fleet's as well."""
    found: set[str] = set()
    after = ""
    while True:
        with catalog.transaction() as connection:
            page = rows.keys_page(connection, after=after, limit=PAGE)
        found.update(page)
        if len(page) < PAGE:
            break
        after = page[-1]
    found.update(each.key.rpartition("/")[2].removesuffix(".json") for each in vault.list(KEYS_FOLDER))
    return sorted(found)


def _one(catalog: Catalog, vault: Vault, fleet_keys: FleetKeys, key_id: KeyId, *, dry_run: bool) -> RewrappedKey:
    with catalog.transaction() as connection:
        shredded = bool(rows.shredded_among(connection, [key_id]))
    if shredded:
        return RewrappedKey(id=key_id, shredded=True)
    was, now = _in_catalog(catalog, fleet_keys, key_id, dry_run=dry_run)
    failpoint("rewrap.catalog")
    copy = _copy(vault, key_id)
    if copy is not None and fleet_keys.needs_rewrap(copy) and not dry_run:
        # Opened in any case: a copy that is damaged, or of a key of the same name, is found, and not written over.
        key = fleet_keys.unwrap(copy)
        keep_in_vault(vault, now or fleet_keys.wrap(key))
        failpoint("rewrap.vault")
        with catalog.transaction() as connection:
            shredded = bool(rows.shredded_among(connection, [key_id]))
        if shredded:  # meanwhile: what was just written is to be read by nobody
            destroy_in_vault(vault, key_id)
    elif copy is not None:
        fleet_keys.unwrap(copy)
    return RewrappedKey(id=key_id, in_catalog=was, in_vault=None if copy is None else copy.fleet_key, shredded=shredded)


def _in_catalog(
    catalog: Catalog, fleet_keys: FleetKeys, key_id: KeyId, *, dry_run: bool
) -> tuple[str | None, WrappedKey | None]:
    """Under which key of the fleet's it was, and how it is wrapped now."""
    for _ in range(TRIES_MAX):
        with catalog.transaction() as connection:
            known = rows.key_by_id(connection, key_id)
        if known is None:
            return None, None
        wrapped = WrappedKey.from_json(known.sealed)
        key = fleet_keys.unwrap(wrapped)
        if dry_run or not fleet_keys.needs_rewrap(wrapped):
            return wrapped.fleet_key, wrapped
        again = fleet_keys.wrap(key)
        with catalog.transaction() as connection:
            mine = rows.replace_key(connection, key_id, before=known.sealed, sealed=again.to_json())
        if mine:
            return wrapped.fleet_key, again
    raise TenantryError(f"the data key {key_id} is changed by somebody else again and again", next_step="try again")


def _copy(vault: Vault, key_id: KeyId) -> WrappedKey | None:
    try:
        return WrappedKey.from_json(vault.read_small(key_object(key_id), bytes_max=WRAPPED_BYTES_MAX))
    except NotFound:
        return None
