"""Server connections that stay when their client has left, for the next one of the same kind.

A connection is lent to one user at a time and reset in between (``DISCARD ALL``), so that nobody finds what another
has left. Each endpoint has a bound; whoever comes when it is reached waits, first come, first served. Idle
connections hold no lease: when their instance goes to sleep they end with it.

``Shelf`` decides, and touches nothing; ``Pool`` acts.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Generic, NewType, TypeVar

import structlog

from tenantry.cell.proxy.cancel import Target
from tenantry.cell.proxy.conn import Conn, PeerGone
from tenantry.cell.proxy.ports import Login
from tenantry.cell.proxy.settings import Settings
from tenantry.errors import LimitReached, TenantryError, Unavailable
from tenantry.neon.ids import EndpointId
from tenantry.postgres import wire
from tenantry.runtime.tasks import Tasks

LULL_SECONDS: Final = 0.002
"""Before a connection that nobody waits for is reset. Whoever connects again at once finds the worker free instead: it
is reset while the client hashes its password, for which that needs as long."""
RESET_SECONDS: Final = 5.0
"""What an instance may take to reset a connection before it is closed instead."""
SWEEP_SECONDS: Final = 1.0
_RESET_BYTES_MAX: Final = 64 * 1024
_EXPECTED: Final = frozenset({b"C", b"N", b"S", b"A", b"I"})
"""What may come in the answer to a statement of ours that succeeds."""

S = TypeVar("S")
Ticket = NewType("Ticket", int)

_log = structlog.get_logger("proxy.pool")


@dataclass(frozen=True, slots=True)
class Kind:
    """What makes server connections interchangeable: two of one kind cannot be told apart after a reset."""

    endpoint: EndpointId
    verifier: bytes
    """Stands for the role's password as it was at the login: a new password is another kind."""
    parameters: tuple[tuple[str, str], ...]
    """Of the startup packet, sorted, role and database among them: a reset returns to just these."""

    @classmethod
    def of(cls, login: Login, parameters: dict[str, str]) -> Kind:
        verifier = hashlib.sha256((login.verifier or "").encode()).digest()
        return cls(login.endpoint, verifier, tuple(sorted(parameters.items())))


def servers_max(login: Login, settings: Settings) -> int:
    """How many connections of one endpoint a worker keeps; a few are left for those who connect directly."""
    if not login.connections_max:
        return settings.pool_servers_per_endpoint_max
    return min(settings.pool_servers_per_endpoint_max, max(1, login.connections_max - settings.pool_servers_spared))


# ---------------------------------------------------------------------------------------------------------
# Deciding


@dataclass(frozen=True, slots=True)
class Lend(Generic[S]):
    """Take this one."""

    server: S


@dataclass(frozen=True, slots=True)
class Open(Generic[S]):
    """Open a new one; ``instead_of`` is to be closed first, when it is not None."""

    instead_of: S | None = None


Grant = Lend[S] | Open[S]


class Shelf(Generic[S]):
    """One endpoint's connections: which are idle, how many are out, and who waits.

    Never more than ``servers_max`` exist, nobody waits while one could be had, and none is overtaken.
    """

    def __init__(self, servers_max: int, waiters_max: int) -> None:
        self.servers_max = servers_max
        self._waiters_max = waiters_max
        self._out = 0
        """Lent, or being opened."""
        self._idle: dict[S, Kind] = {}
        """The one that is idle for longest comes first."""
        self._waiting: OrderedDict[Ticket, Kind] = OrderedDict()

    @property
    def out(self) -> int:
        return self._out

    @property
    def idle(self) -> list[S]:
        return list(self._idle)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to remember."""
        return not (self._out or self._idle or self._waiting)

    def ask(self, ticket: Ticket, kind: Kind) -> Grant[S] | None:
        """What whoever asks gets; None: wait. Raises LimitReached when too many wait already."""
        if not self._waiting and (grant := self._grant(kind)) is not None:
            return grant
        if len(self._waiting) >= self._waiters_max:
            raise LimitReached(
                f"{len(self._waiting)} requests wait for a connection of the endpoint already",
                next_step="send fewer at a time",
            )
        self._waiting[ticket] = kind
        return None

    def _grant(self, kind: Kind) -> Grant[S] | None:
        # The one that was used last is the warmest.
        mine = next((server for server, its in reversed(self._idle.items()) if its == kind), None)
        if mine is not None:
            del self._idle[mine]
            self._out += 1
            return Lend(mine)
        if self._out + len(self._idle) < self.servers_max:
            self._out += 1
            return Open()
        if self._idle:
            other = next(iter(self._idle))
            del self._idle[other]
            self._out += 1
            return Open(instead_of=other)
        return None

    def withdraw(self, ticket: Ticket) -> None:
        """Whoever held the ticket waits no more. Safe twice."""
        self._waiting.pop(ticket, None)

    def back(self, server: S, kind: Kind) -> list[tuple[Ticket, Grant[S]]]:
        """A connection that was out is fit for the next one. Says who gets what."""
        self._out -= 1
        self._idle[server] = kind
        return self._serve()

    def gone(self) -> list[tuple[Ticket, Grant[S]]]:
        """A connection that was out is closed, or could not be opened. Says who gets what."""
        self._out -= 1
        return self._serve()

    def lost(self, server: S) -> None:
        """An idle connection is to be closed. Nobody waits while there is one, so nobody gets its place."""
        del self._idle[server]

    def _serve(self) -> list[tuple[Ticket, Grant[S]]]:
        served: list[tuple[Ticket, Grant[S]]] = []
        while self._waiting:
            ticket, kind = next(iter(self._waiting.items()))
            grant = self._grant(kind)
            if grant is None:
                break
            del self._waiting[ticket]
            served.append((ticket, grant))
        return served


# ---------------------------------------------------------------------------------------------------------
# Acting


@dataclass(slots=True, eq=False)
class Server:
    """A logged-in connection to an instance."""

    kind: Kind
    conn: Conn
    target: Target
    """Where a cancel request for it goes."""
    before_key: bytes
    after_key: bytes
    """What the instance said at the login, before and after its key: for clients of the protocol."""
    opened_at: float
    idle_since: float = field(default=0.0)


class Pool:
    """The server connections of one worker that are reused."""

    def __init__(self, settings: Settings, tasks: Tasks) -> None:
        self.settings = settings
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._shelves: dict[EndpointId, Shelf[Server]] = {}
        self._waiting: dict[Ticket, asyncio.Future[Grant[Server]]] = {}
        self._numbers = 0
        self._idle: OrderedDict[Server, None] = OrderedDict()
        """Of all endpoints; the one that is idle for longest comes first."""
        self._lulls: dict[Server, asyncio.Future[None]] = {}
        """Those that wait to be reset, and how to wait no longer."""
        self._stopped = False

    @property
    def idle(self) -> int:
        return len(self._idle)

    async def run(self) -> None:
        """Closes what has been idle or open for too long; until it is cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = self._loop.time()
            while self._idle:
                server = next(iter(self._idle))
                if now - server.idle_since < self.settings.pool_idle_seconds:
                    break
                self._close_idle(server)

    async def obtain(self, kind: Kind, open_one: Callable[[], Awaitable[Server]], servers_max: int) -> Server:
        """A connection of this kind: an idle one, or what ``open_one`` gives. To be given back, or discarded.

        The newest ``servers_max`` is the endpoint's bound.

        Raises LimitReached when too many wait, or the wait is too long, and what ``open_one`` raises.
        """
        shelf = self._shelves.get(kind.endpoint)
        if shelf is None:
            shelf = self._shelves[kind.endpoint] = Shelf(servers_max, self.settings.pool_waiters_per_endpoint_max)
        shelf.servers_max = servers_max
        self._numbers += 1
        ticket = Ticket(self._numbers)
        grant = shelf.ask(ticket, kind)
        if not isinstance(grant, Lend):
            self._end_lulls(kind.endpoint)
        if grant is None:
            grant = await self._wait(shelf, ticket, kind)
        else:
            self._take_off(grant)
        if isinstance(grant, Lend):
            if _alive(grant.server) and not self._too_old(grant.server):
                return grant.server
            self._end(grant.server)
        try:
            return await open_one()
        except BaseException:
            self._gone(kind.endpoint)
            raise

    async def _wait(self, shelf: Shelf[Server], ticket: Ticket, kind: Kind) -> Grant[Server]:
        future = self._waiting[ticket] = self._loop.create_future()
        try:
            async with asyncio.timeout(self.settings.pool_wait_seconds):
                return await future
        except BaseException as error:
            shelf.withdraw(ticket)
            if future.done() and not future.cancelled():
                # Given to us when we had just turned away.
                self._return(kind.endpoint, future.result())
            if isinstance(error, TimeoutError):
                raise LimitReached(
                    f"no connection of the endpoint was free within {self.settings.pool_wait_seconds:g} seconds",
                    next_step="send fewer requests at a time, or shorter ones",
                ) from error
            raise
        finally:
            del self._waiting[ticket]

    def _take_off(self, grant: Grant[Server]) -> None:
        """What was granted is idle no more."""
        server = grant.server if isinstance(grant, Lend) else grant.instead_of
        if server is not None:
            del self._idle[server]
            self._loop.remove_reader(server.conn.sock.fileno())
            if isinstance(grant, Open):
                self._end(server)

    def _return(self, endpoint: EndpointId, grant: Grant[Server]) -> None:
        """What was granted is not wanted any more."""
        if isinstance(grant, Lend):
            self._put_back(grant.server)
        else:
            self._gone(endpoint)

    def _put_back(self, server: Server) -> None:
        server.idle_since = self._loop.time()
        self._idle[server] = None
        self._loop.add_reader(server.conn.sock.fileno(), self._close_idle, server)
        self._deal(server.kind.endpoint, self._shelves[server.kind.endpoint].back(server, server.kind))

    def give_back(self, server: Server, status: bytes, *, counted: bool) -> None:
        """Resets a connection whose last answer ended with this transaction status, for whoever comes next.

        Unless the answers were ``counted``, some may be on their way: the reset then ends with an answer that nothing
        else can have asked for.
        """
        self._tasks.start(self._reset(server, status, counted), "reset")

    async def _lull(self, server: Server) -> None:
        """A moment in which something else may be done, unless somebody waits for a connection of the endpoint."""
        if self._shelves[server.kind.endpoint].waiting:
            return
        over = self._lulls[server] = self._loop.create_future()
        timer = self._loop.call_later(LULL_SECONDS, _end, over)
        try:
            await over
        finally:
            timer.cancel()
            del self._lulls[server]

    def _end_lulls(self, endpoint: EndpointId) -> None:
        for server, over in self._lulls.items():
            if server.kind.endpoint == endpoint:
                _end(over)

    async def _reset(self, server: Server, status: bytes, counted: bool) -> None:
        try:
            if status == wire.IDLE and not counted:
                await self._lull(server)
            async with asyncio.timeout(RESET_SECONDS):
                if status != wire.IDLE:
                    await _command(server.conn, "ROLLBACK")
                if counted:
                    await _command(server.conn, "DISCARD ALL")
                else:
                    await _discard_surely(server.conn)
        except (TimeoutError, TenantryError) as error:
            _log.info("a server connection could not be reset", endpoint=server.kind.endpoint, reason=str(error))
            self.discard(server)
            return
        except BaseException:
            self.discard(server)
            raise
        if self._stopped or self._too_old(server) or server.conn.inbox:
            self.discard(server)
            return
        self._put_back(server)
        if len(self._idle) > self.settings.pool_idle_max:
            self._close_idle(next(iter(self._idle)))

    def discard(self, server: Server) -> None:
        """Closes a connection that was lent."""
        self._end(server)
        self._gone(server.kind.endpoint)

    def _too_old(self, server: Server) -> bool:
        """What a login decides (may this role come in, with which settings?) must not hold for ever."""
        return self._loop.time() - server.opened_at > self.settings.pool_lifetime_seconds

    def _close_idle(self, server: Server) -> None:
        """Ends an idle connection: its time is over, or the instance has closed it or said something."""
        self._shelves[server.kind.endpoint].lost(server)
        del self._idle[server]
        self._loop.remove_reader(server.conn.sock.fileno())
        self._end(server)
        self._tidy(server.kind.endpoint)

    def _end(self, server: Server) -> None:
        server.conn.send_now(wire.terminate())
        server.conn.close()

    def _gone(self, endpoint: EndpointId) -> None:
        self._deal(endpoint, self._shelves[endpoint].gone())
        self._tidy(endpoint)

    def _tidy(self, endpoint: EndpointId) -> None:
        if self._shelves[endpoint].empty:
            del self._shelves[endpoint]

    def _deal(self, endpoint: EndpointId, grants: list[tuple[Ticket, Grant[Server]]]) -> None:
        for ticket, grant in grants:
            self._take_off(grant)
            future = self._waiting[ticket]
            if future.done():
                self._return(endpoint, grant)
            else:
                future.set_result(grant)

    def stop(self) -> None:
        """Closes what is idle, and keeps nothing from now on. Safe twice."""
        self._stopped = True
        for server in list(self._idle):
            self._close_idle(server)


def _end(lull: asyncio.Future[None]) -> None:
    if not lull.done():
        lull.set_result(None)


def _alive(server: Server) -> bool:
    """Whether nothing has come and the other side is there."""
    try:
        server.conn.sock.recv(1)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


async def _discard_surely(conn: Conn) -> None:
    """Resets, and reads up to an answer that is certainly the reset's own. Raises as ``_command``."""
    mark = secrets.token_hex(16).encode()
    await conn.send(wire.query("DISCARD ALL") + wire.query(f"SELECT '{mark.decode()}'"))
    seen = False
    while True:
        message = await conn.message(_RESET_BYTES_MAX)
        if message.kind == b"E" or (message.kind == b"Z" and message.body != wire.IDLE):
            raise Unavailable("the instance was left in the middle of something, or did not take DISCARD ALL")
        if message.kind == b"D":
            # Of our own answer there is one row of one column; anything else belongs to somebody's query.
            if not message.body.endswith(mark):
                raise Unavailable("an answer was on its way that nobody waited for")
            seen = True
        elif message.kind == b"Z" and seen:
            return
        elif message.kind not in _EXPECTED | {b"T", b"Z"}:
            raise PeerGone(f"message {message.kind!r} in the answer to DISCARD ALL")


async def _command(conn: Conn, sql: str) -> None:
    """Runs one of our own statements. Raises PeerGone, ProtocolViolation, Unavailable."""
    await conn.send(wire.query(sql))
    failed = False
    while True:
        message = await conn.message(_RESET_BYTES_MAX)
        if message.kind == b"E":
            failed = True
        elif message.kind == b"Z":
            if failed or message.body != wire.IDLE:
                raise Unavailable(f"the instance did not take {sql}")
            return
        elif message.kind not in _EXPECTED:
            raise PeerGone(f"message {message.kind!r} in the answer to {sql}")
