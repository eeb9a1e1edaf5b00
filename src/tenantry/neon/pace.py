"""Keeps to the number of requests that Neon's cloud answers: whoever asks faster is refused, and waits longer.

When a request may begin is decided by ``Schedule``, which knows no clock; ``Pace`` waits for that moment. Requests
begin in the order in which they asked. Must never let more through than the windows allow, whatever the threads do.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from tenantry.errors import LimitReached

REQUESTS_A_MINUTE: Final = 700
"""Of one account, all routes together (Neon's published limit)."""
BURST: Final = 100
"""Of these, how many may come at once; the others are spread evenly. So nobody ever waits for the next minute, holding
what others need."""
BURST_A_SECOND: Final = 40
"""Of one route."""
MARGIN: Final = 1.05
"""Windows are this much longer than they are named: what leaves here evenly may arrive there closer together."""
ROUTES_MAX: Final = 1_000
"""More than the contract has, so that paths which are none do not fill the memory."""
_CLOUD: Final = "neon.tech"
_COLLECTION: Final = re.compile(
    r"/(projects|branches|endpoints|operations|roles|databases|snapshots|api_keys|organizations|members|regions)/[^/]+"
)
_WORDS: Final = frozenset({"/projects/shared"})


def is_neons_cloud(base_url: str) -> bool:
    host = (urlsplit(base_url).hostname or "").lower()
    return host == _CLOUD or host.endswith(f".{_CLOUD}")


def route_of(method: str, path: str) -> str:
    """``GET /projects/{}/branches/{}``: a request without what differs between requests of one kind."""
    plain = path.partition("?")[0]
    return f"{method} " + (plain if plain in _WORDS else _COLLECTION.sub(r"/\1/{}", plain))


class Schedule:
    """When requests may begin. Not thread-safe, and no clock: moments are seconds of anybody's."""

    def __init__(self, *, minute: int = REQUESTS_A_MINUTE, burst: int = BURST, second: int = BURST_A_SECOND) -> None:
        assert 0 < burst < minute
        # A burst and all that is spread over the minute after it are together no more than the minute may have.
        self._interval = 60 * MARGIN / (minute - burst)
        self._slack = (burst - 1) * self._interval
        self._even = -math.inf
        """When the next request would begin if all were spread evenly."""
        self._last = -math.inf
        self._routes: dict[str, deque[float]] = {}
        self._second = second

    def begin(self, route: str, now: float, *, latest: float | None = None) -> float:
        """The moment at which this request may begin, not before ``now``; it is taken then, unless after ``latest``."""
        of_route = self._routes.get(route)
        if of_route is None:
            if len(self._routes) >= ROUTES_MAX:
                self._routes.clear()
            of_route = self._routes[route] = deque(maxlen=self._second)
        at = max(now, self._last, self._even - self._slack)
        if len(of_route) == of_route.maxlen:
            at = max(at, of_route[0] + MARGIN)
        if latest is None or at <= latest:
            self._last = at
            self._even = max(self._even, at) + self._interval
            of_route.append(at)
        return at


class Pace:
    """One account's pace, shared by all threads that use it."""

    def __init__(
        self,
        schedule: Schedule | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._schedule = schedule or Schedule()
        self._clock = clock
        self._pause = pause
        self._lock = threading.Lock()

    def wait(self, route: str, *, latest: float) -> None:
        """Returns when the request may begin. Raises LimitReached at once when that is after ``latest``."""
        with self._lock:
            now = self._clock()
            at = self._schedule.begin(route, now, latest=latest)
        if at > latest:
            raise LimitReached(
                f"{route} would have to wait {at - now:.0f} s, to keep to {REQUESTS_A_MINUTE} requests a minute"
                f" and {BURST_A_SECOND} a second",
                next_step="do less at a time, or try again later",
                asked=route,
                paced=True,
            )
        if at > now:
            self._pause(at - now)
