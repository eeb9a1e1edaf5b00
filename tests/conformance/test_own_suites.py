"""psycopg's and node-postgres' own tests: against a bare Postgres of the same build, through the front door, and
through its pooled hosts. What passes there passes here, but for what the handbook lists (docs/the-front-door.md).

Neither is published with its tests: they come from the projects' repositories, or from a checkout or a mirror that
``TENANTRY_PSYCOPG_SOURCE`` and ``TENANTRY_NODE_POSTGRES_SOURCE`` name. The role is a tenant's owner everywhere.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import pwd
import re
import secrets
import socket
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import psycopg
import pytest

from tenantry.testing.throwaway import ThrowawayCell

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7_200)]

FETCH_SECONDS_MAX: Final = 300
SUITE_SECONDS_MAX: Final = 2_000
TEST_SECONDS_MAX: Final = 90
START_SECONDS_MAX: Final = 60
PASSED, SKIPPED, FAILED = "passed", "skipped", "failed"
Outcomes = dict[str, str]
"""What became of each test."""

PSYCOPG: Final = "https://github.com/psycopg/psycopg"
NODE_POSTGRES: Final = "https://github.com/brianc/node-postgres"
NODE_NEEDS: Final = ("async@2.6.4", "bluebird@3.7.2", "co@4.6.0", "pg-copy-streams@0.3.0")
"""What its tests import beside what it needs itself."""

DIFFERS: Final[Mapping[str, str]] = {
    r"client/connection-parameter-tests\.js": "its own `options` replace those that name the endpoint",
    r"gh-issues/2416-tests\.js": "its own `options` replace those that name the endpoint",
    r"gh-issues/130-tests\.js": "nobody may connect to template1",
    r"connection-pool/error-tests\.js": "it ends every idle session, and one of them is the cell's own",
    r"tests/pool/test_pool\w*\.py::test_(active_close|check|drain|\w+_broken|broken_\w+|its_no_pool_at_all)(\[.*)?": (
        "it takes a new backend for the proof of a new connection, and pooled ones are handed on"
    ),
}
"""Tests that pass on a bare Postgres and not here, as the handbook says."""


def reason(name: str) -> str | None:
    return next((why for pattern, why in DIFFERS.items() if re.fullmatch(pattern, name)), None)


# ------------------------------------------------------------------------------------------------ their sources


def checkout(place: Path, variable: str, upstream: str, tags: list[str]) -> Path:
    """The newest of the tags that is there, else what is newest; skips where nobody can be asked for it."""
    source = os.environ.get(variable, upstream)
    for tag in [*tags, None]:
        command = ["git", "clone", "--quiet", "--depth", "1", *(["--branch", tag] if tag else []), source, str(place)]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=FETCH_SECONDS_MAX,
                env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"{source} cannot be fetched ({error}); {variable} may name a checkout")
        if done.returncode == 0:
            return place
        if "not found in upstream" not in done.stderr:
            pytest.skip(f"{source} cannot be fetched ({done.stderr.strip()[-200:]}); {variable} may name a checkout")
    raise AssertionError("unreachable: a clone without a tag is made or skipped")


# ------------------------------------------------------------------------------------------------ the three places


@pytest.fixture(scope="module")
def places(new_workdir: Callable[[str], Path], new_cell: Callable[..., ThrowawayCell]) -> Iterator[dict[str, str]]:
    """Connection strings of a tenant's owner: ``bare``, ``direct`` and ``pooled``, none of them with TLS."""
    home = new_workdir("suites")
    with new_cell(home / "d", options=["--no-fleet", "--suspend-after", "3600"]) as cell:
        bare = Bare(home, next((cell.data / "engines").glob("pg18*")))
        try:
            uri, endpoint = _tenant(cell)
            yield {"bare": bare.uri(), "direct": uri, "pooled": uri.replace(endpoint, f"{endpoint}-pooler")}
        finally:
            bare.stop()


def _tenant(cell: ThrowawayCell) -> tuple[str, str]:
    from tenantry.neon.client import NeonClient  # noqa: PLC0415
    from tenantry.neon.ids import ProjectId  # noqa: PLC0415

    with NeonClient(cell.target.api_url, cell.target.api_key) as client:
        created = client.create_project(name="suites", default_endpoint_settings={"autoscaling_limit_max_cu": 1})
        project = ProjectId(created.project.id)
        uri = client.connection_uri(project, database_name="neondb", role_name="neondb_owner")
        return uri, created.endpoints[0].id


class Bare:
    """A Postgres as initdb makes it, with a role that may do what a tenant's owner may."""

    def __init__(self, home: Path, engine: Path) -> None:
        programs = next(engine.rglob("bin/postgres")).parent
        nobody = pwd.getpwnam("nobody")
        runs_as: dict[str, Any] = (
            {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
        )
        self.password = secrets.token_hex(8)
        word, data, sockets = home / "word", home / "bare", home / "s"
        word.write_text(self.password)
        for directory in (data, sockets):
            directory.mkdir(mode=0o700)
        if runs_as:
            for path in (word, data, sockets):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        subprocess.run(
            [
                programs / "initdb", "-D", data, "-U", "postgres", "-A", "scram-sha-256", f"--pwfile={word}",
                "--no-sync", "-E", "UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C",
            ],
            check=True, capture_output=True, cwd="/", **runs_as,
        )  # fmt: skip
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        with (home / "bare.log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    programs / "postgres", "-D", data, "-k", sockets,
                    "-c", "listen_addresses=127.0.0.1", "-c", f"port={self.port}",
                ],
                stdout=log, stderr=log, cwd="/", **runs_as,
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                admin = psycopg.connect(self.uri("postgres", "postgres"), autocommit=True)
                break
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, (home / "bare.log").read_text()[-2_000:]
                time.sleep(0.05)
        with admin:
            admin.execute(
                "create role neondb_owner login createdb createrole bypassrls"
                f" in role pg_read_all_data, pg_write_all_data, pg_monitor password '{self.password}'".encode()
            )
            admin.execute("create database neondb owner neondb_owner")

    def uri(self, role: str = "neondb_owner", database: str = "neondb") -> str:
        return f"postgresql://{role}:{self.password}@127.0.0.1:{self.port}/{database}?sslmode=disable"

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(START_SECONDS_MAX)


def compared(run: Callable[[str, str, set[str]], Outcomes], places: Mapping[str, str]) -> None:
    """Fails for what passes on a bare Postgres and not here. What differs once is tried again in both places."""
    outcomes = {place: run(place, uri, set()) for place, uri in places.items()}
    for place, found in outcomes.items():
        print(f"{place}: {dict(sorted(Counter(found.values()).items()))}")
    problems: dict[str, dict[str, str]] = {}
    for place in sorted(places.keys() - {"bare"}):
        worse = _worse(outcomes["bare"], outcomes[place])
        if worse:
            worse &= _worse(run("bare", places["bare"], worse), run(place, places[place], worse))
        problems[place] = {name: reason(name) or "not known" for name in sorted(worse)}
    print(json.dumps(problems, indent=2))
    assert outcomes["bare"]
    assert [(place, name) for place, found in problems.items() for name in found if reason(name) is None] == []


def _worse(bare: Outcomes, here: Outcomes) -> set[str]:
    return {name for name, outcome in bare.items() if outcome == PASSED and here.get(name) != PASSED}


# ------------------------------------------------------------------------------------------------ the suites


def test_psycopgs_own_tests(places: dict[str, str], workdir: Path, pip_install: Callable[..., Path]) -> None:
    version = importlib.metadata.version("psycopg")
    sources = checkout(workdir / "psycopg", "TENANTRY_PSYCOPG_SOURCE", PSYCOPG, [version])
    extra = pip_install("pproxy", "dnspython") / "site-packages"
    # Typing is checked with another tool, and asks no server. What is marked `timing` fails anywhere on a busy machine.
    left_out = [f"--ignore=tests/{name}" for name in ("test_typing.py", "test_gevent.py", "crdb")]

    def run(place: str, uri: str, only: set[str]) -> Outcomes:
        report = workdir / f"{place}.xml"
        report.unlink(missing_ok=True)
        subprocess.run(
            [
                *(
                    sys.executable,
                    "-m",
                    "pytest",
                    "-q",
                    "-p",
                    "no:randomly",
                    "-m",
                    "not timing",
                    f"--timeout={TEST_SECONDS_MAX}",
                ),
                *(f"--junitxml={report}", *left_out, *(sorted(only) or ["tests"])),
            ],
            cwd=sources,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PG"))},
                "PSYCOPG_TEST_DSN": uri,
                "PYTHONPATH": str(extra),
            },
            stdout=(workdir / f"{place}.log").open("wb"),
            stderr=subprocess.STDOUT,
            check=False,
            timeout=SUITE_SECONDS_MAX,
        )
        assert report.exists(), (workdir / f"{place}.log").read_text()[-3_000:]
        return {
            _pytest_name(case): FAILED
            if case.find("failure") is not None or case.find("error") is not None
            else (PASSED if case.find("skipped") is None else SKIPPED)
            for case in ElementTree.parse(report).iter("testcase")
        }

    compared(run, places)


def _pytest_name(case: ElementTree.Element) -> str:
    module, _, rest = str(case.get("classname")).partition(".Test")
    path = module.replace(".", "/") + ".py"
    return "::".join([path, *([f"Test{rest}"] if rest else []), str(case.get("name"))])


def test_node_postgres_own_tests(places: dict[str, str], workdir: Path, npm_install: Callable[..., Path]) -> None:
    packages = npm_install("pg", *NODE_NEEDS)
    version = json.loads((packages / "node_modules/pg/package.json").read_text())["version"]
    sources = checkout(workdir / "npg", "TENANTRY_NODE_POSTGRES_SOURCE", NODE_POSTGRES, [f"pg@{version}"])
    suite = sources / "packages/pg"
    (suite / "node_modules").symlink_to(packages / "node_modules")

    def run(place: str, uri: str, only: set[str]) -> Outcomes:
        del place
        given = urlsplit(uri)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PG")},
            "PGHOST": str(given.hostname),
            "PGPORT": str(given.port),
            "PGUSER": str(given.username),
            "PGPASSWORD": unquote(str(given.password)),
            "PGDATABASE": given.path[1:],
            "TEST_TIMEOUT": "20000",
            "SCRAM_TEST_PGUSER": str(given.username),
            "SCRAM_TEST_PGPASSWORD": unquote(str(given.password)),
        }
        for options in parse_qs(given.query).get("options", []):
            environment["PGOPTIONS"] = options
        outcomes: Outcomes = {}
        directory = suite / "test/integration"
        for file in sorted(directory.rglob("*-tests.js")):
            name = str(file.relative_to(directory))
            if not only or name in only:
                outcomes[name] = _node_outcome(suite, file, environment)
        return outcomes

    compared(run, places)


def _node_outcome(suite: Path, file: Path, environment: dict[str, str]) -> str:
    """A file ends at its first test that fails."""
    try:
        done = subprocess.run(
            ["node", str(file)],
            cwd=suite,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=TEST_SECONDS_MAX,
        )
    except subprocess.TimeoutExpired:
        return FAILED
    if done.returncode != 0:
        return FAILED
    return PASSED if re.search("✔", done.stdout) or "SKIPPED" not in done.stdout else SKIPPED
