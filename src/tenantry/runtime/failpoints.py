"""Named points at which a test may kill this very process, as a power cut would.

``TENANTRY_FAILPOINTS="create_project.cloned=kill,spare.row=kill:3"`` kills at the first, or at the third, passage.
Without the variable a point costs one attribute test. The idea is that of Neon's ``fail_point!``.
"""

from __future__ import annotations

import os
import signal
from typing import Final

VARIABLE: Final = "TENANTRY_FAILPOINTS"


def _parse(text: str) -> dict[str, int]:
    points: dict[str, int] = {}
    for item in filter(None, text.split(",")):
        name, _, action = item.partition("=")
        kind, _, passage = action.partition(":")
        if kind != "kill":
            raise ValueError(f"{VARIABLE}: {item!r} is not NAME=kill or NAME=kill:N")
        points[name] = int(passage or "1")
    return points


_armed: dict[str, int] = _parse(os.environ.get(VARIABLE, ""))


def arm(points: str) -> None:
    """Arms these points and no others, written as in the variable: for a process forked from one that knew of none."""
    _armed.clear()
    _armed.update(_parse(points))


def failpoint(name: str) -> None:
    """Kills this process with SIGKILL when ``name`` is armed and its passage has come."""
    if not _armed:
        return
    left = _armed.get(name)
    if left is None:
        return
    _armed[name] = left - 1
    if left == 1:
        os.kill(os.getpid(), signal.SIGKILL)
