"""An index for how many projects a provider holds in a region: every placement asks for it."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("CREATE INDEX project_place_idx ON project (provider_id, region) WHERE state <> 'deleted'")
