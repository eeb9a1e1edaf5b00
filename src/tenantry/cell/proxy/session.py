"""One client from its first byte to its last: greet, route, authenticate, only then wake, log in, relay.

Nothing before a proved password may depend on whether the endpoint or the role exists, in words, in order of
messages or in work done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import structlog

from tenantry.cell.proxy import refusals, upstream
from tenantry.cell.proxy.cancel import Cancels, Key, Target
from tenantry.cell.proxy.certificates import ALPN, Tls
from tenantry.cell.proxy.conn import Conn, PeerGone
from tenantry.cell.proxy.limits import Limits, network_of
from tenantry.cell.proxy.metering import Meter
from tenantry.cell.proxy.ports import ADMIN_ROLE, Cell, Forwarder, LeaseId, Login
from tenantry.cell.proxy.refusals import Refusal
from tenantry.cell.proxy.relay import Relay
from tenantry.cell.proxy.routing import route
from tenantry.cell.proxy.settings import Settings
from tenantry.errors import InvalidInput, TenantryError, Unavailable
from tenantry.neon.ids import EndpointId
from tenantry.postgres import scram, wire
from tenantry.runtime.tasks import Tasks

_ENCRYPTION_REQUESTS_MAX: Final = 2
"""One for GSSAPI and one for TLS, as in Postgres."""
_WAKE_ATTEMPTS_MAX: Final = 3
"""An instance may be on its way down just when its door is opened; a new wake then finds it asleep."""

_log = structlog.get_logger("proxy.session")


@dataclass(slots=True)
class House:
    """What all sessions of one worker share."""

    cell: Cell
    settings: Settings
    limits: Limits
    meter: Meter
    cancels: Cancels
    forwarder: Forwarder
    tasks: Tasks
    worker: int
    tls: Tls | None = None
    relays: set[Relay] = field(default_factory=set[Relay])


@dataclass(frozen=True, slots=True)
class _Visitor:
    """A client that has said who it is and has not proved it."""

    endpoint: EndpointId
    role: str
    version: int
    parameters: dict[str, str]
    answer: bytes
    """What to tell it before the authentication request."""


@dataclass(frozen=True, slots=True)
class _Guest:
    """A client that has proved its password."""

    login: Login
    keys: scram.ClientKeys
    answer: bytes = field(repr=False)
    """Ends its authentication; sent once the instance has let it in."""


@dataclass(slots=True)
class _Session:
    """A client that has been let in, and what is to be given back at its end."""

    endpoint: EndpointId
    lease: LeaseId
    instance: Conn
    key: Key | None = None


async def serve(client: Conn, address: str, house: House) -> None:
    """Serves one client until it is gone. Tells it every refusal; raises none of them."""
    try:
        with house.limits.connection():
            session = await _begin(client, address, house)
            if session is not None:
                await _run(client, session, house)
    except PeerGone as error:
        _log.debug("client gone", address=address, reason=error.message)
    except upstream.Rejected as error:
        client.send_now(error.response)
    except TenantryError as error:
        level = _log.debug if error.blame == "client" else _log.warning
        level("client turned away", address=address, sqlstate=refusals.sqlstate_of(error), reason=str(error))
        client.send_now(refusals.error_response(error))
    finally:
        client.close()


async def _begin(client: Conn, address: str, house: House) -> _Session | None:
    """From the first byte to the greeting; None when the client wanted no session.

    Separate from the relay, so that an idle session keeps nothing of what its beginning needed.
    """
    with _told_of_shutdown(client):
        admitted = await _admit(client, address, house)
        if admitted is None:
            return None
        visitor, guest = admitted
        house.limits.enter_session(visitor.endpoint, guest.login.connections_max)
        try:
            return await _start(client, visitor, guest, address, house)
        except BaseException:
            house.limits.leave_session(visitor.endpoint)
            raise


async def _admit(client: Conn, address: str, house: House) -> tuple[_Visitor, _Guest] | None:
    """Everything until the password is proved, within the time for it."""
    with house.limits.handshake(network_of(address)):
        try:
            async with asyncio.timeout(house.settings.handshake_seconds):
                packet = await _first_words(client, house)
                if isinstance(packet, wire.CancelRequest):
                    await _cancel(Key(packet.pid, packet.key), house)
                    return None
                visitor = _announce(client, packet, house)
                return visitor, await _authenticate(client, visitor, address, house)
        except TimeoutError as error:
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


def _announce(client: Conn, startup: wire.Startup, house: House) -> _Visitor:
    """Decides where the client wants to go. Raises Refusal and ProtocolViolation."""
    if client.tls is None and house.settings.tls_required:
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
    endpoint, parameters = route(parameters, client.tls.sni if client.tls else None)
    version = startup.negotiated_version
    answer = b""
    if unknown or version != startup.version:
        answer = wire.negotiate_protocol_version(version, unknown)
    return _Visitor(endpoint, role, version, parameters, answer)


# ---------------------------------------------------------------------------------------------------------
# Is it true?


async def _authenticate(client: Conn, visitor: _Visitor, address: str, house: House) -> _Guest:
    """Raises Refusal; each failure after the first question takes the same time to be told."""
    network = network_of(address)
    house.limits.check_failures(network, visitor.endpoint)
    login = await house.cell.login(visitor.endpoint, visitor.role, address)
    binding = house.tls.channel_binding if house.tls and client.tls else None
    exchange = scram.ServerExchange(_verifier(login, visitor, house), channel_binding=binding)

    offer = wire.authentication_sasl(scram.mechanisms(channel_binding=binding))
    await client.send(visitor.answer + offer)
    mechanism, client_first = wire.parse_sasl_initial_response(await _sasl(client))
    server_first = exchange.first(mechanism, client_first)
    await client.send(wire.authentication(wire.AUTH_SASL_CONTINUE, server_first))
    client_final = await _sasl(client)
    house.limits.check_failures(network, visitor.endpoint)
    try:
        server_final = exchange.final(client_final)
    except scram.WrongPassword as error:
        house.limits.login_failed(network, visitor.endpoint)
        await _tell_failure(visitor, address, house)
        if login.md5:
            raise Refusal(
                refusals.WRONG_PASSWORD,
                f'the password of "{visitor.role}" is stored as md5, which this server does not accept',
                next_step="reset it through the API, or set it again with password_encryption = 'scram-sha-256'",
            ) from error
        raise refusals.wrong_password(visitor.role) from error
    answer = wire.authentication(wire.AUTH_SASL_FINAL, server_final) + wire.authentication(wire.AUTH_OK)
    return _Guest(login, exchange.keys, answer)


def _verifier(login: Login, visitor: _Visitor, house: House) -> scram.Verifier:
    """What to check the proof against; the fake one is made in any case, so that making it shows in no time."""
    fake = scram.fake_verifier(house.settings.secret, visitor.endpoint, visitor.role)
    if login.verifier is None or visitor.role == ADMIN_ROLE:
        return fake
    try:
        return scram.Verifier.parse(login.verifier)
    except InvalidInput:
        _log.warning("a stored verifier is none", endpoint=visitor.endpoint)
        return fake


async def _sasl(client: Conn) -> bytes:
    message = await client.message(wire.SASL_BYTES_MAX)
    if message.kind != b"p":
        raise wire.ProtocolViolation("expected a SASL response")
    return message.body


async def _tell_failure(visitor: _Visitor, address: str, house: House) -> None:
    """Lets the cell look whether its verifier is stale, within the time that every failure takes."""
    loop = asyncio.get_running_loop()
    told_at = loop.time() + house.settings.failed_login_seconds

    async def tell() -> None:
        try:
            await house.cell.login_failed(visitor.endpoint, visitor.role, address)
        except TenantryError as error:
            _log.info("the cell could not hear of a failed login", error=str(error))

    task = house.tasks.start(tell(), "login failed")
    await asyncio.wait({task}, timeout=house.settings.failed_login_seconds)
    await asyncio.sleep(told_at - loop.time())


# ---------------------------------------------------------------------------------------------------------
# Let it in


async def _start(client: Conn, visitor: _Visitor, guest: _Guest, address: str, house: House) -> _Session:
    """Wakes, logs in and lets the client hear the instance's greeting, with a cancel key of ours in it."""
    if guest.login.refusal is not None:
        raise Refusal(refusals.CANNOT_CONNECT_NOW, guest.login.refusal)
    try:
        async with asyncio.timeout(house.settings.wake_seconds):
            lease, socket_path, greeting = await _open(visitor, guest, address, house)
    except TimeoutError as error:
        raise Unavailable(
            f"endpoint {visitor.endpoint} did not get ready in {house.settings.wake_seconds:g} seconds",
            client_text="the database did not get ready in time, try again",
        ) from error
    session = _Session(visitor.endpoint, lease, greeting.conn)
    try:
        shown = b""
        if greeting.key:
            session.key = house.cancels.mint(visitor.version, Target(socket_path, greeting.pid, greeting.key))
            shown = wire.backend_key_data(session.key.pid, session.key.secret)
        await client.send(guest.answer + greeting.before_key + shown + greeting.after_key)
    except BaseException:
        _finish(session, house)
        raise
    return session


async def _run(client: Conn, session: _Session, house: House) -> None:
    relay = Relay(client, session.instance)
    house.relays.add(relay)
    try:
        with house.meter.session(session.endpoint, relay):
            end = await relay.run()
        _log.debug("session over", endpoint=session.endpoint, end=end.value)
    finally:
        house.relays.discard(relay)
        client.close()
        _finish(session, house)
        house.limits.leave_session(session.endpoint)


def _finish(session: _Session, house: House) -> None:
    if session.key is not None:
        house.cancels.drop(session.key)
    session.instance.close()
    house.tasks.start(_release(session.lease, house), "release")


async def _open(visitor: _Visitor, guest: _Guest, address: str, house: House) -> tuple[LeaseId, str, upstream.Greeting]:
    """Wakes the instance and logs in. Holds a lease exactly when it returns."""
    for attempt in range(1, _WAKE_ATTEMPTS_MAX + 1):
        awake = await house.cell.wake(visitor.endpoint)
        try:
            greeting = await upstream.log_in(awake.socket_path, visitor.parameters, guest.keys)
            return awake.lease, awake.socket_path, greeting
        except upstream.NotUp:
            house.tasks.start(_release(awake.lease, house), "release")
            if attempt == _WAKE_ATTEMPTS_MAX:
                raise
        except BaseException as error:
            house.tasks.start(_release(awake.lease, house), "release")
            if isinstance(error, upstream.Rejected) and error.sqlstate in _STALE:
                # The instance knows another password than the cell remembers: the instance is right.
                await _tell_failure(visitor, address, house)
            raise
    raise AssertionError("the loop ends by return or raise")


_STALE: Final = frozenset({refusals.WRONG_PASSWORD, refusals.INVALID_AUTHORIZATION})


async def _release(lease: LeaseId, house: House) -> None:
    try:
        await house.cell.release(lease)
    except TenantryError as error:
        # The worker tells the cell which leases it holds when they meet again, and this is none of them.
        _log.info("the cell could not take back a lease", lease=lease, error=str(error))


async def _cancel(key: Key, house: House) -> None:
    if key.worker == house.worker:
        await house.cancels.cancel(key)
    else:
        await house.forwarder.forward_cancel(key.worker, key.pid, key.secret)
