"""Ports of this machine that stay free for whoever will listen on them by number, also while he is down.

A number that the system gives out is anybody's again as soon as it is free: the next connection may be made from it.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

FIRST: Final = 20_000
END: Final = 22_700
"""Below what the system gives out by itself, and so are the ports that are 10,000 higher."""
STEP: Final = 7


@contextmanager
def reserved(count: int) -> Iterator[list[int]]:
    """So many, of which nobody listens on the ports that are 10,000 higher either. Theirs who asked here, on the whole
    machine, until the end or until this process ends.
    """
    with ExitStack() as held:
        found: list[int] = []
        width = END - FIRST
        for number in range(0, width, STEP):
            port = FIRST + (os.getpid() * STEP + number) % width
            if len(found) == count:
                break
            mark = socket.socket(socket.AF_UNIX)
            try:
                mark.bind(f"\0tenantry-tests-port-{port}")  # a name that ends with its process, not a file
                for each in (port, port + 10_000):
                    with socket.socket() as probe:
                        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                        probe.bind(("127.0.0.1", each))
            except OSError as error:
                mark.close()
                assert error.errno == errno.EADDRINUSE, error
                continue
            held.enter_context(mark)
            found.append(port)
        assert len(found) == count, "no ports are free"
        yield found
