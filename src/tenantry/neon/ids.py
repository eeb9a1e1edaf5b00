"""Identifiers, each with its own type, in the shapes that Neon's clients expect.

``br-cool-sun-a1b2c3d4`` must match ``^br-[a-z]+-[a-z]+-[a-z0-9]+$`` or neonctl takes it for a name; every id
matches ``^[a-z0-9-]{1,60}$``.
"""

from __future__ import annotations

import re
import secrets
import uuid
from typing import Final, NewType

ProjectId = NewType("ProjectId", str)
BranchId = NewType("BranchId", str)
EndpointId = NewType("EndpointId", str)
OperationId = NewType("OperationId", str)
SnapshotId = NewType("SnapshotId", str)
HeadId = NewType("HeadId", str)
"""Ours, not Neon's: one data directory of a branch, with the history that was written in it."""
RegionId = NewType("RegionId", str)
RequestId = NewType("RequestId", str)

ID_PATTERN: Final = re.compile(r"^[a-z0-9-]{1,60}$")
ENDPOINT_PATTERN: Final = re.compile(r"^ep-[a-z]+-[a-z]+-[a-z0-9]+$")

_ADJECTIVES: Final = (  # noqa: SIM905 - a hundred words read better as a text
    "amber bold brave bright calm clear cool crisp dawn deep eager early fancy fresh gentle golden green happy "
    "hidden holy icy jolly keen kind late lively long lucky mellow misty mute noble odd old patient plain "
    "polished proud quiet rapid red rough round royal shiny shy silent small snowy soft solitary sparkling "
    "spring square steep still summer sweet tight twilight wandering warm weathered white wild winter wispy "
    "withered young"
).split()
_NOUNS: Final = (  # noqa: SIM905
    "art band bar base bird block boat bonus bread breeze brook bush butterfly cake cell cherry cloud credit "
    "darkness dawn dew disk dream dust feather field fire firefly flower fog forest frog frost glade glitter "
    "grass hall hat haze heart hill king lab lake leaf limit math meadow mode moon morning mountain mouse mud "
    "night paper pine poetry pond queen rain recipe resonance rice river salad scene sea shadow shape silence "
    "sky smoke snow snowflake sound star sun sunset surf term thunder tooth tree truth union unit violet voice "
    "water waterfall wave wildflower wind wood"
).split()
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789"


def _words() -> str:
    return f"{secrets.choice(_ADJECTIVES)}-{secrets.choice(_NOUNS)}"


def _suffix(length: int = 8) -> str:
    return "a" + "".join(secrets.choice(_ALPHABET) for _ in range(length - 1))


def new_project_id() -> ProjectId:
    """Two words and eight digits, as Neon's: ``cool-sun-12345678``."""
    return ProjectId(f"{_words()}-{secrets.randbelow(90_000_000) + 10_000_000}")


def new_branch_id() -> BranchId:
    return BranchId(f"br-{_words()}-{_suffix()}")


def new_endpoint_id() -> EndpointId:
    return EndpointId(f"ep-{_words()}-{_suffix()}")


def new_snapshot_id() -> SnapshotId:
    return SnapshotId(f"snap-{_words()}-{_suffix()}")


def new_head_id() -> HeadId:
    return HeadId(f"head-{_suffix(12)}")


def new_operation_id() -> OperationId:
    return OperationId(str(uuid.uuid4()))


def new_request_id() -> RequestId:
    return RequestId(str(uuid.uuid4()))
