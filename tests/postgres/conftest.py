"""Real engines and templates, made once for all tests of a run, and instances that end with their test."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Coroutine
from pathlib import Path

import psycopg
import pytest

from tenantry.postgres import conf, engines, postmaster, scram, template
from tenantry.postgres.engines import Engine
from tenantry.postgres.postmaster import Postmaster
from tenantry.postgres.template import Template
from tenantry.runtime import files

ROOT = os.geteuid() == 0
ADMIN_PASSWORD = "admin-of-this-clone"
OWNER_PASSWORD = "owner-of-this-clone"

StartInstance = Callable[..., Coroutine[None, None, Postmaster]]
Connect = Callable[..., psycopg.Connection]


@pytest.fixture(scope="session")
def shared() -> Path:
    """One directory for all workers of the run; it goes with the run's directory."""
    path = Path(os.environ["TMPDIR"]).parent / "shared-postgres"
    path.mkdir(mode=0o755, exist_ok=True)
    return path


@pytest.fixture(scope="session")
def found_engines(shared: Path) -> list[Engine]:
    """The newest-preferred build of each major on this machine, readable by every user."""
    everything = engines.discover()
    chosen = [engines.choose(everything, major) for major in sorted({engine.major for engine in everything})]
    return [engines.install(engine, shared / "engines") for engine in chosen]


@pytest.fixture(scope="session")
def engine(found_engines: list[Engine]) -> Engine:
    return engines.choose(found_engines, 18)


@pytest.fixture(scope="session")
def the_template(engine: Engine, shared: Path) -> Template:
    return template.build_template(engine, shared / "templates")


@pytest.fixture
def owner(worker_id: str) -> files.Owner | None:
    """As root a numeric user without a passwd entry, another one for each worker."""
    number = 51_000 + int(worker_id.removeprefix("gw") if worker_id != "master" else "99")
    return (number, number) if ROOT else None


@pytest.fixture(scope="session")
def verifiers() -> dict[str, str]:
    return {
        template.ADMIN_ROLE: scram.make_verifier(ADMIN_PASSWORD),
        template.OWNER_ROLE: scram.make_verifier(OWNER_PASSWORD),
    }


@pytest.fixture
def data(workdir: Path, the_template: Template, verifiers: dict[str, str], owner: files.Owner | None) -> Path:
    """A fresh clone."""
    path = workdir / "data"
    the_template.clone(path, system_identifier=7_000_000_000_000_000_001, verifiers=verifiers, owner=owner)
    return path


@pytest.fixture
async def start(workdir: Path, engine: Engine, owner: files.Owner | None) -> AsyncGenerator[StartInstance, None]:
    """Starts instances with the settings of the smallest size; ends those that the test leaves."""
    started: list[Postmaster] = []

    async def begin(
        data: Path, *, of: Engine = engine, changed: dict[str, str] | None = None, seconds: float = 60
    ) -> Postmaster:
        running = await postmaster.start(
            of,
            data,
            socket_dir=workdir / "s",
            settings={**conf.lean_settings(0.25, of.major), **(changed or {})},
            owner=owner,
            log_path=workdir / "postgres.log",
            timeout_seconds=seconds,
        )
        started.append(running)
        return running

    yield begin
    await asyncio.gather(*(postmaster.stop(one, mode="immediate", timeout_seconds=10) for one in started))


@pytest.fixture
def connect(workdir: Path) -> Connect:
    def connected(
        user: str = template.OWNER_ROLE, *, dbname: str = template.DATABASE, password: str | None = None
    ) -> psycopg.Connection:
        default = ADMIN_PASSWORD if user == template.ADMIN_ROLE else OWNER_PASSWORD
        return psycopg.connect(
            host=str(workdir / "s"), user=user, dbname=dbname, password=password or default, autocommit=True
        )

    return connected
