"""Which version a tenant had before some were applied to it, by the order of the folder. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from tenantry.fleet.migrations.formats.base import Format


def version_before(folder: Format, applied: Sequence[str]) -> str | None:
    """The one before the first of ``applied``, which the folder has; None: there is none."""
    versions = [migration.version for migration in folder.migrations]
    place = versions.index(applied[0])
    return versions[place - 1] if place else None
