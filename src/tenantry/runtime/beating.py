"""Says every few seconds that a piece of work goes on, so that nobody takes whoever does it for dead."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

from tenantry.errors import TenantryError
from tenantry.runtime.telemetry import late_log


@contextmanager
def beating(what: str, every_seconds: float, beat: Callable[[], object]) -> Generator[None]:
    """Calls ``beat`` during the block, in a thread of its own. One that raises TenantryError is logged as ``what``; the
    next one may be heard."""
    ended = threading.Event()

    def go_on() -> None:
        while not ended.wait(every_seconds):
            try:
                beat()
            except TenantryError as error:
                late_log("beating").warning(f"nobody heard that {what} goes on", reason=str(error))

    thread = threading.Thread(target=go_on, name=f"{what}-beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
