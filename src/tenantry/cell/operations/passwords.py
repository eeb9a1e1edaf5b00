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
_SEPARATOR: Final = "\0"
"""Stands between a sealed password and its SCRAM ClientKey; no password of Postgres has it."""


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
    return opened(context, role.password_sealed, role.branch_id, role.name) or None


def opened(context: Context, sealed: bytes, branch_id: BranchId, role_name: str) -> str:
    """The password in clear."""
    return context.sealer.open(sealed, place=place(branch_id, role_name)).partition(_SEPARATOR)[0]


def stored_keys(context: Context, role: Role) -> tuple[str, str] | None:
    """ClientKey and ServerKey, with which a client logs in without hashing. None where the password is not known.

    Also None of passwords that were sealed before the key was kept with them.
    """
    if role.password_sealed is None or role.verifier is None:
        return None
    text = context.sealer.open(role.password_sealed, place=place(role.branch_id, role.name))
    client_key = text.partition(_SEPARATOR)[2]
    return scram.keys_of(role.verifier, client_key) if client_key else None


def resealed(context: Context, role: Role, branch_id: BranchId) -> bytes | None:
    """What is sealed of a role's password, for the role of that name and verifier of another branch."""
    if role.password_sealed is None:
        return None
    text = context.sealer.open(role.password_sealed, place=place(role.branch_id, role.name))
    return context.sealer.seal(text, place=place(branch_id, role.name))


def place(branch_id: BranchId, role_name: str) -> str:
    """Where a sealed password belongs: it opens nowhere else."""
    return f"role:{branch_id}:{role_name}"


async def new_password(context: Context, branch_id: BranchId, role_name: str) -> NewPassword:
    """A random password (95 bits) with its verifier; hashing runs on a thread."""
    clear = "npg_" + "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))
    verifier, client_key = await asyncio.to_thread(scram.new_secret, clear)
    sealed = context.sealer.seal(f"{clear}{_SEPARATOR}{client_key}", place=place(branch_id, role_name))
    return NewPassword(clear, verifier, sealed)
