"""Vaults of both kinds: a directory, and a bucket in a real S3."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from tenantry.fleet.backups.open import open_vault
from tenantry.fleet.backups.vault import Vault

from ...seaweed import BUCKET, Seaweed, s3

__all__ = ["s3"]


@pytest.fixture(params=["directory", "s3"])
def vault(request: pytest.FixtureRequest, workdir: Path) -> Vault:
    """An empty one, of each kind."""
    if request.param == "directory":
        return open_vault(f"file://{workdir}/vault")
    s3: Seaweed = request.getfixturevalue("s3")
    return open_vault(f"s3://{BUCKET}/{secrets.token_hex(4)}", s3.options, credentials=s3.credentials())
