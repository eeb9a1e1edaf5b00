"""`tenantry migrate` by a project's own tool, through the front door of a real cell."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Operator

REVISION = """
from alembic import op
import sqlalchemy as sa

revision = "r1"
down_revision = None


def upgrade() -> None:
    op.create_table("users", sa.Column("id", sa.Integer, primary_key=True))
    op.execute("create table said as select name, setting from pg_settings")
"""


def tool(directory: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", *arguments], cwd=directory, check=True, capture_output=True, timeout=60)


def alembic(directory: Path, template: str, driver: str) -> None:
    tool(directory, "alembic", "init", "--template", template, "migrations")
    ini = directory / "alembic.ini"
    ini.write_text(ini.read_text().replace("driver://", f"{driver}://"))
    (directory / "migrations/versions/r1.py").write_text(REVISION)


def django(directory: Path) -> None:
    tool(directory, "django", "startproject", "ours", ".")


@pytest.mark.parametrize("kind", ["alembic", "alembic async", "django"])
def test_a_project_is_rolled_out_through_the_front_door(
    kind: str, operator: Operator, name: str, workdir: Path, query: Callable[[str, str], list[Any]]
) -> None:
    if kind == "django":
        django(workdir)
    else:
        alembic(workdir, *(("async", "postgresql+asyncpg") if "async" in kind else ("generic", "driver")))
    slugs = [operator.json("create", f"{name} {letter}")["tenant"]["slug"] for letter in "ab"]
    where = ("--dir", str(workdir), "--tenants", ",".join(slugs))
    # The fleet has one golden database, and this is not the only project of these tests.
    run = ("migrate", "run", *where, "--lock-timeout", "7", "--json")
    ran = json.loads(operator.do(*run, TENANTRY_MIGRATIONS__GOLDEN="false").stdout)
    assert ran["counts"]["applied"] == 2, ran
    url = operator.do("url", slugs[1]).stdout
    if kind == "django":
        assert query(url, "select count(*) from django_migrations where app = 'auth'") == [12]
    else:
        said = "select setting from said where name in ('application_name', 'lock_timeout') order by name"
        assert query(url, said) == ["tenantry migrate tool", "7000"]
    assert operator.json("migrate", "run", *where)["counts"]["skipped"] == 2
    assert operator.json("migrate", "status", *where, "--check")["ledgers"][0]["agrees"]
