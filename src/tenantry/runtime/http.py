"""``httpx`` without the command line that it brings along, and with that rich, click and pygments: a third of its load.

Whoever imports httpx first decides, so everything of ours gets it from here.
"""

from __future__ import annotations

import sys

# What is None here cannot be imported, and httpx does without.
_MODULE = "httpx._main"
_ABSENT = _MODULE not in sys.modules
if _ABSENT:
    sys.modules[_MODULE] = None  # pyright: ignore[reportArgumentType] - the import system's own word for "cannot be had"

import httpx  # noqa: E402

if _ABSENT:
    del sys.modules[_MODULE]

__all__ = ["httpx"]
