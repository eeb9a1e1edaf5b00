"""Passwords in clear text, as HTTP and WebSocket clients send them, checked against stored verifiers.

A check costs PBKDF2, so it runs in a thread, a few at a time, and one that succeeded is remembered. What is
remembered opens nothing without the password itself, and fits no other verifier: a changed password is checked anew.
"""

from __future__ import annotations

import asyncio
import hmac
import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import structlog

from tenantry.postgres import scram

CHECKS_MAX: Final = 2
"""At a time; more wait."""
REMEMBERED_MAX: Final = 4_096
ITERATIONS_MAX: Final = 100_000
"""A tenant chooses the iterations of its verifiers, and here the door pays for them: about 25 ms."""

_log = structlog.get_logger("proxy.passwords")


class Passwords:
    """One worker's checks, and the proofs it remembers."""

    def __init__(self) -> None:
        self._secret = os.urandom(32)
        self._checks = asyncio.Semaphore(CHECKS_MAX)
        self._remembered: OrderedDict[bytes, bytes] = OrderedDict()

    async def prove(self, verifier: scram.Verifier, password: str, *, may_try: Callable[[], None]) -> scram.ClientKeys:
        """The keys of whoever knows ``password``. Raises WrongPassword, and what ``may_try`` raises.

        ``may_try`` is asked last of all, so that many tries begun at once get no more than one after the other.
        """
        may_try()
        remembered = self.recall(verifier, password)
        if remembered is not None:
            return remembered
        async with self._checks:
            may_try()
            if verifier.iterations > ITERATIONS_MAX:
                _log.warning("a verifier has too many iterations for a password in clear", bound=ITERATIONS_MAX)
                raise scram.WrongPassword("the verifier has too many iterations")
            keys = await asyncio.to_thread(scram.prove, verifier, password)
        name, mask = self._derive(verifier, password)
        self._remembered[name] = _xor(keys.client_key, mask)
        if len(self._remembered) > REMEMBERED_MAX:
            self._remembered.popitem(last=False)
        return keys

    def recall(self, verifier: scram.Verifier, password: str) -> scram.ClientKeys | None:
        """The keys, if this was proved before; None says nothing."""
        name, mask = self._derive(verifier, password)
        masked = self._remembered.get(name)
        if masked is None:
            return None
        self._remembered.move_to_end(name)
        return scram.ClientKeys(_xor(masked, mask), verifier.server_key)

    def _derive(self, verifier: scram.Verifier, password: str) -> tuple[bytes, bytes]:
        """Under which name a proof is remembered, and what hides it: neither can be made without the password."""
        known = f"{verifier}\0".encode() + password.encode("utf-8", "surrogateescape")
        return hmac.digest(self._secret, b"name\0" + known, "sha256"), hmac.digest(
            self._secret, b"mask\0" + known, "sha256"
        )


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left) ^ int.from_bytes(right)).to_bytes(len(left))
