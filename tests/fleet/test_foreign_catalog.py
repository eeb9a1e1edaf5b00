"""A catalog on the operator's own Postgres, for a whole installation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg

from tenantry.neon.client import NeonClient
from tenantry.testing.throwaway import ThrowawayCell


def test_the_catalog_may_be_a_database_of_the_operators_own(
    new_database: Callable[[], str], new_cell: Callable[..., ThrowawayCell], workdir: Path
) -> None:
    url = new_database()
    with psycopg.connect(url) as connection:
        connection.execute("create table salesman (name text)")
    secret = workdir / "catalog"
    secret.write_text(url + "\n")
    secret.chmod(0o600)
    with new_cell(workdir / "d", options=["--catalog-url-file", str(secret), "--spares", "0"]) as cell:
        environment = {**os.environ, "TENANTRY_DATA": str(cell.data)}
        done = subprocess.run(
            [sys.executable, "-m", "tenantry", "create", "ACME Corp", "--json"],
            env=environment, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        assert json.loads(done.stdout)["created"] is True
        with NeonClient(cell.target.api_url, cell.target.api_key) as client:
            assert ["ACME Corp" in project.name for project in client.projects()] == [True], "no catalog in the cell"
        cell.kill()
        cell.start()
        assert cell.target.catalog_url == url
    with psycopg.connect(url) as connection:
        assert connection.execute("select slug from customer").fetchall() == [("acme-corp",)]
        assert connection.execute("select count(*) from salesman").fetchall() == [(0,)]
