"""The next tenants of one worker: claimed ahead, by the handful, so that nobody waits for the catalog.

A claim that was made ahead and found nothing says nothing of later: only one that is made when there is nothing left
ends the wave.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from tenantry.fleet.catalog.records import Claimed


class Claims:
    """Entered while a crew is at work; the crew's threads share it."""

    def __init__(self, claim: Callable[[], Sequence[Claimed]], *, handful: int, low: int) -> None:
        """``claim`` gives at most the next ``handful``, in a thread of its own, once no more than ``low`` are left."""
        self._claim = claim
        self._handful = handful
        self._low = low
        self._more = False
        """The last claim was full, so there may be others."""
        self._left: deque[Claimed] = deque()
        self._coming: Future[Sequence[Claimed]] | None = None
        self._failed: BaseException | None = None
        """Why there will be no more: told to everybody, and not tried again by each."""
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "migrate-claim")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Returns when no claim is under way; what was claimed and not taken is the caller's to give back."""
        self._thread.shutdown()

    def take(self) -> Claimed | None:
        """The next one, or None when there is none. Raises what ``claim`` has raised."""
        with self._lock:
            if self._failed is not None:
                raise self._failed
            if self._coming is not None and (self._coming.done() or not self._left):
                self._land(self._coming)
            if not self._left:
                self._land(self._thread.submit(self._claim))
            if not self._left:
                return None
            claimed = self._left.popleft()
            if self._more and len(self._left) <= self._low and self._coming is None:
                self._coming = self._thread.submit(self._claim)
            return claimed

    def _land(self, claim: Future[Sequence[Claimed]]) -> None:
        """Waits for it, as everybody does who finds nothing left."""
        self._coming = None
        try:
            claimed = claim.result()
        except BaseException as error:
            self._failed = error
            raise
        self._more = len(claimed) >= self._handful
        self._left.extend(claimed)
