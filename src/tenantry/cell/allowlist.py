"""From which addresses a project's endpoints may be connected to. Pure.

An entry is an address, a network (``203.0.113.0/24``, ``2001:db8::/32``) or a range (``203.0.113.7-203.0.113.20``). An
IPv4 address that comes in IPv6 clothes counts as what it is.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, cast

from tenantry.errors import InvalidInput

ENTRIES_MAX: Final = 1_000
ENTRY_LENGTH_MAX: Final = 100
_LISTS_REMEMBERED: Final = 256

_Span = tuple[int, int, int]
"""IP version, first and last address."""


def parse_entry(text: str) -> _Span:
    """Raises InvalidInput, which repeats the entry: it is no secret."""
    written = text.strip()
    if len(written) > ENTRY_LENGTH_MAX:
        raise _wrong(written)
    first, dash, last = (part.strip() for part in written.partition("-"))
    try:
        if dash:
            begin, end = ipaddress.ip_address(first), ipaddress.ip_address(last)
            if begin.version != end.version or int(begin) > int(end):
                raise _wrong(written)
            return begin.version, int(begin), int(end)
        # Whoever writes 203.0.113.7/24 means the network that holds it.
        network = ipaddress.ip_network(written, strict=False)
    except ValueError as error:
        raise _wrong(written) from error
    return network.version, int(network.network_address), int(network.broadcast_address)


def _wrong(text: str) -> InvalidInput:
    return InvalidInput(
        f"settings.allowed_ips.ips: {text[:ENTRY_LENGTH_MAX]!r} is no address, network or range of addresses",
        next_step="write 203.0.113.7, 203.0.113.0/24 or 203.0.113.7-203.0.113.20",
        field="settings.allowed_ips.ips",
    )


def check(entries: list[str]) -> None:
    """Raises InvalidInput for the first entry that is none, and for too many of them."""
    if len(entries) > ENTRIES_MAX:
        raise InvalidInput(f"settings.allowed_ips.ips: at most {ENTRIES_MAX} entries", field="settings.allowed_ips.ips")
    for entry in entries:
        parse_entry(entry)


@lru_cache(maxsize=_LISTS_REMEMBERED)
def _spans(entries: tuple[str, ...]) -> tuple[_Span, ...]:
    return tuple(map(parse_entry, entries))


def admits(settings: Mapping[str, object], address: str, *, protected: bool) -> bool:
    """Whether a client at ``address`` may come to a branch (``protected`` or not) of a project with these settings.

    ``block_public_connections`` stands above the list, as in the contract: then private, link-local and loopback
    addresses may come, and no other.
    """
    block = settings.get("block_public_connections") is True
    allowed = cast(Mapping[str, object], settings.get("allowed_ips") or {})
    entries = tuple(cast(list[str], allowed.get("ips") or []))
    listed = bool(entries) and (protected or allowed.get("protected_branches_only") is not True)
    if not block and not listed:
        return True
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    if block:
        return parsed.is_private or parsed.is_link_local or parsed.is_loopback
    return any(version == parsed.version and first <= int(parsed) <= last for version, first, last in _spans(entries))
