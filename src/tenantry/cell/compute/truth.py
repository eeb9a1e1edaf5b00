"""What an instance itself says of its roles and databases; cell.db holds a copy of it.

Tenants create roles and change passwords by SQL, so pg_authid and pg_database are the truth. ``read`` asks, and
``changes`` decides what the copy lacks (pure).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import psycopg

from tenantry.cell.compute.admin import ADMIN_ROLE, AdminConnection
from tenantry.cell.model import Database, Role
from tenantry.neon.ids import BranchId

ROLES_MAX: Final = 10_000
DATABASES_MAX: Final = 10_000
QUERY_ERRORS: Final = psycopg.Error
"""What a query on a dying instance raises."""
GROUP_ROLE: Final = "neon_superuser"
_OURS: Final = [ADMIN_ROLE, GROUP_ROLE]

_TRUTH: Final = (
    "(select true, rolname, rolpassword from pg_catalog.pg_authid"
    " where rolname <> all (%s) and rolname !~ '^pg_' order by oid limit %s)"
    " union all"
    " (select false, datname, pg_catalog.pg_get_userbyid(datdba) from pg_catalog.pg_database"
    " where not datistemplate and datallowconn and datname <> 'postgres' order by oid limit %s)"
)
"""One statement: half of what a look costs is the asking."""


@dataclass(frozen=True, slots=True)
class Truth:
    """Role name to verifier text (or None), and database name to owner."""

    roles: dict[str, str | None]
    databases: dict[str, str]


async def read(connection: AdminConnection) -> Truth:
    """Reads both; bounded by ROLES_MAX and DATABASES_MAX."""
    rows = await (await connection.execute(_TRUTH, (_OURS, ROLES_MAX, DATABASES_MAX))).fetchall()
    return Truth(
        roles={str(name): verifier for of_roles, name, verifier in rows if of_roles},
        databases={str(name): str(owner) for of_roles, name, owner in rows if not of_roles},
    )


@dataclass(frozen=True, slots=True)
class Changes:
    roles_new: list[Role]
    roles_changed: list[Role]
    roles_gone: list[str]
    databases_new: list[Database]
    databases_changed: list[Database]
    databases_gone: list[str]

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in dataclasses.fields(self))


def changes(branch_id: BranchId, truth: Truth, roles: list[Role], databases: list[Database], now: datetime) -> Changes:
    """What must change in the copy. A sealed password whose verifier changed is forgotten: it is another's now."""
    known_roles = {role.name: role for role in roles}
    known_databases = {database.name: database for database in databases}
    return Changes(
        roles_new=[
            Role(branch_id=branch_id, name=name, verifier=verifier, created_at=now, updated_at=now)
            for name, verifier in truth.roles.items()
            if name not in known_roles
        ],
        roles_changed=[
            dataclasses.replace(known_roles[name], verifier=verifier, password_sealed=None, updated_at=now)
            for name, verifier in truth.roles.items()
            if name in known_roles and known_roles[name].verifier != verifier
        ],
        roles_gone=[name for name in known_roles if name not in truth.roles],
        databases_new=[
            Database(id=0, branch_id=branch_id, name=name, owner_name=owner, created_at=now, updated_at=now)
            for name, owner in truth.databases.items()
            if name not in known_databases
        ],
        databases_changed=[
            dataclasses.replace(known_databases[name], owner_name=owner, updated_at=now)
            for name, owner in truth.databases.items()
            if name in known_databases and known_databases[name].owner_name != owner
        ],
        databases_gone=[name for name in known_databases if name not in truth.databases],
    )
