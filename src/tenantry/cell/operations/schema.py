"""A branch's schema as SQL, and the difference of two, by the engine's own pg_dump."""

from __future__ import annotations

import asyncio
import difflib
import os
import subprocess
from pathlib import Path
from typing import Final

from tenantry.cell.compute.admin import ADMIN_ROLE
from tenantry.cell.model import BuildId, SchemaPoint
from tenantry.cell.operations.context import Context, branch_of, read_write_endpoint
from tenantry.cell.operations.databases import known_database
from tenantry.cell.operations.history import head_of
from tenantry.cell.state.tables import Tables
from tenantry.errors import Conflict, NotSupported, Unavailable
from tenantry.neon.ids import BranchId, EndpointId, ProjectId

DUMP_SECONDS_MAX: Final = 60.0
SCHEMA_BYTES_MAX: Final = 16 * 1024 * 1024


async def branch_schema(context: Context, project_id: ProjectId, point: SchemaPoint) -> str:
    """The database's schema now. Raises NotSupported for a point of the past, NotFound."""
    if point.lsn is not None or point.timestamp is not None:
        raise NotSupported(
            "the schema of a point in the past is not available in this version of the cell",
            next_step="create a branch at that point and ask for its schema",
        )

    def look(tables: Tables) -> tuple[EndpointId, BuildId]:
        branch = branch_of(tables, project_id, point.branch_id)
        endpoint = read_write_endpoint(tables, branch)
        if endpoint is None:
            raise Conflict(f"branch {branch.id} has no read-write endpoint", next_step="create one")
        return endpoint.id, head_of(tables, branch).build_id

    endpoint_id, build_id = await context.state.read(look)
    await known_database(context, project_id, point.branch_id, point.database_name)
    engine = context.engines.get(build_id)
    program = engine.bin_dir / "pg_dump"
    if not program.exists():
        raise NotSupported(
            f"engine {engine.build_id} has no pg_dump", next_step="use an engine with client programs for this project"
        )
    lease = await context.instances.lease(endpoint_id, "operation")
    try:
        return await asyncio.to_thread(
            _dump, program, Path(lease.socket_path).parent, point.database_name, context.admin.password(project_id)
        )
    finally:
        context.instances.release(endpoint_id, lease.id)


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


async def compare_schema(context: Context, project_id: ProjectId, point: SchemaPoint, base: SchemaPoint | None) -> str:
    """A unified diff from ``base`` to ``point``; without a base, from the branch's parent."""
    if base is None:
        branch = await context.state.read(lambda tables: branch_of(tables, project_id, point.branch_id))
        if branch.parent_id is None:
            raise Conflict(f"branch {branch.id} has no parent", next_step="name a base branch")
        base = SchemaPoint(branch_id=BranchId(branch.parent_id), database_name=point.database_name)
    before = await branch_schema(context, project_id, base)
    after = await branch_schema(context, project_id, point)
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), "a/schema.sql", "b/schema.sql"
    )
    return "".join(lines)
