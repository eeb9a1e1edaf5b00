"""Schemas remembered in the catalog (``drift.Memory``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from tenantry.fleet.catalog import schemas
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import ProviderId
from tenantry.fleet.migrations.drift import ReferenceKey, TenantDrift
from tenantry.fleet.migrations.fingerprint import ALGORITHM, Schema, SchemaObject, schema_of

_OBJECTS: Final = TypeAdapter(list[tuple[str, str, str]])


class CatalogMemory:
    """``ReferenceKey.place`` is the provider's id."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def reference(self, key: ReferenceKey) -> Schema | None:
        with self._catalog.transaction() as connection:
            found = schemas.reference(
                connection,
                _provider(key),
                format=key.format,
                chain=key.chain,
                pg_version=key.major,
                algorithm=ALGORITHM,
            )
        if found is None:
            return None
        try:
            objects = _OBJECTS.validate_python(found)
        except ValidationError:
            return None  # it is made anew: a cache that is not understood is none
        return schema_of(SchemaObject(*each) for each in objects)

    def keep_reference(self, key: ReferenceKey, schema: Schema) -> None:
        with self._catalog.transaction() as connection:
            schemas.keep_reference(
                connection,
                _provider(key),
                format=key.format,
                chain=key.chain,
                pg_version=key.major,
                algorithm=ALGORITHM,
                version=key.version,
                fingerprint=schema.fingerprint,
                objects=[[each.kind, each.name, each.definition] for each in schema.objects],
            )

    def saw(self, tenants: Sequence[TenantDrift]) -> None:
        sightings = [
            schemas.Sighting(
                slug=each.slug,
                fingerprint=each.fingerprint,
                version=each.version,
                standing=each.standing,
                expected=each.reference.fingerprint if each.reference else None,
                differences=each.count,
            )
            for each in tenants
            if each.fingerprint is not None and each.standing != "failed"
        ]
        with self._catalog.transaction() as connection:
            schemas.saw(connection, sightings, algorithm=ALGORITHM)


def _provider(key: ReferenceKey) -> ProviderId:
    return ProviderId(UUID(key.place))
