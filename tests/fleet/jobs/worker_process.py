"""Workers in processes of their own, to be killed and stopped: a fork for each line read, with everything imported.

Reads a line ``{"catalog", "ledger", "log", "name", "bounds", ...}`` and answers with the fork's pid. After another
line, which is empty, that runs one worker until SIGTERM. What an item does is an INSERT into the ledger that succeeds
once for each job and subject.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import psycopg

from tenantry.errors import Conflict, Unavailable
from tenantry.fleet.jobs.kinds import Item, Kind, Pass
from tenantry.fleet.jobs.worker import Bounds, Worker, Workplace
from tenantry.runtime.telemetry import configure_logs

BRIEF_SECONDS_MAX = 0.5
"""What an item of the kind ``brief`` may take; one of the kind ``write`` has as long as it needs."""


class Ledger:
    def __init__(self, dsn: str, worker: str) -> None:
        self._dsn = dsn
        self._worker = worker

    def write(self, item: Item) -> Mapping[str, object]:
        """An attempt and the deed are two transactions, as with a tenant: one may die between them."""
        job = str(item.arguments["job"])
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            row = (job, item.subject, self._worker)
            connection.execute("INSERT INTO attempt (job, subject, worker) VALUES (%s, %s, %s)", row)
            if gate := item.input.get("gate"):
                pause = threading.Event()
                names = [str(gate), f"{gate} {self._worker}"]
                while connection.execute("SELECT FROM gate WHERE name = ANY (%s)", [names]).fetchone() is None:
                    pause.wait(0.02)
            if item.input.get("unavailable_until"):
                made = connection.execute("SELECT count(*) FROM attempt WHERE subject = %s", [item.subject])
                count = made.fetchone()
                assert count is not None
                if count[0] < int(str(item.input["unavailable_until"])):
                    raise Unavailable("not just now")
            if item.input.get("refuses"):
                raise Conflict("it never can be", next_step="give up")
            if item.input.get("breaks"):
                raise ZeroDivisionError("postgresql://u:secret@h/d")
            if item.input.get("kills"):
                os.kill(os.getpid(), signal.SIGKILL)
            if seconds := item.input.get("seconds"):
                threading.Event().wait(float(str(seconds)))
            cursor = connection.execute("INSERT INTO done VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", row)
        return {"worker": self._worker, "first": cursor.rowcount == 1}

    def tidy(self) -> list[str]:
        """A pass that cannot bear another run beside it."""
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            row = connection.execute("SELECT pg_try_advisory_lock(1)").fetchone()
            assert row is not None
            if not row[0]:
                raise Conflict("another run is at it")
            connection.execute("INSERT INTO attempt VALUES ('tidy', 'tidy', %s)", [self._worker])
            threading.Event().wait(0.2)
        return [f"{self._worker} was here"]


async def live(order: dict[str, Any]) -> None:
    ledger = Ledger(order["ledger"], order["name"])
    write = Kind(
        name="write",
        work=ledger.write,
        batch_items=order["batch_items"],
        apart=order["apart"],
        attempts_max=order["attempts_max"],
    )
    place = Workplace(
        catalog_url=order["catalog"],
        kinds=[write, replace(write, name="brief", seconds_max=BRIEF_SECONDS_MAX)],
        passes=[Pass("tidy", order["tidy"], ledger.tidy)] if order["tidy"] else [],
        close=lambda: None,
    )
    worker = Worker(lambda: place, queues=order["queues"], bounds=Bounds(**order["bounds"]), name=order["name"])
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, worker.stop)
    await worker.run()


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        order = json.loads(line)
        held, release = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(release)
            os.read(held, 1)
            os.close(held)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            for number, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), log, log)):
                os.dup2(descriptor, number)
            configure_logs(level="debug")
            asyncio.run(live(order))
            os._exit(0)
        print(pid, flush=True)
        # It begins when it is known by more than its number: one that has ended by then is nobody any more.
        sys.stdin.readline()
        os.close(held)
        os.close(release)


if __name__ == "__main__":
    main()
