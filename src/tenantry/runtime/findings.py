"""What an examination found: one sentence for each thing that was looked at, and what to do where it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["ok", "note", "wrong"]
"""``note``: nothing is broken, and somebody may want to know."""


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    """Of what was looked at: one of a few words that programs may rely on."""
    level: Level
    found: str
    next_step: str = ""
    facts: Mapping[str, object] = field(default_factory=dict[str, object])
    """What the sentence was made from, for programs."""
