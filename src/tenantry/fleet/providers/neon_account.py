"""An account of a Neon API whose client is made when it is first needed.

What speaks HTTP takes longer to load than most commands have to do, and many of them ask the catalog alone.
"""

# ruff: noqa: PLC0415 - that is the point
from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tenantry.neon.client import NeonClient
    from tenantry.neon.pace import Pace


class NeonAccount:
    """Threads may share it. Closing it closes its client, and is safe twice; nobody asks for it afterwards."""

    def __init__(self, make: Callable[[], NeonClient]) -> None:
        self._make = make
        self._made: NeonClient | None = None
        self._closed = False
        self._lock = threading.Lock()

    @classmethod
    def at(
        cls,
        api_url: str,
        api_key: str,
        *,
        tls_verify: bool | str = True,
        pace: Pace | None = None,
        away_seconds_max: float = math.inf,
    ) -> NeonAccount:
        """See ``neon.transport.Transport``: what is wrong with the URL is said when the client is first needed."""

        def make() -> NeonClient:
            from tenantry.neon.client import NeonClient

            return NeonClient(api_url, api_key, tls_verify=tls_verify, pace=pace, away_seconds_max=away_seconds_max)

        return cls(make)

    @property
    def client(self) -> NeonClient:
        with self._lock:
            assert not self._closed, "an account that is closed is not asked for"
            if self._made is None:
                self._made = self._make()
            return self._made

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._made is not None:
                self._made.close()
