"""Whether a catalog has this release's schema, asked without loading what could change it."""

from __future__ import annotations

from typing import Final

import psycopg

REVISION: Final = "0011"
"""The newest revision in ``schema/versions``; a test compares it with what Alembic says."""
VERSION_TABLE: Final = "tenantry_schema_version"
"""Not Alembic's usual name: operators may keep an Alembic of their own in the same database."""
CONNECT_SECONDS_MAX: Final = 30


def is_current(url: str) -> bool:
    """False for an older, an empty and an unreadable catalog alike: upgrading it will say what is wrong."""
    try:
        with psycopg.connect(url, connect_timeout=CONNECT_SECONDS_MAX) as connection:
            rows = connection.execute("select version_num from tenantry_schema_version").fetchall()
    except psycopg.Error:
        return False
    return rows == [(REVISION,)]
