"""`tenantry doctor`: what it finds of a running cell, of a killed one, and where there is none."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tenantry.cell import doctor as of_the_cell
from tenantry.cell import state
from tenantry.cell.doctor import examine, mount_of, of_heads
from tenantry.cell.model import BuildId
from tenantry.fleet.health import listeners
from tenantry.fleet.health.listeners import host_alone, listening
from tenantry.neon.client import NeonClient
from tenantry.neon.ids import ProjectId
from tenantry.postgres.engines import Engine
from tenantry.runtime.findings import Finding
from tenantry.testing.throwaway import ThrowawayCell

if TYPE_CHECKING:
    from conftest import Operator

MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:25 / /tmp rw - tmpfs tmpfs rw,size=1g
31 22 0:40 / /srv/my\\040data rw,noatime shared:3 - xfs /dev/sdb rw
32 31 0:41 / /srv/my\\040data/inner rw - btrfs /dev/sdc rw
33 22 0:42 / /srv/my\\040data rw - nfs4 host:/x rw
"""
LISTENING = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1E14 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 00000000:1E15 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1
   2: 0100007F:1E14 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 3 1
"""
LISTENING_6 = """\
  sl  local_address                         remote_address                        st
   0: 00000000000000000000000001000000:1E14 00000000000000000000000000000000:0000 0A 00000000:00000000
"""


@dataclass
class Answer:
    """Says the same to whatever it is asked."""

    answer: object

    def __call__(self, *_: object) -> object:
        return self.answer


def named(findings: list[Finding], name: str) -> Finding:
    return next(each for each in findings if each.name == name)


def test_a_running_cell_is_found_with_its_listeners_and_nobody_wakes(operator: Operator, name: str) -> None:
    slug = operator.json("create", name)["tenant"]["slug"]
    operator.do("suspend", slug)
    said = operator.json("doctor")
    assert said["ok"] is True
    assert said["data"] == str(operator.cell.data)
    found: dict[str, Any] = {each["name"]: each for each in said["findings"]}
    assert list(found) == [
        "data directory", "file system", "free space", "clones", "secrets", "engine", "heads", "cell", "API",
        "Postgres", "catalog", "connections", "unfinished", "leaving", "jobs", "schema", "provider", "versions",
        "usage", "projects",
    ]  # fmt: skip
    target = operator.cell.target
    assert found["cell"]["facts"]["pid"] == target.pid
    assert found["clones"]["facts"]["driver"] in ("reflink", "copy_file_range", "copy")
    engines = [each["facts"] for each in said["findings"] if each["name"] == "engine"]
    assert any(each["installed"] and each["version"].startswith("18.") for each in engines)
    assert found["API"]["facts"]["listening_on"] == ["127.0.0.1"]
    assert (found["Postgres"]["facts"]["port"], found["Postgres"]["facts"]["tls"]) == (target.postgres_port, True)
    assert operator.json("show", slug)["endpoints"][0]["state"] == "idle"
    # Files of a running cell come and go: a walk passes over what is gone.
    left = [name for _, folders, files in os.walk(operator.cell.data) for name in (*folders, *files)]
    assert [name for name in left if name.startswith(".probe")] == []
    assert f"runs as process {target.pid}" in operator.do("doctor").stdout


def test_orphans_of_both_sides_are_told_with_their_fix_and_one_is_removed(operator: Operator, name: str) -> None:
    slug = operator.json("create", name)["tenant"]["slug"]
    project = operator.json("show", slug)["tenant"]["project_id"]
    target = operator.cell.target
    with NeonClient(target.api_url, target.api_key) as client:
        stray = client.create_project(name=f"Who [{uuid4()}]").project.id
        told = operator.json("doctor", code=1)
        (found,) = [each for each in told["findings"] if each["level"] == "wrong"]
        assert (found["name"], [each["id"] for each in found["facts"]["projects"]]) == ("projects", [stray])
        assert f"tenantry doctor --remove home/{stray}" in operator.do("doctor", code=1).stderr

        place = f"home/{stray}"
        assert "nothing was deleted" in operator.do("doctor", "--remove", place, code=2).stderr
        assert "a tenant has it" in operator.do("doctor", "--remove", f"home/{project}", "--yes", code=1).stderr
        assert operator.json("doctor", "--remove", place, "--yes")["project"] == stray
        assert operator.json("doctor", "--all")["ok"] is True

        client.delete_project(ProjectId(project))
        lost = [each for each in operator.json("doctor", code=1)["findings"] if each["level"] == "wrong"]
        assert [(each["name"], each["facts"]["tenants"]) for each in lost] == [
            ("tenants", [{"tenant": slug, "project_id": project}])
        ]
        client.recover_project(ProjectId(project))
        assert operator.json("doctor")["ok"] is True


def test_a_killed_cell_is_wrong_and_so_is_what_others_may_read(
    workdir: Path, new_cell: Callable[..., ThrowawayCell], program: Callable[..., Any]
) -> None:
    data = workdir / "d"
    with new_cell(data, options=["--no-fleet", "--spares", "0"]) as cell:
        cell.kill()
        (data / "operator.key").chmod(0o644)
        done = program("doctor", "--data", str(data))
        assert done.returncode == 1, done.stdout
        assert f"process {cell.process.pid} is gone; it was killed" in done.stdout
        assert "other users may read operator.key" in done.stdout
        assert "-> start one with `tenantry up --data" in done.stderr
        (data / "cell.key").rename(data / "elsewhere")
        assert "cell.key is missing" in named(examine(data), "secrets").found
        (data / "elsewhere").rename(data / "cell.key")
        cell.start()


def test_where_nothing_was_ever_started_nothing_is_wrong_and_nothing_is_made(
    workdir: Path, program: Callable[..., Any]
) -> None:
    done = program("doctor", "--data", str(workdir / "none" / "d"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is not made yet" in done.stdout
    assert "none runs on" in done.stdout
    assert list(workdir.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/tenantry", "ext4"), ("/tmp/x", "tmpfs"), ("/tmpx", "ext4"), ("/srv/my data", "nfs4"),
        ("/srv/my data/inner/d", "btrfs"), ("/", "ext4"),
    ],
)  # fmt: skip
def test_a_path_lies_on_its_innermost_and_latest_mount(path: str, kind: str) -> None:
    found = mount_of(Path(path), MOUNTS)
    assert found is not None
    assert found.kind == kind


def test_data_that_is_gone_with_the_next_boot_is_wrong(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = workdir / "mountinfo"
    monkeypatch.setattr(of_the_cell, "_MOUNTINFO", table)
    for kind, level in (("tmpfs", "wrong"), ("overlay", "note"), ("nfs4", "note"), ("xfs", "ok")):
        table.write_text(f"1 0 0:1 / / rw - {kind} none rw\n")
        assert named(examine(workdir / "d"), "file system").level == level


def test_heads_on_builds_that_are_old_or_gone_are_told() -> None:
    def build(version: str, source: str = "npm") -> Engine:
        return Engine(
            build_id=f"pg{version}-{source}", version=version, major=16, source=source, bin_dir=Path("/bin"),
            lib_dir=Path("/lib"), share_dir=Path("/share"), extensions=(), tls=True, released=None,
        )  # fmt: skip

    old, new, other = build("16.10"), build("16.14"), build("16.15", "system")
    heads = {BuildId(old.build_id): 2, BuildId(new.build_id): 3}
    assert of_heads([old, new, other], {}) == []
    (found,) = of_heads([old, new, other], heads)
    assert (found.level, found.found) == ("note", "2 heads run an older build than is here: pg16.10-npm")
    (found,) = of_heads([old, other], heads)
    assert (found.level, found.found) == ("wrong", "3 heads need builds that are not here: pg16.14-npm")
    (found,) = of_heads([old, other], {BuildId(old.build_id): 2})
    assert found.level == "ok"


def test_projects_that_have_one_user_are_named(workdir: Path) -> None:
    data = workdir / "d"
    data.mkdir()
    schema = Path(state.__file__).with_name("schema.sql").read_text()

    def found(*uids: int) -> list[Finding]:
        (data / "cell.db").unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(data / "cell.db", isolation_level=None)) as db:
            db.executescript(schema)
            for number, uid in enumerate(uids):
                values = {row[1]: b"" if row[2] == "BLOB" else "" for row in db.execute("pragma table_info(spare)")}
                values |= {"project_id": f"p{number}", "uid": uid}
                db.execute(f"insert into spare values ({', '.join(['?'] * len(values))})", list(values.values()))
        return [each for each in examine(data) if each.name == "users"]

    mine = data.stat().st_uid
    assert found(7001, 7002, 7003) == []
    assert found(mine, mine) == [], "without root all projects have the cell's own user"
    (told,) = found(7001, 7002, 7001)
    assert (told.level, told.facts) == ("wrong", {"projects_by_uid": {"7001": ["p0", "p2"]}})
    assert "p0, p2 (uid 7001)" in told.found


def test_a_full_disk_is_wrong(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = os.statvfs_result((4096, 4096, 2**20, 2**10, 2**10, 2**20, 2**20, 2**20, 0, 255))
    monkeypatch.setattr(of_the_cell.os, "statvfs", Answer(full))
    found = named(examine(workdir / "d"), "free space")
    assert (found.level, found.found.partition(",")[0]) == ("wrong", "0.0 GiB of 4.0 GiB")


def test_listeners_are_read_as_the_kernel_writes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert listening(LISTENING, 0x1E14) == {"127.0.0.1"}
    assert listening(LISTENING, 0x1E15) == {"0.0.0.0"}
    assert listening(LISTENING, 0x9C40) == set()
    assert listening(LISTENING_6, 0x1E14) == {"::1"}
    assert host_alone(["127.0.0.1", "::1"])
    assert not host_alone(["127.0.0.1", "0.0.0.0"])


def test_an_open_door_without_tls_is_wrong(
    workdir: Path, new_cell: Callable[..., ThrowawayCell], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "bound_to", Answer(["0.0.0.0"]))
    with new_cell(workdir / "d", options=["--no-fleet", "--spares", "0"]):
        found = listeners.examine(workdir / "d")
    assert named(found, "API").level == "wrong"
    assert "not only this machine" in named(found, "API").found
    assert (named(found, "Postgres").level, named(found, "Postgres").facts["tls"]) == ("ok", True)
