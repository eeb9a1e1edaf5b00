"""The error tree: every failure names the thing, who is at fault and what to do next.

    TenantryError
    +-- InvalidInput          the caller sent something wrong (400)
    |   +-- NotSupported      the contract has it, this installation does not (501)
    +-- Unauthorized          no key, or a wrong one (401)
    +-- Forbidden             a right key without this right (403)
    +-- NotFound              no such thing (404)
    +-- Conflict              it exists, or its state forbids the change (409)
    +-- Locked                another change of the same project runs; ask again (423)
    +-- LimitReached          a named bound is full; ask later (429)
    |   +-- QuotaExceeded     a project has used up what it may in this period (402)
    +-- Unavailable           the thing exists and cannot serve now (503)
    |   +-- StartFailed       an instance did not come up
    |   +-- HistoryError      a branch's history cannot serve what is asked of it
    |       +-- HistoryGap        part of it is missing
    |       +-- HistoryDamaged    a file of it is not what was written
    +-- OperatorError         the installation needs its operator: disk, port, engine, rights (500)
    |   +-- DiskFull              there is no room for what was asked (507)
    |   +-- VaultError            a vault cannot be reached, or does not do what is asked of it
    |   |   +-- VaultDenied           a right is missing there; ``missing`` names it
    |   +-- DamagedBackup         an object of a backup is not what was written
    |   +-- WrongKey              a backup is sealed with another key than the one at hand, or its key is gone
    +-- Defect                our own mistake (500)

``client_text`` may be shown to whoever called; ``str(error)`` and ``fields`` go to the log. Neither ever
holds a password, a key or a DSN.
"""

from __future__ import annotations

from typing import ClassVar, Literal

Blame = Literal["client", "tenant", "operator", "cell"]


class TenantryError(Exception):
    """The root: a message for the log, a text for the client, fields, blame and a next step."""

    blame: ClassVar[Blame] = "cell"
    http_status: ClassVar[int] = 500
    code: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, *, next_step: str = "", client_text: str | None = None, **fields: object) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step
        self.fields = fields
        self._client_text = client_text

    @property
    def client_text(self) -> str:
        """What a client may read. The log text is used only by classes whose blame is the client's."""
        base = self._client_text
        if base is None:
            base = self.message if self.blame == "client" else "internal error"
        return f"{base} ({self.next_step})" if self.next_step and self.blame == "client" else base

    def __str__(self) -> str:
        return f"{self.message}; {self.next_step}" if self.next_step else self.message


class InvalidInput(TenantryError):
    """The caller sent something wrong; sending it again will not help."""

    blame = "client"
    http_status = 400
    code = "INVALID_INPUT"


class NotSupported(InvalidInput):
    """The contract knows it; this installation does not do it and says so."""

    http_status = 501
    code = "NOT_IMPLEMENTED"


class Unauthorized(TenantryError):
    """No credential, or a wrong one."""

    blame = "client"
    http_status = 401
    code = "UNAUTHORIZED"


class Forbidden(TenantryError):
    """The credential is right and does not give this right."""

    blame = "client"
    http_status = 403
    code = "FORBIDDEN"


class NotFound(TenantryError):
    """The named thing does not exist (or the caller may not know that it does)."""

    blame = "client"
    http_status = 404
    code = "NOT_FOUND"


class Conflict(TenantryError):
    """It exists already, or its state forbids the change."""

    blame = "client"
    http_status = 409
    code = "CONFLICT"


class Locked(TenantryError):
    """Another change of the same project is running; the caller may ask again soon."""

    blame = "client"
    http_status = 423
    code = "LOCKED"


class LimitReached(TenantryError):
    """A named bound is full; the caller may ask again later."""

    blame = "client"
    http_status = 429
    code = "LIMIT_REACHED"


class QuotaExceeded(LimitReached):
    """A project has used up what it may in this period; it helps to wait for the next one, or to raise the quota."""

    http_status = 402
    code = "QUOTA_EXCEEDED"


class Unavailable(TenantryError):
    """The thing exists and cannot serve now."""

    blame = "cell"
    http_status = 503
    code = "UNAVAILABLE"


class StartFailed(Unavailable):
    """A Postgres instance did not come up; the log holds its last lines."""

    code = "START_FAILED"


class HistoryError(Unavailable):
    """A branch's history cannot serve what is asked of it; the branch itself may be well."""

    code = "HISTORY_ERROR"


class HistoryGap(HistoryError):
    """Part of a history is missing: points behind the gap can only be reached from a base image behind it."""

    code = "HISTORY_GAP"


class HistoryDamaged(HistoryError):
    """A file of a history is not what was written; it is named, and nothing is made from it."""

    code = "HISTORY_DAMAGED"


class OperatorError(TenantryError):
    """The installation needs its operator: a full disk, a taken port, a missing engine, missing rights."""

    blame = "operator"
    http_status = 500
    code = "OPERATOR"

    @property
    def client_text(self) -> str:
        return self._client_text or "the cell needs its operator; see its log"


class DiskFull(OperatorError):
    """There is no room for what was asked; what was there before is whole. Asking again helps when there is room."""

    http_status = 507
    code = "DISK_FULL"

    @property
    def client_text(self) -> str:
        return self._client_text or "the cell's disk is full"


class VaultError(OperatorError):
    """A vault cannot be reached, or does not do what is asked of it; what is in it may be well."""

    code = "VAULT"


class VaultDenied(VaultError):
    """The vault's credentials are not accepted, or do not give this right; ``missing`` says which."""

    code = "VAULT_DENIED"


class DamagedBackup(OperatorError):
    """An object of a backup was cut, changed or mixed up; nothing of it may be used."""

    code = "DAMAGED_BACKUP"


class WrongKey(OperatorError):
    """A backup is sealed with another key than the one at hand, or its key was destroyed."""

    code = "WRONG_KEY"


class Defect(TenantryError):
    """Our own mistake. The log has the chain; a human must look."""

    code = "DEFECT"
