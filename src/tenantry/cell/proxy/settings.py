"""The door's named bounds; one value for a whole worker."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final, Self

LISTEN_BACKLOG: Final = 4096
POSTGRES: Final = "postgres"
HTTP: Final = "http"
HTTPS: Final = "https"
"""What is spoken on a listener, as workers and the control process call it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a worker behaves. ``secret`` keys the fake verifiers and is the same in all workers, always."""

    secret: bytes = field(repr=False)
    tls_required: bool = False
    handshake_seconds: float = 15.0
    """From accept to a proved password, whatever the client does in between."""
    wake_seconds: float = 60.0
    """From a proved password to a ready session."""
    patience_seconds: float = 10.0
    """How long a new client waits for a control process that is not there."""
    connections_max: int = 10_000
    """Of one worker, before and after authentication."""
    handshakes_max: int = 4_096
    """Connections of one worker that have not proved a password yet; then who is silent gives way."""
    handshakes_per_address_max: int = 2_048
    connections_per_endpoint_max: int = 1_000
    """Of one worker, where the cell does not say another number for the endpoint."""
    failed_login_seconds: float = 0.1
    """How long every failed login takes to be told, so that its reason does not show in its time."""
    http_head_seconds: float = 15.0
    """How long an HTTP client may take for TLS and for the head of a request."""
    http_head_bytes_max: int = 64 * 1024
    http_idle_seconds: float = 60.0
    """Between two requests of one HTTP connection."""
    http_answer_seconds: float = 60.0
    """How long a client may take to read an answer of ours."""
    sql_login_seconds: float = 1.0
    """How long what the cell has said of a login holds for requests over HTTP."""
    sql_request_bytes_max: int = 10 * 1024 * 1024
    """The body of one request over HTTP, as on Neon."""
    sql_answer_bytes_max: int = 64 * 1024 * 1024
    """The results of one request over HTTP, as on Neon."""
    sql_bytes_max: int = 256 * 1024 * 1024
    """Bodies and results of all requests over HTTP that one worker serves at a time."""
    sql_body_seconds: float = 30.0
    """How long a client may take to send its body."""
    sql_queries_max: int = 10_000
    """In one batch."""
    sql_seconds: float = 300.0
    """How long the statements of one request over HTTP may take; then they are cancelled."""
    pool_servers_per_endpoint_max: int = 90
    """Connections of one worker to an instance that are reused, where the instance takes so many."""
    pool_servers_spared: int = 4
    """Of the connections that an instance takes, those that are left for clients who connect directly."""
    pool_waiters_per_endpoint_max: int = 1_000
    pool_wait_seconds: float = 15.0
    """How long a request waits for one of them."""
    pool_idle_seconds: float = 30.0
    """How long one stays open that nobody uses, while its instance is awake anyway."""
    pool_lifetime_seconds: float = 300.0
    """How old one becomes: until then it holds what was decided at its login."""
    pool_idle_max: int = 500
    """Idle ones of one worker, for all endpoints."""
    report_seconds: float = 5.0
    drain_seconds: float = 10.0
    """How long sessions may go on after a worker was told to end."""

    def bounded(self, connections_max: int) -> Self:
        """Where a worker may have no more connections than these: strangers still get half of them at most."""
        handshakes_max = min(self.handshakes_max, max(1, connections_max // 2))
        return replace(
            self,
            connections_max=min(self.connections_max, connections_max),
            handshakes_max=handshakes_max,
            handshakes_per_address_max=min(self.handshakes_per_address_max, max(1, handshakes_max // 2)),
        )

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "secret": self.secret.hex()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Leaves out what only a newer control process knows: its workers of old must still understand it."""
        known = {field.name for field in fields(cls)}
        given: dict[str, Any] = {name: setting for name, setting in value.items() if name in known}
        given["secret"] = bytes.fromhex(value["secret"])
        return cls(**given)
