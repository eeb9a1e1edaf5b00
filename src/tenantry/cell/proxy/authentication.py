"""Who may come in: the parts of every login, by whichever way a client proves its password.

Nothing here may depend on whether the endpoint or the role exists, in words, in order or in work done, until the
password is proved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog

from tenantry.cell.proxy import refusals
from tenantry.cell.proxy.house import House
from tenantry.cell.proxy.limits import network_of
from tenantry.cell.proxy.ports import ADMIN_ROLE, Login
from tenantry.cell.proxy.refusals import Refusal
from tenantry.errors import InvalidInput, TenantryError
from tenantry.neon.ids import EndpointId
from tenantry.postgres import scram

STALE: Final = frozenset({refusals.WRONG_PASSWORD, refusals.INVALID_AUTHORIZATION})
"""What an instance says that knows another password than the cell remembers."""

_log = structlog.get_logger("proxy.authentication")


@dataclass(frozen=True, slots=True)
class Claim:
    """Who a client says it is, and from where it comes."""

    endpoint: EndpointId
    role: str
    address: str
    operator: str | None = field(default=None, repr=False)
    """The token of the cell's operator that it has shown, if it has."""


def verifier_of(login: Login, claim: Claim, house: House) -> scram.Verifier:
    """What to check the proof against; the fake one is made in any case, so that making it shows in no time."""
    fake = scram.fake_verifier(house.settings.secret, claim.endpoint, claim.role)
    if login.verifier is None or claim.role == ADMIN_ROLE:
        return fake
    try:
        return scram.Verifier.parse(login.verifier)
    except InvalidInput:
        _log.warning("a stored verifier is none", endpoint=claim.endpoint)
        return fake


async def by_password(claim: Claim, password: str, house: House) -> tuple[Login, scram.ClientKeys]:
    """Checks a password that came in clear text. Raises Refusal."""
    may_try = partial(house.limits.check_failures, network_of(claim.address), claim.endpoint)
    may_try()
    login = await house.cell.login(claim.endpoint, claim.role, claim.address, claim.operator)
    return await _prove(login, claim, password, house, may_try)


async def by_password_again(claim: Claim, password: str, house: House) -> tuple[Login, scram.ClientKeys]:
    """The same for one of many requests: who proved it a moment ago need not wait for the cell. Raises Refusal."""
    may_try = partial(house.limits.check_failures, network_of(claim.address), claim.endpoint)
    may_try()
    name = (claim.endpoint, claim.role, claim.address)
    recent = house.logins.recent(*name, house.settings.sql_login_seconds)
    if recent is not None:
        keys = house.passwords.recall(verifier_of(recent, claim, house), password)
        if keys is not None:
            return recent, keys
    return await _prove(await house.logins.ask(*name), claim, password, house, may_try)


async def _prove(
    login: Login, claim: Claim, password: str, house: House, may_try: Callable[[], None]
) -> tuple[Login, scram.ClientKeys]:
    try:
        return login, await house.passwords.prove(verifier_of(login, claim, house), password, may_try=may_try)
    except scram.WrongPassword as error:
        raise await failed(login, claim, house) from error


async def failed(login: Login, claim: Claim, house: House) -> Refusal:
    """Counts a failed login, and says how to tell it once every failure's time is over."""
    house.limits.login_failed(network_of(claim.address), claim.endpoint)
    await tell_cell(claim, house)
    if login.md5:
        return Refusal(
            refusals.WRONG_PASSWORD,
            f'the password of "{claim.role}" is stored as md5, which this server does not accept',
            next_step="reset it through the API, or set it again with password_encryption = 'scram-sha-256'",
        )
    return refusals.wrong_password(claim.role)


async def tell_cell(claim: Claim, house: House) -> None:
    """Lets the cell look whether its verifier is stale, within the time that every failure takes."""
    loop = asyncio.get_running_loop()
    told_at = loop.time() + house.settings.failed_login_seconds

    async def tell() -> None:
        try:
            await house.cell.login_failed(claim.endpoint, claim.role, claim.address)
        except TenantryError as error:
            _log.info("the cell could not hear of a failed login", error=str(error))

    task = house.tasks.start(tell(), "login failed")
    await asyncio.wait({task}, timeout=house.settings.failed_login_seconds)
    await asyncio.sleep(told_at - loop.time())
