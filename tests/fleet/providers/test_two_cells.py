"""Two cells serve one region, and one dies while tenants are created: all are there once, and nobody else waits."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from tenantry.errors import TenantryError
from tenantry.fleet.catalog import providers
from tenantry.fleet.catalog.catalog import CHECKOUT_SECONDS_MAX, CONNECTIONS_MAX, Catalog
from tenantry.fleet.catalog.models import HOME_PROVIDER
from tenantry.fleet.catalog.records import ProviderId
from tenantry.fleet.main import Fleet
from tenantry.fleet.providers import open as module
from tenantry.fleet.providers.neon_account import NeonAccount
from tenantry.fleet.providers.ports import Provider
from tenantry.fleet.tenants.create import Created
from tenantry.testing.throwaway import ThrowawayCell

from ...ports import reserved

HOME = ProviderId(HOME_PROVIDER)
AT_ONCE = 8


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nobody waits for these tests; what counts is that it is less than others wait for the catalog."""
    assert module.AWAY_SECONDS_MAX < CHECKOUT_SECONDS_MAX
    monkeypatch.setattr(module, "AWAY_SECONDS_MAX", 3.0)


@pytest.fixture
def second(new_workdir: Callable[[str], Path], new_cell: Callable[..., ThrowawayCell]) -> Iterator[ThrowawayCell]:
    """Whose address is the same after a restart. It is home to no fleet."""
    options = ["--spares", "2", "--no-fleet", "--recover-for", "0"]
    script = Path(__file__).with_name("impatient.py")
    with (
        reserved(1) as (port,),
        new_cell(new_workdir("second") / "data", options=options, http=f"127.0.0.1:{port}", script=script) as cell,
    ):
        yield cell


@pytest.fixture
def second_id(catalog: Catalog, second: ThrowawayCell, tmp_path: Path) -> ProviderId:
    """It and the home cell serve ``eu-1``."""
    key = tmp_path / "key"
    with os.fdopen(os.open(key, os.O_CREAT | os.O_WRONLY, 0o600), "w") as opened:
        opened.write(second.target.api_key)
    with catalog.transaction() as connection:
        record, _ = providers.add_provider(
            connection,
            name="second",
            kind="cell",
            api_url=second.target.api_url,
            api_ca=None,
            secret_from=f"file:{key}",
        )
        for provider in (HOME, record.id):
            providers.serve_region(
                connection,
                provider,
                "eu-1",
                provider_region="local",
                projects_max=None,
                unlimited=True,
                accepts_new=True,
            )
    return record.id


@pytest.fixture
def wide_fleet(cell: ThrowawayCell, catalog_url: str) -> Iterator[Fleet]:
    """With a connection of the catalog for each of us: on a busy machine nobody gives up waiting for one."""
    catalog = Catalog(catalog_url, connections_max=AT_ONCE + 1)
    with Fleet(catalog, NeonAccount.at(cell.target.api_url, cell.target.api_key)) as fleet:
        yield fleet


@pytest.mark.crash
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [24, pytest.param(200, marks=pytest.mark.slow)])
def test_a_cell_dies_while_tenants_are_created_and_all_of_them_exist_once(
    wide_fleet: Fleet, second: ThrowawayCell, second_id: ProviderId, number: int
) -> None:
    fleet = wide_fleet
    names = [f"Customer {n:03}" for n in range(number)]
    homes = {HOME: fleet.providers.home, second_id: fleet.providers.by_id(second_id)}
    made, a_quarter, killed = 0, threading.Event(), threading.Event()
    lock = threading.Lock()

    def create(name: str) -> TenantryError | None:
        nonlocal made
        if a_quarter.is_set():
            assert killed.wait(300), "whoever is begun from now on finds it dead"
        try:
            tenant = fleet.create(name, region="eu-1").tenant
        except TenantryError as error:
            return error
        with lock:
            made += tenant.provider_id == second_id
            if made >= number // 8:
                a_quarter.set()
        return None

    with ThreadPoolExecutor(AT_ONCE) as pool:
        creating = [pool.submit(create, name) for name in names]
        try:
            assert a_quarter.wait(300), "enough of them for it to be in the middle"
            second.kill()
        finally:
            killed.set()
        outcomes = {name: each.result() for name, each in zip(names, creating, strict=True)}

    intents = {tenant.name: tenant for tenant in fleet.list()}
    failed = {name for name, error in outcomes.items() if error is not None}
    assert failed, "it died while there was something left to create there"
    assert {name: str(outcomes[name]) for name in failed - intents.keys()} == {}, "each was written down before that"
    # Those of the other cell were not stopped, and what failed is written down with the place that it will have.
    assert {intents[name].provider_id for name in failed} == {second_id}
    assert {tenant.state for tenant in intents.values() if tenant.provider_id == HOME} == {"ready"}
    assert {name for name, tenant in intents.items() if tenant.state == "creating"} == failed

    second.start()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        again = dict(zip(names, pool.map(create, names), strict=True))
    assert {name: str(error) for name, error in again.items() if error is not None} == {}

    tenants = {tenant.name: tenant for tenant in fleet.list()}
    assert set(tenants) == set(names)
    assert {tenant.state for tenant in tenants.values()} == {"ready"}
    assert {name: tenant.provider_id for name, tenant in tenants.items()} == {
        name: tenant.provider_id for name, tenant in intents.items()
    }
    for provider_id, provider in homes.items():
        mine = [tenant for tenant in tenants.values() if tenant.provider_id == provider_id]
        assert len(mine) >= number // 4, "both were chosen, by how full they are"
        projects = _customers_projects(provider)
        assert sorted(projects) == sorted(str(tenant.project_id) for tenant in mine), "each once, and no other"
    for tenant in list(tenants.values())[:: number // 5]:
        with psycopg.connect(fleet.url(tenant.slug), connect_timeout=60) as db:
            assert db.execute("SELECT current_database()").fetchone() == (tenant.database_name,)
    for tenant in tenants.values():
        homes[tenant.provider_id].delete_project(tenant.project_id)  # pyright: ignore[reportArgumentType] - ready ones have one


def _customers_projects(provider: Provider) -> list[str]:
    return [project.id for project in provider.find_projects("Customer ")]


@pytest.mark.timeout(300)
def test_a_provider_that_is_down_stops_no_tenant_of_another(
    fleet: Fleet, second: ThrowawayCell, second_id: ProviderId, catalog_url: str
) -> None:
    with fleet.catalog.transaction() as connection:
        providers.serve_region(
            connection,
            second_id,
            "us-1",
            provider_region=None,
            projects_max=None,
            unlimited=True,
            accepts_new=True,
        )
    away, here = fleet.create("Away", region="us-1").tenant, None
    assert away.provider_id == second_id
    second.kill()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        stuck = [pool.submit(fleet.create, f"Stuck {n}", region="us-1") for n in range(AT_ONCE)]
        # They hold every connection that the fleet has to its catalog, and yet:
        _wait_until_held(catalog_url, stuck)
        here = fleet.create("Here", region="eu-1").tenant
        errors = [each.exception(120) for each in stuck]
    assert here.provider_id == HOME
    assert all(isinstance(error, TenantryError) for error in errors)
    assert fleet.suspend("Here").slug == "here"
    assert [tenant.slug for tenant in fleet.list(states=["ready"])] == ["away", "here"]
    with pytest.raises(TenantryError, match=r"failed|answered 503"):
        fleet.suspend("Away")
    fleet.providers.home.delete_project(here.project_id)  # pyright: ignore[reportArgumentType] - a ready one has one


def _wait_until_held(catalog_url: str, stuck: list[Future[Created]]) -> None:
    """Until as many transactions stand open as there are connections."""
    pause, deadline = threading.Event(), time.monotonic() + 60
    with psycopg.connect(catalog_url, autocommit=True) as db:
        while True:
            row = db.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND state = 'idle in transaction' AND state_change < now() - interval '0.2 s'"
            ).fetchone()
            assert row is not None
            if row[0] >= CONNECTIONS_MAX:
                return
            assert not all(each.done() for each in stuck), "they ended before they were seen to hold anything"
            assert time.monotonic() < deadline
            pause.wait(0.02)
