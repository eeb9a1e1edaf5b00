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
        self._left: int | None = None
        self.is_cut = False
        self.on_request: Callable[[bytes], None] = lambda _: None
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut_after(self, sent: int) -> None:
        """When the client has sent so many more bytes."""
        with self._lock:
            self._left = sent

    def cut(self) -> None:
        with self._lock:
            self.is_cut = True
            for each in self._open:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        with self._lock:
            self.is_cut = False
            self._left = None

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
            for source, sink, counted in ((client, server, True), (server, client, False)):
                thread = threading.Thread(target=self._relay, args=(source, sink, counted), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _relay(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while chunk := source.recv(65536):
                if counted:
                    self.on_request(chunk)
                    with self._lock:
                        if self._left is not None:
                            self._left -= len(chunk)
                            over = self._left < 0
                        else:
                            over = False
                    if over:
                        self.cut()
                        break
                sink.sendall(chunk)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open.discard(source)
            # Either direction's end closes both, once.
            if sink not in self._open:
                source.close()
                sink.close()
