"""``neonctl`` from npm, unmodified, with nothing but ``--api-host`` set."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.node, pytest.mark.timeout(300)]  # two seconds of node for each command

Neonctl = Callable[..., Any]


@pytest.fixture(scope="module", params=["2", "5"])
def home(request: pytest.FixtureRequest, npm_install: Callable[..., Path]) -> Path:
    return npm_install(f"neonctl@{request.param}")


def neonctl_at(home: Path, address: Any) -> Neonctl:
    def run(*arguments: str, fails: bool = False) -> Any:
        """The parsed output, or with ``fails`` what it complains of."""
        done = subprocess.run(
            [
                *("node", str(home / "node_modules/.bin/neonctl"), *arguments, "--output", "json", "--no-analytics"),
                *("--api-host", address.api_url, "--api-key", address.api_key, "--config-dir", str(home)),
            ],
            cwd=home,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode != 0) == fails, f"{arguments}: {done.stderr}"
        if fails:
            return done.stderr
        try:
            return json.loads(done.stdout)
        except ValueError:
            return done.stdout.strip()

    return run


def test_projects_roles_databases_and_connection_strings(home: Path, address: Any) -> None:
    neonctl = neonctl_at(home, address)
    assert neonctl("me")["login"] == "operator"
    project = neonctl("projects", "create", "--name", "ACME Corp", "--region-id", "aws-us-east-1")["project"]
    at = ("--project-id", project["id"])
    assert project["id"] in [item["id"] for item in neonctl("projects", "list")["projects"]]
    assert neonctl("projects", "update", project["id"], "--name", "ACME Ltd")["name"] == "ACME Ltd"
    assert [branch["name"] for branch in neonctl("branches", "list", *at)] == ["main"]
    assert neonctl("roles", "create", "--name", "alice", *at)["name"] == "alice"
    assert neonctl("databases", "create", "--name", "crm", "--owner-name", "alice", *at)["owner_name"] == "alice"
    uri = neonctl("connection-string", "main", "--database-name", "crm", "--role-name", "alice", *at)
    assert uri.startswith("postgresql://alice:")
    assert uri.endswith("/crm?sslmode=require&channel_binding=require")
    assert "-pooler." in neonctl("cs", "main", "--pooled", "--database-name", "crm", "--role-name", "alice", *at)
    neonctl("databases", "delete", "crm", *at)
    neonctl("roles", "delete", "alice", *at)
    assert neonctl("operations", "list", *at)
    assert "does not exist" in neonctl("projects", "get", "not-there-1", fails=True)
    neonctl("projects", "delete", project["id"])


def test_branches(home: Path, fake_cell: Any) -> None:
    neonctl = neonctl_at(home, fake_cell)
    project = neonctl("projects", "create", "--name", "ACME Corp")["project"]
    at = ("--project-id", project["id"])
    branch = neonctl("branches", "create", "--name", "dev", *at)
    assert branch["connection_uris"]
    assert neonctl("branches", "get", branch["branch"]["id"], *at)["name"] == "dev"
    assert neonctl("branches", "rename", "dev", "dev2", *at)["name"] == "dev2"
    neonctl("branches", "reset", "dev2", "--parent", "--preserve-under-name", "kept", *at)
    neonctl("branches", "restore", "dev2", "main", *at)
    neonctl("branches", "set-default", "dev2", *at)
    assert {item["name"] for item in neonctl("branches", "list", *at)} == {"main", "dev2", "kept"}
    neonctl("branches", "set-default", "main", *at)
    neonctl("branches", "delete", "dev2", *at)
    neonctl("projects", "delete", project["id"])
