"""The guide's layout: ``drizzle/<customer>/``, a Drizzle folder for each customer, who are judged each by their own.

Whoever acts on a tenant asks ``folder_of`` for the folder that is meant for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Never

from tenantry.errors import Defect, InvalidInput
from tenantry.fleet.migrations.formats.base import Format, Judgement, LedgerRow, Migration, Session
from tenantry.fleet.migrations.formats.drizzle import JOURNAL, DrizzleFolder
from tenantry.fleet.migrations.formats.drizzle_v1 import SNAPSHOT, DrizzleV1Folder
from tenantry.fleet.migrations.tenant import TenantSlug

FOLDERS_MAX: Final = 10_000


class FolderPerTenant:
    """One directory with a folder for each customer, named by its slug; all of them loaded.

    ``migrations`` are those of all customers, each text once; there is no version that all should reach.
    """

    def __init__(self, directory: Path) -> None:
        """Raises InvalidInput when one of the folders cannot be rolled out as it is, or when they are of two forms."""
        places = sorted(each for each in directory.iterdir() if _opens(each) is not None)
        if len(places) > FOLDERS_MAX:
            raise InvalidInput(f"{directory} has {len(places)} folders of customers; {FOLDERS_MAX} are the most")
        self.directory = directory
        self._folders: Mapping[TenantSlug, Format] = {TenantSlug(each.name): _load(each) for each in places}
        names = {folder.name for folder in self._folders.values()}
        if len(names) != 1:
            raise InvalidInput(
                f"{directory} has folders of {' and of '.join(sorted(names))}",
                next_step="convert the older ones with `drizzle-kit up`",
            )
        self.name: str = names.pop()
        texts: dict[str, Migration] = {}
        for folder in self._folders.values():
            for migration in folder.migrations:
                texts.setdefault(migration.checksum, migration)
        self.migrations: tuple[Migration, ...] = tuple(texts.values())

    def of(self, slug: TenantSlug) -> Format | None:
        """The customer's folder; None for a customer without one."""
        return self._folders.get(slug)

    def read_ledger(self, session: Session) -> Sequence[LedgerRow] | None:
        _defect()

    def judge(self, ledger: Sequence[LedgerRow] | None) -> Judgement:
        _defect()


def folder_of(folder: Format, slug: TenantSlug) -> Format | None:
    """The folder that is meant for this tenant: its own, the one of all, or None where it has none."""
    return folder.of(slug) if isinstance(folder, FolderPerTenant) else folder


def is_per_tenant(place: Path) -> bool:
    """Whether the directory has folders of customers in it, and is not a project with its one folder."""
    if not place.is_dir() or (place / "package.json").exists():
        return False
    return any(_opens(each) is not None for each in place.iterdir())


def _opens(place: Path) -> type[DrizzleFolder] | type[DrizzleV1Folder] | None:
    if (place / JOURNAL).exists():
        return DrizzleFolder
    if any((path.parent / SNAPSHOT).exists() for path in place.glob("*/migration.sql")):
        return DrizzleV1Folder
    return None


def _load(place: Path) -> Format:
    opens = _opens(place)
    assert opens is not None, "only such places are loaded"
    folder = opens(place)
    folder.migrations = tuple(replace(each, file=f"{place.name}/{each.file}") for each in folder.migrations)
    return folder


def _defect() -> Never:
    raise Defect("a ledger was to be judged by the folders of all customers instead of its own")
