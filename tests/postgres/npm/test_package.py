"""A package is unpacked inside of its directory and nowhere else, or refused as a whole."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tenantry.errors import OperatorError
from tenantry.postgres.npm import package
from tenantry.postgres.npm.package import unpack

from .conftest import files_of, pack


@pytest.fixture
def into(workdir: Path) -> Path:
    (workdir / "in").mkdir()
    (workdir / "precious").write_text("precious")
    return workdir / "in"


def member(name: str, kind: bytes = tarfile.REGTYPE, **facts: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    for fact, value in facts.items():
        setattr(made, fact, value)
    return made


def everything(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_a_build_is_what_serves_us(into: Path) -> None:
    before = os.umask(0o077)
    try:
        unpack(io.BytesIO(pack(files_of())), into)
    finally:
        os.umask(before)
    assert [path for path in everything(into) if (into / path).is_file()] == [
        "LICENSE.md", "bin/initdb", "bin/postgres", "lib/libpq.so", "lib/libpq.so.5", "lib/libpq.so.5.16",
        "lib/postgresql/dict_snowball.so", "share/postgresql/extension/citext.control",
        "share/postgresql/postgres.bki",
    ]  # fmt: skip
    assert (into / "lib/libpq.so.5").readlink() == Path("libpq.so.5.16")
    for path in into.rglob("*"):
        if not path.is_symlink():
            executable = path.is_dir() or path.parent.name == "bin"
            assert stat.S_IMODE(path.stat().st_mode) == (0o755 if executable else 0o644), path


OUT = "leads out of the package"
PLAIN = "is not a plain file"


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (member("package/native/../../../precious"), OUT),
        (member("../precious"), OUT),
        (member("/tmp/precious"), OUT),
        (member("package/native/lib/link", tarfile.SYMTYPE, linkname="/etc/passwd"), PLAIN),
        (member("package/native/lib/link", tarfile.SYMTYPE, linkname="../precious"), PLAIN),
        (member("package/native/lib/link", tarfile.LNKTYPE, linkname="package/native/bin/postgres"), PLAIN),
        (member("package/native/lib/device", tarfile.CHRTYPE, devmajor=1, devminor=3), PLAIN),
        (member("package/native/lib/device", tarfile.BLKTYPE, devmajor=7), PLAIN),
        (member("package/native/lib/pipe", tarfile.FIFOTYPE), PLAIN),
        (member("package/native/bin/postgres"), "twice"),
        (member("package/native/bin/postgres/pg_x"), "twice"),
        (member("package/native/lib/postgresql"), "twice"),
    ],
    ids=lambda value: f"{value.name}-{value.type!r}" if isinstance(value, tarfile.TarInfo) else "",
)
def test_what_npm_would_not_pack_is_refused(into: Path, extra: tarfile.TarInfo, reason: str) -> None:
    with pytest.raises(OperatorError, match=reason) as caught:
        unpack(io.BytesIO(pack(files_of(), (extra, b""))), into)
    assert caught.value.next_step
    assert (into.parent / "precious").read_text() == "precious"
    assert sorted(path.name for path in into.parent.iterdir()) == ["in", "precious"]
    assert not [path for path in into.rglob("*") if path.is_symlink()]


def test_a_directory_of_its_own_is_no_harm(into: Path) -> None:
    unpack(io.BytesIO(pack(files_of(), (member("package/native/lib/empty", tarfile.DIRTYPE), b""))), into)
    assert (into / "bin/postgres").exists()


@pytest.mark.parametrize(
    ("links", "refused"),
    [
        ([{"source": "native/lib/libpq.so.5.16", "target": "../precious2"}], True),
        ([{"source": "native/lib/libpq.so.5.16", "target": "native/../../precious2"}], True),
        ([{"source": "native/lib/libpq.so.5.16", "target": "/tmp/precious2"}], True),
        ([{"source": "../precious", "target": "native/lib/x.so"}], True),
        ([{"source": "/etc/passwd", "target": "native/lib/x.so"}], True),
        ([{"source": "native", "target": "native/lib/x.so"}], True),
        ([{"source": "native/lib/libpq.so.5.16"}], True),
        ([{"source": 1, "target": None}], True),
        (["text"], True),
        # A link to a directory, and then through it.
        ([{"source": "native/lib/postgresql", "target": "native/lib/d.so"},
          {"source": "native/lib/libpq.so.5.16", "target": "native/lib/d.so/x.so"}], True),
        ([{"source": "native/lib/postgresql", "target": "native/lib/d.so"},
          {"source": "native/lib/d.so/dict_snowball.so", "target": "native/lib/x.so"}], True),
        ([{"source": "native/lib/libpq.so.5.16", "target": "native/lib/libpq.so.5.16/x.so"}], True),
        ([{"source": "native/lib/absent.so", "target": "native/lib/x.so"}], False),
        ([{"source": "native/lib/libpq.so.5.16", "target": "native/bin/postgres"}], False),
        ([{"source": "native/lib/libpq.so.5.16", "target": "native/lib/new/x.so"}], False),
        ([], False),
        ({}, False),
    ],
)  # fmt: skip
def test_links_stay_inside(into: Path, links: object, refused: bool) -> None:
    files = {**files_of(), "package/native/pg-symlinks.json": json.dumps(links).encode()}
    if refused:
        with pytest.raises(OperatorError, match=r"pg-symlinks\.json"):
            unpack(io.BytesIO(pack(files)), into)
    else:
        unpack(io.BytesIO(pack(files)), into)
        assert b"echo" in (into / "bin/postgres").read_bytes(), "what is there stays"
    assert sorted(path.name for path in into.parent.iterdir()) == ["in", "precious"]
    for path in into.rglob("*"):
        if path.is_symlink():
            assert path.resolve(strict=True).is_relative_to(into.resolve())


def test_no_links_at_all_are_none(into: Path) -> None:
    files = files_of()
    del files["package/native/pg-symlinks.json"]
    unpack(io.BytesIO(pack(files)), into)
    files["package/native/pg-symlinks.json"] = b"{"
    (into / "lib/other").mkdir()
    with pytest.raises(OperatorError, match="no JSON"):
        unpack(io.BytesIO(pack(files)), into / "lib/other")


@pytest.mark.parametrize("cut", [0, 1, 30, 500])
def test_what_cannot_be_read_is_refused(into: Path, cut: int) -> None:
    with pytest.raises(OperatorError, match="cannot be unpacked"):
        unpack(io.BytesIO(pack(files_of())[:cut] + (b"" if cut else b"no archive")), into)


def test_bounds(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value, reason in (
        ("FILES_MAX", 5, "more than 5 files"),
        ("FILE_BYTES_MAX", 20, "larger than any build's"),
        ("TREE_BYTES_MAX", 20, "larger than any build's"),
        ("LINKS_BYTES_MAX", 5, "larger than any build's"),
    ):
        place = into / name
        place.mkdir()
        with monkeypatch.context() as patch, pytest.raises(OperatorError, match=reason):
            patch.setattr(package, name, value)
            unpack(io.BytesIO(pack(files_of())), place)
