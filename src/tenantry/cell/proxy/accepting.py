"""Accepting clients on one listening socket, without starving whoever came before, and without files too."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final

import structlog

ACCEPTS_PER_TURN: Final = 64
_OUT_OF_FILES_SECONDS: Final = 0.1

_log = structlog.get_logger("proxy.accepting")

Welcome = Callable[[socket.socket, str], None]
"""Takes a client's socket, and the address it came from."""


class Acceptor:
    """Hands each client to ``welcome``, from ``open`` to ``close``."""

    def __init__(self, listener: socket.socket, welcome: Welcome) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._welcome = welcome
        self._loop = asyncio.get_running_loop()
        self._resume: asyncio.TimerHandle | None = None
        self._open = False

    def open(self) -> None:
        """Begins to accept."""
        self._open = True
        self._listen()

    def close(self) -> None:
        """Accepts no more, and closes the listener. Safe twice."""
        if self._resume is not None:
            self._resume.cancel()
        if self._open:
            self._open = False
            self._loop.remove_reader(self._listener.fileno())
        self._listener.close()

    def _listen(self) -> None:
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                self._accept_failed(error)
                return
            # AF_INET and AF_INET6 addresses both begin with the host.
            self._welcome(sock, str(address[0]))

    def _accept_failed(self, error: OSError) -> None:
        if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
            # The backlog would wake us again at once, and nothing gets better by asking.
            _log.error("cannot accept a client", reason=error.strerror)
            self._loop.remove_reader(self._listener.fileno())
            self._resume = self._loop.call_later(_OUT_OF_FILES_SECONDS, self._listen)
