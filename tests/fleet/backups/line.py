"""A line to a server that a test can cut: after so many bytes, or for good."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress


class Line:
    """Relays connections from ``port`` to the server's. Once cut, it closes what there is and takes nothing more."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._left: dict[str, int] = {}
        self.is_cut = False
        self.on_request: Callable[[bytes], None] = lambda _: None
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut_after(self, *, sent: int | None = None, received: int | None = None) -> None:
        """When the client has sent, or was sent, so many more bytes."""
        with self._lock:
            self._left = {way: left for way, left in (("sent", sent), ("received", received)) if left is not None}

    def cut(self) -> None:
        with self._lock:
            self.is_cut = True
            for each in self._open:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        with self._lock:
            self.is_cut = False
            self._left = {}

    def close(self) -> None:
        self.cut()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if self.is_cut:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._open |= {client, server}
            for source, sink, way in ((client, server, "sent"), (server, client, "received")):
                thread = threading.Thread(target=self._relay, args=(source, sink, way), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _relay(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        with suppress(OSError):
            while chunk := source.recv(16_384):
                if way == "sent":
                    self.on_request(chunk)
                if self._is_over(way, len(chunk)):
                    self.cut()
                    break
                sink.sendall(chunk)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open.discard(source)
            if sink not in self._open:  # the other direction has ended, too
                source.close()
                sink.close()

    def _is_over(self, way: str, size: int) -> bool:
        with self._lock:
            if way not in self._left:
                return False
            self._left[way] -= size
            return self._left[way] < 0
