"""Where an endpoint answers: host names and connection strings of a front door.

Without a wildcard domain every endpoint shares the door's address, and the startup packet's ``options`` say which
one is meant; with one, the endpoint's own host name does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tenantry.neon.ids import EndpointId
from tenantry.postgres.dsn import DEFAULT_PORT, Dsn

LOCAL_DOMAIN: Final = "localhost"
POOLER_SUFFIX: Final = "-pooler"


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontDoor:
    """The address under which clients reach a cell's Postgres."""

    host: str
    """The address that every client can reach, e.g. ``127.0.0.1``."""
    port: int = DEFAULT_PORT
    domain: str | None = None
    """A domain whose every name leads to the door, e.g. ``db.example.com``; None when there is none."""
    sslmode: str | None = "require"
    """What connection strings ask for; None says nothing, and libpq then prefers TLS."""

    @property
    def name(self) -> str:
        """The door's own name, as ``proxy_host`` shows it."""
        return self.domain or LOCAL_DOMAIN

    def endpoint_host(self, endpoint: EndpointId, *, pooled: bool = False) -> str:
        """``ep-...<domain>[:port]``: what clients that build connection strings themselves take as the host."""
        port = "" if self.port == DEFAULT_PORT else f":{self.port}"
        return f"{_label(endpoint, pooled)}.{self.name}{port}"

    def dsn(self, endpoint: EndpointId, *, database: str, role: str, password: str | None, pooled: bool = False) -> Dsn:
        """The connection string of a database behind this door."""
        label = _label(endpoint, pooled)
        parameters = {} if self.domain else {"options": f"endpoint={label}"}
        if self.sslmode:
            parameters["sslmode"] = self.sslmode
        return Dsn(
            host=f"{label}.{self.domain}" if self.domain else self.host,
            port=self.port,
            database=database,
            role=role,
            password=password,
            parameters=parameters,
        )


def _label(endpoint: EndpointId, pooled: bool) -> str:
    return f"{endpoint}{POOLER_SUFFIX}" if pooled else endpoint
