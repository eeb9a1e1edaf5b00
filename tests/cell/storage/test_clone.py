"""Copies of trees, whatever is in them."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tenantry.cell.storage import clone
from tenantry.cell.storage.clone import CopyFileRange, Driver, Interrupted, ReadWrite, Reflink, clone_data, probe
from tenantry.errors import Defect, OperatorError

OWNER = (65534, 65534) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
STAYS = {
    "PG_VERSION": b"18\n",
    "global/pg_control": b"\x01" * 8192,
    "base/5/1259": b"\x02" * 3_000_000,
    "base/5/1259_fsm": b"",
    "pg_xact/0000": b"\x03" * 8192,
}
GOES = (
    "postmaster.pid", "postmaster.opts", "postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "recovery.signal",
    "backup_label", "base/5/pg_internal.init", "base/5/t3_16384", "base/5/t3_16384_fsm.1",
    "base/pgsql_tmp/pgsql_tmp9.0",
    "pg_replslot/slot/state", "pg_stat_tmp/a", "pg_wal/000000010000000000000001", "pg_notify/0000",
)  # fmt: skip


@pytest.fixture
def data(workdir: Path) -> Path:
    data = workdir / "data"
    for name, content in (*STAYS.items(), *((name, b"gone") for name in GOES)):
        path = data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return data


@pytest.mark.parametrize("driver", [CopyFileRange(), ReadWrite()], ids=lambda driver: driver.name)
def test_a_clone_has_what_belongs_to_it_and_nothing_else(data: Path, workdir: Path, driver: Driver) -> None:
    cloned = clone_data(driver, data, workdir / "new", owner=OWNER)
    found = {str(path.relative_to(workdir / "new")): path for path in (workdir / "new").rglob("*")}
    assert {name: path.read_bytes() for name, path in found.items() if path.is_file()} == STAYS
    assert {"pg_wal", "pg_replslot", "pg_notify"} <= found.keys()
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in (workdir / "new", *found.values())} == {OWNER}
    assert {path.lstat().st_mode & 0o777 for path in found.values()} == {0o700, 0o600}
    assert cloned.bytes == sum(map(len, STAYS.values()))


def test_the_driver_is_one_that_works(workdir: Path) -> None:
    driver = probe(workdir)
    assert driver in clone.DRIVERS
    assert list(workdir.iterdir()) == []


def test_a_driver_that_cannot_share_blocks_does_not_copy(data: Path, workdir: Path) -> None:
    if probe(workdir).reflink:
        pytest.skip("this file system shares blocks")
    with pytest.raises(OperatorError, match="is not possible"):
        clone_data(Reflink(), data, workdir / "new", owner=None)
    assert not (workdir / "new").exists()


def test_blocks_are_shared_where_the_file_system_can(data: Path, workdir: Path) -> None:
    if not probe(workdir).reflink:
        pytest.skip("this file system does not share blocks")
    clone_data(Reflink(), data, workdir / "new", owner=None)
    assert (workdir / "new/base/5/1259").read_bytes() == STAYS["base/5/1259"]


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_postgres_does_not_make_is_not_copied(data: Path, workdir: Path, kind: str) -> None:
    secret = workdir / "secret"
    secret.write_text("of another tenant")
    if kind == "link":
        (data / "base/5/2000").symlink_to(secret)
    else:
        os.mkfifo(data / "base/5/2000")
    with pytest.raises(OperatorError, match="base/5/2000"):
        clone_data(ReadWrite(), data, workdir / "new", owner=None)
    assert not (workdir / "new").exists()


def test_a_linked_data_directory_is_not_followed(data: Path, workdir: Path) -> None:
    (workdir / "link").symlink_to(data)
    with pytest.raises(OSError, match="link"):
        clone_data(ReadWrite(), workdir / "link", workdir / "new", owner=None)
    assert not (workdir / "new").exists()


def test_a_clone_goes_over_nothing(data: Path, workdir: Path) -> None:
    (workdir / "new").mkdir()
    (workdir / "new" / "mine").write_text("kept")
    with pytest.raises(Defect):
        clone_data(ReadWrite(), data, workdir / "new", owner=None)
    assert (workdir / "new" / "mine").read_text() == "kept"


def test_an_interrupted_clone_leaves_nothing(data: Path, workdir: Path) -> None:
    calls = iter([False, False, True])
    with pytest.raises(Interrupted):
        clone_data(ReadWrite(), data, workdir / "new", owner=None, interrupted=lambda: next(calls))
    assert not (workdir / "new").exists()


@contextlib.contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[Path]:
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0711", "none", place], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("a small disk cannot be mounted here (needs root with CAP_SYS_ADMIN)")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize("driver", [CopyFileRange(), ReadWrite()], ids=lambda driver: driver.name)
def test_a_full_disk_leaves_nothing(data: Path, workdir: Path, driver: Driver) -> None:
    with small_disk(workdir / "disk", 2) as disk:
        source = data
        if isinstance(driver, CopyFileRange):  # it copies within one file system only
            source = disk / "data"
            clone_data(ReadWrite(), data / "global", source, owner=None)
            (source / "large").write_bytes(bytes(1_500_000))
        with pytest.raises(OperatorError, match="disk is full"):
            clone_data(driver, source, disk / "new", owner=None)
        assert not (disk / "new").exists()
