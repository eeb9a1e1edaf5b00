"""kill -9 in the middle of backups and prunes: never a good one that does not restore, never the last one gone.

Each round kills at a point, or after a moment, chosen by a seed; then somebody else looks after what was left.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tenantry.fleet.backups.backups import Backups
from tenantry.fleet.backups.manifest import read_object
from tenantry.fleet.backups.sweep import sweep
from tenantry.fleet.catalog import backups as rows
from tenantry.fleet.main import Fleet, open_fleet

if TYPE_CHECKING:
    from conftest import Operator, Query

pytestmark = pytest.mark.crash

POINTS = (
    "backup.key", "backup.begun", "backup.dumping", "backup.objects", "backup.written", "backup.recorded",
    "prune.marked", "prune.removed",
)  # fmt: skip
ROUNDS_SOAK = 50


@pytest.fixture
def tenant(operator: Operator, query: Query, name: str) -> str:
    slug: str = operator.json("create", name)["tenant"]["slug"]
    operator.do("backup", "schedule", slug, "--keep", "last=1")
    query(operator.do("url", slug).stdout, "CREATE TABLE t AS SELECT i FROM generate_series(1, 200) AS i")
    return slug


def _fleet(operator: Operator) -> Fleet:
    target = operator.cell.target
    return open_fleet(target.api_url, target.api_key, target.catalog_url)


def _look_after(backups: Backups, vault: Path, tenant: str) -> int:
    """What whoever comes next finds, once the dead are silent; how many good ones there are."""
    sweep(backups.around, silent_seconds=0.0)
    backups.tidy()
    tenant_id = backups.around.tenants.ready(tenant)[0].id
    with backups.around.catalog.transaction() as connection:
        known = rows.backups_page(connection, tenant_id=tenant_id, limit=1000)
    good = [each for each in known if each.state == "done"]
    assert {each.state for each in known} <= {"done", "failed", "deleted"}, "something is still open"
    folder = vault / tenant
    there = {path.name for path in folder.iterdir()} if folder.exists() else set[str]()
    assert there == {each.id for each in good}, "the vault holds what the catalog calls good, and nothing else"
    for each in good:
        opened = backups.open(each)
        for thing in opened.manifest.objects:
            for _ in read_object(opened.vault, opened.manifest, thing):
                pass
    return len(good)


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_each_point(operator: Operator, query: Query, vault: Path, tenant: str, point: str) -> None:
    if point != "backup.key":
        operator.do("backup", "run", tenant)
    if point.startswith("prune"):
        operator.do("backup", "run", tenant)
    verb = ["prune", tenant, "--yes"] if point.startswith("prune") else ["run", tenant]
    operator.run("backup", *verb, code=-signal.SIGKILL, TENANTRY_FAILPOINTS=f"{point}=kill")
    with _fleet(operator) as fleet:
        good = _look_after(fleet.backups(), vault, tenant)
        kept = point in ("backup.written", "backup.recorded")
        assert good == (0 if point == "backup.key" else 2 if kept else 1)
        operator.do("backup", "run", tenant)
        assert _look_after(fleet.backups(), vault, tenant) == good + 1
    operator.do("backup", "restore", tenant, "--as", f"{tenant} again")


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("seed", [int(os.environ.get("TENANTRY_SEED", "1"))])
def test_fifty_rounds_of_random_kills(operator: Operator, query: Query, vault: Path, tenant: str, seed: int) -> None:
    """Of the runner, of its programs and of the cell, at any moment of a backup, a verification or a prune."""
    random_ = random.Random(seed)
    query(operator.do("url", tenant).stdout, "INSERT INTO t SELECT i FROM generate_series(1, 300000) AS i")
    operator.do("backup", "run", tenant)
    for number in range(ROUNDS_SOAK):
        verb = random_.choice([["run", tenant], ["verify", tenant], ["prune", tenant, "--yes"]])
        running = subprocess.Popen(
            [sys.executable, "-m", "tenantry", "backup", *verb],
            env=os.environ | {"TENANTRY_DATA": str(operator.cell.data)},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + random_.uniform(0.5, 4.0)
        whom = random_.choice(["runner", "programs", "cell"])
        while time.monotonic() < deadline and running.poll() is None:
            time.sleep(0.01)
        if whom == "cell":
            operator.cell.kill()
            operator.cell.start()
        for victim in {"runner": [running.pid], "programs": _children(running.pid), "cell": []}[whom]:
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                continue
        running.wait(300)
        with _fleet(operator) as fleet:
            good = _look_after(fleet.backups(), vault, tenant)
        assert good >= 1, f"seed {seed}, round {number}, {verb} and a killed {whom}: the last good one is gone"
    verified = [each for each in operator.json("backup", "list", tenant)["backups"] if each["verified_at"]]
    for each in verified:
        again = f"{tenant} again {each['id'][-8:]}"
        operator.do("backup", "restore", tenant, "--backup", each["id"], "--as", again)
    operator.do("backup", "verify", tenant)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(word) for word in task.read_text().split()]
        except OSError:
            continue
    return found
