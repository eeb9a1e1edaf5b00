"""Proves what a vault can do by doing it: write, read, look, list, delete, and what time it is there."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from tenantry.errors import TenantryError, VaultDenied, VaultError
from tenantry.fleet.backups.vault import Stored, Vault

CHECK_FOLDER: Final = ".check"
CHECK_BYTES: Final = 9 * 2**20
"""More than one part of an upload: a storage that takes small objects may still refuse large ones."""
CLOCK_SECONDS_MAX: Final = 60.0
"""S3 refuses requests from a clock that is 15 minutes off, and tells whole seconds."""
Verb = Literal["write", "read", "list", "delete", "clock"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What came of one thing that was tried. ``ok`` None: it could not be tried."""

    verb: Verb
    ok: bool | None
    seconds: float = 0.0
    wrong: str | None = None
    missing: str | None = None
    """The permission that is missing, as the storage calls it."""
    next_step: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedVault:
    url: str
    proofs: tuple[Proof, ...]
    clock_seconds: float | None
    """How far the vault's clock is ahead of this machine's."""

    @property
    def ok(self) -> bool:
        return all(proof.ok for proof in self.proofs)


def check_vault(vault: Vault, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> CheckedVault:
    """Leaves nothing in the vault where it may delete."""
    key = f"{CHECK_FOLDER}/{secrets.token_hex(8)}"
    content = os.urandom(CHECK_BYTES)
    stored: list[Stored] = []
    began = now()
    written = _prove("write", lambda: stored.append(vault.write(key, _chunks(content))))
    ended = now()
    skew = None if not stored else clock_skew(stored[0].modified, began, ended)
    read = _prove("read", lambda: _same(vault, key, content)) if written.ok else Proof(verb="read", ok=None)
    listed = _prove("list", lambda: _listed(vault, key, there=bool(written.ok)))
    deleted = _prove("delete", lambda: _gone(vault, key, look=bool(written.ok)))
    return CheckedVault(url=vault.url, proofs=(written, read, listed, deleted, _clock(skew)), clock_seconds=skew)


def clock_skew(modified: datetime, began: datetime, ended: datetime) -> float:
    """Seconds that the vault's clock is ahead; 0 where it may be right, given that it tells whole seconds. Pure."""
    if modified > ended:
        return (modified - ended).total_seconds()
    behind = (began - modified).total_seconds() - 1.0
    return -behind if behind > 0 else 0.0


def _clock(skew: float | None) -> Proof:
    if skew is None:
        return Proof(verb="clock", ok=None)
    if abs(skew) <= CLOCK_SECONDS_MAX:
        return Proof(verb="clock", ok=True)
    return Proof(
        verb="clock",
        ok=False,
        wrong=f"its clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's",
        next_step="set the clock that is wrong: retention goes by the time at which a backup was written",
    )


def _prove(verb: Verb, act: Callable[[], object]) -> Proof:
    started = time.monotonic()
    try:
        act()
    except TenantryError as error:
        missing = error.fields.get("missing") if isinstance(error, VaultDenied) else None
        return Proof(
            verb=verb,
            ok=False,
            seconds=time.monotonic() - started,
            wrong=error.message,
            missing=None if missing is None else str(missing),
            next_step=error.next_step or None,
        )
    return Proof(verb=verb, ok=True, seconds=time.monotonic() - started)


def _chunks(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), 2**20):
        yield content[start : start + 2**20]


def _same(vault: Vault, key: str, content: bytes) -> None:
    if b"".join(vault.read(key)) != content:
        raise VaultError(f"{vault.url} gives back other bytes than were written to it")


def _listed(vault: Vault, key: str, *, there: bool) -> None:
    found = any(stored.key == key for stored in vault.list(CHECK_FOLDER))
    if there and not found:
        raise VaultError(f"{vault.url} does not list what was written to it")


def _gone(vault: Vault, key: str, *, look: bool) -> None:
    vault.delete([key])
    if look and vault.look(key) is not None:
        raise VaultError(f"{vault.url} still shows what was deleted in it")
