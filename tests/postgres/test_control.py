"""pg_control as we read it is what pg_controldata shows; and templates of builds that have no such tools."""

from __future__ import annotations

import dataclasses
import re
import struct
import subprocess
from pathlib import Path

import pytest
from psycopg import errors

from tenantry.cell.storage import checkpoint
from tenantry.errors import HistoryDamaged, OperatorError
from tenantry.postgres import control, pages, template
from tenantry.postgres.engines import Engine
from tenantry.postgres.lsn import format_lsn
from tenantry.postgres.template import ADMIN_ROLE, Template
from tenantry.runtime import files

from .conftest import Connect, StartInstance

LEFT_OUT = {"pg_resetwal", "pg_checksums", "pg_controldata", "psql", "pg_dump"}


def shown(engine: Engine, data: Path, name: str) -> str:
    asked = subprocess.run(
        [engine.program("pg_controldata"), "-D", str(data)], capture_output=True, text=True, check=True
    )
    assert "WARNING" not in asked.stdout + asked.stderr
    found = re.search(rf"^{name}: +(.*)$", asked.stdout, re.M)
    assert found is not None
    return found[1]


@pytest.fixture
def bare(engine: Engine, workdir: Path) -> Engine:
    """The default build as packagers of servers have it: with initdb and postgres, and none of the tools."""
    prefix = workdir / "bare"
    (prefix / "bin").mkdir(parents=True)
    for program in engine.bin_dir.iterdir():
        if program.name not in LEFT_OUT:
            (prefix / "bin" / program.name).hardlink_to(program.resolve())
    for name in ("lib", "share"):
        (prefix / name).symlink_to(engine.bin_dir.parent / name)
    libraries = engine.bin_dir.parent.parent.with_name(f"{engine.bin_dir.parent.parent.name}.libs")
    if libraries.is_dir():  # found relative to the program
        (workdir.parent / libraries.name).unlink(missing_ok=True)
        (workdir.parent / libraries.name).symlink_to(libraries)
    return dataclasses.replace(engine, bin_dir=prefix / "bin", build_id=f"{engine.build_id}-bare")


def test_every_major_here_is_read_as_its_own_tool_reads_it(
    found_engines: list[Engine], shared: Path, workdir: Path, verifiers: dict[str, str]
) -> None:
    asked = [engine for engine in found_engines if Path(engine.program("pg_controldata")).exists()]
    assert asked
    for engine in asked:
        data = workdir / str(engine.major)
        made = template.build_template(engine, shared / "templates")
        made.clone(data, system_identifier=77, verifiers=verifiers)
        content = (data / "global/pg_control").read_bytes()
        found = control.parse(content)
        assert found is not None
        assert str(found.system_identifier) == shown(engine, data, "Database system identifier") == "77"
        assert found.clean and shown(engine, data, "Database cluster state") == "shut down"
        assert found.checksums and shown(engine, data, "Data page checksum version") == "1"
        assert format_lsn(found.location) == shown(engine, data, "Latest checkpoint location")
        assert format_lsn(found.redo) == shown(engine, data, "Latest checkpoint's REDO location")
        nonce = content[found.nonce_offset : found.nonce_offset + control.NONCE_BYTES]
        assert nonce.hex() == shown(engine, data, "Mock authentication nonce")


def test_what_is_no_pg_control_is_not_read(the_template: Template, workdir: Path, verifiers: dict[str, str]) -> None:
    the_template.clone(workdir / "d", system_identifier=1, verifiers=verifiers)
    whole = (workdir / "d/global/pg_control").read_bytes()
    found = control.parse(whole)
    assert found is not None
    for at in (0, 40, found.crc_offset - 1, found.crc_offset):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        assert control.parse(bytes(damaged)) is None
    unknown = bytearray(whole)
    struct.pack_into("=I", unknown, 8, 1900)
    struct.pack_into("=I", unknown, found.crc_offset, pages.crc32c(unknown[: found.crc_offset]))
    assert control.parse(bytes(unknown)) is None, "a version that is not known here"
    assert control.parse(b"") is None


async def test_a_template_needs_no_tools(
    bare: Engine, engine: Engine, the_template: Template, workdir: Path, verifiers: dict[str, str],
    owner: files.Owner | None, start: StartInstance, connect: Connect,
) -> None:  # fmt: skip
    made = template.build_template(bare, workdir / "templates")
    assert made.image_bytes < the_template.image_bytes + 2**20
    data = workdir / "data"
    made.clone(data, system_identifier=78, verifiers=verifiers, owner=owner)
    subprocess.run([engine.program("pg_checksums"), "--check", "-D", str(data)], check=True, capture_output=True)
    assert shown(engine, data, "Database system identifier") == "78"
    (segment,) = (path for path in (data / "pg_wal").iterdir() if path.is_file())
    assert len(segment.read_bytes().rstrip(b"\0")) < 1024, "nothing but the last checkpoint is in the log"
    before = (data / "global/pg_control").read_bytes()
    assert checkpoint.replayable(before) == before
    with pytest.raises(HistoryDamaged):
        checkpoint.replayable(before[:100] + b"\1" + before[101:])
    await start(data)
    with connect() as session:
        session.execute("create table t (n int)")
        with pytest.raises(errors.InsufficientPrivilege):
            session.execute("copy t from program 'true'")
    with connect(ADMIN_ROLE, dbname="postgres") as session:
        assert session.execute("select system_identifier from pg_control_system()").fetchone() == (78,)


def test_damaged_pages_make_no_template(bare: Engine, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = vars(template)["_keep_last_checkpoint"]

    def damage(data: Path) -> None:
        keep(data)
        victim = max((data / "base").glob("*/*"), key=lambda path: path.stat().st_size)
        content = bytearray(victim.read_bytes())
        content[pages.PAGE_BYTES + 100] ^= 1
        victim.write_bytes(content)

    monkeypatch.setattr(template, "_keep_last_checkpoint", damage)
    with pytest.raises(OperatorError, match="block 1 of base/"):
        template.build_template(bare, workdir / "templates")
    assert [path.name for path in (workdir / "templates").iterdir()] == [".lock"]
