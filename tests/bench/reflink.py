"""Branches where the file system shares blocks: a tenant of 1 GiB beside a small one, on an XFS image of our own.

Needs root, mkfs.xfs or mkfs.btrfs, and a loop device; says which is missing otherwise.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import branches
import psycopg
from installation import Installation, Tenant
from report import Row, median_interval, milliseconds, shown

from tenantry.cell.storage.clone import probe

_IMAGE_BYTES: Final = 12 * 2**30
_FREE_BYTES_MIN: Final = 2 * _IMAGE_BYTES
_GOAL: Final = 2.0
_ROWS_PER_MIB: Final = 1024
"""Eight rows fill a page of 8 KiB."""
_MAKERS: Final = (("xfs", ["mkfs.xfs", "-q", "-m", "reflink=1"]), ("btrfs", ["mkfs.btrfs", "-q"]))
_UNMOUNT_SECONDS_MAX: Final = 30.0


class _Absent(Exception):
    """Why there is no such file system here."""


def measure(installation: Installation, *, quick: bool) -> Iterator[Row]:
    del installation  # it lies where it lies; this needs one of its own
    mebibytes = 64 if quick else 1024
    what = f"branch of a sleeping tenant of {mebibytes} MiB that shares blocks, call to operations finished: p50 / p95"
    try:
        with _file_system() as (kind, place):
            yield _compare(place, kind, what, mebibytes, 3 if quick else 15)
    except _Absent as error:
        yield Row(what=what, ours="-", note=f"not measured: {error}")


def _compare(place: Path, kind: str, what: str, mebibytes: int, rounds: int) -> Row:
    with Installation(within=place) as installation:
        installation.restart(spares=0)
        small, large = installation.create(), installation.create()
        for tenant, size in ((small, 1), (large, mebibytes)):
            _fill(tenant, size)
            installation.put_to_sleep(tenant)
        subprocess.run(["sync", "--file-system", str(place)], check=True)
        taken = _free(place)
        of_small: list[float] = []
        of_large: list[float] = []
        for number in range(rounds):
            pair = ((small, of_small), (large, of_large))
            for tenant, times in pair if number % 2 else reversed(pair):
                seconds, _ = branches.timed_branch(installation, tenant)
                times.append(seconds)
        taken = (taken - _free(place)) / (2 * rounds) / 2**20
    ratios = [big / little for big, little in zip(of_large, of_small, strict=True)]
    ratio, (low, high) = statistics.median(ratios), median_interval(ratios)
    return Row(
        what=what,
        ours=milliseconds(of_large),
        peer=f"{milliseconds(of_small)}\na small tenant",
        ratio=f"{shown(ratio)}\n({shown(low)} .. {shown(high)})",
        goal=f"<= {_GOAL:g}x the small one",
        met=ratio <= _GOAL,
        note=f"{kind} in a file, mounted by loop; {rounds} interleaved pairs; a branch takes {shown(taken)} MiB",
        numbers={"seconds": of_large, "small_seconds": of_small, "ratio": ratio, "ratio_interval": [low, high]},
    )


def _fill(tenant: Tenant, mebibytes: int) -> None:
    with psycopg.connect(tenant.uri, autocommit=True) as connection:
        connection.execute(
            "create table filler as select n, repeat(md5(n::text), 29) as what"
            f" from generate_series(1, {_ROWS_PER_MIB * mebibytes}) n".encode()
        )
        row = connection.execute("select pg_relation_size('filler')").fetchone()
    assert row is not None
    assert row[0] >= mebibytes * 2**20


def _free(place: Path) -> int:
    subprocess.run(["sync", "--file-system", str(place)], check=True)
    facts = os.statvfs(place)
    return facts.f_bfree * facts.f_frsize


@contextmanager
def _file_system() -> Generator[tuple[str, Path]]:
    """Its kind, and where it is mounted during the block. Raises _Absent."""
    if os.geteuid() != 0:
        raise _Absent("mounting needs root")
    kind, maker = next(((kind, maker) for kind, maker in _MAKERS if shutil.which(maker[0])), (None, None))
    if kind is None or maker is None:
        raise _Absent("no mkfs.xfs and no mkfs.btrfs: apt-get install xfsprogs")
    directory = Path(tempfile.mkdtemp(prefix="tenantry-bench-image-"))
    directory.chmod(0o711)
    try:
        if shutil.disk_usage(directory).free < _FREE_BYTES_MIN:
            raise _Absent(f"it takes {_FREE_BYTES_MIN // 2**30} GiB of free disk")
        image, place = directory / "image", directory / "mounted"
        place.mkdir()
        with image.open("wb") as file:
            file.truncate(_IMAGE_BYTES)
        subprocess.run([*maker, str(image)], check=True, capture_output=True)
        mounted = subprocess.run(["mount", "-o", "loop", str(image), str(place)], capture_output=True, check=False)
        if mounted.returncode != 0:
            raise _Absent(f"mount failed: {mounted.stderr.decode(errors='replace').strip()}")
        try:
            place.chmod(0o711)
            if not probe(place).reflink:
                raise _Absent(f"this {kind} does not share blocks")
            yield kind, place
        finally:
            _unmount(place)
    finally:
        shutil.rmtree(directory)


def _unmount(place: Path) -> None:
    """What has just ended may hold a file a moment longer."""
    deadline = time.monotonic() + _UNMOUNT_SECONDS_MAX
    while True:
        done = subprocess.run(["umount", str(place)], capture_output=True, check=False)
        if done.returncode == 0:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"{place} stays mounted: {done.stderr.decode(errors='replace').strip()}")
        time.sleep(0.1)
