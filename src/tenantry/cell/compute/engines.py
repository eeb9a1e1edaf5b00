"""The engines of one cell: installed copies, which build serves a major, and the template of each build.

A head pins its build; an installed copy is never changed, so upgrading a package pulls nothing from under a living
postmaster.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from tenantry.cell.model import BuildId
from tenantry.errors import OperatorError
from tenantry.postgres import engines
from tenantry.postgres.engines import Engine
from tenantry.postgres.template import Template, build_template

SHARED_ENGINES: Final = Path("/var/lib/tenantry/engines")
"""Where a root cell keeps engines when its data directory lies where no other uid may pass."""


class EngineStore:
    """Finds, installs and remembers engines and their templates."""

    def __init__(self, directory: Path, templates: Path, *, prefer_source: str | None) -> None:
        self._directory = directory
        self._templates = templates
        self._prefer_source = prefer_source
        self._installed: dict[BuildId, Engine] = {}
        self._chosen: dict[int, Engine] = {}
        self._template: dict[BuildId, Template] = {}
        self._lock = asyncio.Lock()

    def load(self) -> None:
        """Reads which builds are installed already; blocking, called once at start."""
        for engine in engines.discover(extra_dirs=[self._directory]):
            if engine.bin_dir.is_relative_to(self._directory):
                self._installed[BuildId(engine.build_id)] = engine

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

        Chosen once in a cell's life: what the machine gets later is seen at the next start.
        """
        if major not in self._chosen:
            async with self._lock:
                if major not in self._chosen:
                    self._chosen[major] = await asyncio.to_thread(self._for_major, major)
        return self._chosen[major]

    def _for_major(self, major: int) -> Engine:
        found = engines.choose(engines.discover(extra_dirs=[self._directory]), major, prefer_source=self._prefer_source)
        build = BuildId(found.build_id)
        if build not in self._installed:
            self._installed[build] = engines.install(found, self._directory)
        return self._installed[build]

    def successor(self, build_id: BuildId) -> Engine | None:
        """The build that heads of this one move to at a clean sleep: the same major's chosen one, if it is newer or
        preferred, and lacks no extension that this one has. None when the head stays where it is.
        """
        current = self._installed.get(build_id)
        chosen = None if current is None else self._chosen.get(current.major)
        if current is None or chosen is None or chosen.build_id == current.build_id:
            return None
        return chosen if set(current.extensions) <= set(chosen.extensions) and chosen.minor >= current.minor else None

    def majors(self) -> list[int]:
        """Majors with an installed build."""
        return sorted({engine.major for engine in self._installed.values()})

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
