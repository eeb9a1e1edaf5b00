"""What an operator may set of a cell, with the named bounds of everything that could grow."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

DEFAULT_HTTP: Final = "127.0.0.1:7700"
DEFAULT_POSTGRES: Final = "127.0.0.1:7701"
DEFAULT_MAJOR: Final = 18
DEFAULT_REGION: Final = "local"
DEFAULT_SUSPEND_SECONDS: Final = 300
RECOVER_SECONDS_DEFAULT: Final = 7 * 86_400
UIDS_WANTED: Final = 100_000
"""How many uids a root cell would like to have for its projects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellConfig:
    data: Path
    http: tuple[str, int] = ("127.0.0.1", 7700)
    postgres: tuple[str, int] = ("127.0.0.1", 7701)
    region: str = DEFAULT_REGION
    domain: str | None = None
    """A wildcard domain whose names all reach this cell (``db.example.com``); None routes by ``options=``."""
    insecure: bool = False
    """Allows a listener that is not loopback to serve without TLS."""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    default_major: int = DEFAULT_MAJOR
    engine_source: str | None = None
    """Preferred source of engines of one major, e.g. ``system``."""
    suspend_seconds_default: int = DEFAULT_SUSPEND_SECONDS
    recover_seconds: int = RECOVER_SECONDS_DEFAULT
    """How long deleted projects and branches can be recovered; their files stay as long. 0 deletes at once."""
    spares_max: int = 4
    """Ready clones kept for new projects of the default engine."""
    starts_max: int = field(default_factory=lambda: max(2, 2 * (os.cpu_count() or 1)))
    """Instances that may start at the same time; more wait in order."""
    start_seconds_max: float = 60.0
    stop_seconds_max: float = 60.0
    door_workers: int = 1
    drain_seconds_max: float = 10.0
    """How long open sessions may go on after SIGTERM."""
    uid_first: int | None = None
    """The first uid for projects when the cell is root; None finds a free range."""
    uid_count: int = UIDS_WANTED


def uid_range(config: CellConfig, uid_map: str) -> range:
    """The uids that projects of a root cell may get: as configured, else high up in what this namespace maps.

    ``uid_map`` is the text of ``/proc/self/uid_map``: inside a user namespace only some uids exist.
    """
    if config.uid_first is not None:
        return range(config.uid_first, config.uid_first + config.uid_count)
    spans = [(int(first), int(count)) for first, _, count in (line.split() for line in uid_map.splitlines())]
    first, count = max(spans, key=lambda span: span[1])
    wanted = min(config.uid_count, count // 2)
    high = first + min(count, 2_000_000_000)
    return range(high - wanted, high)
