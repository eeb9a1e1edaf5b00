"""Loads one dump into one database: streamed from the vault through pg_restore, in one transaction.

The transaction ends only after the whole dump was read and found to be what was written; what is damaged, or whose
vault goes away in the middle, leaves the database as it was.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Final

from tenantry.errors import OperatorError, TenantryError
from tenantry.fleet.backups.programs import CHUNK_BYTES, Client, Program, running
from tenantry.postgres.dsn import Dsn

_UNKNOWN_BEFORE_17: Final = b"SET transaction_timeout = 0;\n"
"""What a pg_restore of 17 and later writes for every server, and an older one refuses."""
_RESTRICTED: Final = b"\\restrict "
"""From here on psql does nothing that a name in the dump may ask of it; tenants choose their names."""
_HEAD_ENDS: Final = b"SET client_encoding"
HEAD_BYTES_MAX: Final = 64 * 1024
_BEGINS: Final = b"\nBEGIN;\n"
_COMMITS: Final = b"\nCOMMIT;\n\n--\n-- PostgreSQL database dump complete\n"
TAIL_BYTES: Final = 4096
"""In which a script has its last words."""


def load_dump(
    client: Client, dump: Iterator[bytes], dsn: Dsn, *, server_major: int, options: Sequence[str] = ()
) -> list[str]:
    """``options`` are pg_restore's. Returns its warnings. Raises TenantryError; then nothing of it is there."""
    # Without it pg_restore puts large objects into transactions of their own, whose end would be the end of ours.
    arguments = ["--file=-", "--no-password", "--single-transaction", *options]
    with ExitStack() as closing:
        script = closing.enter_context(running(client, "pg_restore", arguments, None, reads=True))
        loading = closing.enter_context(
            running(
                client, "psql", ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--no-password"], dsn,
                reads=True, writes=False,
            )
        )  # fmt: skip
        feeding = _Feeding(dump, script)
        feeding.start()
        broken: OSError | None = None
        try:
            loading.input.write(b"BEGIN;\n")
            for chunk in _script(script, server_major):
                loading.input.write(chunk)
        except OSError as error:  # psql has ended: its own words say why
            broken = error
        feeding.join()
        if broken is not None:
            loading.ended()
        script_failed = _failure_of(script)
        if feeding.failed is not None:
            raise feeding.failed
        if script_failed is not None:
            raise script_failed
        # Only now is the dump known to be whole.
        loading.input.write(b"\nCOMMIT;\n")
        loading.input.close()
        loading.ended()
        return [line for line in script.said + loading.said if "warning" in line.lower()]


def _script(script: Program, server_major: int) -> Iterator[bytes]:
    held = b""
    while _HEAD_ENDS not in held and len(held) < HEAD_BYTES_MAX:
        chunk = os.read(script.output.fileno(), CHUNK_BYTES)
        held += chunk
        if not chunk:
            break
    if not held:
        return  # it has failed, and says itself why
    if _RESTRICTED not in held:
        raise OperatorError(
            "the pg_restore of this machine is too old to be trusted with names that tenants chose",
            next_step="install the newest minor release of Postgres's client programs",
        )
    yield _head(held, server_major)
    # The end is held back: it would commit before the dump is known to be whole.
    held = b""
    while chunk := os.read(script.output.fileno(), CHUNK_BYTES):
        held += chunk
        if len(held) > TAIL_BYTES:
            yield held[:-TAIL_BYTES]
            held = held[-TAIL_BYTES:]
    yield _tail(held)


def _head(held: bytes, server_major: int) -> bytes:
    """Without what begins a transaction, which is begun already. Pure."""
    if server_major < 17:
        held = held.replace(_UNKNOWN_BEFORE_17, b"", 1)
    return held.replace(_BEGINS, b"\n", 1)


def _tail(held: bytes) -> bytes:
    """Without what commits; a script that was cut has no such end, and its program says why. Pure."""
    before, commits, after = held.rpartition(_COMMITS)
    return before + b"\n" + after if commits else held


def _failure_of(program: Program) -> TenantryError | None:
    try:
        program.ended()
    except TenantryError as error:
        return error
    return None


class _Feeding(threading.Thread):
    """Gives pg_restore the dump, and keeps what went wrong with that."""

    def __init__(self, dump: Iterator[bytes], script: Program) -> None:
        super().__init__(name="feed-pg_restore", daemon=True)
        self._dump = dump
        self._script = script
        self.failed: BaseException | None = None

    def run(self) -> None:
        try:
            gone = False
            for chunk in self._dump:
                # To the end in any case: only then is it known to be what was written.
                if not gone:
                    try:
                        self._script.input.write(chunk)
                    except OSError:
                        gone = True  # it has what it needs, or has failed, which it says itself
            if not gone:
                try:
                    self._script.input.close()
                except OSError:
                    return
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for this one
            self.failed = error
            self._script.process.kill()
