"""An instance that dies at the moment in which it is put to sleep, woken or asked."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from tenantry.cell.compute.ports import Measured
from tenantry.cell.model import ProjectCreate
from tenantry.cell.operations.history import Keeper
from tenantry.cell.operations.records import StateRecords
from tenantry.runtime.child import alive

NOTICED_SECONDS_MAX = 20.0
CONCURRENT_SECONDS = 2.0


@pytest.fixture
def slow_look(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """The first look at what an instance has written takes its time: from the first event until the second is set."""
    begun, may_end = threading.Event(), threading.Event()
    measure = Keeper.measure

    def slow(*arguments: Any, **named: Any) -> Measured:
        if not begun.is_set():
            begun.set()
            assert may_end.wait(NOTICED_SECONDS_MAX)
        return measure(*arguments, **named)

    monkeypatch.setattr(Keeper, "measure", slow)
    return begun, may_end


@pytest.mark.parametrize("how", ["asleep", "suspend", "restart"])
async def test_who_stops_an_instance_that_has_just_died_and_who_noticed_it_do_not_meet(
    workdir: Path, open_cell: Any, slow_look: tuple[threading.Event, threading.Event], how: str
) -> None:
    begun, may_end = slow_look
    async with open_cell(workdir) as bare:
        instances = bare.context.instances
        endpoint = (await bare.cell.create_project(ProjectCreate(name="ACME"))).endpoint.id
        await instances.lease(endpoint, "test")
        (instance,) = instances.awake()
        os.kill(instance.running.identity.pid, signal.SIGKILL)
        assert await asyncio.to_thread(begun.wait, NOTICED_SECONDS_MAX), "its death was not noticed"

        noticing = [task for task in asyncio.all_tasks() if task.get_name().startswith("watch")]

        async def stop() -> None:
            if how == "asleep":
                async with instances.asleep([endpoint]):
                    assert instances.status(endpoint) == "asleep"
            elif how == "suspend":
                assert await instances.suspend(endpoint, insist=True)
            else:
                await instances.restart(endpoint)

        stopping = asyncio.create_task(stop())
        await asyncio.wait([stopping], timeout=CONCURRENT_SECONDS)  # it may have to wait for who noticed, or not
        may_end.set()
        await asyncio.wait([stopping, *noticing])
        await stopping

        # Whatever came first, one instance can be had, and it is the one that is known.
        await instances.lease(endpoint, "test")
        (instance,) = instances.awake()
        running = instance.running
        assert alive(running.identity)
        assert await instances.suspend(endpoint, insist=True)
        assert instances.status(endpoint) == "asleep" and not alive(running.identity)


async def test_one_whose_last_reading_cannot_be_noted_is_recovered_all_the_same(
    workdir: Path, open_cell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_cell(workdir) as bare:
        instances = bare.context.instances
        endpoint = (await bare.cell.create_project(ProjectCreate(name="ACME"))).endpoint.id
        await instances.lease(endpoint, "test")
        (instance,) = instances.awake()
        died = instance.running

        async def fail(*_: Any) -> None:
            raise sqlite3.OperationalError("database is locked")

        monkeypatch.setattr(StateRecords, "note_readings", fail)
        noticing = [task for task in asyncio.all_tasks() if "watch" in task.get_name()]
        os.kill(died.identity.pid, signal.SIGKILL)
        await asyncio.wait(noticing, timeout=NOTICED_SECONDS_MAX)
        await instances.lease(endpoint, "test")
        (instance,) = instances.awake()
        assert instance.running is not died and alive(instance.running.identity)
