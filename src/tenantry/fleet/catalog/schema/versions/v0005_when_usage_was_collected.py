"""When a provider last told what its tenants used.

Only adds a column that may be empty: a program of the release before runs on it unharmed.
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute("ALTER TABLE provider ADD COLUMN usage_collected_at timestamptz")
