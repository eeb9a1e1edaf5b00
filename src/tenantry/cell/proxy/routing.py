"""Which endpoint a client means: by the host name of its TLS handshake, or by its startup options."""

from __future__ import annotations

from typing import Final, NamedTuple

from tenantry.cell.proxy.refusals import CONNECTION_REJECTED, PROTOCOL_VIOLATION, Refusal
from tenantry.neon.ids import ID_PATTERN, EndpointId
from tenantry.postgres import wire

_POOLED: Final = "-pooler"


def endpoint_of_host(host: str | None) -> EndpointId | None:
    """``ep-cool-sun-a1b2c3d4.any.domain`` and its pooled twin name an endpoint; other hosts name none."""
    label = _label(host).removesuffix(_POOLED)
    return EndpointId(label) if label.startswith("ep-") and ID_PATTERN.match(label) else None


def take_operator(parameters: dict[str, str]) -> tuple[str | None, dict[str, str]]:
    """The token of the cell's operator, if the options hold one, and the parameters without it."""
    token, options = wire.take_option(parameters.get("options", ""), wire.OPERATOR_OPTION)
    if token is None:
        return None, parameters
    passed_on = {name: value for name, value in parameters.items() if name != "options"}
    return token, {**passed_on, "options": options} if options else passed_on


def with_options(parameters: dict[str, str], options: str) -> dict[str, str]:
    """The parameters with these options before the client's own, which win."""
    if not options:
        return parameters
    return {**parameters, "options": f"{options} {parameters.get('options', '')}".strip()}


class Route(NamedTuple):
    endpoint: EndpointId
    parameters: dict[str, str]
    """To pass on: without the words that named the endpoint."""
    pooled: bool
    """The endpoint's pooled twin was named."""


def route(parameters: dict[str, str], host: str | None) -> Route:
    """Where a client wants to go.

    Raises Refusal when no endpoint is named, when its name cannot be one, and when host and options disagree.
    """
    by_host = endpoint_of_host(host)
    given, options = wire.take_endpoint_option(parameters.get("options", ""))
    passed_on = {name: value for name, value in parameters.items() if name != "options"}
    if options:
        passed_on["options"] = options
    if given is None:
        if by_host is None:
            raise Refusal(
                CONNECTION_REJECTED,
                "the connection does not say which endpoint it is for",
                next_step="add options=endpoint%3D<endpoint id> to the connection URI, "
                "or connect with TLS to the host name that begins with the endpoint's id",
            )
        return Route(by_host, passed_on, _is_pooled(_label(host)))
    by_options = given.lower().removesuffix(_POOLED)
    if not ID_PATTERN.match(by_options):
        raise Refusal(
            CONNECTION_REJECTED,
            "the endpoint named in the connection's options cannot be one",
            next_step="endpoint ids look like ep-cool-sun-a1b2c3d4",
        )
    if by_host is not None and by_host != by_options:
        raise Refusal(PROTOCOL_VIOLATION, "the host name and the options name two different endpoints")
    pooled = _is_pooled(given.lower()) or (by_host is not None and _is_pooled(_label(host)))
    return Route(EndpointId(by_options), passed_on, pooled)


def _label(host: str | None) -> str:
    return (host or "").partition(".")[0].lower()


def _is_pooled(label: str) -> bool:
    return label.startswith("ep-") and label.endswith(_POOLED)
