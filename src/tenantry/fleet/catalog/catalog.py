"""The connection to the catalog: a small bounded pool, transactions, and errors in the program's own words."""

from __future__ import annotations

import select
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import psycopg
from psycopg import errors as pg
from sqlalchemy import Connection, create_engine, event
from sqlalchemy import exc as sa
from sqlalchemy.pool import ConnectionPoolEntry

from tenantry.errors import Conflict, Locked, OperatorError, Unavailable

CONNECTIONS_MAX: Final = 4
"""Connections that one process holds to the catalog; the catalog's own budget is shared by all of them."""
CHECKOUT_SECONDS_MAX: Final = 30.0
CONNECT_SECONDS_MAX: Final = 15
"""A sleeping or restarting catalog answers within this, or the caller is told."""
LOCK_SECONDS_MAX: Final = 15
"""How long a verb waits for another one that is busy with the same tenant."""
IDLE_SECONDS_MAX: Final = 300
"""How long a verb may hold a tenant while it waits for a provider. A process that stands still loses its locks then."""

_NEXT_STEP: Final = "see that `tenantry up` is running and that the catalog's URL is right"


class Catalog:
    """One fleet's catalog. Threads may share it; every transaction has a connection of its own."""

    def __init__(self, url: str, *, connections_max: int = CONNECTIONS_MAX) -> None:
        """``url`` is a libpq URI or DSN. Connects on first use."""
        self.url = url
        """A secret: the password is in it."""

        def connect() -> psycopg.Connection:
            # Handing libpq its own URI keeps every parameter of it, and the password out of SQLAlchemy's reprs.
            return psycopg.connect(url, connect_timeout=CONNECT_SECONDS_MAX, application_name="tenantry")

        self._engine = create_engine(
            "postgresql+psycopg://",
            creator=connect,
            pool_size=connections_max,
            max_overflow=0,
            pool_timeout=CHECKOUT_SECONDS_MAX,
            hide_parameters=True,
            use_native_hstore=False,  # a question on each connection about a type that the catalog has not
        )

        event.listen(self._engine, "checkin", _used)
        event.listen(self._engine, "checkout", _look)

    @contextmanager
    def transaction(self) -> Generator[Connection]:
        """Commits at the end, rolls back on any error.

        Raises Unavailable when the catalog cannot be reached, Locked when another process holds the row wanted,
        and OperatorError when the catalog is not one of this release.
        """
        try:
            with self._engine.begin() as connection:
                connection.exec_driver_sql(
                    f"SELECT set_config('lock_timeout', '{LOCK_SECONDS_MAX}s', true),"
                    f" set_config('idle_in_transaction_session_timeout', '{IDLE_SECONDS_MAX}s', true)"
                )
                yield connection
        except sa.DBAPIError as error:
            raise _in_our_words(error) from error
        except sa.TimeoutError as error:
            raise Unavailable(
                f"no connection to the catalog became free within {CHECKOUT_SECONDS_MAX:g} s",
                next_step="run fewer things at a time, or look for a stuck one",
            ) from error

    def close(self) -> None:
        """Closes the idle connections; safe twice."""
        self._engine.dispose()


_USED: Final = "used"


def _used(_connection: psycopg.Connection | None, kept: ConnectionPoolEntry) -> None:
    kept.info[_USED] = True


def _look(connection: psycopg.Connection, kept: ConnectionPoolEntry, _proxied: object) -> None:
    """Has a connection replaced whose server is gone: there is something to read in it, its end.

    Asking the server would be a round trip before every transaction; and where the server goes just then, SQLAlchemy's
    own asking fails in a way that does not tell it.
    """
    if kept.info.pop(_USED, False) and (connection.broken or _is_readable(connection.fileno())):
        raise sa.DisconnectionError


def _is_readable(descriptor: int) -> bool:
    look = select.poll()
    look.register(descriptor, select.POLLIN)
    return bool(look.poll(0))


def _in_our_words(error: sa.DBAPIError) -> Exception:
    cause = error.orig
    if isinstance(cause, pg.LockNotAvailable | pg.DeadlockDetected):
        return Locked("another process is busy with this tenant", next_step="try again when it has finished")
    if isinstance(cause, pg.UndefinedTable | pg.UndefinedColumn):
        return OperatorError(
            f"the catalog's schema is not the one of this release ({_first_line(cause)})",
            next_step="start `tenantry up` of this release once: it brings the catalog up to date",
        )
    if isinstance(cause, pg.IntegrityError):
        return Conflict(
            f"the catalog refuses this: {cause.diag.message_primary}", constraint=cause.diag.constraint_name
        )
    if isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError | pg.IdleInTransactionSessionTimeout):
        return Unavailable(f"the catalog does not answer ({_first_line(cause)})", next_step=_NEXT_STEP)
    return error


def _first_line(cause: BaseException) -> str:
    """libpq's connection errors name host and user, never the password."""
    return next(iter(str(cause).strip().splitlines()), type(cause).__name__)
