"""The real ``prisma migrate``: it goes on where we stopped, and we where it did, also where something has failed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.plan import states_of

from ..test_prisma import USERS, failure_of, outcome, run, write

pytestmark = pytest.mark.timeout(600)
"""The first one installs the tool."""

HERE = Path(__file__).parent
VERSION = "6.19.3"
"""The last version whose command line works with the engine in its package. Others fetch a binary from the network."""
STUB = "engine"
COLUMNS = (
    "select column_name, data_type, character_maximum_length, is_nullable, column_default"
    " from information_schema.columns where table_name = '_prisma_migrations' order by ordinal_position"
)
LEDGER = (
    "select migration_name, checksum, finished_at >= started_at, logs, rolled_back_at, applied_steps_count, length(id)"
    " from _prisma_migrations order by started_at"
)
POSTS = '-- CreateTable\nCREATE TABLE "Post" ("id" INTEGER NOT NULL);\n-- größe\nCREATE INDEX "p" ON "Post"("id");\n'
INDEX = 'CREATE INDEX CONCURRENTLY "i" ON "Post"("id")'
SCHEMA = """\
datasource db {
  provider = "postgresql"
  url      = env("DATABASE_URL")
}

model User {
  id Int @id @default(autoincrement())
}
"""


@dataclass(frozen=True)
class Prisma:
    """The real command line. Its binary engines, which it would fetch, are a script that says yes to everything."""

    home: Path

    def __call__(self, *arguments: str, folder: Path, dsn: str, code: int = 0) -> str:
        fields = psycopg.conninfo.conninfo_to_dict(dsn)
        schema = folder.parent / "schema.prisma"
        schema.write_text(SCHEMA)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "DATABASE_URL": f"postgresql://{fields['user']}:{fields['password']}@localhost/{fields['dbname']}"
            f"?host={fields['host']}",
            "PRISMA_SCHEMA": str(schema),
            "PRISMA_MIGRATIONS": str(folder),
            "PRISMA_QUERY_ENGINE_LIBRARY": str(self.home / STUB),
            "PRISMA_SCHEMA_ENGINE_BINARY": str(self.home / STUB),
            "CHECKPOINT_DISABLE": "1",
            "NO_UPDATE_NOTIFIER": "1",
        }
        done = subprocess.run(
            ["node", "node_modules/prisma/build/index.js", *arguments, "--config", "prisma.config.mjs"],
            cwd=self.home, env=environment, capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def nothing_to_do(self, folder: Path, dsn: str) -> bool:
        deployed = self("migrate", "deploy", folder=folder, dsn=dsn)
        status = self("migrate", "status", folder=folder, dsn=dsn)
        return "No pending migrations to apply" in deployed and "Database schema is up to date" in status


@pytest.fixture(scope="session")
def prisma(npm_home: Callable[..., Path]) -> Prisma:
    home = npm_home(f"prisma-{VERSION}", f"prisma@{VERSION}", f"@prisma/adapter-pg@{VERSION}")
    # Whole at once: other processes of the tests use the same directory.
    with tempfile.TemporaryDirectory(dir=home) as made:
        shutil.copy(HERE / "prisma.config.mjs", made)
        (Path(made) / STUB).write_text("#!/bin/sh\n")
        (Path(made) / STUB).chmod(0o755)
        for path in Path(made).iterdir():
            path.replace(home / path.name)
    return Prisma(home)


@pytest.mark.node
def test_either_tool_goes_on_where_the_other_stopped(
    new_fleet: Callable[[int], Any], prisma: Prisma, tmp_path: Path
) -> None:
    directory = write(tmp_path / "migrations", _20260101000000_users=USERS, _20260102000000_posts=POSTS)
    fleet = new_fleet(3)
    theirs, ours, both = fleet.dsns
    prisma("migrate", "deploy", folder=directory, dsn=fleet.dsns[theirs])
    assert outcome(fleet, directory, theirs) == "current"
    assert outcome(fleet, directory, ours) == "applied"
    assert fleet.sql(ours, LEDGER) == fleet.sql(theirs, LEDGER)
    assert len(fleet.sql(ours, LEDGER)) == 2
    assert fleet.sql(ours, COLUMNS) == fleet.sql(theirs, COLUMNS)
    assert prisma.nothing_to_do(directory, fleet.dsns[ours])
    assert outcome(fleet, directory, both, through="20260101000000_users") == "applied"
    prisma("migrate", "deploy", folder=directory, dsn=fleet.dsns[both])
    assert outcome(fleet, directory, both) == "current"
    assert list(fleet.known.values()) == [states_of(open_folder(directory))[-1]] * 3


def test_what_fails_in_one_tool_stops_the_other_as_itself(
    new_fleet: Callable[[int], Any], prisma: Prisma, tmp_path: Path
) -> None:
    directory = write(tmp_path / "migrations", _20260101000000_users=USERS, _20260102000000_bad="select 1 / 0")
    fleet = new_fleet(1)
    prisma("migrate", "deploy", folder=directory, dsn=fleet.dsns["t0"], code=1)
    failure = failure_of(run(fleet, directory))
    assert (failure.kind, failure.migration) == ("half_applied", "20260102000000_bad")
    prisma("migrate", "resolve", "--rolled-back", "20260102000000_bad", folder=directory, dsn=fleet.dsns["t0"])
    assert failure_of(run(fleet, directory)).sqlstate == "22012"
    # In one transaction nothing of it stays, so Prisma is told of nothing.
    assert len(fleet.sql("t0", LEDGER)) == 2
    write(directory, _20260102000000_bad="select 1")
    assert outcome(fleet, directory) == "applied"
    assert prisma.nothing_to_do(directory, fleet.dsns["t0"])


@pytest.mark.node
def test_prisma_keeps_away_from_what_is_half_applied(
    new_fleet: Callable[[int], Any], prisma: Prisma, tmp_path: Path
) -> None:
    directory = write(tmp_path / "migrations", _20260101000000_posts=POSTS)
    write(directory, _20260102000000_index=f"{INDEX}; select 1 / 0")
    fleet = new_fleet(1)
    assert failure_of(run(fleet, directory)).statements_kept == 1
    assert "P3009" in prisma("migrate", "deploy", folder=directory, dsn=fleet.dsns["t0"], code=1)
    write(directory, _20260102000000_index=f"{INDEX}; select 1")
    assert outcome(fleet, directory) == "applied"
    assert prisma.nothing_to_do(directory, fleet.dsns["t0"])


@pytest.mark.node
def test_what_was_rolled_back_by_hand_begins_anew(
    new_fleet: Callable[[int], Any], prisma: Prisma, tmp_path: Path
) -> None:
    directory = write(tmp_path / "migrations", _20260101000000_posts=POSTS)
    write(directory, _20260102000000_index=f"{INDEX}; select 1 / 0")
    fleet = new_fleet(1)
    run(fleet, directory)
    fleet.sql("t0", "drop index i")
    prisma("migrate", "resolve", "--rolled-back", "20260102000000_index", folder=directory, dsn=fleet.dsns["t0"])
    write(directory, _20260102000000_index=f"{INDEX}; select 1")
    assert outcome(fleet, directory) == "applied"
    assert fleet.sql("t0", "select count(*) from pg_class where relname = 'i'") == [(1,)]
    assert prisma.nothing_to_do(directory, fleet.dsns["t0"])
