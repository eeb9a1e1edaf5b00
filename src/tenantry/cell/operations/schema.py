"""A branch's schema as SQL, and the difference of two, by pg_dump."""

from __future__ import annotations

import asyncio
import difflib
import os
import subprocess
from pathlib import Path
from typing import Final

from tenantry.cell.compute import truth
from tenantry.cell.compute.admin import ADMIN_ROLE
from tenantry.cell.model import SchemaPoint
from tenantry.cell.operations.branches import check_head, resolve, source_head
from tenantry.cell.operations.context import Context, branch_of, living_project
from tenantry.cell.operations.databases import known_database
from tenantry.cell.operations.new_head import Source, passing_head, read_source
from tenantry.cell.state.tables import Tables
from tenantry.errors import Conflict, NotFound, Unavailable
from tenantry.neon.ids import BranchId, ProjectId
from tenantry.postgres.postmaster import Postmaster

DUMP_SECONDS_MAX: Final = 60.0
SCHEMA_BYTES_MAX: Final = 16 * 1024 * 1024
COPIES_AT_ONCE_MAX: Final = 2
"""Each is a whole data directory and an instance for as long as the look takes; who comes later waits."""


class Schemas:
    """Answers them. Of a running branch by its own instance, of all else by a copy that is made for the look."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._copies = asyncio.Semaphore(COPIES_AT_ONCE_MAX)

    async def of(self, project_id: ProjectId, point: SchemaPoint) -> str:
        """The database's schema, now or at a point of its branch's past.

        Raises NotFound, InvalidInput for a point outside of the history, HistoryGap, Unavailable.
        """
        context = self._context
        branch = await context.state.read(lambda tables: branch_of(tables, project_id, point.branch_id))
        chosen = await resolve(context, branch, lsn=point.lsn, moment=point.timestamp)

        def look(tables: Tables) -> Source:
            now = branch_of(tables, project_id, point.branch_id)
            check_head(now, chosen)
            project, head = living_project(tables, project_id), source_head(tables, now, chosen)
            return read_source(tables, project, now, head, chosen and chosen.lsn)

        source = await context.state.read(look)
        program = await context.engines.dump_program(source.head.build_id)
        if chosen is not None or source.endpoint is None:
            async with self._copies, passing_head(context, source) as copy:
                await self._check_database(source, copy, point.database_name)
                return await self._dump(program, project_id, copy.socket_path, point.database_name)
        await known_database(context, project_id, branch.id, point.database_name)
        lease = await context.instances.lease(source.endpoint.id, "operation")
        try:
            return await self._dump(program, project_id, Path(lease.socket_path), point.database_name)
        finally:
            context.instances.release(source.endpoint.id, lease.id)

    async def difference(self, project_id: ProjectId, point: SchemaPoint, base: SchemaPoint | None) -> str:
        """A unified diff from ``base`` to ``point``; without a base, from the parent. Raises what ``of`` does."""
        if base is None:
            branch = await self._context.state.read(lambda tables: branch_of(tables, project_id, point.branch_id))
            if branch.parent_id is None:
                raise Conflict(f"branch {branch.id} has no parent", next_step="name a base branch")
            base = SchemaPoint(branch_id=BranchId(branch.parent_id), database_name=point.database_name)
        before = await self.of(project_id, base)
        after = await self.of(project_id, point)
        lines = difflib.unified_diff(
            before.splitlines(keepends=True), after.splitlines(keepends=True), "a/schema.sql", "b/schema.sql"
        )
        return "".join(lines)

    async def _check_database(self, source: Source, copy: Postmaster, name: str) -> None:
        """Raises NotFound when the copy has no such database, whatever there is today."""
        async with self._context.admin.session(source.project.id, copy.socket_path.parent) as admin:
            if name not in (await truth.read(admin)).databases:
                raise NotFound(f"database {name!r} does not exist in branch {source.branch.id} at that point")

    async def _dump(self, program: Path, project_id: ProjectId, socket_path: Path, database: str) -> str:
        password = self._context.admin.password(project_id)
        return await asyncio.to_thread(_dump, program, socket_path.parent, database, password)


def _dump(program: Path, socket_dir: Path, database: str, password: str) -> str:
    environment = {**os.environ, "PGPASSWORD": password, "PGHOST": str(socket_dir), "PGUSER": ADMIN_ROLE}
    try:
        done = subprocess.run(
            # Quoted as a connection string, so that a name is never taken for one.
            [program, "--schema-only", "--no-comments", "--dbname", f"dbname={_quoted(database)}"],
            env=environment,
            capture_output=True,
            timeout=DUMP_SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"pg_dump took longer than {DUMP_SECONDS_MAX:g} s") from error
    if done.returncode != 0:
        raise Unavailable(f"pg_dump failed: {done.stderr[-500:].decode(errors='replace')}")
    if len(done.stdout) > SCHEMA_BYTES_MAX:
        raise Unavailable(f"the schema is larger than {SCHEMA_BYTES_MAX} bytes")
    return "\n".join(line for line in done.stdout.decode().splitlines() if not _changes_each_time(line)) + "\n"


def _changes_each_time(line: str) -> bool:
    """pg_dump guards its output with a random word; two dumps of one schema must be equal."""
    return line.startswith(("\\restrict ", "\\unrestrict ", "-- Dumped by", "-- Dumped from"))


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
