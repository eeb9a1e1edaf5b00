"""What real instances use, read from outside: exact to the byte of log, and nobody is woken or asked for it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import pytest

from tenantry.cell.compute.instances import Instances
from tenantry.cell.loops.history import bases_loop
from tenantry.cell.loops.metering import forgetting_loop, metering_loop
from tenantry.cell.loops.retention import collect
from tenantry.cell.model import BranchRestore, EndpointChange, ProjectChange, ProjectCreate
from tenantry.cell.operations.usage import note_sizes
from tenantry.cell.storage import sizes
from tenantry.runtime.child import age_seconds

LSN = "select (pg_current_wal_insert_lsn() - '0/0')::bigint"
FLUSHED = "select (pg_current_wal_flush_lsn() - '0/0')::bigint"
WRITE = "insert into t select n from generate_series(1, 20000) n"


async def usage(one: Any) -> Any:
    found = await one.cell.project_usage([one.project], byte_hours=True)
    return found[one.project]


async def endpoint_of(one: Any) -> Any:
    (endpoint,) = await one.cell.list_endpoints(one.project, one.main)
    return endpoint


async def read_now(one: Any) -> None:
    instances: Instances = one.bare.context.instances
    await instances.meter(instances.awake())


async def test_the_log_that_is_written_is_counted_to_the_byte(tenant: Any) -> None:
    async with tenant() as one:
        await read_now(one)
        before = (await usage(one)).written_data_bytes
        async with await one.connect() as connection:
            await read_now(one)
            counted = (await usage(one)).written_data_bytes
            (begin,) = await (await connection.execute(LSN)).fetchone()
            await connection.execute(WRITE)
            # What others add behind the commit may not be in the file yet.
            (end,) = await (await connection.execute(FLUSHED)).fetchone()
        await read_now(one)
        assert end - begin > 1_000_000
        # Autovacuum and the like may write a little of its own meanwhile.
        assert 0 <= (await usage(one)).written_data_bytes - counted - (end - begin) < 100_000
        assert counted - before < 10_000
        await read_now(one)
        await read_now(one)
        at_rest = (await usage(one)).written_data_bytes
        await one.sleep()
        asleep = (await usage(one)).written_data_bytes
        assert 0 <= asleep - at_rest < 100_000, "the checkpoint at the end, and what it found to write"
        assert (await usage(one)).written_data_bytes == asleep, "asleep nothing is added"
        (branch,) = await one.cell.list_branches(one.project, deleted=False)
        assert branch.logical_size > 8_000_000
        assert (await one.cell.branch_usage([one.main]))[one.main].written_data_bytes == asleep


@pytest.mark.usefixtures("well_into_the_month")
async def test_time_is_known_this_moment_and_compute_is_time_by_size(tenant: Any) -> None:
    async with tenant() as one:
        endpoint = await endpoint_of(one)
        instance = next(iter(one.bare.context.instances.awake()))
        age = age_seconds(instance.running.identity)
        instance.ready_at -= 1000  # as if it had been awake for so long
        now = await usage(one)
        assert 1000 <= now.active_time_seconds <= 1000 + age + 60
        assert now.compute_time_seconds == int(now.active_time_seconds * 0.25) or now.compute_time_seconds in (250, 251)
        await one.cell.update_endpoint(one.project, endpoint.id, EndpointChange(max_cu=2.0, min_cu=2.0))
        after = await usage(one)
        assert after.compute_time_seconds <= 250 + 2 * 60 + 60, "the time before counts at the old size"
        assert after.active_time_seconds >= now.active_time_seconds
        await one.sleep()
        asleep = await usage(one)
        assert asleep.active_time_seconds >= after.active_time_seconds
        assert (await usage(one)).active_time_seconds == asleep.active_time_seconds


async def test_when_somebody_was_last_there_is_known_at_once_and_sleep_changes_nothing_about_it(tenant: Any) -> None:
    async with tenant() as one:
        instances: Instances = one.bare.context.instances
        endpoint = await endpoint_of(one)
        lease = await instances.lease(endpoint.id, "somebody")
        there = (await usage(one)).last_active_at
        assert there < (await usage(one)).last_active_at, "somebody is there"
        instances.release(endpoint.id, lease.id)
        gone = (await usage(one)).last_active_at
        assert gone > there
        assert (await usage(one)).last_active_at == gone
        await one.sleep()
        assert (await usage(one)).last_active_at == gone
        assert (await one.cell.branch_usage([one.main]))[one.main].last_active_at == gone


async def test_a_crash_of_the_instance_counts_nothing_twice(tenant: Any) -> None:
    async with tenant() as one:
        await one.run(WRITE)
        await read_now(one)
        before = await usage(one)
        instance = next(iter(one.bare.context.instances.awake()))
        os.kill(instance.running.identity.pid, signal.SIGKILL)
        dead = instance.running
        deadline = time.monotonic() + 30
        while instance.running is dead or instance.status != "awake":
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        await one.run("select 1")
        await read_now(one)
        after = await usage(one)
        assert 0 <= after.written_data_bytes - before.written_data_bytes < 200_000
        assert after.active_time_seconds >= before.active_time_seconds


async def test_a_restore_counts_what_is_written_and_not_what_is_copied(tenant: Any) -> None:
    async with tenant() as one:
        await one.run(WRITE)
        await one.sleep()
        before = await usage(one)
        await one.cell.restore_branch(
            one.project,
            one.main,
            BranchRestore(
                source_branch_id=one.main, source_timestamp=one.bare.context.clock.now(), preserve_under_name="was"
            ),
        )
        # To look at the rows would write hint bits, and whole pages with them.
        await one.run("select 1")
        await one.sleep()
        after = await usage(one)
        assert 0 <= after.written_data_bytes - before.written_data_bytes < 100_000


@pytest.mark.usefixtures("well_into_the_month")
async def test_a_cell_that_comes_back_knows_what_was_used_meanwhile(tenant: Any, workdir: Any, open_cell: Any) -> None:
    """The control process dies between two readings: time comes from the process itself, bytes from the log."""
    async with tenant() as one:
        await one.run("select 1")
        await read_now(one)
        first = await usage(one)
        await one.run(WRITE)
        instance = next(iter(one.bare.context.instances.awake()))
        identity = instance.running.identity
        # It is as if this control process had never been: the next one adopts what runs.
        await one.bare.context.instances._copies.close(instance)
        del one.bare.context.instances._known[instance.endpoint_id]
        async with open_cell(workdir) as bare:
            assert await bare.context.instances.adopt() == 1
            bare.context.instances.settle_adopted()
            (again,) = bare.context.instances.awake()
            assert again.running.identity == identity
            again.ready_at -= 7200
            await metering_loop(bare.context)._cycle()
            found = (await bare.cell.project_usage([one.project]))[one.project]
            assert found.written_data_bytes - first.written_data_bytes > 1_000_000
            assert found.active_time_seconds >= 7200
            assert found.compute_time_seconds == pytest.approx(found.active_time_seconds * 0.25, abs=1)


async def test_branches_that_were_never_awake_are_measured_too(workdir: Any, open_cell: Any) -> None:
    async with open_cell(workdir) as bare:
        made = await bare.cell.create_project(ProjectCreate(name="Sleeper"))
        assert await metering_loop(bare.context)._cycle() == "1 branches measured for the first time"
        assert await metering_loop(bare.context)._cycle() is None
        assert await forgetting_loop(bare.context)._cycle() is None
        found = (await bare.cell.project_usage([made.project.id]))[made.project.id]
        assert found.synthetic_storage_size > 5_000_000
        assert found.active_time_seconds == 0
        assert bare.context.instances.awake() == []


async def test_history_that_is_let_go_is_not_occupied_any_more(tenant: Any) -> None:
    async with tenant() as one:
        context = one.bare.context
        await one.run(WRITE)
        await one.sleep()
        full = (await usage(one)).synthetic_storage_size
        await one.cell.update_project(one.project, ProjectChange(history_retention_seconds=0))
        taken = await bases_loop(context)._cycle()
        project = await one.cell.get_project(one.project)
        freed = await collect(context, project)
        now = (await usage(one)).synthetic_storage_size
        directory = context.layout.head(one.project, (await one.cell.get_branch(one.project, one.main)).head_id)
        assert now == sizes.logical_bytes(directory / "data") + sizes.history_bytes(directory), (taken, freed, full)


async def test_what_a_head_occupies_is_not_noted_for_a_branch_that_runs_another_by_now(tenant: Any) -> None:
    async with tenant() as one:
        context = one.bare.context
        branch = await one.branch("large")
        await one.run(WRITE, branch)
        await one.sleep()
        large, small = [(await one.cell.get_branch(one.project, i)).head_id for i in (branch, one.main)]
        await note_sizes(context, one.project, one.main, small)
        before = (await one.cell.get_branch(one.project, one.main)).logical_size
        await note_sizes(context, one.project, one.main, large)
        assert (await one.cell.get_branch(one.project, one.main)).logical_size == before
        await note_sizes(context, one.project, branch, large)
        assert (await one.cell.get_branch(one.project, branch)).logical_size > before
