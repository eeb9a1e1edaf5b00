"""Takes one tenant back to an older version by the ways back that its migrations bring (``NAME.down.sql``).

All of them run in one transaction with the ledger rows that they delete: a tenant is at the old version, or where it
was. What a way back loses is lost; a restore point loses nothing but what was written since.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import psycopg

from tenantry.errors import NotSupported
from tenantry.fleet.migrations.apply import Migrator
from tenantry.fleet.migrations.by_tool import objected
from tenantry.fleet.migrations.formats.base import Format, GoesBack, Judgement, Migration, state_of
from tenantry.fleet.migrations.formats.per_tenant import folder_of
from tenantry.fleet.migrations.plan import refused
from tenantry.fleet.migrations.results import Failure, MigrationFailed
from tenantry.fleet.migrations.session import TenantSession, sql_failure
from tenantry.fleet.migrations.stepwise import read_progress
from tenantry.fleet.migrations.tenant import SchemaState, TenantSlug
from tenantry.runtime.failpoints import failpoint


@dataclass(frozen=True, slots=True)
class WentBack:
    """What was taken back of one tenant."""

    versions: tuple[str, ...]
    """Newest first; none where the tenant was there already."""
    state: SchemaState
    """What its ledger says now."""


def go_back(migrator: Migrator, slug: TenantSlug, to: str | None) -> WentBack:
    """Takes the tenant back to the version ``to``, or to before the first; connects with the migrator's bounds.

    Raises NotSupported for a format without ways back, and MigrationFailed, when nothing was changed: with
    ``outcome_unknown`` nobody knows, and calling again finds out.
    """
    folder = _going_back(migrator.folder, slug)
    connection = migrator.connect(slug, lambda: migrator.halt.stopping)
    with migrator.halt.session(slug, connection, migrator.sessions) as session:
        try:
            session.begin_locked(lock_seconds=migrator.bounds.lock_seconds)
            judgement = folder.judge(folder.read_ledger(session))
            half = read_progress(session, folder.name)
        except psycopg.Error as error:
            raise MigrationFailed(sql_failure(error, lost=not session.alive)) from error
        failure = objected(slug, judgement, accept_edited=migrator.accept_edited)[1]
        if failure is not None:
            raise MigrationFailed(failure)
        if half:
            raise MigrationFailed(_half_applied(next(iter(half))))
        back = _back(folder, judgement, to)
        if not back:
            session.rollback()
            return WentBack((), judgement.state)
        try:
            _take_back(migrator, folder, session, back)
        except MigrationFailed:
            session.rollback()
            raise
        failpoint("migrate.went_back")
    return WentBack(
        tuple(each.version for each in back),
        state_of(folder.name, judgement.applied[: len(judgement.applied) - len(back)]),
    )


def _going_back(folders: Format, slug: TenantSlug) -> GoesBack:
    folder = folder_of(folders, slug)
    if not isinstance(folder, GoesBack):
        raise NotSupported(
            f"migrations of {folders.name} have no way back",
            next_step="undo by the restore point, or write a migration that changes it back",
        )
    return folder


def _half_applied(version: str) -> Failure:
    return Failure(
        kind="half_applied",
        message=f"{version} is half applied here",
        next_step="finish it with a run, then take it back",
        migration=version,
    )


def _back(folder: GoesBack, judgement: Judgement, to: str | None) -> list[Migration]:
    """What is to be taken back, newest first. Raises MigrationFailed when there is no way."""
    has = [version for version, _ in judgement.applied]
    if to is not None and to not in has:
        message = f"the tenant has no version {to} to go back to"
        next_step = f"it stands at {has[-1]}" if has else "nothing is applied here"
        raise MigrationFailed(Failure(kind="no_down", message=message, next_step=next_step))
    keep = 0 if to is None else has.index(to) + 1
    known = {each.version: each for each in folder.migrations}
    back: list[Migration] = []
    for version in reversed(has[keep:]):
        migration = known[version]
        if migration.down is None:
            raise MigrationFailed(
                Failure(
                    kind="no_down",
                    message=f"{migration.file} has no way back",
                    next_step=f"write {migration.version}_{migration.name}.down.sql, or undo by the restore point",
                    migration=version,
                )
            )
        _refuse(migration.down)
        back.append(migration)
    return back


def _refuse(down: Migration) -> None:
    found = refused(down)
    reason = found.reason if found else "it cannot run inside a transaction, and all ways back run in one"
    if found is not None or down.stepwise:
        raise MigrationFailed(
            Failure(
                kind="refused",
                message=f"{found.excerpt}: {reason}" if found else reason,
                next_step="take the statement out of the file; run it by hand where it is needed",
                migration=down.version,
                file=down.file,
                statement=found.statement if found else None,
                line=found.line if found else None,
            )
        )


def _take_back(migrator: Migrator, folder: GoesBack, session: TenantSession, back: list[Migration]) -> None:
    bounds = migrator.bounds
    try:
        session.allow_statements(lock_seconds=bounds.lock_seconds, statement_seconds=bounds.statement_seconds)
        for migration in back:
            assert migration.down is not None, "those without were refused"
            if migrator.halt.cancelling:
                raise MigrationFailed(Failure(kind="cancelled", message="cancelled by the operator"))
            session.run(migration.down)
            if not folder.unrecord(session, migration):
                message = f"the ledger row of {migration.version} is gone already"
                raise MigrationFailed(Failure(kind="ahead", message=message, next_step="look at the tenant's ledger"))
            failpoint("migrate.taken_back")
    except psycopg.Error as error:
        raise MigrationFailed(sql_failure(error, lost=not session.alive)) from error
    try:
        session.commit()
    except psycopg.Error as error:
        failure = sql_failure(error, lost=not session.alive, committing=True)
        if session.alive:
            raise MigrationFailed(failure) from error
        unknown = replace(failure, kind="outcome_unknown", next_step="call again: the tenant's ledger tells")
        raise MigrationFailed(unknown) from error
