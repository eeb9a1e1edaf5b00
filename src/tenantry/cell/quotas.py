"""What a project may consume in a period, and what follows when it has: warned, turned away, put to sleep. Pure.

Each quota has the name of what it bounds; none, or zero, is no limit. ``logical_size_bytes`` is a bound of each branch
and of no period: above it transactions read only unless they say otherwise, so that data can be deleted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, cast

from tenantry.cell.consumption import Amounts
from tenantry.errors import QuotaExceeded

QuotaName = Literal[
    "active_time_seconds", "compute_time_seconds", "written_data_bytes", "data_transfer_bytes", "logical_size_bytes"
]
Level = Literal["within", "warned", "exceeded"]

WARN_SHARE: Final = 0.8
"""Of a quota; whoever has used so much of it is told."""

_WORDS: Final[dict[QuotaName, str]] = {
    "active_time_seconds": "active time",
    "compute_time_seconds": "compute time",
    "written_data_bytes": "written data",
    "data_transfer_bytes": "data transfer",
    "logical_size_bytes": "logical size",
}


@dataclass(frozen=True, slots=True)
class Spent:
    """How much of one quota is used."""

    name: QuotaName
    used: float
    limit: int

    @property
    def level(self) -> Level:
        if self.used >= self.limit:
            return "exceeded"
        return "warned" if self.used >= WARN_SHARE * self.limit else "within"


def limits_of(settings: Mapping[str, object]) -> dict[QuotaName, int]:
    """The quotas of a project's settings; those without a limit are left out."""
    quota = cast(Mapping[str, object], settings.get("quota") or {})
    found: dict[QuotaName, int] = {}
    for name in _WORDS:
        limit = quota.get(name)
        if isinstance(limit, int) and limit > 0:
            found[name] = limit
    return found


def spent_of(settings: Mapping[str, object], amounts: Amounts, largest_branch_bytes: int | None = None) -> list[Spent]:
    """Each quota of the project, with what its running period has used (and its largest branch occupies)."""
    used: dict[QuotaName, float] = {
        "active_time_seconds": amounts.active_seconds,
        "compute_time_seconds": amounts.compute_seconds,
        "written_data_bytes": amounts.written_bytes,
        "data_transfer_bytes": amounts.sent_bytes,
        "logical_size_bytes": largest_branch_bytes or 0,
    }
    return [Spent(name, used[name], limit) for name, limit in limits_of(settings).items()]


def refusing(spent: list[Spent]) -> Spent | None:
    """The quota because of which nobody may connect, or None. A branch's size never is."""
    return next((one for one in spent if one.level == "exceeded" and one.name != "logical_size_bytes"), None)


def reads_only(settings: Mapping[str, object], logical_bytes: int | None) -> bool:
    """Whether a branch of this size is over its limit, so that its transactions read only by default."""
    limit = limits_of(settings).get("logical_size_bytes")
    return limit is not None and logical_bytes is not None and logical_bytes >= limit


def exceeded(spent: Spent, resets_at: datetime) -> QuotaExceeded:
    """What to tell of an exceeded quota. The first sentence is Neon's, which clients look for."""
    return QuotaExceeded(
        f"Your account or project has exceeded the {_WORDS[spent.name]} quota. Upgrade your plan to increase limits.",
        next_step=(
            f"settings.quota.{spent.name} of the project is {spent.limit}; it begins anew at "
            f"{resets_at:%Y-%m-%dT%H:%M:%SZ}, and raising it frees the project at once"
        ),
        quota=spent.name,
        used=int(spent.used),
        limit=spent.limit,
    )
