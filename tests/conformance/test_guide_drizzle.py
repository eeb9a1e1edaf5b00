"""The guide's own way from end to end: its tree of configurations, a secret for each customer, drizzle-kit in a job."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenantry.testing.throwaway import ThrowawayCell

from ..fleet.automations.runner import Runner
from ..fleet.automations.stand_ins import GithubStandIn

pytestmark = [pytest.mark.node, pytest.mark.timeout(300)]
EXAMPLE = Path(__file__).parents[2] / "examples" / "tasks"
PACKAGES = ["drizzle-kit@0.31.11", "drizzle-orm@0.45.4", "pg@8.23.1", "dotenv@16.6.1"]


@pytest.fixture(scope="module")
def cell(new_workdir: Callable[[str], Path], new_cell: Callable[..., ThrowawayCell]) -> Iterator[ThrowawayCell]:
    with new_cell(new_workdir("guide") / "data", options=["--spares", "1", "--no-worker"]) as cell:
        yield cell


@pytest.fixture
def repository(tmp_path: Path, npm_install: Callable[..., Path]) -> Path:
    root = tmp_path / "app"
    (root / ".git").mkdir(parents=True)
    (root / "src" / "db").mkdir(parents=True)
    shutil.copy(EXAMPLE / "schema.ts", root / "src" / "db" / "schema.ts")
    (root / "package.json").write_text('{"name": "app", "private": true}')
    (root / "node_modules").symlink_to(npm_install(*PACKAGES) / "node_modules")
    (root / "tenantry.toml").write_text(
        '[github]\nrepository = "acme/app"\nruns_on = "self-hosted"\nsecret_per_customer = true\n'
        'migrate_with = "drizzle-kit"\n[migrations]\ndir = "drizzle"\n'
    )
    return root


def test_drizzle_kit_migrates_every_customer_from_githubs_secrets(cell: ThrowawayCell, repository: Path) -> None:
    with GithubStandIn() as github:

        def tenantry(*arguments: str) -> dict[str, Any]:
            done = subprocess.run(
                [Path(sys.executable).with_name("tenantry"), *arguments, "--json"],
                cwd=repository,
                env=_without_ours()
                | {"TENANTRY_DATA": str(cell.data), "GITHUB_TOKEN": github.TOKEN, "GITHUB_API_URL": github.url},
                capture_output=True,
                text=True,
                timeout=100,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)

        for name in ("ACME Corp", "Finance Co"):
            tenantry("create", name)
        wrote = tenantry("generate", "drizzle")["files"]
        assert [each["path"] for each in wrote] == [
            "configs/acme-corp/drizzle.config.ts",
            "configs/finance-co/drizzle.config.ts",
        ]
        tenantry("generate", "github", "--secrets")
        assert set(github.secrets[None]) == {
            "ACME_CORP_DATABASE_URL", "FINANCE_CO_DATABASE_URL", "TENANTRY_API_KEY",
        }  # fmt: skip
        for each in wrote:
            generated = subprocess.run(
                ["npx", "--no-install", "drizzle-kit", "generate", f"--config={each['path']}"],
                cwd=repository, env=_without_ours(), capture_output=True, text=True, timeout=100, check=False,
            )  # fmt: skip
            assert generated.returncode == 0, generated.stdout + generated.stderr
        assert sorted(path.name for path in (repository / "drizzle").iterdir()) == ["acme-corp", "finance-co"]

        def migrate() -> Any:
            machine = Runner(
                repository,
                programs=Path(sys.executable).parent,
                secrets=github.secrets[None],
                environment={"GITHUB_REPOSITORY": "acme/app", "GITHUB_TOKEN_OF_JOB": "-"},
                done_already=["npm ci"],
            )
            return machine.run("tenantry-migrate.yml", "migrate", {})

        # A customer that fails is named, and does not keep the one behind it from being migrated.
        good = github.secrets[None]["ACME_CORP_DATABASE_URL"]
        github.secrets[None]["ACME_CORP_DATABASE_URL"] = good.replace("/neondb", "/nowhere")
        broken = migrate().of("Migrate every customer")
        assert broken.status == "failed"
        assert "not migrated: configs/acme-corp/drizzle.config.ts\n" in broken.output
        assert tables(github.secrets[None]["FINANCE_CO_DATABASE_URL"]) >= {"users", "projects", "tasks"}
        assert "postgresql://" not in broken.output
        github.secrets[None]["ACME_CORP_DATABASE_URL"] = good
        assert migrate().of("Migrate every customer").status == "done"
        assert tables(good) == tables(github.secrets[None]["FINANCE_CO_DATABASE_URL"])
        # And we find nothing to do behind it, in the same folders.
        done = tenantry("migrate", "run")
        assert {each["outcome"] for each in done["tenants"]} <= {"current"}, done
        assert github.surprises == []


def tables(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("select tablename from pg_tables where schemaname = 'public'").fetchall()
    return {row[0] for row in rows}


def _without_ours() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("TENANTRY_", "GITHUB_"))}
