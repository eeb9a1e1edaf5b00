"""Which endpoint a client means: by the host name of its TLS handshake, or by its startup options."""

from __future__ import annotations

from typing import Final

from tenantry.cell.proxy.refusals import CONNECTION_REJECTED, PROTOCOL_VIOLATION, Refusal
from tenantry.neon.ids import ID_PATTERN, EndpointId
from tenantry.postgres import wire

_POOLED: Final = "-pooler"


def endpoint_of_host(host: str | None) -> EndpointId | None:
    """``ep-cool-sun-a1b2c3d4.any.domain`` and its pooled twin name an endpoint; other hosts name none."""
    label = (host or "").partition(".")[0].lower().removesuffix(_POOLED)
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


def wants_pool(parameters: dict[str, str], host: str | None) -> bool:
    """Whether the host or the options name the endpoint's pooled twin."""
    given, _ = wire.take_endpoint_option(parameters.get("options", ""))
    labels = ((host or "").partition(".")[0], given or "")
    return any(label.lower().startswith("ep-") and label.lower().endswith(_POOLED) for label in labels)


def route(parameters: dict[str, str], host: str | None) -> tuple[EndpointId, dict[str, str]]:
    """The endpoint, and the parameters to pass on without the words that named it.

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
        return by_host, passed_on
    by_options = given.lower().removesuffix(_POOLED)
    if not ID_PATTERN.match(by_options):
        raise Refusal(
            CONNECTION_REJECTED,
            "the endpoint named in the connection's options cannot be one",
            next_step="endpoint ids look like ep-cool-sun-a1b2c3d4",
        )
    if by_host is not None and by_host != by_options:
        raise Refusal(PROTOCOL_VIOLATION, "the host name and the options name two different endpoints")
    return EndpointId(by_options), passed_on
