"""Add, change and remove providers; say which regions they serve, and where the data of some customers must stay.

Each verb is safe to repeat, and writes what it did into the log of events with it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args
from urllib.parse import urlsplit

from tenantry.errors import Conflict, InvalidInput, NotFound
from tenantry.fleet.catalog import events
from tenantry.fleet.catalog import providers as rows
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.models import HOME_PROVIDER
from tenantry.fleet.catalog.records import ProviderKind, ProviderRecord, Residency, Serving
from tenantry.fleet.providers.open import open_provider
from tenantry.fleet.providers.placement import fits
from tenantry.fleet.providers.secrets import read_secret

NEON_URL: Final = "https://console.neon.tech/api/v2"
SLUG_LENGTH_MAX: Final = 48
PATTERNS_MAX: Final = 50
_SLUG: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_PATTERN: Final = re.compile(r"[a-z0-9*]([a-z0-9*-]*[a-z0-9*])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How a provider is reached, as somebody wants it."""

    name: str
    kind: ProviderKind
    api_url: str | None
    api_ca: str | None
    secret_from: str


def reach(name: str, kind: str, *, url: str | None, ca: Path | None, secret_from: str) -> Reach:
    """Checks what was typed. Raises InvalidInput naming what is wrong with it; the secret is not part of it."""
    slug(name, "a provider's name")
    if kind not in get_args(ProviderKind):
        raise InvalidInput(f"{kind!r} is no kind of provider", next_step="--kind cell, neon or postgres")
    if kind == "postgres":
        if url is not None or ca is not None:
            raise InvalidInput(
                "a plain Postgres has neither --url nor --ca: all of its admin's URI is a secret",
                next_step="put the URI into the file or variable, with sslrootcert in it where it needs one",
            )
        return Reach(name=name, kind="postgres", api_url=None, api_ca=None, secret_from=secret_from)
    api_url = url or (NEON_URL if kind == "neon" else None)
    if api_url is None:
        raise InvalidInput("where is the cell's API?", next_step="for instance --url http://10.0.0.2:7700/api/v2")
    parts = urlsplit(api_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
        # Not repeated: somebody may have put a key into it.
        raise InvalidInput("--url is not like https://host/api/v2", next_step="it includes /api/v2, and no key")
    if ca is not None and not ca.is_file():
        raise InvalidInput(f"{ca} is no file", next_step="--ca names a certificate (PEM) to trust")
    return Reach(
        name=name,
        kind="cell" if kind == "cell" else "neon",
        api_url=api_url.rstrip("/"),
        api_ca=None if ca is None else str(ca.absolute()),
        secret_from=secret_from,
    )


def slug(text: str, what: str) -> str:
    """The text itself. Raises InvalidInput unless it is a slug."""
    if not _SLUG.fullmatch(text) or len(text) > SLUG_LENGTH_MAX:
        raise InvalidInput(
            f"{text!r} is not {what}", next_step=f"a-z, 0-9 and single dashes, at most {SLUG_LENGTH_MAX}: eu-1"
        )
    return text


@dataclass(frozen=True, slots=True)
class Added:
    provider: ProviderRecord
    change: str | None
    """``added`` or ``changed``; None when it was there like this."""


def add_provider(
    catalog: Catalog, wanted: Reach, *, change: bool = False, environment: Mapping[str, str] = os.environ
) -> Added:
    """Raises OperatorError when its secret is not where it is said to be, InvalidInput when it cannot be one, and
    Conflict when another provider has the name, unless ``change`` says that this one is meant."""
    secret = read_secret(wanted.secret_from, f"of provider {wanted.name}", environment)
    with catalog.transaction() as connection:
        record, new = rows.add_provider(
            connection,
            name=wanted.name,
            kind=wanted.kind,
            api_url=wanted.api_url,
            api_ca=wanted.api_ca,
            secret_from=wanted.secret_from,
        )
        done = "added" if new else None
        if not new and wanted != _reach_of(record):
            if not change or record.kind != wanted.kind or record.id == HOME_PROVIDER:
                raise Conflict(
                    f"provider {record.name} is there already, as {_described(record)}",
                    next_step="choose another name, or say --change to change how it is reached",
                )
            rows.change_reach(
                connection,
                record.id,
                api_url=wanted.api_url,
                api_ca=wanted.api_ca,
                secret_from=wanted.secret_from,
            )
            record, done = _the_provider(rows.provider_by_id(connection, record.id), wanted.name), "changed"
        if done is not None:
            open_provider(record, secret).close()
            events.record(
                connection, f"provider {done}", provider=record.name, kind=record.kind, secret_from=record.secret_from
            )
    return Added(record, done)


@dataclass(frozen=True, slots=True)
class Removal:
    provider: ProviderRecord
    servings: Sequence[Serving]
    """The regions that it would serve no more."""


def plan_removal(catalog: Catalog, name: str) -> Removal:
    """Changes nothing. Raises NotFound, and Conflict while anything lives there."""
    with catalog.transaction() as connection:
        record = _the_provider(rows.provider_by_name(connection, name), name)
        if record.id == HOME_PROVIDER:
            raise Conflict(f"{name} is the provider that this fleet is opened with, and stays")
        _refuse_while_lived_in(record, *rows.holdings(connection, record.id))
        return Removal(record, [each for each in rows.servings(connection) if each.provider_id == record.id])


def remove_provider(catalog: Catalog, removal: Removal) -> None:
    """Its projects, if it has any that are not the fleet's, stay as they are. Raises Conflict as planning does."""
    with catalog.transaction() as connection:
        # Held first, counted then: nothing is placed there meanwhile.
        rows.hold_provider(connection, removal.provider.id)
        _refuse_while_lived_in(removal.provider, *rows.holdings(connection, removal.provider.id))
        rows.remove_provider(connection, removal.provider.id)
        events.record(connection, "provider removed", provider=removal.provider.name)


def _refuse_while_lived_in(provider: ProviderRecord, tenants: int, ready: int) -> None:
    if tenants:
        raise Conflict(
            f"provider {provider.name} has {_counted(tenants, 'tenant')}, and is not removed",
            next_step="delete them first; to let no new ones in, close its regions with --closed",
            tenants=tenants,
        )
    if ready:
        raise Conflict(
            f"provider {provider.name} keeps {_counted(ready, 'ready project')}, and is not removed",
            next_step="close its regions with --closed, and let the worker take them away",
            ready=ready,
        )


# -- regions -------------------------------------------------------------------------------------------------


def serve_region(
    catalog: Catalog,
    name: str,
    region: str,
    *,
    provider_region: str | None = None,
    projects_max: int | None = None,
    unlimited: bool = False,
    accepts_new: bool | None = None,
) -> Serving:
    """The provider serves the region from now on; None leaves what is there. Raises NotFound and InvalidInput."""
    slug(region, "a region's name")
    if projects_max is not None and (projects_max < 1 or unlimited):
        raise InvalidInput(
            f"--max {projects_max} lets nobody in" if not unlimited else "--max and --unlimited were given",
            next_step="--closed lets no new tenant in, --unlimited as many as come",
        )
    with catalog.transaction() as connection:
        record = _the_provider(rows.provider_by_name(connection, name), name)
        rows.serve_region(
            connection,
            record.id,
            region,
            provider_region=provider_region,
            projects_max=projects_max,
            unlimited=unlimited,
            accepts_new=accepts_new,
        )
        done = next(each for each in rows.servings(connection, region=region) if each.provider_id == record.id)
        events.record(
            connection,
            "region served",
            provider=name,
            region=region,
            provider_region=done.provider_region,
            projects_max=done.projects_max,
            accepts_new=done.accepts_new,
        )
    return done


def leave_region(catalog: Catalog, name: str, region: str) -> bool:
    """The provider serves the region no more. False when it did not. Raises Conflict while tenants live there."""
    with catalog.transaction() as connection:
        record = _the_provider(rows.provider_by_name(connection, name), name)
        rows.hold_provider(connection, record.id)
        if tenants := rows.tenants_in(connection, record.id, region):
            raise Conflict(
                f"{_counted(tenants, 'tenant')} of {name} live in region {region}",
                next_step="to let no new ones in, close it with --closed",
                tenants=tenants,
            )
        gone = rows.leave_region(connection, record.id, region)
        if gone:
            events.record(connection, "region left", provider=name, region=region)
    return gone


# -- residency -----------------------------------------------------------------------------------------------


def define_residency(catalog: Catalog, name: str, patterns: Sequence[str]) -> Residency:
    """Raises InvalidInput for patterns that are none, and Conflict when tenants live where they would not allow it."""
    slug(name, "a residency's name")
    wanted = tuple(dict.fromkeys(pattern.strip() for text in patterns for pattern in text.split(",")))
    bad = [pattern for pattern in wanted if not _PATTERN.fullmatch(pattern)]
    if bad or not wanted or len(wanted) > PATTERNS_MAX:
        raise InvalidInput(
            f"{bad[0]!r} is no pattern of regions" if bad else f"there are {len(wanted)} patterns of regions",
            next_step="names of regions, where a star is any text: --regions 'eu-*,ch-1'",
        )
    rule = Residency(slug=name, region_patterns=wanted)
    with catalog.transaction() as connection:
        rows.put_residency(connection, name, wanted)
        # Written first: whoever places a tenant by the old rule has been waited for.
        outside = [
            (region, count)
            for region, count in rows.regions_of_residents(connection, name)
            if region is None or not fits(rule, region)
        ]
        if outside:
            where = ", ".join(f"{_counted(count, 'tenant')} in {region or 'no region'}" for region, count in outside)
            raise Conflict(f"residency {name} would not allow where some of its tenants are: {where}")
        events.record(connection, "residency defined", residency=name, regions=list(wanted))
    return rule


def drop_residency(catalog: Catalog, name: str) -> bool:
    """False when there was none. Raises Conflict while a customer has it, also one that was deleted."""
    with catalog.transaction() as connection:
        gone = rows.drop_residency(connection, name)
        if gone:
            events.record(connection, "residency dropped", residency=name)
    return gone


# -- the whole -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Overview:
    providers: Sequence[ProviderRecord]
    servings: Sequence[Serving]
    residencies: Sequence[Residency]


def overview(catalog: Catalog) -> Overview:
    """From the catalog alone."""
    with catalog.transaction() as connection:
        return Overview(rows.providers(connection), rows.servings(connection), rows.residencies(connection))


def find_provider(catalog: Catalog, name: str) -> ProviderRecord:
    """Raises NotFound."""
    with catalog.transaction() as connection:
        return _the_provider(rows.provider_by_name(connection, name), name)


def _the_provider(found: ProviderRecord | None, name: str) -> ProviderRecord:
    if found is None:
        raise NotFound(f"there is no provider {name!r}", next_step="see `tenantry provider list`", provider=name)
    return found


def _reach_of(record: ProviderRecord) -> Reach:
    return Reach(
        name=record.name,
        kind=record.kind,
        api_url=record.api_url,
        api_ca=record.api_ca,
        secret_from=record.secret_from,
    )


def _described(record: ProviderRecord) -> str:
    return f"{record.kind}{'' if record.api_url is None else f' at {record.api_url}'}, key from {record.secret_from}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
