"""Passwords of roles: made, hashed for Postgres, sealed for the one who may read them again."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from typing import Final

from tenantry.cell.model import Role
from tenantry.cell.operations.context import Context
from tenantry.neon.ids import BranchId
from tenantry.postgres import scram

_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_LENGTH: Final = 16
_NOT_STORED: Final = ""
"""Sealed instead of a password of a project that stores none: that the API set it is known all the same."""


@dataclass(frozen=True, slots=True)
class NewPassword:
    clear: str = field(repr=False)
    verifier: str = field(repr=False)
    sealed: bytes = field(repr=False)


def not_stored(context: Context, branch_id: BranchId, role_name: str) -> bytes:
    """What is kept of a password that the API has set and may not keep."""
    return context.sealer.seal(_NOT_STORED, place=place(branch_id, role_name))


def stored_password(context: Context, role: Role) -> str | None:
    """In clear; None when SQL set it, or it is not stored."""
    if role.password_sealed is None:
        return None
    return context.sealer.open(role.password_sealed, place=place(role.branch_id, role.name)) or None


def resealed(context: Context, role: Role, branch_id: BranchId) -> bytes | None:
    """What is sealed of a role's password, for the role of that name of another branch."""
    if role.password_sealed is None:
        return None
    clear = context.sealer.open(role.password_sealed, place=place(role.branch_id, role.name))
    return context.sealer.seal(clear, place=place(branch_id, role.name))


def place(branch_id: BranchId, role_name: str) -> str:
    """Where a sealed password belongs: it opens nowhere else."""
    return f"role:{branch_id}:{role_name}"


async def new_password(context: Context, branch_id: BranchId, role_name: str) -> NewPassword:
    """A random password (95 bits) with its verifier; hashing runs on a thread."""
    clear = "npg_" + "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))
    verifier = await asyncio.to_thread(scram.make_verifier, clear)
    return NewPassword(clear, verifier, context.sealer.seal(clear, place=place(branch_id, role_name)))
