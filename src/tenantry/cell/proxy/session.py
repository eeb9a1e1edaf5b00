"""One client from its first byte to its last: greet, route, authenticate, only then wake, log in, relay.

Nothing before a proved password may depend on whether the endpoint or the role exists, in words, in order of
messages or in work done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog

from tenantry.cell.proxy import authentication, awake, refusals, upstream
from tenantry.cell.proxy.authentication import Claim, verifier_of
from tenantry.cell.proxy.borrow import Loan, borrow
from tenantry.cell.proxy.cancel import Key, Target
from tenantry.cell.proxy.certificates import ALPN
from tenantry.cell.proxy.conn import Conn, PeerGone
from tenantry.cell.proxy.house import House
from tenantry.cell.proxy.limits import network_of
from tenantry.cell.proxy.pool import Kind, servers_max
from tenantry.cell.proxy.ports import LeaseId, Login
from tenantry.cell.proxy.refusals import Refusal
from tenantry.cell.proxy.relay import End, Relay
from tenantry.cell.proxy.routing import route, take_operator, with_options
from tenantry.errors import TenantryError
from tenantry.neon.ids import EndpointId
from tenantry.postgres import scram, wire
from tenantry.runtime.tasks import meanwhile

_ENCRYPTION_REQUESTS_MAX: Final = 2
"""One for GSSAPI and one for TLS, as in Postgres."""
_log = structlog.get_logger("proxy.session")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrance:
    """The way by which a client came in, where it was not the front door's own listener."""

    host: str | None
    """What the client called the door: names the endpoint, as under TLS."""
    cleartext: bool
    """Asks for the password itself. Only where something else than this protocol protects it."""


@dataclass(frozen=True, slots=True)
class _Visitor:
    """A client that has said who it is and has not proved it."""

    claim: Claim
    version: int
    parameters: dict[str, str]
    answer: bytes
    """What to tell it before the authentication request."""
    pooled: bool
    """It came for a server connection that others use before and after it."""


@dataclass(frozen=True, slots=True)
class _Guest:
    """A client that has proved its password."""

    login: Login
    keys: scram.ClientKeys
    answer: bytes = field(repr=False)
    """Ends its authentication; sent once the instance has let it in."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """A client whose turn it is to speak, now and then, until it has proved its password."""

    client: Conn
    silent: Callable[[], AbstractContextManager[None]]
    """Meanwhile it may have to give way to others."""

    async def response(self, bytes_max: int) -> bytes:
        """What it answers to the authentication request. Raises PeerGone, ProtocolViolation."""
        with self.silent():
            message = await self.client.message(bytes_max)
        if message.kind != b"p":
            raise wire.ProtocolViolation("expected a response to the authentication request")
        return message.body


@dataclass(slots=True)
class _Session:
    """A client that has been let in, and what is to be given back at its end."""

    endpoint: EndpointId
    instance: Conn
    held: LeaseId | Loan
    """What keeps the instance awake: a lease, or the loan of a connection that stays when this session ends."""
    key: Key | None = None


async def serve(client: Conn, address: str, house: House, entrance: Entrance | None = None) -> None:
    """Serves one client until it is gone. Tells it every refusal; raises none of them."""
    try:
        with house.limits.connection():
            session = await _begin(client, address, house, entrance)
            if session is not None:
                await _run(client, session, house)
    except (PeerGone, wire.NoPacket) as error:
        _log.debug("client gone", address=address, reason=error.message)
    except upstream.Rejected as error:
        client.send_now(error.response)
    except TenantryError as error:
        level = _log.debug if error.blame == "client" else _log.warning
        level("client turned away", address=address, sqlstate=refusals.sqlstate_of(error), reason=str(error))
        client.send_now(refusals.error_response(error))
    finally:
        client.close()


async def _begin(client: Conn, address: str, house: House, entrance: Entrance | None) -> _Session | None:
    """From the first byte to the greeting; None when the client wanted no session.

    Separate from the relay, so that an idle session keeps nothing of what its beginning needed.
    """
    with _told_of_shutdown(client):
        admitted = await _admit(client, address, house, entrance)
        if admitted is None:
            return None
        visitor, guest = admitted
        if guest.login.refusal is not None:
            raise refusals.turned_away(guest.login)
        # An operator is past limits that others wait at; clients of a pool wait for their turn.
        pooled = (visitor.pooled or guest.login.pooled) and not guest.login.operator
        house.limits.enter_session(visitor.claim.endpoint, 0 if pooled else guest.login.connections_max)
        try:
            return await (_start_pooled if pooled else _start)(client, visitor, guest, house)
        except BaseException:
            house.limits.leave_session(visitor.claim.endpoint)
            raise


async def _admit(client: Conn, address: str, house: House, entrance: Entrance | None) -> tuple[_Visitor, _Guest] | None:
    """Everything until the password is proved, within the time for it."""
    with house.limits.handshake(network_of(address)) as handshake:
        try:
            async with asyncio.timeout(house.settings.handshake_seconds) as time:
                turn = _Turn(client, partial(handshake.silent, partial(time.reschedule, 0)))
                with turn.silent():
                    packet = await _first_words(client, house)
                if isinstance(packet, wire.CancelRequest):
                    await _cancel(Key(packet.pid, packet.key), house)
                    return None
                visitor = _announce(client, packet, address, house, entrance)
                if entrance is not None and entrance.cleartext:
                    return visitor, await _ask_password(turn, visitor, house)
                return visitor, await _authenticate(turn, visitor, house)
        except TimeoutError as error:
            if handshake.displaced:
                raise Refusal(
                    refusals.TOO_MANY_CONNECTIONS, "too many clients are logging in", next_step="try again"
                ) from error
            raise Refusal(
                refusals.PROTOCOL_VIOLATION,
                f"the login took longer than {house.settings.handshake_seconds:g} seconds",
            ) from error


@contextmanager
def _told_of_shutdown(client: Conn) -> Generator[None]:
    """A session that is cut off before its relay runs can still be told why."""
    try:
        yield
    except asyncio.CancelledError:
        client.send_now(refusals.shutting_down())
        raise


# ---------------------------------------------------------------------------------------------------------
# Who is it?


async def _first_words(client: Conn, house: House) -> wire.Startup | wire.CancelRequest:
    """Answers encryption requests until the client says what it wants. Raises Refusal and its kin."""
    tls = house.tls
    if await client.begins_with_tls():
        if tls is None:
            raise PeerGone("TLS is not offered")
        sock = await client.start_tls(tls.context)
        if sock.selected_alpn_protocol() != ALPN:
            # Whoever speaks another protocol under TLS must not be led to believe that this is it.
            raise PeerGone("direct TLS without the protocol's name")
    for _ in range(_ENCRYPTION_REQUESTS_MAX + 1):
        packet = await client.first_packet()
        match packet:
            case wire.Startup() | wire.CancelRequest():
                return packet
            case wire.GssEncRequest():
                await client.send(b"N")
            case wire.SslRequest():
                if client.inbox:
                    raise wire.ProtocolViolation("received unencrypted data after SSL request")
                if client.tls is not None or tls is None:
                    await client.send(b"N")
                else:
                    await client.send(b"S")
                    await client.start_tls(tls.context)
    raise wire.ProtocolViolation("too many encryption requests")


def _announce(client: Conn, startup: wire.Startup, address: str, house: House, entrance: Entrance | None) -> _Visitor:
    """Decides where the client wants to go. Raises Refusal and ProtocolViolation."""
    if client.tls is None and house.settings.tls_required and entrance is None:
        raise Refusal(
            refusals.INVALID_AUTHORIZATION,
            "the connection is not encrypted",
            next_step="connect with sslmode=require, or stronger",
        )
    role = startup.user
    parameters = dict(startup.parameters)
    if parameters.pop("replication", "off").lower() not in {"off", "false", "no", "0"}:
        raise Refusal(refusals.NOT_SUPPORTED, "replication connections are not supported")
    unknown = startup.unknown_protocol_options
    for name in unknown:
        del parameters[name]
    host = client.tls.sni if client.tls else None
    operator, parameters = take_operator(parameters)
    host = host or (entrance.host if entrance else None)
    way = route(parameters, host)
    version = startup.negotiated_version
    answer = b""
    if unknown or version != startup.version:
        answer = wire.negotiate_protocol_version(version, unknown)
    return _Visitor(Claim(way.endpoint, role, address, operator), version, way.parameters, answer, way.pooled)


# ---------------------------------------------------------------------------------------------------------
# Is it true?


async def _authenticate(turn: _Turn, visitor: _Visitor, house: House) -> _Guest:
    """Raises Refusal; each failure after the first question takes the same time to be told."""
    client = turn.client
    claim = visitor.claim
    network = network_of(claim.address)
    house.limits.check_failures(network, claim.endpoint)
    binding = house.tls.channel_binding if house.tls and client.tls else None
    offer = wire.authentication_sasl(scram.mechanisms(channel_binding=binding))
    # What is offered is the same for everybody: the client chooses while the cell is asked.
    async with meanwhile(house.cell.login(claim.endpoint, claim.role, claim.address, claim.operator)) as asked:
        await client.send(visitor.answer + offer)
        mechanism, client_first = wire.parse_sasl_initial_response(await turn.response(wire.SASL_BYTES_MAX))
        login = await asked
    exchange = scram.ServerExchange(verifier_of(login, claim, house), channel_binding=binding)
    server_first = exchange.first(mechanism, client_first)
    await client.send(wire.authentication(wire.AUTH_SASL_CONTINUE, server_first))
    client_final = await turn.response(wire.SASL_BYTES_MAX)
    house.limits.check_failures(network, claim.endpoint)
    try:
        server_final = exchange.final(client_final)
    except scram.WrongPassword as error:
        raise await authentication.failed(login, claim, house) from error
    answer = wire.authentication(wire.AUTH_SASL_FINAL, server_final) + wire.authentication(wire.AUTH_OK)
    return _Guest(login, exchange.keys, answer)


async def _ask_password(turn: _Turn, visitor: _Visitor, house: House) -> _Guest:
    """The password in clear text, which a client may send before it is asked. Raises Refusal."""
    await turn.client.send(visitor.answer + wire.authentication(wire.AUTH_CLEARTEXT))
    password = wire.parse_password(await turn.response(wire.PASSWORD_BYTES_MAX))
    login, keys = await authentication.by_password(visitor.claim, password, house)
    return _Guest(login, keys, wire.authentication(wire.AUTH_OK))


# ---------------------------------------------------------------------------------------------------------
# Let it in


async def _start(client: Conn, visitor: _Visitor, guest: _Guest, house: House) -> _Session:
    """Wakes, and logs in."""
    lease, socket_path, greeting = await awake.enter(
        visitor.claim,
        with_options(visitor.parameters, guest.login.options),
        guest.keys,
        house,
        operator=guest.login.operator,
    )
    session = _Session(visitor.claim.endpoint, greeting.conn, lease)
    target = Target(socket_path, greeting.pid, greeting.key) if greeting.key else None
    return await _greet(client, visitor, guest, session, target, (greeting.before_key, greeting.after_key), house)


async def _start_pooled(client: Conn, visitor: _Visitor, guest: _Guest, house: House) -> _Session:
    """The same on a connection that was used before, or that will be used again."""
    kind = Kind.of(guest.login, with_options(visitor.parameters, guest.login.options))
    loan = await borrow(visitor.claim, kind, guest.keys, house, servers_max(guest.login, house.settings))
    server = loan.server
    session = _Session(visitor.claim.endpoint, server.conn, loan)
    return await _greet(client, visitor, guest, session, server.target, (server.before_key, server.after_key), house)


async def _greet(
    client: Conn,
    visitor: _Visitor,
    guest: _Guest,
    session: _Session,
    target: Target | None,
    greeting: tuple[bytes, bytes],
    house: House,
) -> _Session:
    """Lets the client hear the instance's greeting, with a cancel key of ours in it."""
    try:
        shown = b""
        if target is not None:
            session.key = house.cancels.mint(visitor.version, target)
            shown = wire.backend_key_data(session.key.pid, session.key.secret)
        before_key, after_key = greeting
        await client.send(guest.answer + before_key + shown + after_key)
    except BaseException:
        await _finish(session, house)
        raise
    return session


async def _run(client: Conn, session: _Session, house: House) -> None:
    relay = Relay(client, session.instance, parting=isinstance(session.held, Loan))
    house.relays.add(relay)
    end = End.STOPPED
    try:
        with house.meter.session(session.endpoint, relay):
            end = await relay.run()
        _log.debug("session over", endpoint=session.endpoint, end=end.value)
    finally:
        house.relays.discard(relay)
        client.close()
        await _finish(session, house, end)
        house.limits.leave_session(session.endpoint)


async def _finish(session: _Session, house: House, end: End = End.STOPPED) -> None:
    if session.key is not None:
        house.cancels.drop(session.key)
    if not isinstance(session.held, Loan):
        session.instance.close()
        house.leases.give_back(session.held)
    elif end is End.PARTED and not (session.key and house.cancels.under_way(session.key)):
        await session.held.give_back(wire.IDLE, counted=False)
    else:
        await session.held.discard(instance_gone=end is End.INSTANCE)


async def _cancel(key: Key, house: House) -> None:
    if house.cancels.find(key) is not None:
        await house.cancels.cancel(key)
    else:
        await house.forwarder.forward_cancel(key.pid, key.secret)
