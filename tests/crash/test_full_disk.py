"""A full disk at whatever moment: the error says so, nothing is left half made, tenants are served, and with space
again all goes on. The disk is a small one of its own, which is made as large as what is used and some more.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system"),
]
KB, MB = 1024, 1024 * 1024
ROOMY = 600 * MB
RESIZES_MAX = 20


class Disk:
    """A tmpfs whose size can be changed."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir()
        options = f"size={ROOMY},mode=711"
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=False).returncode != 0:
            pytest.skip("this machine does not let root mount a tmpfs")

    def leave(self, free: int) -> None:
        for attempt in range(RESIZES_MAX):
            facts = os.statvfs(self.place)
            used = (facts.f_blocks - facts.f_bfree) * facts.f_frsize
            # Refused where more than that has been used meanwhile.
            if self._resize(used + free, check=attempt == RESIZES_MAX - 1):
                return

    def make_room(self) -> None:
        self._resize(ROOMY)

    def _resize(self, size: int, *, check: bool = True) -> bool:
        done = subprocess.run(
            ["mount", "-o", f"remount,size={size}", str(self.place)], check=check, capture_output=not check
        )
        return done.returncode == 0

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.place)], check=True)


@pytest.fixture
def disk(workdir: Path) -> Iterator[Disk]:
    disk = Disk(workdir / "s")
    yield disk
    disk.close()


@pytest.fixture
def life(disk: Disk, make_cell: Any, api: Any, open_tenant: Any, until: Any) -> tuple[Any, Any]:
    """A cell on the small disk, and a tenant; closed before the disk is."""
    cell = make_cell(f"{disk.place.name}/d", "--spares", "0", "--recover-for", "0")
    cell.log = disk.place.parent / "d.log"  # a log that cannot be written to is another matter
    cell.start()
    return cell, open_tenant(api(cell), "ACME")


@pytest.mark.parametrize("number", [3, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(3_600)])])
def test_the_disk_is_full_during_every_change(
    disk: Disk,
    life: Any,
    swept: Any,
    check_whole: Any,
    chance: random.Random,
    number: int,
    request: pytest.FixtureRequest,
) -> None:
    cell, tenant = life
    past = tenant.moment()
    tenant.run(tenant.main, "insert into t values (2)")
    assert tenant.branch("dev").status_code == 201
    assert tenant.snapshot(tenant.main, "past").status_code == 200
    dev = tenant.id_of("dev")
    served = psycopg.connect(tenant.uri(tenant.main), autocommit=True)
    request.addfinalizer(served.close)
    of_main, of_the_past = {1, 2}, {1}
    of_dev = of_main
    """What restores have left in it."""

    def branch(name: str) -> httpx.Response:
        return tenant.branch(name)

    def branch_of_sleeping(name: str) -> httpx.Response:
        return tenant.branch(name, parent_id=dev)

    def branch_of_past(name: str) -> httpx.Response:
        return tenant.branch(name, parent_timestamp=past.isoformat())

    def outline(name: str) -> httpx.Response:
        return tenant.branch(name, init_source="schema-only")

    def of_snapshot(name: str) -> httpx.Response:
        return tenant.restore_snapshot("past", name=name)

    def restore(name: str) -> httpx.Response:
        return tenant.restore(dev, tenant.main, name, source_timestamp=past.isoformat())

    def reset(name: str) -> httpx.Response:
        return tenant.restore(dev, tenant.main, name)

    changes: list[Callable[[str], httpx.Response]] = [
        branch, branch_of_sleeping, branch_of_past, outline, of_snapshot, restore, reset
    ]  # fmt: skip
    refused = 0
    for turn in range(number):
        change = chance.choice(changes)
        name = f"{change.__name__}-{turn}"
        heads = {path.name for path in (cell.data / "projects" / tenant.project).iterdir()}
        before = tenant.names()
        sizes = [1, 2, 4] if turn == 0 else [0.03, 0.3, 1, 2, 4, 8, 12, 16, 20, 25, 30]  # the first never suffice
        free = int(chance.choice(sizes) * MB * (0.8 + 0.4 * chance.random()))
        disk.leave(free)
        try:
            answer = change(name)
            print(f"{name}: {free / MB:.2f} MiB free: {answer.status_code} {answer.text[:120]}")
            assert served.execute("select count(*) from t").fetchone() == (2,)
        finally:
            disk.make_room()
        tenant.settled()
        if answer.status_code >= 400:
            refused += 1
            assert (answer.status_code, answer.json()["code"]) == (507, "DISK_FULL"), answer.text
            swept(cell.data)
            assert tenant.names() == before, "what failed left a branch"
            left = {path.name for path in (cell.data / "projects" / tenant.project).iterdir()}
            assert left == heads, "what failed left a head"
            answer = change(name)
        assert answer.status_code in (200, 201), answer.text
        tenant.settled()
        made = dev if change in (restore, reset) else tenant.named(name)
        if made == dev:
            of_dev = of_the_past if change is restore else of_main
        expected: dict[Any, set[int]] = {
            branch_of_sleeping: of_dev, branch_of_past: of_the_past, outline: set(), restore: of_the_past
        }  # fmt: skip
        assert tenant.rows(made) == expected.get(change, of_main), name
        tenant.sleep(made)
        if tenant.id_of(name) != dev:
            tenant.client.call("DELETE", tenant.path(f"/branches/{tenant.id_of(name)}"))
        swept(cell.data)
    assert refused, "no disk was full"
    served.close()
    assert cell.stop() == 0
    check_whole(cell.data)
    assert cell.leftovers() == []


def test_a_tenant_fills_the_disk(disk: Disk, life: Any, api: Any, until: Any, swept: Any, check_whole: Any) -> None:
    cell, tenant = life
    other = psycopg.connect(tenant.uri(tenant.main), autocommit=True)
    other.execute("insert into t values (2)")
    disk.leave(3 * MB)
    with pytest.raises(psycopg.Error):
        tenant.run(tenant.main, "create table big as select i, repeat('x', 900) from generate_series(1, 60000) i")
    other.close()
    disk.make_room()
    assert tenant.rows(tenant.main) == {1, 2}
    # A base that does not fit is none, and is taken when it does; a cell also starts on a disk that is nearly full.
    fill = "create table big as select i, repeat('x', 900) from generate_series(1, 45000) i"
    tenant.run(tenant.main, fill, "drop table big")
    bases = next((cell.data / "projects" / tenant.project).iterdir()) / "bases"
    disk.leave(4 * MB)  # before it sleeps: a base is taken at whatever moment after that
    tenant.sleep(tenant.main)
    assert cell.stop() == 0
    disk.leave(4 * MB)
    cell.start()
    until(lambda: "no base taken" in cell.log.read_text(), "the base does not fit")
    assert {path.name for path in bases.iterdir()} == {"000001"}
    tenant.client = api(cell)
    assert tenant.rows(tenant.main) == {1, 2}
    disk.make_room()
    tenant.sleep(tenant.main)
    until(lambda: any(path.parent.name != "000001" for path in bases.glob("*/base.json")), "the base is taken")
    swept(cell.data)
    assert cell.stop() == 0
    check_whole(cell.data)


def test_a_project_that_does_not_fit(disk: Disk, life: Any, api: Any, swept: Any, check_whole: Any) -> None:
    cell, tenant = life
    tenant.sleep(tenant.main)
    disk.leave(6 * MB)
    answer = tenant.client.post("/projects", {"project": {"name": "too large"}})
    assert (answer.status_code, answer.json()["message"]) == (507, "the cell's disk is full")
    assert [project["name"] for project in tenant.client.projects()] == ["ACME"], "what failed left nothing"
    assert [path.name for path in (cell.data / "projects").iterdir()] == [tenant.project]
    tenant.client.call("DELETE", f"/projects/{tenant.project}")
    swept(cell.data)
    tenant.client.create("there is room now")
    assert cell.stop() == 0
    check_whole(cell.data)
