"""Settings for every size and major, and configuration files that a hostile owner of the directory cannot bend."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from tenantry.errors import InvalidInput
from tenantry.postgres import conf
from tenantry.postgres.engines import MAJORS
from tenantry.runtime import files

ROOT = os.geteuid() == 0
SIZES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
SHOWN = (
    "max_connections", "shared_buffers", "work_mem", "maintenance_work_mem", "effective_cache_size",
    "max_parallel_workers", "autovacuum_max_workers", "max_wal_size", "temp_file_limit",
)  # fmt: skip
TABLE = Path(__file__).parents[2] / "docs/compute-sizes.md"


def rendered_table() -> str:
    rows = [
        ["setting", *(f"{size:g} CU" for size in SIZES)],
        ["---"] * (len(SIZES) + 1),
        *([f"`{name}`", *(conf.lean_settings(size, 18)[name] for size in SIZES)] for name in SHOWN),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def test_the_documented_table_is_the_code() -> None:
    assert rendered_table() in TABLE.read_text(), f"docs/compute-sizes.md must hold this table:\n{rendered_table()}"


@pytest.mark.parametrize("major", MAJORS)
def test_settings_that_a_major_does_not_know_are_not_given(major: int) -> None:
    given = conf.lean_settings(1, major)
    assert ("io_method" in given) == (major >= 18)
    assert ("allow_alter_system" in given) == (major >= 17)
    assert given["wal_recycle"] == "off"
    assert given["listen_addresses"] == ""
    assert given["password_encryption"] == "scram-sha-256"


def test_more_compute_is_never_less_of_anything() -> None:
    def number(value: str) -> float:
        found = re.fullmatch(r"(\d+)(kB|MB|GB|)", value)
        assert found is not None, value
        return int(found[1]) * {"": 1, "kB": 1, "MB": 1024, "GB": 1024**2}[found[2]]

    for name in SHOWN:
        values = [number(conf.lean_settings(size, 18)[name]) for size in SIZES]
        assert values == sorted(values), name
    assert conf.max_connections(0.25) - conf.RESERVED_CONNECTIONS >= 100


@pytest.mark.parametrize("cu", [0, 0.1, 8.5, -1, float("nan")])
def test_sizes_outside_the_table_are_refused(cu: float) -> None:
    with pytest.raises(InvalidInput):
        conf.lean_settings(cu, 18)


def test_values_are_quoted_and_cannot_add_a_line() -> None:
    text = conf.render_conf({"a": "it's", "b.c": "back\\slash", "d": ""})
    assert "a = 'it''s'\n" in text
    assert "b.c = 'back\\\\slash'\n" in text
    assert "d = ''\n" in text
    for name, value in (("a", "x'\nfsync = off"), ("a", "x\0"), ("fsync = off #", "x"), ("", "x")):
        with pytest.raises(InvalidInput):
            conf.render_conf({name: value})


def test_nobody_is_trusted() -> None:
    lines = [line.split() for line in conf.render_hba().splitlines() if not line.startswith("#")]
    assert {line[0] for line in lines} == {"local"}
    assert {line[-1] for line in lines} == {"scram-sha-256"}
    assert ["local", "all", "all", "scram-sha-256"] in lines
    assert all(line[2] == "cloud_admin" for line in lines if line[1] == "replication")


def owner_of(path: Path) -> tuple[int, int]:
    return path.lstat().st_uid, path.lstat().st_gid


def test_the_files_are_made_new_and_left_when_they_are_right(workdir: Path, owner: files.Owner | None) -> None:
    data = workdir / "data"
    data.mkdir()
    for name in ("postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf"):
        (data / name).write_text("local all all trust\nfsync = off\n")
    conf.write_configuration(data, {"work_mem": "4MB"}, owner=owner)
    assert "work_mem = '4MB'" in (data / "postgresql.conf").read_text()
    assert (data / "postgresql.auto.conf").read_text() == ""
    assert (data / "pg_hba.conf").read_text() == conf.render_hba()
    inodes = {path.name: path.stat().st_ino for path in data.iterdir()}
    for path in data.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert owner_of(path) == (owner or (os.geteuid(), os.getegid()))
    conf.write_configuration(data, {"work_mem": "4MB"}, owner=owner)
    assert {path.name: path.stat().st_ino for path in data.iterdir()} == inodes
    conf.write_configuration(data, {"work_mem": "5MB"}, owner=owner)
    assert [name for name, inode in inodes.items() if (data / name).stat().st_ino != inode] == ["postgresql.conf"]


@pytest.mark.parametrize("trick", ["symlink", "hard link", "fifo", "mode", "content", "directory link"])
def test_a_hostile_owner_cannot_bend_them(workdir: Path, owner: files.Owner | None, trick: str) -> None:
    data = workdir / "data"
    data.mkdir()
    conf.write_configuration(data, {}, owner=owner)
    hba, outside = data / "pg_hba.conf", workdir / "outside"
    outside.write_text(conf.render_hba())
    outside.chmod(0o600)
    if owner is not None:
        os.chown(outside, *owner)
    match trick:
        case "symlink":
            hba.unlink()
            hba.symlink_to(outside)
        case "hard link":
            hba.unlink()
            hba.hardlink_to(outside)
        case "fifo":
            hba.unlink()
            os.mkfifo(hba)
        case "mode":
            hba.chmod(0o666)
        case "content":
            hba.write_text(conf.render_hba().replace("scram-sha-256", "trust        "))
        case _:
            data.rename(workdir / "moved")
            data.symlink_to(workdir / "moved")
            (workdir / "moved/pg_hba.conf").write_text("trust")
            with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
                conf.write_configuration(data, {}, owner=owner)
            assert (workdir / "moved/pg_hba.conf").read_text() == "trust"
            return
    before = outside.read_text(), outside.stat().st_ino
    conf.write_configuration(data, {}, owner=owner)
    status = hba.lstat()
    assert stat.S_ISREG(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_nlink == 1
    assert hba.read_text() == conf.render_hba()
    assert (outside.read_text(), outside.stat().st_ino) == before
