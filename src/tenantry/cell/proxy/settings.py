"""The door's named bounds; one value for a whole worker."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Self

LISTEN_BACKLOG: Final = 4096


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
    """Connections of one worker that have not proved a password yet."""
    handshakes_per_address_max: int = 2_048
    connections_per_endpoint_max: int = 1_000
    """Of one worker, where the cell does not say another number for the endpoint."""
    failed_login_seconds: float = 0.1
    """How long every failed login takes to be told, so that its reason does not show in its time."""
    report_seconds: float = 5.0
    drain_seconds: float = 10.0
    """How long sessions may go on after a worker was told to end."""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "secret": self.secret.hex()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Leaves out what only a newer control process knows: its workers of old must still understand it."""
        known = {field.name for field in fields(cls)}
        given: dict[str, Any] = {name: setting for name, setting in value.items() if name in known}
        given["secret"] = bytes.fromhex(value["secret"])
        return cls(**given)
