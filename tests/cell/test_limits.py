"""Limits on real instances: a quota warns, turns away and puts to sleep, in this order, and whoever operates passes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from structlog.testing import capture_logs

from tenantry.cell.door import Door, Staff
from tenantry.cell.loops import quotas as loop
from tenantry.cell.loops.quotas import quotas_loop
from tenantry.cell.model import (
    BranchChange,
    ConnectionRequest,
    EndpointChange,
    EndpointCreate,
    ProjectChange,
    ProjectCreate,
)
from tenantry.cell.operations.passwords import place
from tenantry.cell.proxy.ports import Login, WorkerId
from tenantry.cell.state.tables import Tables
from tenantry.errors import InvalidInput, NotFound, QuotaExceeded
from tenantry.neon.ids import ProjectId

HOME = "192.168.1.5"


async def limit(one: Any, **quota: int) -> None:
    await one.cell.update_project(one.project, ProjectChange(settings={"quota": quota}))


async def login(one: Any, address: str = HOME, operator: str | None = None) -> Login:
    (endpoint,) = await one.cell.list_endpoints(one.project, one.main)
    return await Door(one.bare.context, "w").login(endpoint.id, "neondb_owner", address, operator)


def awake_for(one: Any, seconds: float) -> None:
    """As if the project's instance had been awake for so long."""
    (instance,) = one.bare.context.instances.awake()
    instance.ready_at = one.bare.context.clock.monotonic() - seconds


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "GRACE_SECONDS", 0.0)


@pytest.mark.usefixtures("no_grace", "well_into_the_month")
async def test_a_quota_warns_then_turns_away_then_puts_to_sleep(tenant: Any) -> None:
    async with tenant() as one:
        cycle = quotas_loop(one.bare.context, one.bare.runner)._cycle
        await limit(one, compute_time_seconds=250, active_time_seconds=0)
        assert await cycle() is None
        assert (await login(one)).refusal is None
        awake_for(one, 850)  # at a quarter of a unit
        with capture_logs() as logs:
            assert await cycle() is None
            assert await cycle() is None
        (told,) = [line for line in logs if line["event"] == "quota"]
        assert (told["quota"], told["step"], told["limit"]) == ("compute_time_seconds", "warned", 250)
        assert (await login(one)).refusal is None, "warned is not turned away"

        awake_for(one, 1001)
        found = await login(one)
        assert found.verifier is not None, "only who proves a password hears of it"
        assert found.refusal == (
            "Your account or project has exceeded the compute time quota. Upgrade your plan to increase limits."
        )
        assert found.refusal_sqlstate == "53400"
        assert "settings.quota.compute_time_seconds of the project is 250" in found.refusal_hint
        assert one.bare.context.instances.awake(), "who is in may go on for a moment"
        assert await cycle() == "1 endpoints put to sleep: their projects have used up a quota"
        assert one.bare.context.instances.awake() == []
        newest = (await one.cell.list_operations(one.project, after=None, limit=1))[0]
        assert (newest.action, newest.status) == ("suspend_compute", "finished")

        (endpoint,) = await one.cell.list_endpoints(one.project, one.main)
        with pytest.raises(QuotaExceeded, match="compute time quota"):
            await one.cell.start_endpoint(one.project, endpoint.id)
        assert (await login(one)).refusal is not None, "asleep it is over its quota still"
        await limit(one, compute_time_seconds=10_000)
        assert (await login(one)).refusal is None, "raised, it is free at once"
        await one.cell.start_endpoint(one.project, endpoint.id)
        assert await cycle() is None


@pytest.mark.usefixtures("well_into_the_month")
async def test_sessions_have_a_moment_before_they_are_ended(tenant: Any) -> None:
    async with tenant() as one:
        cycle = quotas_loop(one.bare.context, one.bare.runner)._cycle
        await limit(one, active_time_seconds=100)
        awake_for(one, 200)
        assert await cycle() is None
        assert await cycle() is None
        assert one.bare.context.instances.awake()


@pytest.mark.usefixtures("no_grace")
async def test_written_and_sent_bytes_are_bounded_too(tenant: Any) -> None:
    async with tenant() as one:
        context = one.bare.context
        await limit(one, written_data_bytes=400_000)
        assert (await login(one)).refusal is None
        await one.run("insert into t select n from generate_series(1, 20000) n")
        await context.instances.meter(context.instances.awake())
        assert "written data quota" in ((await login(one)).refusal or "")
        await limit(one, data_transfer_bytes=1000)
        assert (await login(one)).refusal is None
        (endpoint,) = await one.cell.list_endpoints(one.project, one.main)
        sent = [(endpoint.id, 600)]
        for number in (1, 2):
            await context.state.write(
                lambda tables, n=number: tables.meters.note_report("w", n, context.clock.now(), sent)
            )
        assert "data transfer quota" in ((await login(one)).refusal or "")
        assert await quotas_loop(context, one.bare.runner)._cycle() is not None


@pytest.mark.usefixtures("no_grace", "well_into_the_month")
async def test_an_operator_passes_and_is_not_put_to_sleep(tenant: Any) -> None:
    async with tenant() as one:
        context = one.bare.context
        cycle = quotas_loop(context, one.bare.runner)._cycle
        await limit(one, active_time_seconds=100)
        awake_for(one, 200)
        access = await one.cell.operator_access(one.project, 60)
        assert (access.expires_at - context.clock.now()).total_seconds() <= 60
        assert access.token not in repr(access)
        found = await login(one, operator=access.token)
        assert (found.refusal, found.operator, found.options) == (None, True, "")
        (endpoint,) = await one.cell.list_endpoints(one.project, one.main)
        door = Door(context, "w")
        upstream = await door.wake(endpoint.id, operator=True)
        assert await cycle() is None, "an operator is at work"
        # The next control process hears of the lease from the worker, and knows what it is.
        instance = context.instances.awake()[0]
        instance.leases.clear()
        await Staff(context).worker_registered(WorkerId("w"), [upstream.lease])
        assert await cycle() is None
        await door.release(upstream.lease)
        assert await cycle() is not None
        upstream = await door.wake(endpoint.id, operator=True)
        assert context.instances.awake(), "asleep, it is woken"
        await door.release(upstream.lease)

        other = await one.cell.create_project(ProjectCreate(name="other"))
        foreign = await one.cell.operator_access(other.project.id, None)
        for token in (foreign.token, "nonsense", "", access.token + "x"):
            found = await login(one, operator=token)
            assert found.refusal == "the operator's token is not valid here, or has expired"
            assert (found.operator, found.refusal_sqlstate) == (False, "28000")
        with pytest.raises(NotFound):
            await one.cell.operator_access(ProjectId("gone"), None)
        for seconds in (0, 3601):
            with pytest.raises(InvalidInput):
                await one.cell.operator_access(one.project, seconds)


async def test_a_branch_over_its_size_reads_only_and_can_be_emptied(tenant: Any) -> None:
    async with tenant() as one:
        context = one.bare.context
        cycle = quotas_loop(context, one.bare.runner)._cycle
        meter: Callable[[], Any] = lambda: context.instances.meter(context.instances.awake())  # noqa: E731
        await meter()
        (branch,) = await one.cell.list_branches(one.project, deleted=False)
        before = branch.logical_size
        await limit(one, logical_size_bytes=before + 1_000_000)
        async with await one.connect() as open_session:
            await one.run("create table big as select repeat('x', 1000) from generate_series(1, 3000)")
            await meter()
            await cycle()
            # A session that was there before learns of it, too.
            deadline = asyncio.get_running_loop().time() + 30
            while True:
                try:
                    await open_session.execute("insert into t values (2)")
                except psycopg.errors.ReadOnlySqlTransaction:
                    break
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.05)
        assert (await login(one)).refusal is None, "it can be connected to"
        access = await one.cell.operator_access(one.project, None)
        assert (await login(one, operator=access.token)).options == "-c default_transaction_read_only=off"
        await one.sleep()
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            await one.run("insert into t values (2)")  # from the first transaction after a wake
        await one.run("begin read write; drop table big; commit")
        await meter()
        await cycle()
        await one.run("insert into t values (3)")
        await limit(one, logical_size_bytes=1)
        await cycle()
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            await one.run("insert into t values (4)")
        await limit(one)
        await cycle()
        await one.run("insert into t values (5)")


async def test_what_an_endpoint_was_told_to_be_is_what_it_is_again(tenant: Any) -> None:
    """An endpoint whose own settings say read only stays so when the branch's size is none of the reasons any more."""
    async with tenant() as one:
        context = one.bare.context
        cycle = quotas_loop(context, one.bare.runner)._cycle
        (endpoint,) = await one.cell.list_endpoints(one.project, one.main)
        chosen = {"pg_settings": {"default_transaction_read_only": "on"}}
        await one.cell.update_endpoint(one.project, endpoint.id, EndpointChange(settings=chosen))
        await context.instances.meter(context.instances.awake())
        for quota in (1, 10**12):
            await limit(one, logical_size_bytes=quota)
            await cycle()
            assert await one.run("show default_transaction_read_only") == [("on",)]


async def test_from_addresses_that_are_not_admitted_nobody_exists(tenant: Any) -> None:
    async with tenant() as one:
        listed = {"allowed_ips": {"ips": ["203.0.113.0/24", "198.51.100.1-198.51.100.9"]}}
        await one.cell.update_project(one.project, ProjectChange(settings=listed))
        with capture_logs() as logs:
            found = await login(one, "8.8.8.8")
        assert (found.verifier, found.md5, found.refusal) == (None, False, None), "as for an endpoint that is not there"
        assert [line["address"] for line in logs if line["event"] == "an address is not admitted"] == ["8.8.8.8"]
        for address in ("203.0.113.77", "198.51.100.9"):
            assert (await login(one, address)).verifier is not None
        access = await one.cell.operator_access(one.project, None)
        assert (await login(one, "8.8.8.8", access.token)).verifier is None, "a token is no address"

        only = {"allowed_ips": {"ips": ["203.0.113.1"], "protected_branches_only": True}}
        await one.cell.update_project(one.project, ProjectChange(settings=only))
        assert (await login(one, "8.8.8.8")).verifier is not None
        await one.cell.update_branch(one.project, one.main, BranchChange(protected=True))
        assert (await login(one, "8.8.8.8")).verifier is None

        blocked = {"block_public_connections": True, "allowed_ips": {"ips": ["8.8.8.8"]}}
        await one.cell.update_project(one.project, ProjectChange(settings=blocked))
        assert (await login(one, "8.8.8.8")).verifier is None
        assert (await login(one, "10.0.0.9")).verifier is not None


async def _unless_ended(asked: Awaitable[list[Any]]) -> list[Any] | None:
    """None where the machine stood still between the login and the question for longer than a session may idle."""
    try:
        return await asked
    except psycopg.OperationalError:
        return None


async def test_connections_and_idle_sessions_are_bounded_per_endpoint(tenant: Any) -> None:
    async with tenant() as one:
        assert (await login(one)).connections_max == 100
        (endpoint,) = await one.cell.list_endpoints(one.project, one.main)
        chosen = {"pg_settings": {"max_connections": "12", "idle_session_timeout": "200ms"}}
        await one.cell.update_endpoint(one.project, endpoint.id, EndpointChange(settings=chosen))
        assert (await login(one)).connections_max == 8
        async with asyncio.timeout(60):
            while (shown := await _unless_ended(one.run("show max_connections"))) is None:
                pass
        assert shown == [("12",)]
        async with await one.connect() as connection:
            with pytest.raises(psycopg.OperationalError, match="idle-session timeout"):
                async with asyncio.timeout(30):
                    while True:
                        await asyncio.sleep(0.5)
                        await connection.execute("select 1")


async def test_defaults_of_a_project_hold_for_the_endpoints_made_after(tenant: Any) -> None:
    async with tenant() as one:
        defaults = {
            "autoscaling_limit_min_cu": 0.5,
            "autoscaling_limit_max_cu": 1.0,
            "suspend_timeout_seconds": 120,
            "pg_settings": {"idle_in_transaction_session_timeout": "7s", "work_mem": "5MB"},
        }
        await one.cell.update_project(one.project, ProjectChange(default_endpoint_settings=defaults))
        (first,) = await one.cell.list_endpoints(one.project, one.main)
        assert (first.max_cu, first.suspend_timeout_seconds) == (0.25, 0)
        await one.sleep()
        assert await one.run("show work_mem") != [("5MB",)]
        branch = await one.branch("child")
        (made,) = await one.cell.list_endpoints(one.project, branch)
        assert (made.min_cu, made.max_cu, made.suspend_timeout_seconds) == (0.5, 1.0, 120)
        assert await one.run("show idle_in_transaction_session_timeout", branch) == [("7s",)]
        assert await one.run("show work_mem", branch) == [("5MB",)]
        await one.cell.delete_endpoint(one.project, made.id)
        own = {"pg_settings": {"work_mem": "6MB"}}
        request = EndpointCreate(branch_id=branch, type="read_write", settings=own, max_cu=2.0)
        again = (await one.cell.create_endpoint(one.project, request)).endpoint
        assert (again.min_cu, again.max_cu) == (0.5, 2.0)
        assert await one.run("show work_mem", branch) == [("6MB",)]
        assert await one.run("show idle_in_transaction_session_timeout", branch) == [("7s",)]
        made = await one.cell.create_project(ProjectCreate(name="later", default_endpoint_settings=defaults))
        assert made.endpoint.suspend_timeout_seconds == 120
        assert made.endpoint.settings == {"pg_settings": defaults["pg_settings"]}


async def test_operators_get_keys_for_a_password_that_is_known(tenant: Any) -> None:
    async with tenant() as one:
        wanted = ConnectionRequest(database_name="neondb", role_name="neondb_owner")

        async def keyed() -> tuple[str | None, tuple[str, str] | None]:
            found = await one.cell.connection(one.project, wanted)
            return found.password, found.keys

        first, keys = await keyed()
        assert first
        assert keys
        await one.cell.reset_password(one.project, one.main, "neondb_owner")
        second, others = await keyed()
        assert second not in (None, first)
        assert others not in (None, keys)
        # A password that was sealed before the key was kept with it.
        sealed = one.bare.context.sealer.seal(second, place=place(one.main, "neondb_owner"))

        def as_before(tables: Tables) -> None:
            role = tables.role(one.main, "neondb_owner")
            assert role is not None
            tables.update(replace(role, password_sealed=sealed))

        await one.bare.context.state.write(as_before)
        assert await keyed() == (second, None)
        await one.run("alter role neondb_owner password 'by SQL'")
        assert await keyed() == (None, None)
