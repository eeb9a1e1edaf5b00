"""The cell's own logins to instances: role ``cloud_admin`` over the Unix socket, with a password per project.

The password is derived from the cell's key, so nothing is stored, and one project's verifier tells nothing about
another's. The front door refuses this role's name.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import psycopg
from psycopg.rows import TupleRow

from tenantry.errors import Unavailable
from tenantry.neon.ids import ProjectId
from tenantry.runtime.sealing import Sealer

ADMIN_ROLE: Final = "cloud_admin"
CONNECT_SECONDS_MAX: Final = 10
STATEMENT_MILLISECONDS_MAX: Final = 30_000

AdminConnection = psycopg.AsyncConnection[TupleRow]


class Admin:
    """Opens short sessions as the admin role; none of them lingers."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def password(self, project_id: ProjectId) -> str:
        """The admin password of every head of the project."""
        return self._sealer.derive(f"admin:{project_id}").hex()

    async def open(self, project_id: ProjectId, socket_dir: Path, database: str = "postgres") -> AdminConnection:
        """A connection in autocommit. Raises Unavailable when the instance does not take it."""
        try:
            return await psycopg.AsyncConnection.connect(
                host=str(socket_dir),
                user=ADMIN_ROLE,
                password=self.password(project_id),
                dbname=database,
                autocommit=True,
                connect_timeout=CONNECT_SECONDS_MAX,
                application_name="tenantry",
                options=f"-c statement_timeout={STATEMENT_MILLISECONDS_MAX} -c log_min_error_statement=panic",
            )
        except psycopg.OperationalError as error:
            raise Unavailable(
                f"the instance of project {project_id} refused the cell: {error.diag.message_primary or error}",
                project_id=project_id,
                sqlstate=error.sqlstate,
            ) from error

    @asynccontextmanager
    async def session(
        self, project_id: ProjectId, socket_dir: Path, database: str = "postgres"
    ) -> AsyncGenerator[AdminConnection]:
        """A connection that is closed at the end of the block."""
        connection = await self.open(project_id, socket_dir, database)
        try:
            yield connection
        finally:
            await connection.close()
