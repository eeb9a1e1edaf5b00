"""Whose fault it is that a verification did not pass."""

from __future__ import annotations

import pytest

from tenantry.errors import (
    DamagedBackup,
    DiskFull,
    OperatorError,
    TenantryError,
    Unavailable,
    VaultDenied,
    VaultError,
    WrongKey,
)
from tenantry.fleet.backups.verify import NotAsSaid, is_doubt, state_of


@pytest.mark.parametrize(
    ("error", "state", "doubt"),
    [
        (DamagedBackup("a flipped bit"), "failed", True),
        (NotAsSaid("a check that is not true"), "failed", False),
        (OperatorError("psql failed: no such extension"), "failed", False),
        (Unavailable("the provider is down"), "broken", False),
        (VaultError("the bucket is down"), "broken", False),
        (VaultDenied("no right to read"), "broken", False),
        (WrongKey("another fleet's key"), "broken", False),
        (DiskFull("the cell's disk is full"), "broken", False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, TenantryError) else "",
)
def test_only_a_backup_that_is_not_what_was_written_is_doubted(error: TenantryError, state: str, doubt: bool) -> None:
    assert (state_of(error), is_doubt(error)) == (state, doubt)
