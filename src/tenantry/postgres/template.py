"""The data directory every new project starts as: made once for each build, cloned from memory in milliseconds.

A template is one packed image of a small cluster plus the places where a clone differs: two role verifiers, the
system identifier and the nonce. ``Template.clone`` writes the image and changes those bytes (and the checksums over
them) on the way, so that a clone is ready to start without any Postgres process having touched it.

Must never put a clone where something is, and never let two clones share an identifier, or a password that is known.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import mmap
import os
import pwd
import re
import struct
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypedDict, cast

from tenantry.errors import Defect, OperatorError
from tenantry.postgres import control, pages, wal
from tenantry.postgres.engines import MAJORS, Engine
from tenantry.postgres.lsn import segment_name
from tenantry.runtime import files
from tenantry.runtime.failpoints import failpoint

RECIPE_VERSION: Final = 1
"""Grows with every change of what a new cluster holds; templates of other recipes are not used."""

ADMIN_ROLE: Final = "cloud_admin"
"""The cell's superuser. The front door refuses the name; its password is the cell's, random for each project."""
GROUP_ROLE: Final = "neon_superuser"
"""What roles made through the API are members of. Not a superuser."""
OWNER_ROLE: Final = "neondb_owner"
DATABASE: Final = "neondb"

STAMPED_ROLES: Final = (ADMIN_ROLE, OWNER_ROLE)
VERIFIER_BYTES: Final = 133
"""The length of a verifier with 4096 iterations and a 16-byte salt; a stamped one must have exactly this."""
_VERIFIER: Final = re.compile(r"SCRAM-SHA-256\$4096:[A-Za-z0-9+/]{22}==\$[A-Za-z0-9+/]{43}=:[A-Za-z0-9+/]{43}=")

WAL_SEGMENT_BYTES: Final = 1024 * 1024
TOOL_SECONDS_MAX: Final = 180.0
"""How long one program of the build may take on a machine under load; each takes about a second."""
BUILD_LOCK_SECONDS_MAX: Final = 600.0

_CONTROL: Final = "global/pg_control"
_WAL_SYSTEM_ID_OFFSET: Final = 24
"""``xlp_sysid`` in the long header of the first page of a WAL segment."""

_MANIFEST: Final = "template.json"
_IMAGE: Final = "image"
_MANIFEST_FORMAT: Final = 1

# Written at each start, or rebuilt by Postgres: a clone has none of them. Without postgresql.conf and pg_hba.conf
# a clone that nobody configured does not even start.
_LEFT_OUT: Final = re.compile(
    r"postmaster\.(pid|opts)|postgresql(\.auto)?\.conf|pg_(hba|ident)\.conf|(.*/)?pg_internal\.init(\..*)?"
    r"|pg_stat(_tmp)?/.+|pg_dynshmem/.+"
)


# ------------------------------------------------------------------------------------------------ the recipe


def placeholder_verifier(role: str) -> str:
    """What the template holds in place of a verifier. Its keys are hashes of a label: no password is known for it."""
    salt = hashlib.sha256(f"tenantry placeholder salt of {role}".encode()).digest()[:16]
    stored, server = (
        hashlib.sha256(f"tenantry placeholder {kind} key of {role}".encode()).digest() for kind in ("stored", "server")
    )
    return "SCRAM-SHA-256$4096:" + "$".join((_base64(salt), ":".join((_base64(stored), _base64(server)))))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def initdb_arguments(major: int) -> list[str]:
    """Options of initdb: 1 MB segments, checksums, UTF-8 with code point order and no dependence on the host's ICU."""
    arguments = [
        f"--username={ADMIN_ROLE}", "--auth=reject", "--no-sync", "--no-instructions", "--data-checksums",
        "--wal-segsize=1", "--encoding=UTF8",
    ]  # fmt: skip
    if major >= 17:
        return [*arguments, "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    # Sorting by bytes never changes with the host's libc, and indexes stay right; the character classes come from
    # C.UTF-8, which glibc and musl both build in.
    return [*arguments, "--locale=C", "--lc-ctype=C.UTF-8"]


def recipe_sql(major: int) -> list[tuple[str, list[str]]]:
    """The statements that make a fresh cluster ours, for each database in the order to run them. Pure."""
    creates_roles = " CREATEROLE" if major >= 16 else ""
    strategy = " STRATEGY file_copy" if major >= 15 else ""
    # From 15 on a fresh cluster has these two; 14 is made alike.
    like_15 = [
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        "ALTER SCHEMA public OWNER TO pg_database_owner",
    ]
    before_15 = like_15 if major < 15 else []
    compact = "VACUUM (FULL, FREEZE)"
    template1 = [
        f"ALTER ROLE {ADMIN_ROLE} PASSWORD '{placeholder_verifier(ADMIN_ROLE)}'",
        f"CREATE ROLE {GROUP_ROLE} NOLOGIN CREATEDB BYPASSRLS{creates_roles}"
        " IN ROLE pg_read_all_data, pg_write_all_data, pg_monitor",
        f"CREATE ROLE {OWNER_ROLE} LOGIN INHERIT CREATEDB BYPASSRLS{creates_roles}"
        f" IN ROLE {GROUP_ROLE} PASSWORD '{placeholder_verifier(OWNER_ROLE)}'",
        # In a tenant's database the admin resolves no name to what a tenant made.
        f"ALTER ROLE {ADMIN_ROLE} SET search_path = pg_catalog, pg_temp",
        # Sessions cannot fill the log (RAISE LOG in a loop); the postmaster and its own processes still write to it.
        "ALTER ROLE ALL SET log_min_messages = fatal",
        # A session in template1 would make every CREATE DATABASE fail; copying from it needs no connection.
        "REVOKE CONNECT, TEMPORARY ON DATABASE template1 FROM PUBLIC",
        *before_15,
        compact,
        f"CREATE DATABASE {DATABASE} OWNER {OWNER_ROLE}{strategy}",
    ]
    # Tools connect to postgres by default, so one may; there is nothing to be made there but large objects.
    postgres = ["REVOKE TEMPORARY ON DATABASE postgres FROM PUBLIC", *before_15, compact]
    return [("template1", template1), ("postgres", postgres), ("template0", [compact])]


# ------------------------------------------------------------------------------------------------ building


def build_template(engine: Engine, into: Path, *, uid: int | None = None, gid: int | None = None) -> Template:
    """The template of this build, made in ``into/<build-id>-r<recipe>`` if it is not there whole. Blocks for seconds.

    As root, the build's programs run as ``uid`` (initdb wants one with a passwd entry; by default, or when it has
    none, ``nobody``). Safe against itself in other processes and against being killed. Raises OperatorError.
    """
    directory = into / f"{engine.build_id}-r{RECIPE_VERSION}"
    template = _load(engine, directory)
    if template is not None:
        return template
    with files.explained("cannot build a template in", into):
        into.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (
        files.lock_file(into / ".lock", timeout_seconds=BUILD_LOCK_SECONDS_MAX) as lock,
        files.explained("cannot build a template in", into),
    ):
        template = _load(engine, directory)
        if template is not None:
            return template
        _remove_staging(into)
        staging = into / ".staging"
        try:
            files.make_directory(staging)
            _build(engine, staging, _tool_account(uid, gid), lock)
            failpoint("template.packed")
            files.syncfs(staging)
            if directory.exists():
                files.rename_durably(directory, into / ".staging-broken")
            files.rename_durably(staging, directory)
        finally:
            _remove_staging(into)
        failpoint("template.built")
    template = _load(engine, directory)
    if template is None:
        raise OperatorError(
            f"the template written to {directory} does not read back as it was written",
            next_step="check the disk; remove the directory and try again",
            path=str(directory),
        )
    return template


def _remove_staging(into: Path) -> None:
    for leftover in into.glob(".staging*"):  # we hold the lock: whoever made it was killed, or failed
        files.remove_tree(leftover)


def _build(engine: Engine, staging: Path, account: _Account, lock: int) -> None:
    data = staging / "data"
    files.make_directory(data, owner=account.owner)
    descriptor = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        tools = _Tools(engine, account, descriptor, lock)
        tools.run("initdb", *initdb_arguments(engine.major))
        believe((data / _CONTROL).is_file(), "initdb made a cluster")
        for database, statements in recipe_sql(engine.major):
            tools.run_sql(database, statements)
        if tools.has("pg_resetwal"):
            tools.run("pg_resetwal")
        else:
            # A segment of its own for the last checkpoint, which is all that a start reads.
            tools.run_sql("template1", ["SELECT pg_switch_wal()"])
            _keep_last_checkpoint(data)
        if tools.has("pg_checksums"):
            tools.run("pg_checksums", "--check")
        else:
            _check_pages(data)
    finally:
        os.close(descriptor)
    _pack(engine, data, staging)
    files.remove_tree(data)


@dataclass(frozen=True, slots=True)
class _Account:
    """Whom the build's programs run as. ``wrapper`` goes before their command line."""

    uid: int | None
    gid: int | None
    wrapper: tuple[str, ...] = ()

    @property
    def owner(self) -> files.Owner | None:
        return None if self.uid is None or self.gid is None else (self.uid, self.gid)


# Runs a command as a user of /etc/passwd inside a user namespace where that is our own uid under another number.
_PRETEND: Final = """
import ctypes, os, sys
uid, gid, inner = os.geteuid(), os.getegid(), sys.argv[1]
if ctypes.CDLL(None, use_errno=True).unshare(0x10000000) != 0:
    sys.exit("user namespaces are not allowed: " + os.strerror(ctypes.get_errno()))
open("/proc/self/setgroups", "w").write("deny")
open("/proc/self/uid_map", "w").write(f"{inner} {uid} 1")
open("/proc/self/gid_map", "w").write(f"{gid} {gid} 1")
os.execv(sys.argv[2], sys.argv[2:])
"""


def _tool_account(uid: int | None, gid: int | None) -> _Account:
    """initdb refuses root, and an effective uid that getpwuid does not know."""
    if os.geteuid() == 0:
        if uid is not None and uid != 0 and _has_entry(uid):
            return _Account(uid, gid if gid is not None else pwd.getpwuid(uid).pw_gid)
        entry = _unprivileged_entry()
        return _Account(entry.pw_uid, entry.pw_gid)
    if _has_entry(os.geteuid()):
        return _Account(None, None)
    inner = _unprivileged_entry().pw_uid
    return _Account(None, None, (sys.executable, "-I", "-S", "-c", _PRETEND, str(inner)))


def _has_entry(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _unprivileged_entry() -> pwd.struct_passwd:
    entries = {entry.pw_name: entry for entry in pwd.getpwall() if entry.pw_uid != 0}
    for name in ("nobody", "daemon", *entries):
        if name in entries:
            return entries[name]
    raise OperatorError(
        "the user database has no user but root, and Postgres' initdb needs one",
        next_step="add a user (for instance nobody) to /etc/passwd",
    )


@dataclass(frozen=True, slots=True)
class _Tools:
    """Programs of one build on one data directory, which they reach by descriptor: its path may be closed to them."""

    engine: Engine
    account: _Account
    descriptor: int
    lock: int
    """Inherited: if we are killed, the next builder waits until the program that still runs has ended."""

    def has(self, program: str) -> bool:
        """Some packagers leave out all but ``initdb`` and ``postgres``."""
        return Path(self.engine.program(program)).exists()

    def run(self, program: str, *arguments: str, stdin: bytes | None = None) -> str:
        argv = [
            *self.account.wrapper, self.engine.program(program),
            *arguments[:1], "-D", f"/proc/self/fd/{self.descriptor}", *arguments[1:],
        ]  # fmt: skip
        try:
            done = subprocess.run(
                argv,
                input=stdin if stdin is not None else b"",
                capture_output=True,
                timeout=TOOL_SECONDS_MAX,
                check=False,
                cwd="/",
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
                pass_fds=(self.descriptor, self.lock),
                start_new_session=True,
                umask=0o077,
                user=self.account.uid,
                group=self.account.gid,
                extra_groups=None if self.account.uid is None else [],
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise self._failed(program, str(error)) from error
        output = (done.stdout + done.stderr).decode(errors="replace")
        if done.returncode != 0:
            raise self._failed(program, f"exit {done.returncode}: {output.strip()[-2000:]}")
        return output

    def run_sql(self, database: str, statements: Sequence[str]) -> None:
        """In single-user mode, where no other process exists and a failed statement ends the program."""
        self.run(
            "postgres", "--single", "-F", "-j", "-c", "exit_on_error=on", "-c", "log_checkpoints=off", database,
            stdin="".join(f"{statement};\n\n" for statement in statements).encode(),
        )  # fmt: skip

    def _failed(self, program: str, detail: str) -> OperatorError:
        return OperatorError(
            f"{program} of {self.engine.build_id} failed while a template was built: {detail}",
            next_step=_next_step(detail),
            build_id=self.engine.build_id,
            program=program,
        )


def _next_step(detail: str) -> str:
    if "No space left" in detail or "quota" in detail:
        return "free space, then try again"
    if "user namespaces" in detail or "could not look up effective user" in detail:
        return f"add a passwd entry for uid {os.geteuid()}, or allow unprivileged user namespaces"
    if "ermission denied" in detail:
        return "copy the engine to a directory that other users may read (engines.install)"
    return "read its output above; `tenantry engine list` shows the other builds"


# ------------------------------------------------------------------------------------------------ packing

_SEGMENT: Final = re.compile(r"pg_wal/[0-9A-F]{24}")
_RELATION: Final = re.compile(r"(base/\d+|global)/\d+(_fsm|_vm)?")


def _keep_last_checkpoint(data: Path) -> None:
    """Leaves of a cleanly stopped cluster's log the segment with the last checkpoint, and nothing behind that record.

    Postgres makes new segments from old ones, so what was not written over yet is from before.
    """
    found = control.parse((data / _CONTROL).read_bytes())
    believe(found is not None and found.clean, "it was shut down cleanly")
    assert found is not None
    kept = data / "pg_wal" / segment_name(1, found.location, WAL_SEGMENT_BYTES)
    for path in sorted((data / "pg_wal").iterdir()):
        if path != kept and _SEGMENT.fullmatch(f"pg_wal/{path.name}"):
            path.unlink()
    content = kept.read_bytes()
    number = found.location // WAL_SEGMENT_BYTES
    scan = wal.Scan({number: content}.get, found.location, segment_bytes=WAL_SEGMENT_BYTES, verify_from=found.location)
    record = next(iter(scan), None)
    believe(record is not None and record.start == found.location, "the last checkpoint can be read")
    assert record is not None
    kept.write_bytes(content[: record.end - number * WAL_SEGMENT_BYTES].ljust(WAL_SEGMENT_BYTES, b"\0"))


def _check_pages(data: Path) -> None:
    """What ``pg_checksums --check`` does, for builds without it."""
    for path in sorted(data.rglob("*")):
        if _RELATION.fullmatch(str(path.relative_to(data))):
            content = memoryview(path.read_bytes())
            for block in range(len(content) // pages.PAGE_BYTES):
                page = content[block * pages.PAGE_BYTES : (block + 1) * pages.PAGE_BYTES]
                sound = not any(page) or pages.page_checksum(page, block) == pages.stored_checksum(page)
                believe(sound, f"block {block} of {path.relative_to(data)} matches its checksum")


class _Manifest(TypedDict):
    format: int
    build_id: str
    recipe: int
    image_bytes: int
    image_sha256: str
    directories: list[str]
    files: list[tuple[str, int]]
    """Relative path and size, in the order of the image."""
    authid: str
    verifiers: dict[str, int]
    """For each stamped role the offset of its verifier in the file ``authid``."""
    control_crc: int
    control_nonce: int
    wal: str


def _pack(engine: Engine, data: Path, staging: Path) -> None:
    """Writes image and manifest of a stopped cluster; finds and proves the places that a clone changes."""
    directories, names = _tree(data)
    contents = [(data / name).read_bytes() for name in names]
    image = b"".join(contents)
    where = dict(zip(names, contents, strict=True))
    authid, verifiers = _find_verifiers(where, image)
    found = control.parse(where[_CONTROL])
    believe(found is not None, f"pg_control has the layout of Postgres {MAJORS[0]} to {MAJORS[-1]}")
    assert found is not None
    believe(found.clean, "it was shut down cleanly")
    believe(found.checksums, "data checksums are on")
    wal_names = [name for name in names if _SEGMENT.fullmatch(name)]
    believe(len(wal_names) == 1, f"one WAL segment, found {wal_names}")
    segment = where[wal_names[0]]
    believe(len(segment) == WAL_SEGMENT_BYTES, "the WAL segment has 1 MB")
    header = wal.page_header(segment)
    believe(header is not None, "the log has pages of a major that is known here")
    assert header is not None
    believe(header.major == engine.major, "the log is this major's")
    believe(header.system_identifier == found.system_identifier, "log and pg_control have one system identifier")
    inside = range(header.address, header.address + WAL_SEGMENT_BYTES)
    believe(found.location in inside and found.redo in inside, "the log that a start reads is in this segment")
    manifest = _Manifest(
        format=_MANIFEST_FORMAT,
        build_id=engine.build_id,
        recipe=RECIPE_VERSION,
        image_bytes=len(image),
        image_sha256=hashlib.sha256(image).hexdigest(),
        directories=directories,
        files=[(name, len(content)) for name, content in where.items()],
        authid=authid,
        verifiers=verifiers,
        control_crc=found.crc_offset,
        control_nonce=found.nonce_offset,
        wal=wal_names[0],
    )
    files.write_new(str(staging / _IMAGE), image, mode=0o600, owner=None)
    files.write_new(str(staging / _MANIFEST), json.dumps(manifest).encode(), mode=0o600, owner=None)


def _tree(data: Path) -> tuple[list[str], list[str]]:
    """Directories (parents first) and files to clone, by relative path."""
    directories: list[str] = []
    names: list[str] = []
    for root, subdirectories, entries in os.walk(data):
        subdirectories.sort()
        relative = Path(root).relative_to(data)
        directories += [str(relative / name) for name in subdirectories]
        names += [name for entry in sorted(entries) if not _LEFT_OUT.fullmatch(name := str(relative / entry))]
    believe(not any((data / name).is_symlink() for name in (*directories, *names)), "a fresh cluster has no links")
    return directories, names


def _find_verifiers(where: Mapping[str, bytes], image: bytes) -> tuple[str, dict[str, int]]:
    places: dict[str, int] = {}
    holders: set[str] = set()
    for role in STAMPED_ROLES:
        text = placeholder_verifier(role).encode()
        assert len(text) == VERIFIER_BYTES
        believe(image.count(text) == 1, f"one placeholder of {role} in the whole cluster, found {image.count(text)}")
        (name,) = (name for name, content in where.items() if text in content)
        holders.add(name)
        places[role] = where[name].index(text)
    believe(len(holders) == 1 and all(name.startswith("global/") for name in holders), "they are in pg_authid")
    (authid,) = holders
    believe(len(where[authid]) % pages.PAGE_BYTES == 0, "a relation has whole pages")
    for place in places.values():
        start = place - place % pages.PAGE_BYTES
        page = where[authid][start : start + pages.PAGE_BYTES]
        believe(place % pages.PAGE_BYTES + VERIFIER_BYTES <= pages.PAGE_BYTES, "a verifier is in one page")
        computed = pages.page_checksum(page, start // pages.PAGE_BYTES)
        believe(computed == pages.stored_checksum(page), "our page checksum is Postgres' own")
    return authid, places


def believe(condition: bool, statement: str) -> None:
    """Stops a template that is not what its clones rely on, for instance of a version with another layout."""
    if not condition:
        raise OperatorError(
            f"this build of Postgres makes another cluster than expected; not true: {statement}",
            next_step="use another build of this major (`tenantry engine list`) and report this line",
        )


# ------------------------------------------------------------------------------------------------ cloning


class Template:
    """A packed cluster, mapped into memory. Its image is read once at loading and trusted from then on."""

    def __init__(self, engine: Engine, directory: Path, manifest: _Manifest, image: memoryview) -> None:
        self.engine: Final = engine
        self.directory: Final = directory
        self._manifest = manifest
        self._image = image
        self._contents: dict[str, memoryview] = {}
        offset = 0
        for name, size in manifest["files"]:
            self._contents[name] = image[offset : offset + size]
            offset += size
        self._names: defaultdict[str, list[str]] = defaultdict(list)
        """Of each directory: all files in it."""
        for name in self._contents:
            self._names[name.rpartition("/")[0]].append(name)

    @property
    def image_bytes(self) -> int:
        return len(self._image)

    @property
    def file_count(self) -> int:
        return len(self._contents)

    def clone(
        self,
        destination: Path,
        *,
        system_identifier: int,
        verifiers: Mapping[str, str],
        owner: files.Owner | None = None,
        durable: bool = False,
    ) -> None:
        """Makes ``destination``, a data directory that belongs to ``owner``, ready for ``postmaster.start``.

        ``verifiers`` maps each of ``STAMPED_ROLES`` to a SCRAM verifier of 4096 iterations and a 16-byte salt.
        Tenants may read pg_authid (pg_read_all_data), so the admin's password must be random and of this clone
        alone. Equal arguments give equal bytes. Blocks for some 30 ms: call it in a thread.

        Not durable when it returns unless ``durable``: the caller syncs (``files.syncfs``, and thereby several
        clones at once) before it lets a durable record point here. On failure nothing is left behind; after a kill
        the half clone is, without a record, for the caller to remove.
        Raises Defect if ``destination`` exists or an argument is malformed, OperatorError for a full disk.
        """
        changed = self._stamped(system_identifier, verifiers)
        with files.explained("cannot clone a template to", destination):
            try:
                files.make_directory(destination, owner=owner)
            except FileExistsError as error:
                raise Defect(
                    f"{destination} exists; a clone never goes over what is there", path=str(destination)
                ) from error
            try:
                for name in self._manifest["directories"]:
                    files.make_directory(f"{destination}/{name}", owner=owner)
                for directory, names in self._names.items():
                    content = ((name.rpartition("/")[2], changed.get(name, self._contents[name])) for name in names)
                    files.write_many(f"{destination}/{directory}", content, mode=0o600, owner=owner)
                failpoint("clone.written")
                if durable:
                    files.syncfs(destination)
                    files.fsync_dir(destination.parent)
            except OSError:
                with contextlib.suppress(OSError):  # the first error is the one to tell
                    files.remove_tree(destination)
                raise

    def _stamped(self, system_identifier: int, verifiers: Mapping[str, str]) -> dict[str, bytearray]:
        """The files in which this clone differs from the image, changed. Pure."""
        if not 0 < system_identifier < 1 << 63:
            raise Defect(f"system identifier {system_identifier} is not in 1..2^63-1 (SQL shows it as bigint)")
        if set(verifiers) != set(STAMPED_ROLES):
            raise Defect(f"verifiers are stamped for {STAMPED_ROLES}, not for {tuple(verifiers)}")
        for role, verifier in verifiers.items():
            if not _VERIFIER.fullmatch(verifier):
                raise Defect(f"the verifier of {role} is not SCRAM-SHA-256 with 4096 iterations and a 16-byte salt")
        identifier = struct.pack("=Q", system_identifier)
        manifest = self._manifest

        authid = bytearray(self._contents[manifest["authid"]])
        touched: set[int] = set()
        for role, place in manifest["verifiers"].items():
            assert authid[place : place + VERIFIER_BYTES] == placeholder_verifier(role).encode()
            authid[place : place + VERIFIER_BYTES] = verifiers[role].encode()
            touched.add(place // pages.PAGE_BYTES)
        for block in touched:
            start = block * pages.PAGE_BYTES
            page = authid[start : start + pages.PAGE_BYTES]
            pages.set_checksum(page, block)
            authid[start : start + pages.PAGE_BYTES] = page

        stamped = bytearray(self._contents[_CONTROL])
        stamped[:8] = identifier
        # Postgres answers unknown users with a salt made from this; equal ones would tell clones apart from nothing.
        nonce = hashlib.sha256(identifier + verifiers[ADMIN_ROLE].encode()).digest()
        stamped[manifest["control_nonce"] : manifest["control_nonce"] + control.NONCE_BYTES] = nonce
        struct.pack_into("=I", stamped, manifest["control_crc"], pages.crc32c(stamped[: manifest["control_crc"]]))

        segment = bytearray(self._contents[manifest["wal"]])
        segment[_WAL_SYSTEM_ID_OFFSET : _WAL_SYSTEM_ID_OFFSET + 8] = identifier
        return {manifest["authid"]: authid, _CONTROL: stamped, manifest["wal"]: segment}


def _load(engine: Engine, directory: Path) -> Template | None:
    """The template in this directory, or None when it is absent, of another recipe, or damaged."""
    try:
        manifest = cast("_Manifest", json.loads((directory / _MANIFEST).read_bytes()))
        if manifest.get("format") != _MANIFEST_FORMAT or manifest["recipe"] != RECIPE_VERSION:
            return None
        with (directory / _IMAGE).open("rb") as file:
            image = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    whole = len(image) == manifest["image_bytes"] == sum(size for _, size in manifest["files"])
    if not whole or hashlib.sha256(image).hexdigest() != manifest["image_sha256"]:
        return None
    return Template(engine, directory, manifest, image)


def templates_in(into: Path) -> Iterator[Path]:
    """Template directories, to remove those that no build or recipe uses any more."""
    return (path for path in into.iterdir() if re.fullmatch(r"pg.+-r\d+", path.name))
