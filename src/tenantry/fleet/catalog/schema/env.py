"""Alembic's entry: runs the revisions on the connection that it was handed, in one transaction.

For a new revision: ``alembic -c src/tenantry/fleet/catalog/schema/alembic.ini revision --autogenerate`` with
``TENANTRY_CATALOG_URL`` set to a scratch catalog.
"""

from __future__ import annotations

import os
from typing import cast

from alembic import context
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

from tenantry.fleet.catalog.current import VERSION_TABLE
from tenantry.fleet.catalog.models import Base
from tenantry.fleet.catalog.upgrade import is_ours


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        version_table=VERSION_TABLE,
        include_name=is_ours,
        compare_type=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


handed = cast(Connection | None, context.config.attributes.get("connection"))
if handed is not None:
    _run(handed)
else:
    engine = create_engine(
        os.environ["TENANTRY_CATALOG_URL"].replace("postgresql://", "postgresql+psycopg://", 1), poolclass=NullPool
    )
    with engine.connect() as connection:
        _run(connection)
        connection.commit()
