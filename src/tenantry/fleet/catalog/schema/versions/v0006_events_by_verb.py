"""An index for who did a thing that is seldom done: without it all of the log is read."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute("CREATE INDEX event_verb_id_idx ON event (verb, id DESC)")
