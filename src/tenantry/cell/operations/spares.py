"""Spares: finished first heads that wait for their project, so that creating one is a single commit.

Each is born durable in its own id-named directory with its own system identifier, uid and random passwords; taking
it renames nothing. Files precede the row.
"""

from __future__ import annotations

import asyncio
from typing import Final

from tenantry.cell.model import BuildId, Spare, Uid
from tenantry.cell.operations.context import Context
from tenantry.cell.operations.passwords import NewPassword, new_password
from tenantry.cell.state.tables import Tables
from tenantry.cell.storage.heads import create_head
from tenantry.errors import OperatorError
from tenantry.neon.ids import HeadId, ProjectId, new_branch_id, new_head_id, new_project_id
from tenantry.postgres.template import Template
from tenantry.runtime.failpoints import failpoint

ROLE: Final = "neondb_owner"
DATABASE: Final = "neondb"


class Uids:
    """Gives each project under root a uid that no other project, spare or dying directory has."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._promised: set[int] = set()
        self._lock = asyncio.Lock()

    async def take(self) -> Uid:
        """Raises OperatorError when the range is used up. The uid stays promised until ``settle``."""
        if self._context.uids is None:
            return self._context.own_uid
        async with self._lock:
            # Before the look: one that is settled during it has a row that the look may not see yet.
            promised = frozenset(self._promised)
            taken = await self._context.state.read(lambda tables: tables.uids_taken()) | promised
            free = next((uid for uid in self._context.uids if uid not in taken), None)
            if free is None:
                raise OperatorError(
                    f"all {len(self._context.uids)} uids of the configured range are taken",
                    next_step="widen the range of uids for projects, or delete deleted ones for good (--recover-for)",
                )
            self._promised.add(free)
            return Uid(free)

    def settle(self, uid: Uid) -> None:
        """A row holds the uid now, or the work that wanted it has failed."""
        self._promised.discard(uid)


class Newborn:
    """Makes first heads: for the pool, and for projects that do not fit a spare."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.uids = Uids(context)

    async def make(self, major: int) -> tuple[Spare, NewPassword]:
        """The files of a new project, durable, and the row that would make them a spare (not yet written).

        The caller writes a row that names the directory and then calls ``uids.settle``.
        """
        context = self._context
        engine = await context.engines.for_major(major)
        build_id = BuildId(engine.build_id)
        project_id, branch_id, head_id = new_project_id(), new_branch_id(), new_head_id()
        uid = await self.uids.take()
        try:
            template = await context.engines.template(build_id, context.owner(uid))
            password = await new_password(context, branch_id, ROLE)
            await asyncio.to_thread(self._clone, template, project_id, head_id, uid, password.verifier)
        except BaseException:
            self.uids.settle(uid)
            raise
        spare = Spare(
            project_id=project_id,
            branch_id=branch_id,
            head_id=head_id,
            build_id=build_id,
            uid=uid,
            role_name=ROLE,
            database_name=DATABASE,
            verifier=password.verifier,
            password_sealed=password.sealed,
            created_at=context.clock.now(),
        )
        return spare, password

    def _clone(self, template: Template, project_id: ProjectId, head_id: HeadId, uid: Uid, verifier: str) -> None:
        admin = self._context.admin.verifier(project_id)
        create_head(
            self._context.layout,
            template,
            project_id,
            head_id,
            verifiers={"cloud_admin": admin, ROLE: verifier},
            owner=self._context.owner(uid),
            now=self._context.clock.now(),
        )

    async def fill_pool(self, wanted: int, major: int) -> int:
        """Looks at the pool and makes what is missing, one at a time. How many it made.

        Those of a build that new projects do not get any more are let go.
        """
        engine = await self._context.engines.for_major(major)
        build_id = BuildId(engine.build_id)
        made = 0
        while True:
            spares = await self._context.state.read(lambda tables: tables.spares())
            if any(spare.build_id != build_id for spare in spares):
                await self._context.state.write(lambda tables: self._let_go(tables, build_id))
            if sum(spare.build_id == build_id for spare in spares) >= wanted:
                return made
            spare, _ = await self.make(major)
            failpoint("spare.before_row")
            try:
                await self._context.state.write(lambda tables, row=spare: tables.insert(row))
            finally:
                self.uids.settle(spare.uid)
            made += 1

    def _let_go(self, tables: Tables, kept: BuildId) -> None:
        for spare in tables.spares():
            if spare.build_id != kept and tables.delete_spare(spare.project_id):
                path = self._context.layout.relative(self._context.layout.project(spare.project_id))
                tables.doom(path, spare.uid, self._context.clock.now())


def take_spare(tables: Tables, build_id: BuildId) -> Spare | None:
    """The oldest spare of this build, taken out of the pool inside the caller's transaction."""
    for spare in tables.spares():
        if spare.build_id == build_id and tables.delete_spare(spare.project_id):
            return spare
    return None
