"""The cell's own logins to instances: role ``cloud_admin`` over the Unix socket, with a password per project.

The password is derived from the cell's key, so nothing is stored, and one project's verifier tells nothing about
another's. The front door refuses this role's name.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow

from tenantry.errors import Unavailable
from tenantry.neon.ids import ProjectId
from tenantry.postgres import scram
from tenantry.runtime.sealing import Sealer

ADMIN_ROLE: Final = "cloud_admin"
CONNECT_SECONDS_MAX: Final = 10
STATEMENT_MILLISECONDS_MAX: Final = 30_000
KEYS_MAX: Final = 10_000
"""Projects whose login keys are remembered."""
_LIBPQ_WITH_KEYS: Final = 180_000
_OPTIONS: Final = " ".join(
    f"-c {name}={value}"
    for name, value in {
        "statement_timeout": STATEMENT_MILLISECONDS_MAX,
        "log_min_error_statement": "panic",
        # A database's owner chooses these for whoever connects (but for the admin's search_path: the template has it).
        "role": "none",
        "default_transaction_read_only": "off",
        "lock_timeout": 0,
    }.items()
)

AdminConnection = psycopg.AsyncConnection[TupleRow]


class Admin:
    """Opens short sessions as the admin role; none of them lingers."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._keys: dict[ProjectId, tuple[str, str]] = {}

    def password(self, project_id: ProjectId) -> str:
        """The admin password of every head of the project."""
        return self._sealer.derive(f"admin:{project_id}").hex()

    def _salt(self, project_id: ProjectId) -> bytes:
        return self._sealer.derive(f"admin-salt:{project_id}")[: scram.SALT_BYTES]

    def verifier(self, project_id: ProjectId) -> str:
        """What every head of the project stores of the password. Blocks for PBKDF2."""
        return scram.make_verifier(self.password(project_id), salt=self._salt(project_id))

    async def _proof(self, project_id: ProjectId) -> dict[str, str]:
        """How a login is proved: by SCRAM keys that were derived once, so that PBKDF2 is not on every one's path."""
        if psycopg.pq.version() < _LIBPQ_WITH_KEYS:
            return {"password": self.password(project_id)}
        known = self._keys.get(project_id)
        if known is None:
            if len(self._keys) >= KEYS_MAX:
                self._keys.clear()
            known = await asyncio.to_thread(scram.login_keys, self.password(project_id), self._salt(project_id))
            self._keys[project_id] = known
        return {"scram_client_key": known[0], "scram_server_key": known[1]}

    async def open(self, project_id: ProjectId, socket_dir: Path, database: str = "postgres") -> AdminConnection:
        """A connection in autocommit. Raises Unavailable when the instance does not take it."""
        try:
            return await psycopg.AsyncConnection.connect(
                make_conninfo(
                    "",
                    host=str(socket_dir),
                    user=ADMIN_ROLE,
                    dbname=database,
                    connect_timeout=CONNECT_SECONDS_MAX,
                    application_name="tenantry",
                    options=_OPTIONS,
                    **await self._proof(project_id),
                ),
                autocommit=True,
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
        """A connection that is closed at the end of the block.

        Raises Unavailable when the instance ends during it, or lacks what a statement needs.
        """
        connection = await self.open(project_id, socket_dir, database)
        try:
            yield connection
        except psycopg.OperationalError as error:
            raise Unavailable(
                f"the instance of project {project_id} let the cell down: {error.diag.message_primary or error}",
                client_text="the database was interrupted; try again",
                project_id=project_id,
                sqlstate=error.sqlstate,
            ) from error
        finally:
            await connection.close()
