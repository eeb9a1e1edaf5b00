"""kill -9 of verifications, of what they have begun, and of the cell under them, at any moment and beside backups and
prunes: never a `verified` that does not restore, never a pruned last good one, never a project that stays.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil
import pytest

from tenantry.fleet.backups.sweep import sweep
from tenantry.fleet.backups.verify import NAME
from tenantry.fleet.catalog import backups as rows
from tenantry.fleet.catalog.backups import BackupRecord
from tenantry.fleet.main import Fleet, open_fleet
from tenantry.testing.throwaway import ThrowawayCell

from .conftest import Operator

if TYPE_CHECKING:
    from ..forks import Born, Nurseries
    from .conftest import Query

pytestmark = pytest.mark.crash

SEED: Final = int(os.environ.get("TENANTRY_SEED", "1"))
ROUNDS: Final = 3
ROUNDS_SOAK: Final = 50
ROUND_SECONDS_MAX: Final = 120


def _fleet(operator: Operator) -> Fleet:
    target = operator.cell.target
    return open_fleet(target.api_url, target.api_key, target.catalog_url)


def _tenant(operator: Operator, query: Query, name: str) -> str:
    slug: str = operator.json("create", name)["tenant"]["slug"]
    operator.do("backup", "schedule", slug, "--keep", "last=2")
    url = operator.do("url", slug).stdout
    query(url, "CREATE TABLE t AS SELECT i, md5(i::text) AS x FROM generate_series(1, 60000) AS i")
    query(url, "ALTER TABLE t ADD PRIMARY KEY (i)")
    return slug


def _begin(operator: Operator, *arguments: str) -> Born:
    nothing = Path(os.devnull)
    environment = os.environ | {"TENANTRY_DATA": str(operator.cell.data)}
    return operator.nurseries.give_birth(
        ["backup", *arguments], environment, out=nothing, err=nothing, directory=Path.cwd()
    )


def _kill(running: Born, whom: str) -> None:
    try:
        victims = [psutil.Process(running.pid)] if running.poll() is None else []
        if whom == "what it has begun":
            victims = [child for each in victims for child in each.children(recursive=True)]
    except psutil.NoSuchProcess:  # it has ended by itself
        return
    for victim in victims:
        try:
            victim.kill()
        except psutil.NoSuchProcess:
            continue


def _look_after(fleet: Fleet, slug: str) -> list[BackupRecord]:
    """What whoever comes next does once the dead are silent; the verified ones, each of them whole in the vault."""
    backups = fleet.backups()
    sweep(backups.around, silent_seconds=0.0)
    fleet.proofs().sweep(silent_seconds=0.0)
    tenant_id = backups.around.tenants.ready(slug)[0].id
    with fleet.catalog.transaction() as connection:
        good = rows.good_backups(connection, [tenant_id])
    assert good, "the last good one is gone"
    verified = [each for each in good if each.verified_at is not None]
    assert all(each.doubted_at is None for each in good), "a killed process is no damage"
    for each in verified:
        opened = backups.open(each)
        for thing in opened.manifest.objects:
            assert sum(len(chunk) for chunk in opened.read(thing))
    return verified


def _rounds(
    operator: Operator, slug: str, random_: random.Random, count: int, whom: list[str], kill_cell: Callable[[], None]
) -> None:
    operator.do("backup", "run", slug)
    for number in range(count):
        chosen = random_.choice(whom)
        running = [_begin(operator, "verify", slug)]
        if random_.random() < 0.5:
            running.append(_begin(operator, *random_.choice((["run", slug], ["prune", slug, "--yes"]))))
        deadline = time.monotonic() + random_.uniform(0.7, 3.5)
        while time.monotonic() < deadline and any(each.poll() is None for each in running):
            time.sleep(0.01)
        if chosen == "the cell":
            kill_cell()
        else:
            for each in running:
                _kill(each, chosen)
        for each in running:
            each.wait(ROUND_SECONDS_MAX)
        with _fleet(operator) as fleet:
            _look_after(fleet, slug)
        assert operator.projects(NAME) == [], f"seed {SEED}, round {number}, after {chosen} was killed"
    assert operator.json("backup", "verify", slug)["passed"] == 1
    with _fleet(operator) as fleet:
        verified = _look_after(fleet, slug)
    for number, each in enumerate(verified):
        done = operator.json("backup", "restore", slug, "--backup", each.id, "--as", f"{slug} again {number}")
        assert done["rows"] == 60_000


def test_verifications_that_are_killed(operator: Operator, query: Query, vault: Path, name: str) -> None:
    slug = _tenant(operator, query, name)
    whom = ["the verification", "what it has begun"]
    _rounds(operator, slug, random.Random(SEED), ROUNDS, whom, lambda: None)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_rounds_with_the_cell_among_the_victims(
    new_workdir: Callable[[str], Path], new_cell: Callable[..., ThrowawayCell], nurseries: Nurseries, query: Query,
    vault: Path, name: str,
) -> None:  # fmt: skip
    with new_cell(new_workdir("mortal") / "data", options=["--spares", "1"]) as cell:
        operator = Operator(cell, nurseries)
        slug = _tenant(operator, query, name)

        def kill_cell() -> None:
            cell.kill()
            cell.start()

        whom = ["the verification", "what it has begun", "the cell"]
        _rounds(operator, slug, random.Random(SEED), ROUNDS_SOAK, whom, kill_cell)
