"""The HTTP API over a fake cell, served on loopback: for tests of clients, in this process and outside it."""

from __future__ import annotations

import socket
import threading
from typing import Final, Self

import uvicorn

from tenantry.cell.api.addresses import FrontDoor
from tenantry.cell.api.app import build_app
from tenantry.cell.api.desk import API_PREFIX
from tenantry.cell.api.ports import CellApi
from tenantry.cell.api.site import Site
from tenantry.neon.ids import RegionId
from tenantry.testing.fake_cell import FakeCell

DOOR: Final = FrontDoor(host="127.0.0.1", port=7701)
STOP_SECONDS_MAX: Final = 10.0


class FakeApi:
    """Use ``with``. ``base_url`` ends in ``/api/v2``; ``key`` opens it; ``cell`` is what it shows."""

    def __init__(self, cell: FakeCell | None = None, *, site: Site | None = None) -> None:
        self.cell = cell or FakeCell()
        self.key = self.cell.new_key()
        self.site = site or Site(door=DOOR, region_id=RegionId("local"))
        self._socket = socket.create_server(("127.0.0.1", 0))
        port = int(self._socket.getsockname()[1])
        self.base_url = f"http://127.0.0.1:{port}{API_PREFIX}"
        port_cell: CellApi = self.cell
        config = uvicorn.Config(build_app(port_cell, self.site), log_config=None, access_log=False, lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="fake-api", daemon=True
        )

    def start(self) -> Self:
        """Requests sent from now on are answered; they wait in the socket's queue until the server is up."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Waits until the server has ended. Safe twice."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS_MAX)
        self._socket.close()

    __enter__ = start

    def __exit__(self, *_: object) -> None:
        self.stop()
