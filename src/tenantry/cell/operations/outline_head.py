"""A new head with the structure of another, of now or of the past, and none of its rows; its history begins with it.

A passing copy of the source is emptied of what its catalogs know of rows, and stopped. Its catalogs become the new
head, where indexes are built over the empty tables. Everything is as it was: oids, owners, rights, extensions, texts.

No statement here runs a tenant's code with the cell's rights: Postgres builds indexes as their owners, nothing fires
triggers, and no definition is executed again, as restoring a dump as superuser would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from tenantry.cell.compute.admin import AdminConnection
from tenantry.cell.compute.truth import Truth
from tenantry.cell.model import Head
from tenantry.cell.operations.context import Context
from tenantry.cell.operations.new_head import (
    Source,
    forget,
    look_after,
    passing_head,
    start_private,
    stop_private,
)
from tenantry.cell.storage import bases, slot
from tenantry.cell.storage.checkpoint import read_checkpoint
from tenantry.cell.storage.outline import Outline, begin_history, copy_outline
from tenantry.cell.storage.recover import UNSYNCED, make_durable
from tenantry.errors import Conflict, Unavailable
from tenantry.postgres import postmaster
from tenantry.postgres.postmaster import Postmaster
from tenantry.runtime.failpoints import failpoint

QUIET: Final = {**UNSYNCED, "autovacuum": "off"}
"""Nothing but our own statements writes to the log; what is made becomes durable at the end, or is made again."""
_OID_OF_USERS: Final = 16_384
"""The first that initdb does not give: what is below is Postgres' own."""

_DATABASES: Final = (
    # One of which dropping was interrupted cannot be entered.
    "select datname, datallowconn from pg_catalog.pg_database where datconnlimit <> -2 order by oid"
)
_FORGET_ROWS: Final[tuple[LiteralString, ...]] = (
    "set allow_system_table_mods = on",
    "truncate pg_catalog.pg_statistic, pg_catalog.pg_statistic_ext_data,"
    " pg_catalog.pg_largeobject, pg_catalog.pg_largeobject_metadata",
    "delete from pg_catalog.pg_shdepend where classid = 2613 and dbid ="
    " (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())",
    "delete from pg_catalog.pg_description where classoid = 2613",
    "delete from pg_catalog.pg_seclabel where classoid = 2613",
    "delete from pg_catalog.pg_init_privs where classoid = 2613",
)
"""What catalogs hold of rows: the commonest values of columns, and large objects (2613) with what depends on them."""
_RELATIONS: Final = (
    "select c.oid::bigint, c.relkind::text, n.nspname, c.relname, pg_catalog.pg_relation_filepath(c.oid),"
    " c.relhasindex or c.reltoastrelid <> 0"
    " from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
    " where c.relkind in ('r', 'm', 't', 'i', 'S') and c.relpersistence <> 't' order by c.oid"
)
_LOG_BEGINS: Final[tuple[LiteralString, ...]] = ("checkpoint", "select pg_catalog.pg_switch_wal()", "checkpoint")
"""What follows lies in a segment of its own, and is all that a start reads."""


async def make_outline_head(
    context: Context, source: Source, head: Head, keep: Mapping[str, str]
) -> tuple[Head, Truth]:
    """Makes the files of ``head``; answers it as it is then, without an origin, and what it holds. It sleeps.

    Roles in ``keep`` get these verifiers. Raises what ``make_head`` raises; what is left then is for ``forget``.
    """
    await forget(context, source.project, head.id)
    try:
        return await _make(context, source, head, keep)
    except psycopg.OperationalError as error:
        raise Unavailable(f"an instance that makes head {head.id} ended: {error}", head_id=head.id) from error


async def _make(context: Context, source: Source, head: Head, keep: Mapping[str, str]) -> tuple[Head, Truth]:
    databases, closed = await _copy(context, source, head)
    failpoint("outline_head.copied")
    running = await start_private(context, source, head, QUIET)
    try:
        for database in databases:
            async with context.admin.session(source.project.id, running.socket_path.parent, database) as admin:
                await _build(admin, database)
        found = await look_after(context, source, running, keep)
        async with context.admin.session(source.project.id, running.socket_path.parent) as admin:
            for database in closed:
                await admin.execute(_allow(database, connections=False))
            for statement in _LOG_BEGINS:
                await admin.execute(statement)
            row = await (
                await admin.execute("select redo_lsn::text from pg_catalog.pg_control_checkpoint()")
            ).fetchone()
            assert row is not None
            await admin.execute(slot.ADVANCE, {"lsn": row[0]})
        failpoint("outline_head.built")
    finally:
        await postmaster.stop(running, mode="fast", timeout_seconds=context.config.stop_seconds_max)
    made = await asyncio.to_thread(_begin, context, source, head)
    await stop_private(context, source, made, running)
    return made, found


async def _copy(context: Context, source: Source, head: Head) -> tuple[Sequence[str], Sequence[str]]:
    """Puts the outline of the source's state in place. All databases, and those that let nobody in."""
    async with passing_head(context, source, QUIET) as copy:
        async with context.admin.session(source.project.id, copy.socket_path.parent) as admin:
            rows = await (await admin.execute(_DATABASES)).fetchall()
            names, closed = [str(name) for name, _ in rows], [str(name) for name, open_ in rows if not open_]
            for database in closed:
                await admin.execute(_allow(database, connections=True))
        outline = Outline(frozenset(), frozenset())
        for database in names:
            async with context.admin.session(source.project.id, copy.socket_path.parent, database) as admin:
                outline = _both(outline, await _prepare(admin))
        async with context.admin.session(source.project.id, copy.socket_path.parent) as admin:
            for statement in _LOG_BEGINS:
                await admin.execute(statement)
        await postmaster.stop(copy, mode="fast", timeout_seconds=context.config.stop_seconds_max)
        await asyncio.to_thread(_place, context, source, head, copy, outline)
    return names, closed


def _place(context: Context, source: Source, head: Head, copy: Postmaster, outline: Outline) -> None:
    directory = context.keeper.directory(source.project, head.id)
    copy_outline(context.keeper.driver, copy.data, directory, outline, owner=context.owner(source.project.uid))


async def _prepare(admin: AdminConnection) -> Outline:
    """Forgets what the catalogs of a database know of rows; what files it then has."""
    for statement in _FORGET_ROWS:
        await admin.execute(statement)
    for oid, kind, schema, name, _, _ in await _relations(admin):
        if oid >= _OID_OF_USERS and kind in ("S", "m"):
            again = "alter sequence {} restart" if kind == "S" else "refresh materialized view {} with no data"
            await admin.execute(sql.SQL(again).format(sql.Identifier(schema, name)))
    tables: set[str] = set()
    catalogs: set[str] = set()
    for oid, kind, _, _, path, _ in await _relations(admin):
        if path is not None:
            (catalogs if oid < _OID_OF_USERS or kind == "S" else tables).add(path)
    return Outline(catalogs=frozenset(catalogs), tables=frozenset(tables))


async def _build(admin: AdminConnection, database: str) -> None:
    """Builds all indexes of tenants' tables, and makes what is known of sizes true: nothing.

    Raises Conflict for an index that its owner could not build (any more) either.
    """
    for oid, kind, schema, name, _, indexed in await _relations(admin):
        if oid >= _OID_OF_USERS and kind in ("r", "m") and indexed:
            try:
                await admin.execute(sql.SQL("reindex table {}").format(sql.Identifier(schema, name)))
            except psycopg.OperationalError:
                raise
            except psycopg.Error as error:
                raise Conflict(
                    f"the indexes of {schema}.{name} in database {database!r} cannot be built: "
                    f"{error.diag.message_primary}",
                    next_step="repair or drop them; `reindex table` as their owner says the same",
                    database=database,
                ) from error
    await admin.execute("vacuum")


async def _relations(admin: AdminConnection) -> list[tuple[int, str, str, str, str | None, bool]]:
    return [
        (int(oid), str(kind), str(schema), str(name), path, bool(indexed))
        for oid, kind, schema, name, path, indexed in await (await admin.execute(_RELATIONS)).fetchall()
    ]


def _both(one: Outline, other: Outline) -> Outline:
    return Outline(catalogs=one.catalogs | other.catalogs, tables=one.tables | other.tables)


def _allow(database: str, *, connections: bool) -> sql.Composed:
    return sql.SQL("alter database {} allow_connections {}").format(sql.Identifier(database), sql.Literal(connections))


def _begin(context: Context, source: Source, head: Head) -> Head:
    """The head's history begins here: with the end of its log, and a base."""
    directory = context.keeper.directory(source.project, head.id)
    begin_history(directory / "data", owner=context.owner(source.project.uid))
    begin = read_checkpoint(directory / "data")
    now = context.clock.now()
    base = bases.take_cold_base(
        context.keeper.driver, directory, build_id=head.build_id, last_commit=lambda: now, now=now
    )
    assert base is not None, "nobody else knows of it"
    make_durable(directory)
    return replace(head, timeline=begin.timeline, origin_head_id=None, origin_lsn=None)
