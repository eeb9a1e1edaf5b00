"""Base images of a head: what a recovery starts from before it replays the log.

The first base of a project's first head is the template itself, of which only the stamps are kept. The others are
clones: ``cold`` ones are taken while the head sleeps, ``running`` ones of instances that do not sleep, by Postgres' own
base backup. ``base.json`` is written last: a directory without it is no base.

Must never keep an image of a directory in which Postgres ran meanwhile, and never recover from a changed one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, LiteralString, cast

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from tenantry.cell.model import BuildId
from tenantry.cell.storage import checkpoint
from tenantry.cell.storage.clone import Cloned, Driver, Interrupted, clone_data, regular_files
from tenantry.cell.storage.directories import inside, own_directory, read_regular
from tenantry.cell.storage.threads import in_thread
from tenantry.errors import HistoryDamaged, OperatorError, Unavailable
from tenantry.postgres.lsn import Lsn, parse_lsn
from tenantry.postgres.template import RECIPE_VERSION, Template
from tenantry.runtime import files
from tenantry.runtime.failpoints import failpoint

_log = structlog.get_logger("storage")

BASE_WAL_BYTES_MIN: Final = 32 * 1024 * 1024
"""Less log than this is replayed rather than saved by a new base: it takes about as long as a base costs."""
BASE_WAL_FRACTION: Final = 0.5
"""For large heads: a new base when the log since the last is this part of the head."""

_FORMAT: Final = 1
_RECORD: Final = "base.json"
_MANIFEST: Final = "files.json"
_RECORD_BYTES_MAX: Final = 64 * 1024
_MANIFEST_BYTES_MAX: Final = 256 * 1024 * 1024
_CHUNK_BYTES: Final = 1024 * 1024

_BACKUP_15: Final[tuple[LiteralString, LiteralString]] = (
    "select pg_catalog.pg_backup_start('tenantry', true)::text",
    "select lsn::text, labelfile from pg_catalog.pg_backup_stop(false)",
)
_BACKUP_14: Final[tuple[LiteralString, LiteralString]] = (
    "select pg_catalog.pg_start_backup('tenantry', true, false)::text",
    "select lsn::text, labelfile from pg_catalog.pg_stop_backup(false, false)",
)

Kind = Literal["template", "cold", "running"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """One base image."""

    number: int
    kind: Kind
    lsn: Lsn
    """Replay needs the log from here on."""
    usable_from: Lsn
    """The first position that can be reached from it."""
    timeline: int
    taken_at: datetime
    last_commit: datetime
    """When the newest commit in it was made; for a template, when the head was made."""
    build_id: BuildId
    system_identifier: int
    bytes: int
    """What it occupies, not counting shared blocks; 0 for the template."""
    digest: str
    """SHA-256 of the list of files, or of a stamped template's pg_control."""
    recipe: int = 0
    verifiers: tuple[tuple[str, str], ...] = ()
    """Role and verifier as they were stamped into the template."""
    label: str = ""
    """``backup_label`` of a running base, with which a recovery from it begins."""

    @property
    def directory_name(self) -> str:
        return f"{self.number:06d}"


def due(wal_bytes_since_base: int, head_bytes: int) -> bool:
    """Whether a clean suspend should leave a new base: replaying would exceed the bound. Pure."""
    return wal_bytes_since_base > max(BASE_WAL_BYTES_MIN, head_bytes * BASE_WAL_FRACTION)


# ------------------------------------------------------------------------------------------------ taking


def keep_template_base(head_dir: Path, template: Template, *, verifiers: Mapping[str, str], now: datetime) -> Base:
    """Notes that the head is a fresh clone of ``template`` with these verifiers; before its first start.

    Not durable: the caller syncs it with the clone. Blocking.
    """
    own_directory(head_dir / "bases")
    data = head_dir / "data"
    begin = checkpoint.read_checkpoint(data)
    base = Base(
        number=1,
        kind="template",
        lsn=begin.redo,
        usable_from=_behind(data, begin),
        timeline=begin.timeline,
        taken_at=now,
        last_commit=now,
        build_id=BuildId(template.engine.build_id),
        system_identifier=begin.system_identifier,
        bytes=0,
        digest=control_digest(data),
        recipe=RECIPE_VERSION,
        verifiers=tuple(sorted(verifiers.items())),
    )
    directory = head_dir / "bases" / base.directory_name
    with files.explained("cannot write", directory):
        files.make_directory(directory)
        _write_record(directory, base, durable=False)
    return base


def take_cold_base(
    driver: Driver,
    head_dir: Path,
    *,
    build_id: BuildId,
    last_commit: Callable[[], datetime],
    now: datetime,
    interrupted: Callable[[], bool] = lambda: False,
) -> Base | None:
    """Clones a cleanly stopped head into its next base, durably; None if the head was not, or was started meanwhile.

    ``last_commit`` is ``History.last_commit`` of the head; it is asked once a start would be noticed. Whoever starts
    the instance makes ``interrupted`` true first; that a start happened is also seen in the files. Blocking. Raises
    OperatorError for a full disk.
    """
    data = head_dir / "data"
    before = control_digest(data)
    begin = checkpoint.read_checkpoint(data)
    if not begin.clean:
        return None
    newest = last_commit()

    def disturbed() -> bool:
        return interrupted() or (data / "postmaster.pid").exists() or control_digest(data) != before

    own_directory(head_dir / "bases")
    number = _next_number(head_dir)
    directory = head_dir / "bases" / f"{number:06d}"
    try:
        with files.explained("cannot take a base in", directory):
            files.make_directory(directory)
            try:
                cloned = clone_data(driver, data, directory / "data", owner=None, interrupted=interrupted)
                usable_from = _behind(data, begin)
            except (Interrupted, OperatorError):
                # Files that come and go are what a start looks like; any other failure is told.
                if not disturbed():
                    raise
                files.remove_tree(directory)
                return None
            failpoint("base.cloned")
            if disturbed():
                files.remove_tree(directory)
                return None
            manifest = _write_manifest(directory)
            base = Base(
                number=number,
                kind="cold",
                lsn=begin.redo,
                usable_from=usable_from,
                timeline=begin.timeline,
                taken_at=now,
                last_commit=newest,
                build_id=build_id,
                system_identifier=begin.system_identifier,
                bytes=cloned.bytes,
                digest=manifest,
            )
            _finish(directory, base)
    except BaseException:
        files.remove_tree(directory)
        raise
    failpoint("base.kept")
    return base


async def take_running_base(
    connection: AsyncConnection[TupleRow],
    driver: Driver,
    head_dir: Path,
    *,
    build_id: BuildId,
    last_commit: Callable[[Lsn], datetime],
    now: datetime,
) -> Base:
    """A base of a running head, by Postgres' own base backup while it is written to; durable when it returns.

    ``connection`` is a superuser's in autocommit; it is busy meanwhile. ``last_commit`` is ``History.last_commit`` and
    is asked at the end, in a thread. Costs a checkpoint. Nothing is left after a failure or a cancellation.
    Raises Unavailable when the instance ends or refuses, OperatorError for a full disk.
    """
    await in_thread(lambda: own_directory(head_dir / "bases"))
    number = _next_number(head_dir)
    directory = head_dir / "bases" / f"{number:06d}"
    start, stop = _BACKUP_15 if connection.info.server_version >= 150_000 else _BACKUP_14
    try:
        begun = await (await connection.execute(start)).fetchone()
        cloned = await in_thread(lambda: _copy_running(driver, head_dir, directory))
        stopped = await (await connection.execute(stop)).fetchone()
        failpoint("base.backed_up")
        assert begun is not None and stopped is not None
        lsn, usable_from, label = parse_lsn(str(begun[0])), parse_lsn(str(stopped[0])), str(stopped[1])

        def keep() -> Base:
            with files.explained("cannot take a base in", directory):
                manifest = _write_manifest(directory)
                end = checkpoint.read_checkpoint(directory / "data")
                base = Base(
                    number=number,
                    kind="running",
                    lsn=lsn,
                    usable_from=usable_from,
                    timeline=end.timeline,
                    taken_at=now,
                    last_commit=last_commit(usable_from),
                    build_id=build_id,
                    system_identifier=end.system_identifier,
                    bytes=cloned.bytes,
                    digest=manifest,
                    label=label,
                )
                _finish(directory, base)
            return base

        return await in_thread(keep)
    except BaseException as error:
        # A backup that still runs is ended; one that has ended, or whose instance is gone, refuses that.
        with contextlib.suppress(psycopg.Error):
            await connection.execute(stop)
        await asyncio.to_thread(files.remove_tree, directory)
        if isinstance(error, psycopg.Error):
            raise Unavailable(
                f"the instance of {head_dir.name} refused a base backup: {error.diag.message_primary or error}",
                head=head_dir.name,
                sqlstate=error.sqlstate,
            ) from error
        raise


def _copy_running(driver: Driver, head_dir: Path, directory: Path) -> Cloned:
    with files.explained("cannot take a base in", directory):
        files.make_directory(directory)
        cloned = clone_data(driver, head_dir / "data", directory / "data", owner=None, changing=True)
        if not checkpoint.is_whole(directory / "data"):
            raise Unavailable(f"pg_control of {head_dir.name} was written while it was copied", next_step="try again")
    return cloned


def _next_number(head_dir: Path) -> int:
    return max((number for number, _ in _directories(head_dir)), default=0) + 1


def _write_manifest(directory: Path) -> str:
    """Lists the files with their checksums, syncs everything, and answers the list's digest."""
    manifest = json.dumps(_checksums(directory / "data")).encode()
    files.write_new(str(directory / _MANIFEST), manifest, mode=0o600, owner=None)
    files.syncfs(directory)
    failpoint("base.synced")
    return hashlib.sha256(manifest).hexdigest()


def _finish(directory: Path, base: Base) -> None:
    """From here on it is a base."""
    _write_record(directory, base, durable=True)
    files.fsync_dir(directory.parent)


def control_digest(data: Path) -> str:
    """SHA-256 of pg_control, which changes with each start."""
    with inside(data, "global") as directory:
        return hashlib.sha256(read_regular(directory, "pg_control", bytes_max=_RECORD_BYTES_MAX)).hexdigest()


def _behind(data: Path, begin: checkpoint.Checkpoint) -> Lsn:
    """The end of the checkpoint's own record."""
    with inside(data, "pg_wal") as pg_wal:
        end = checkpoint.record_end(pg_wal, begin)
    if end is None:
        raise HistoryDamaged(f"{data} has no checkpoint where pg_control says", path=str(data))
    return end


def _checksums(tree: Path) -> list[tuple[str, int, int]]:
    return [(name, size, _crc32(tree / name)) for name, size in regular_files(tree)]


def _crc32(path: Path) -> int:
    crc = 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            crc = zlib.crc32(chunk, crc)
    return crc


# ------------------------------------------------------------------------------------------------ keeping


def bases(head_dir: Path) -> list[Base]:
    """The head's bases, oldest first; unfinished and unreadable ones are not among them (the latter are logged)."""
    found: list[Base] = []
    for number, directory in _directories(head_dir):
        try:
            found.append(_read_record(directory, number))
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError) as error:
            _log.error("base is unreadable", path=str(directory), error=str(error))
    return sorted(found, key=lambda base: base.number)


def verify(head_dir: Path, base: Base) -> None:
    """Compares a base with what was written, file by file. Blocking. Raises HistoryDamaged, which names the file."""
    if base.kind == "template":
        return  # its image is verified when it is loaded
    directory = head_dir / "bases" / base.directory_name
    try:
        manifest = read_regular(directory, _MANIFEST, bytes_max=_MANIFEST_BYTES_MAX)
        if hashlib.sha256(manifest).hexdigest() != base.digest:
            raise _damaged(head_dir, base, _MANIFEST)
        listed = cast("list[tuple[str, int, int]]", json.loads(manifest))
        sizes = dict(regular_files(directory / "data"))
        for name, size, crc in listed:
            if sizes.pop(name, None) != size or _crc32(directory / "data" / name) != crc:
                raise _damaged(head_dir, base, f"data/{name}")
        if sizes:
            raise _damaged(head_dir, base, f"data/{min(sizes)}")
    except FileNotFoundError as error:
        raise _damaged(head_dir, base, str(error.filename)) from error


def _damaged(head_dir: Path, base: Base, name: str) -> HistoryDamaged:
    return HistoryDamaged(
        f"{name} of base {base.number} of {head_dir.name} is not what was written",
        next_step="look for disk errors in the kernel log; delete the base",
        client_text="a base image of this branch's history is damaged",
        head=head_dir.name,
        base=base.number,
        file=name,
    )


def delete(head_dir: Path, number: int) -> None:
    """Removes a base: first it stops being one, durably, then its files go. Blocking, safe twice."""
    directory = head_dir / "bases" / f"{number:06d}"
    if directory.exists():
        files.unlink(directory / _RECORD)
        files.fsync_dir(directory)
        failpoint("base.unmarked")
        files.remove_tree(directory)


def delete_unfinished(head_dir: Path) -> int:
    """Removes what a killed cell left of bases it was taking; only while none is being taken. How many."""
    unfinished = [directory for _, directory in _directories(head_dir) if not (directory / _RECORD).exists()]
    for directory in unfinished:
        files.remove_tree(directory)
    return len(unfinished)


def _directories(head_dir: Path) -> list[tuple[int, Path]]:
    try:
        return [(int(path.name), path) for path in (head_dir / "bases").iterdir() if path.name.isdecimal()]
    except FileNotFoundError:
        return []


def _write_record(directory: Path, base: Base, *, durable: bool) -> None:
    times = {"taken_at": base.taken_at.isoformat(), "last_commit": base.last_commit.isoformat()}
    record = {"format": _FORMAT, **asdict(base), **times, "verifiers": dict(base.verifiers)}
    files.write_atomic(directory / _RECORD, json.dumps(record).encode(), durable=durable)


def _read_record(directory: Path, number: int) -> Base:
    record = cast("dict[str, object]", json.loads(read_regular(directory, _RECORD, bytes_max=_RECORD_BYTES_MAX)))
    if record.pop("format") != _FORMAT or record["number"] != number:
        raise ValueError("of another format, or renamed")
    for name in ("taken_at", "last_commit"):
        record[name] = datetime.fromisoformat(str(record[name])).astimezone(UTC)
    record["verifiers"] = tuple(sorted(cast("dict[str, str]", record["verifiers"]).items()))
    return Base(**record)  # pyright: ignore[reportArgumentType] - we wrote it; a foreign key raises TypeError
