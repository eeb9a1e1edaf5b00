"""Projects made by the tools themselves, and what the tools say of a tenant afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenantry.fleet.migrations.apply import Bounds
from tenantry.fleet.migrations.run import RunOptions


def run_tool(command: Sequence[str], directory: Path, dsn: str | None = None, *, ok: bool = True) -> str:
    """What the tool prints, as a developer would call it; ``dsn`` is in DATABASE_URL."""
    environment = {**os.environ, **({"DATABASE_URL": dsn} if dsn else {})}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=directory, env=environment, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done.stdout + done.stderr


def roll_out(fleet: Any, directory: Path, *, jobs: int = 2, through: str | None = None, **bounds: float) -> Any:
    """Plans and runs, as the command line does."""
    options = RunOptions(jobs=jobs, bounds=Bounds(**bounds))
    return fleet.roll_out(directory, options=options, through=through)


@pytest.fixture(name="roll_out")
def roll_out_fixture() -> Callable[..., Any]:
    return roll_out


@pytest.fixture(name="run_tool")
def run_tool_fixture() -> Callable[..., str]:
    return run_tool


@dataclass
class AlembicHome:
    """A project with a line of revisions ``r1``, ``r2`` ..."""

    directory: Path

    @property
    def versions(self) -> Path:
        return self.directory / "migrations/versions"

    def revise(self, name: str, body: str, *, after: str | tuple[str, ...] | None) -> Path:
        """One more revision, as ``alembic revision`` writes them, with ``body`` as its upgrade."""
        text = _REVISION.format(name=name, after=after, body=body.strip().replace("\n", "\n    "))
        path = self.versions / f"{name}_{name}.py"
        path.write_text(text)
        return path


_REVISION = '''\
"""{name}

Revision ID: {name}
Revises: {after}
Create Date: 2026-11-29 12:00:00.000000

"""
from typing import Sequence, Union

from alembic import op
import sqlalchemy as sa


# revision identifiers, used by Alembic.
revision: str = {name!r}
down_revision: Union[str, Sequence[str], None] = {after!r}
branch_labels: Union[str, Sequence[str], None] = None
depends_on: Union[str, Sequence[str], None] = None


def upgrade() -> None:
    """Upgrade schema."""
    {body}


def downgrade() -> None:
    """Downgrade schema."""
    pass
'''

USERS = 'op.create_table("users", sa.Column("id", sa.Integer, primary_key=True), sa.Column("email", sa.Text))'
NOTES = 'op.add_column("users", sa.Column("note", sa.Text))'
FROM_ENVIRONMENT = """
import os

if "DATABASE_URL" in os.environ:
    config.set_main_option("sqlalchemy.url", os.environ["DATABASE_URL"].replace("%", "%%"))
"""
"""What most projects add to env.py, so that the tool itself can be pointed at a tenant."""


@pytest.fixture(scope="session")
def alembic_templates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """What ``alembic init`` makes from one of its templates, once for all tests."""
    made: dict[str, Path] = {}

    def template(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            run_tool(["alembic", "init", "--template", name, "migrations"], made[name])
        return made[name]

    return template


@pytest.fixture
def new_alembic(alembic_templates: Callable[[str], Path], tmp_path: Path) -> Callable[..., AlembicHome]:
    """A project of two revisions; env.py is as Alembic wrote it unless ``by_environment``."""

    def make(template: str = "generic", *, by_environment: bool = False) -> AlembicHome:
        home = AlembicHome(tmp_path / "project")
        shutil.copytree(alembic_templates(template), home.directory)
        home.revise("r1", USERS, after=None)
        home.revise("r2", NOTES, after="r1")
        if by_environment:
            env = home.directory / "migrations/env.py"
            text = env.read_text()
            assert "config = context.config\n" in text
            env.write_text(text.replace("config = context.config\n", "config = context.config\n" + FROM_ENVIRONMENT))
        return home

    return make


MODELS = ("email = models.TextField()", "note = models.TextField(default='')")
"""The fields of the one model, each of which came with a migration of its own: 0001_initial and 0002_..."""


@pytest.fixture(scope="session")
def django_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``django-admin startproject`` and ``startapp`` make, with two migrations by ``makemigrations``."""
    home = tmp_path_factory.mktemp("django")
    run_tool(["django", "startproject", "site_of_ours", "."], home)
    run_tool(["manage", "startapp", "tasks"], home)
    settings = home / "site_of_ours/settings.py"
    text = settings.read_text()
    assert "INSTALLED_APPS = [\n" in text
    settings.write_text(text.replace("INSTALLED_APPS = [\n", "INSTALLED_APPS = [\n    'tasks',\n"))
    for number in range(1, len(MODELS) + 1):
        fields = "".join(f"    {line}\n" for line in MODELS[:number])
        (home / "tasks/models.py").write_text(f"from django.db import models\n\n\nclass User(models.Model):\n{fields}")
        run_tool(["manage", "makemigrations", "tasks"], home)
    return home


@dataclass
class DjangoHome:
    """A project with the app ``tasks`` and its migrations."""

    directory: Path

    def add(self, name: str, operations: str, *, after: str, app: str = "tasks", more: str = "") -> Path:
        """One more migration, as makemigrations writes them: a minute later than the one before."""
        folder = self.directory / app / "migrations"
        path = folder / f"{name}.py"
        minute = len(list(folder.glob("0*.py"))) + 10
        path.write_text(
            f"# Generated by Django 5.2.19 on 2027-01-01 00:{minute}\n\nfrom django.db import migrations, models\n\n\n"
            f"class Migration(migrations.Migration):\n{more}    dependencies = [({app!r}, {after!r})]\n"
            f"    operations = [{operations}]\n"
        )
        return path

    def of_environment(self, dsn: str) -> None:
        """Points the project itself at a tenant, to ask Django what it thinks."""
        place = psycopg.conninfo.conninfo_to_dict(dsn)
        database = {"ENGINE": "django.db.backends.postgresql", "NAME": place["dbname"], "USER": place["user"],
                    "PASSWORD": place["password"], "HOST": place["host"]}  # fmt: skip
        settings = self.directory / "site_of_ours/settings.py"
        settings.write_text(f"{settings.read_text()}\nDATABASES = {{'default': {database!r}}}\n")


@pytest.fixture
def django(django_template: Path, tmp_path: Path) -> DjangoHome:
    """A project as Django made it: its settings know of a file of SQLite only."""
    home = DjangoHome(tmp_path / "project")
    shutil.copytree(django_template, home.directory, ignore=shutil.ignore_patterns("__pycache__"))
    return home
