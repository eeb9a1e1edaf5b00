"""Create a branch whose personal data is unrecognizable: masked under another name first, then given its own.

Until it has its name nobody is told of it, and as soon as it runs its roles get passwords that nobody knows; one that
was interrupted goes by itself. What the rows were is also not left in dead rows, in statistics or in materialized
views. The branch is not reset: its parent has the data that it hides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from tenantry.errors import Conflict, InvalidInput, OperatorError
from tenantry.fleet.environments.create import CreatedBranch, check_room
from tenantry.fleet.environments.list import list_branches
from tenantry.fleet.environments.masks import Column, Mask, Rules, masks_of, unknown, unmasked
from tenantry.fleet.environments.records import ANONYMIZED, Branch, Place, named, the_branch
from tenantry.neon.ids import BranchId
from tenantry.runtime.failpoints import failpoint

UNFINISHED_SUFFIX: Final = ".being-anonymized"
UNFINISHED_HOURS_MAX: Final = 12
"""A branch whose masking was interrupted goes after this."""
CONNECT_SECONDS_MAX: Final = 60
NAMES_SHOWN_MAX: Final = 20

_COLUMNS: Final[LiteralString] = """
    SELECT n.nspname, c.relname, a.attname, a.attgenerated = '' AND c.relkind <> 'm'
    FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'm') AND a.attnum > 0 AND NOT a.attisdropped AND NOT c.relispartition
      AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND n.nspname !~ '^pg_temp_'
    ORDER BY 1, 2, a.attnum
"""
_TRIGGERS: Final[LiteralString] = """
    SELECT tgname, tgenabled FROM pg_catalog.pg_trigger
    WHERE tgrelid = %s::pg_catalog.regclass AND NOT tgisinternal AND tgenabled <> 'D'
"""
_VIEWS: Final[LiteralString] = """
    SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'm' AND c.relispopulated ORDER BY c.oid
"""
"""Whatever a view reads was there before it."""
_ENABLE: Final[dict[str, LiteralString]] = {"O": "ENABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}


@dataclass(frozen=True, slots=True)
class Masked:
    """One table is done."""

    database: str
    table: str
    rows: int


def create_anonymized(
    place: Place,
    name: str,
    rules: Rules,
    *,
    parent: str | None = None,
    expires_at: datetime | None = None,
    branches_max: int | None = None,
    on_masked: Callable[[Masked], None] = lambda _: None,
) -> CreatedBranch:
    """A branch of ``parent`` (by default the default branch) as it is now, with the rules applied to every database.

    One that is there already, and was made by this, is the one. Raises Conflict when it is another, InvalidInput when
    a personal column has no rule or a rule no column, OperatorError naming the table that cannot be masked.
    """
    branches = list_branches(place)
    if (known := named(branches, name)) is not None:
        if not is_anonymized(place, known):
            raise Conflict(
                f"branch {name!r} exists, and is not anonymized",
                next_step=f"choose another name, or begin anew after {place.command('delete', name)}",
            )
        return CreatedBranch(known, new=False)
    if not rules.columns:
        raise InvalidInput(
            "nothing says what to anonymize",
            next_step="write [anonymize] columns into tenantry.toml, see `tenantry init`",
        )
    origin = None if parent is None else the_branch(place, branches, parent)
    working = f"{name}{UNFINISHED_SUFFIX}"
    if (left := named(branches, working)) is not None:
        _delete(place, left.id)
        branches.remove(left)
    check_room(place, branches, branches_max)
    made = place.client.create_branch(
        place.project_id,
        name=working,
        parent_id=None if origin is None else origin.id,
        expires_at=datetime.now(UTC) + timedelta(hours=UNFINISHED_HOURS_MAX),
        annotations={ANONYMIZED: "true"},
    )
    branch_id = BranchId(made.branch.id)
    try:
        place.client.wait_for_operations(place.project_id, made.operations)
        failpoint("anonymize.created")
        _change_passwords(place, branch_id)
        _mask_all(place, branch_id, rules, on_masked)
        failpoint("anonymize.masked")
        place.client.update_branch(place.project_id, branch_id, name=name)
        # A branch that keeps its name for good expires no more; what was interrupted before here expires.
        changed = place.client.update_branch(
            place.project_id, branch_id, expires_at=expires_at, never_expires=expires_at is None
        )
        place.client.wait_for_operations(place.project_id, changed.operations)
    except BaseException:
        _delete(place, branch_id)
        raise
    place.note("create branch", branch=name, parent=None if origin is None else origin.name, anonymized=True)
    return CreatedBranch(the_branch(place, list_branches(place), branch_id), new=True)


def is_anonymized(place: Place, branch: Branch) -> bool:
    return place.client.branch_annotations(place.project_id, branch.id).get(ANONYMIZED) == "true"


def _delete(place: Place, branch_id: BranchId) -> None:
    # For good: its rows are not masked.
    changed = place.client.delete_branch(place.project_id, branch_id, hard=True)
    if changed is not None:
        place.client.wait_for_operations(place.project_id, changed.operations)


def _change_passwords(place: Place, branch_id: BranchId) -> None:
    """Whoever is given the branch learns no password of production, nor gets in with one."""
    for role in place.client.list_roles(place.project_id, branch_id):
        changed = place.client.reset_password(place.project_id, branch_id, role.name)
        place.client.wait_for_operations(place.project_id, changed.operations)


def _mask_all(place: Place, branch_id: BranchId, rules: Rules, on_masked: Callable[[Masked], None]) -> None:
    databases = place.client.list_databases(place.project_id, branch_id)
    known: list[Column] = []
    exposed: list[str] = []
    work: list[tuple[str, str, list[Mask]]] = []
    for database in databases:
        uri = place.client.connection_uri(
            place.project_id, branch_id=branch_id, database_name=database.name, role_name=database.owner_name
        )
        with closing(psycopg.connect(uri, connect_timeout=CONNECT_SECONDS_MAX)) as connection:
            columns = _columns(connection)
        known.extend(columns)
        exposed.extend(f"{database.name}: {column}" for column in unmasked(columns, rules))
        work.append((database.name, uri, masks_of(columns, rules)))
    if exposed:
        raise InvalidInput(
            f"personal columns without a rule: {_some(exposed)}",
            next_step="say in [anonymize] columns what replaces them; no branch was kept",
        )
    if nowhere := unknown(known, rules):
        raise InvalidInput(
            f"rules for columns that are not there: {_some(nowhere)}",
            next_step="mend their names in [anonymize] columns; no branch was kept",
        )
    for database, uri, masks in work:
        with closing(psycopg.connect(uri, connect_timeout=CONNECT_SECONDS_MAX)) as connection:
            _mask(connection, database, masks, on_masked)


def _some(names: Iterable[str]) -> str:
    shown = list(names)
    more = len(shown) - NAMES_SHOWN_MAX
    return ", ".join(shown[:NAMES_SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")


def _columns(connection: psycopg.Connection) -> list[Column]:
    with connection.transaction():
        rows = connection.execute(_COLUMNS).fetchall()
    return [Column(schema=row[0], table=row[1], name=row[2], writable=row[3]) for row in rows]


def _mask(
    connection: psycopg.Connection, database: str, masks: Iterable[Mask], on_masked: Callable[[Masked], None]
) -> None:
    masked: list[Mask] = []
    with connection.transaction():
        # Rows that a policy would hide are an error, not left as they are.
        connection.execute("SET LOCAL row_security = off")
        for mask in masks:
            rows = _mask_one(connection, database, mask)
            masked.append(mask)
            on_masked(Masked(database, mask.dotted, rows))
    connection.autocommit = True
    try:
        for mask in masked:
            # Rewrites the file, so that no dead row is left, and the statistics, which quote common values.
            connection.execute(sql.SQL("VACUUM (FULL, ANALYZE) {}").format(mask.identifier))
        if masked:
            for schema, view in connection.execute(_VIEWS).fetchall():
                view_name = sql.Identifier(schema, view)
                connection.execute(sql.SQL("REFRESH MATERIALIZED VIEW {}").format(view_name))
                connection.execute(sql.SQL("VACUUM (FULL, ANALYZE) {}").format(view_name))
    except psycopg.Error as error:
        raise _failed(database, "its tables", error) from error


def _mask_one(connection: psycopg.Connection, database: str, mask: Mask) -> int:
    table = mask.identifier
    try:
        # A trigger would keep what the row was elsewhere, or write into the world.
        triggers = connection.execute(_TRIGGERS, (table.as_string(connection),)).fetchall()
        if triggers:
            connection.execute(sql.SQL("ALTER TABLE {} DISABLE TRIGGER USER").format(table))
        rows = connection.execute(mask.update()).rowcount
        for trigger, state in triggers:
            connection.execute(
                sql.SQL("ALTER TABLE {} {} TRIGGER {}").format(table, sql.SQL(_ENABLE[state]), sql.Identifier(trigger))
            )
    except psycopg.Error as error:
        raise _failed(database, mask.dotted, error) from error
    return rows


def _failed(database: str, table: str, error: psycopg.Error) -> OperatorError:
    return OperatorError(
        f"{table} in {database} cannot be masked: {error.diag.message_primary or error}",
        next_step="mend its rule in [anonymize] columns; no branch was kept",
        sqlstate=error.sqlstate,
    )
