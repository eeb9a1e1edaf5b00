"""How much one address, one endpoint and the whole worker may take; every table here is bounded."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from tenantry.cell.proxy.refusals import INVALID_AUTHORIZATION, TOO_MANY_CONNECTIONS, Refusal
from tenantry.cell.proxy.settings import Settings
from tenantry.errors import InvalidInput, LimitReached
from tenantry.neon.ids import EndpointId

FAILURE_TABLE_MAX: Final = 10_000
"""Addresses, and pairs of address and endpoint, whose failed logins are remembered."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """``burst`` failures at once, then one every ``seconds_per_failure``."""

    burst: int
    seconds_per_failure: float


PER_ADDRESS: Final = Allowance(burst=100, seconds_per_failure=0.1)
PER_ADDRESS_AND_ENDPOINT: Final = Allowance(burst=10, seconds_per_failure=1.0)


@lru_cache(maxsize=1024)
def network_of(address: str) -> str:
    """What counts as one address: for IPv6 its /64, of which one client has all."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


class FailureTable:
    """Recent failures by name: for each, the moment at which all of them will be forgiven."""

    def __init__(self, allowance: Allowance, now: Callable[[], float], size_max: int = FAILURE_TABLE_MAX) -> None:
        self._allowance = allowance
        self._now = now
        self._size_max = size_max
        self._forgiven_at: OrderedDict[Hashable, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._forgiven_at)

    def wait_seconds(self, name: Hashable) -> float:
        """How long ``name`` must wait until it may fail once more; 0 when it may now."""
        forgiven_at = self._forgiven_at.get(name)
        if forgiven_at is None:
            return 0.0
        owed = forgiven_at - self._now()
        if owed <= 0:
            del self._forgiven_at[name]
            return 0.0
        return max(0.0, owed - (self._allowance.burst - 1) * self._allowance.seconds_per_failure)

    def failed(self, name: Hashable) -> None:
        """Counts one failure; when the table is full, the name that failed longest ago is forgotten."""
        now = self._now()
        since = max(self._forgiven_at.get(name, now), now)
        self._forgiven_at[name] = since + self._allowance.seconds_per_failure
        self._forgiven_at.move_to_end(name)
        if len(self._forgiven_at) > self._size_max:
            self._forgiven_at.popitem(last=False)


class AnswerTooLarge(InvalidInput):
    """The result of a query over HTTP is larger than an answer may be."""

    http_status = 507
    code = "ANSWER_TOO_LARGE"


class Room:
    """The bytes that one request over HTTP holds, of those that all of the worker's may. Made by ``Limits.room``."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._answer_left = limits.settings.sql_answer_bytes_max
        self.held = 0

    def hold(self, size: int) -> None:
        """Counts bytes of the request. Raises LimitReached."""
        self._limits.sql_bytes += size
        self.held += size
        if self._limits.sql_bytes > self._limits.settings.sql_bytes_max:
            raise LimitReached("the server holds too much for requests like this one", next_step="try again")

    def let_go(self, size: int) -> None:
        """Some of what was held is held no more."""
        self._limits.sql_bytes -= size
        self.held -= size

    def take(self, size: int) -> None:
        """Counts bytes of the answer. Raises AnswerTooLarge, LimitReached."""
        self.must_hold(size)
        self._answer_left -= size
        self.hold(size)

    def must_hold(self, size: int) -> None:
        """Raises AnswerTooLarge where ``size`` more bytes would be too much."""
        if size > self._answer_left:
            bound = self._limits.settings.sql_answer_bytes_max
            raise AnswerTooLarge(
                f"response is too large (max is {bound} bytes)",
                next_step="ask for less at a time, or use a Postgres driver",
            )


class Handshake:
    """One client that has not proved a password. Made by ``Limits.handshake``."""

    def __init__(self, silent: tuple[_Silent, _Silent]) -> None:
        self._silent = silent
        self._give_way: Callable[[], None] | None = None
        self.displaced = False
        """Whether it was told to give way to another."""

    @contextmanager
    def silent(self, give_way: Callable[[], None]) -> Generator[None]:
        """Meanwhile it is the client's turn to speak. ``give_way`` ends it soon, where its place is needed."""
        self._give_way = give_way
        for queue in self._silent:
            queue[self] = None
        try:
            yield
        finally:
            for queue in self._silent:
                queue.pop(self, None)

    def displace(self) -> None:
        assert self._give_way is not None, "only who is silent gives way"
        self.displaced = True
        for queue in self._silent:
            del queue[self]
        self._give_way()


_Silent = OrderedDict[Handshake, None]
"""Whom nothing was heard of for longest comes first."""


@dataclass(slots=True)
class _OfAddress:
    handshakes: int = 0
    silent: _Silent = field(default_factory=OrderedDict[Handshake, None])


class Limits:
    """The counts of one worker."""

    def __init__(self, settings: Settings, now: Callable[[], float]) -> None:
        self.settings = settings
        self._connections = 0
        self._handshakes = 0
        self._silent: _Silent = OrderedDict()
        self._of_address: dict[str, _OfAddress] = {}
        self._sessions_of: dict[EndpointId, int] = {}
        self.sql_bytes = 0
        """What all requests over HTTP hold."""
        self._by_address = FailureTable(PER_ADDRESS, now)
        self._by_pair = FailureTable(PER_ADDRESS_AND_ENDPOINT, now)

    @property
    def silent(self) -> int:
        """Clients who have not proved a password and whose turn it is to speak."""
        return len(self._silent)

    @property
    def connections(self) -> int:
        return self._connections

    @contextmanager
    def connection(self) -> Generator[None]:
        """One of the worker's connections. Raises Refusal when all are taken."""
        if self._connections >= self.settings.connections_max:
            raise Refusal(TOO_MANY_CONNECTIONS, "the server has too many connections", next_step="try later")
        self._connections += 1
        try:
            yield
        finally:
            self._connections -= 1

    @contextmanager
    def handshake(self, network: str) -> Generator[Handshake]:
        """One of the worker's, and of the address's, unproved connections. Raises Refusal.

        Where all are taken, the one that has been silent for longest gives way: whoever opens connections and says
        nothing keeps nobody out. Without a silent one the newcomer is refused, so that those who speak come to an end.
        """
        of_address = self._of_address.setdefault(network, _OfAddress())
        try:
            if of_address.handshakes >= self.settings.handshakes_per_address_max:
                self._make_room(of_address.silent)
            elif self._handshakes >= self.settings.handshakes_max:
                self._make_room(self._silent)
            self._handshakes += 1
            of_address.handshakes += 1
            handshake = Handshake((self._silent, of_address.silent))
            try:
                yield handshake
            finally:
                self._handshakes -= 1
                of_address.handshakes -= 1
        finally:
            if not of_address.handshakes:
                self._of_address.pop(network, None)

    def _make_room(self, silent: _Silent) -> None:
        if not silent:
            raise Refusal(TOO_MANY_CONNECTIONS, "too many clients are logging in", next_step="try later")
        next(iter(silent)).displace()

    @contextmanager
    def room(self) -> Generator[Room]:
        """What one request over HTTP may hold, until the end of the block."""
        room = Room(self)
        try:
            yield room
        finally:
            self.sql_bytes -= room.held

    def enter_session(self, endpoint: EndpointId, sessions_max: int) -> None:
        """Takes one of an endpoint's sessions; 0 means the worker's own bound. Raises Refusal."""
        bound = sessions_max or self.settings.connections_per_endpoint_max
        count = self._sessions_of.get(endpoint, 0)
        if count >= bound:
            raise Refusal(
                TOO_MANY_CONNECTIONS,
                f"the endpoint has its {bound} connections already",
                next_step="close some, or use a pool in the application",
            )
        self._sessions_of[endpoint] = count + 1

    def leave_session(self, endpoint: EndpointId) -> None:
        left = self._sessions_of[endpoint] - 1
        if left:
            self._sessions_of[endpoint] = left
        else:
            del self._sessions_of[endpoint]

    def check_failures(self, network: str, endpoint: EndpointId) -> None:
        """Raises Refusal while too many logins from there have failed.

        Asked twice: before the exchange, and again before its proof is looked at, so that many exchanges begun
        at once get no more guesses than one after the other.
        """
        wait = max(self._by_address.wait_seconds(network), self._by_pair.wait_seconds((network, endpoint)))
        if wait > 0:
            raise Refusal(
                INVALID_AUTHORIZATION,
                "too many failed logins from this address",
                next_step=f"try again in {wait:.0f} seconds" if wait >= 1 else "try again in a second",
            )

    def login_failed(self, network: str, endpoint: EndpointId) -> None:
        self._by_address.failed(network)
        self._by_pair.failed((network, endpoint))
