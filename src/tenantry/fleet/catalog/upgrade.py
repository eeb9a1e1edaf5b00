"""Brings a catalog to this release's schema: Alembic's revisions, run from inside the program."""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path
from typing import Final, Literal

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from tenantry.errors import OperatorError
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.current import VERSION_TABLE
from tenantry.fleet.catalog.models import Base

_UPGRADE_LOCK: Final = 0x7E4A_4791
"""Key of the advisory lock under which one process at a time upgrades."""


def is_ours(
    name: str | None,
    kind: str,
    parents: MutableMapping[Literal["schema_name", "table_name", "schema_qualified_table_name"], str | None],
) -> bool:
    """For Alembic's comparison: tables that operators added to the catalog are none of our business."""
    return kind != "table" or name in Base.metadata.tables


def upgrade_catalog(catalog: Catalog, target: str | None = None) -> tuple[str | None, str]:
    """Applies what is missing, all in one transaction; returns the revision before and after.

    ``target`` stops at a revision before the newest.

    Raises OperatorError for a catalog that a newer release has upgraded already: this one would misread it.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "schema").replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    head = target or script.get_current_head()
    assert head is not None
    with catalog.transaction() as connection:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_UPGRADE_LOCK})")
        before = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
        known = {revision.revision for revision in script.walk_revisions()}
        if before is not None and before not in known:
            raise OperatorError(
                f"the catalog was upgraded by a newer Tenantry (revision {before}; this one knows up to {head})",
                next_step="upgrade this installation too",
            )
        if before != head:
            config.attributes["connection"] = connection
            command.upgrade(config, head)
    return before, head
