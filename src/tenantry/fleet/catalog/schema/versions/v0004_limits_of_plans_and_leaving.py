"""What the three plans allow; who asked for a deletion, and whether its provider turns a leaving tenant's clients away.

Only adds columns that may be empty, and fills in limits of plans where nobody has said any: a program of the release
before runs on it unharmed.
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0004"
down_revision = "0003"

_GIB: Final = 2**30
_LIMITS: Final = (
    "cu_min, cu_max, suspend_seconds, history_seconds, branches_max,"
    " quota_active_seconds, quota_compute_seconds, quota_written_bytes, quota_sent_bytes, quota_logical_bytes,"
    " backup_cron, backup_keep_days"
)
_PLANS: Final = (
    (
        "launch",
        "cu_min = 0.25, cu_max = 0.25, history_seconds = 86400, branches_max = 10,"
        f" quota_logical_bytes = {10 * _GIB}, backup_cron = '0 3 * * *', backup_keep_days = 7",
    ),
    (
        "scale",
        "cu_min = 0.25, cu_max = 1, history_seconds = 604800, branches_max = 25,"
        f" quota_logical_bytes = {100 * _GIB}, backup_cron = '0 */12 * * *', backup_keep_days = 14",
    ),
    (
        "business",
        "cu_min = 0.25, cu_max = 4, suspend_seconds = 3600, history_seconds = 1209600, branches_max = 100,"
        f" quota_logical_bytes = {1024 * _GIB}, backup_cron = '0 */6 * * *', backup_keep_days = 30",
    ),
)
_STATEMENTS: Final = (
    """
    ALTER TABLE project
        ADD COLUMN leaving_by text,
        ADD COLUMN shut_at timestamptz
    """,
    """
    CREATE INDEX project_shut_at_idx ON project (updated_at)
        WHERE (state = 'leaving' AND shut_at IS NULL) OR (state = 'ready' AND shut_at IS NOT NULL)
    """,
    "CREATE INDEX deletion_purged_at_idx ON deletion (purged_at DESC)",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
    for slug, limits in _PLANS:
        # num_nonnulls: what an operator has set is his.
        op.execute(f"UPDATE plan SET {limits} WHERE slug = '{slug}' AND num_nonnulls({_LIMITS}) = 0")  # noqa: S608
