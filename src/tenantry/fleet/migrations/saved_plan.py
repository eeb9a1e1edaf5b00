"""A plan as a file: written when it was shown, and run later only where planning anew gives the same.

The file holds what a run would do: the migrations by their checksums, and each tenant that is visited with its wave and
what it lacks. Pure but for reading and writing it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tenantry.errors import Conflict, InvalidInput
from tenantry.fleet.migrations.bundle import pack
from tenantry.fleet.migrations.formats.base import Format
from tenantry.fleet.migrations.formats.per_tenant import FolderPerTenant
from tenantry.fleet.migrations.plan import Plan, TenantPlan
from tenantry.fleet.migrations.selection import Selection
from tenantry.runtime.files import write_atomic

PLAN_BYTES_MAX: Final = 64 * 1024 * 1024
"""A hundred thousand tenants with their names and a few versions each."""
NAMED_MAX: Final = 5
"""Differences that a refusal names."""
_CUSTOMERS_FOLDERS: Final = "the customers' folders"


class Visit(BaseModel):
    """What is to be done in one tenant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    wave: str
    standing: str
    schema_version: str | None
    pending: tuple[str, ...]

    @classmethod
    def of(cls, planned: TenantPlan, wave: str) -> Visit:
        known = planned.tenant.known
        return cls(
            wave=wave,
            standing=planned.standing,
            schema_version=known.version if known else None,
            pending=planned.pending,
        )

    def __str__(self) -> str:
        lacks = f", lacks {', '.join(self.pending)}" if self.pending else ""
        return f"{self.standing} at {self.schema_version or 'nothing'}{lacks}, in wave {self.wave}"


class SavedPlan(BaseModel):
    """See the module. ``selection`` and the others above ``migrations`` are what it was asked with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenantry_plan: Annotated[int, Field(ge=1, le=1)] = 1
    """The form of this file."""
    directory: Path
    through: str | None
    accept_edited: bool
    canaries: int | None
    selection: dict[str, object]
    format: str
    target: str | None
    migrations: dict[str, str]
    """Versions and checksums. Where each customer has a folder, all folders are one."""
    visits: dict[str, Visit]

    @classmethod
    def of(cls, plan: Plan, folder: Format, selection: Selection, *, through: str | None) -> SavedPlan:
        return cls(
            directory=folder.directory.absolute(),
            through=through,
            accept_edited=plan.accept_edited,
            canaries=plan.rules.canaries,
            selection=selection.document(),
            format=plan.format,
            target=plan.target,
            migrations=_migrations(folder),
            visits={each.tenant.slug: Visit.of(each, plan.wave_of(each)) for each in plan.to_visit},
        )

    @property
    def selected(self) -> Selection:
        """The selection that it was made for. Raises InvalidInput for one of another release."""
        try:
            return Selection(**self.selection)  # pyright: ignore[reportArgumentType] - written by ``of``
        except TypeError as error:
            raise InvalidInput(f"the plan selects tenants in a way that is not known here: {error}") from error

    def write(self, path: Path) -> None:
        write_atomic(path, self.model_dump_json(indent=1).encode() + b"\n")

    def check(self, folder: Format, visits: Mapping[str, Visit]) -> None:
        """Raises Conflict, which names what changed, unless these are the folder and the visits of the plan."""
        found = [*self._differences(folder, visits)]
        if not found:
            return
        more = f"; and {len(found) - NAMED_MAX} more" if len(found) > NAMED_MAX else ""
        raise Conflict(
            f"the fleet is not as it was planned: {'; '.join(found[:NAMED_MAX])}{more}",
            next_step="look at a new plan and save it: `tenantry migrate plan --save FILE`",
            differences=len(found),
        )

    def _differences(self, folder: Format, visits: Mapping[str, Visit]) -> Iterator[str]:
        if folder.name != self.format:
            yield f"the migrations are of {folder.name}, the plan is of {self.format}"
            return
        now = _migrations(folder)
        for version in sorted({*self.migrations, *now}):
            if version not in now:
                yield f"migration {version} is gone"
            elif version not in self.migrations:
                yield f"migration {version} is new"
            elif now[version] != self.migrations[version]:
                yield f"{version} changed" if version == _CUSTOMERS_FOLDERS else f"migration {version} was edited"
        for slug in sorted({*self.visits, *visits}):
            if slug not in visits:
                yield f"{slug} is not to be visited any more"
            elif slug not in self.visits:
                yield f"{slug} came to it ({visits[slug]})"
            elif visits[slug] != self.visits[slug]:
                yield f"{slug} is {visits[slug]}; it was {self.visits[slug]}"


def read_plan(path: Path) -> SavedPlan:
    """Raises InvalidInput for a file that is no plan."""
    try:
        with path.open("rb") as file:
            content = file.read(PLAN_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidInput(
            f"the plan {path} cannot be read: {error.strerror}", next_step="name another file"
        ) from error
    if len(content) > PLAN_BYTES_MAX:
        raise InvalidInput(f"{path} has more than {PLAN_BYTES_MAX} bytes, which no plan has")
    try:
        return SavedPlan.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the document"
        raise InvalidInput(
            f"{path} is no plan of this release ({place}: {first['msg']})",
            next_step="make one: `tenantry migrate plan --save FILE`",
        ) from error


def _migrations(folder: Format) -> dict[str, str]:
    if isinstance(folder, FolderPerTenant):
        return {_CUSTOMERS_FOLDERS: pack(folder).digest}
    return {migration.version: migration.checksum for migration in folder.migrations}
