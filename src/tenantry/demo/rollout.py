"""The act of the rollout: a migration is planned, rehearsed, stopped by its canary, mended, finished, and undone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from tenantry.demo.customers import CUSTOMERS, UNLUCKY
from tenantry.demo.teller import Teller, connect, expect
from tenantry.fleet.catalog.records import Run
from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.plan import make_plan
from tenantry.fleet.migrations.results import counts_of, failure_of
from tenantry.fleet.migrations.run import RunOptions, resume_run
from tenantry.fleet.migrations.selection import Selection
from tenantry.fleet.migrations.waves import CANARY, Rules

REHEARSED_WITH: Final = "acme-corp"
OPTIONS: Final = RunOptions(rules=Rules(canaries=1))
_COUNT: Final = "select count(*) from tasks"


class RolloutAct:
    def __init__(self, teller: Teller) -> None:
        self._teller = teller
        self._fleet = teller.fleet
        self._folder = open_folder(teller.folder)
        self._run: Run | None = None

    @property
    def scenes(self) -> Sequence[Callable[[], None]]:
        return (self.plan, self.rehearse, self.canary, self.mend, self.undo)

    def plan(self) -> None:
        self._teller.scene(
            "A second migration allows a title only once in a project; first its plan, which wakes nobody"
        )
        with self._teller.timed("a plan: who is behind, by what, in which wave"):
            plan = make_plan(self._folder, self._fleet.select(Selection(), self._folder), rules=OPTIONS.rules)
        for each in plan.to_visit:
            self._teller.say(f"{each.tenant.slug:<12} wave {plan.wave_of(each):<7} {', '.join(each.pending)}")
        waves = {str(each.tenant.slug): plan.wave_of(each) for each in plan.to_visit}
        expect(waves[UNLUCKY] == CANARY and len(waves) == len(CUSTOMERS), f"{UNLUCKY} is the canary of all")

    def rehearse(self) -> None:
        self._teller.scene(f"A rehearsal on a throwaway branch of {REHEARSED_WITH}, which is neither woken nor changed")
        plan = make_plan(self._folder, self._fleet.select(Selection(tenants=[REHEARSED_WITH]), self._folder))
        with self._teller.timed("a rehearsal: branch, migrate, measure, delete the branch"):
            chosen = self._fleet.to_rehearse(plan, sample=None, seed=0)
            rehearsal = self._fleet.rehearsing(self._folder).execute(chosen)
        for branch in rehearsal.branches:
            for migration in branch.migrations:
                self._teller.say(
                    f"{branch.tenant:<12} {migration.version}: {migration.seconds * 1000:.0f} ms, "
                    f"{migration.rows_read} rows read, {migration.rows_written} written"
                )
            for lock in branch.locks[:1]:
                self._teller.say(
                    f"{'':<12} keeps {lock.blocks} out of {lock.table} for {lock.seconds_max * 1000:.0f} ms"
                )
        expect(rehearsal.passed, "the rehearsal passes")

    def canary(self) -> None:
        self._teller.scene("The run: one tenant goes first, its data breaks the migration, and nobody else is touched")
        with self._teller.timed("a run that its canary stops"):
            begun = self._fleet.begin_run(self._folder, Selection(), OPTIONS)
            run = self._fleet.carry_out(begun.run)
        self._tell(run)
        self._teller.say(f"[red]{run.id} is {run.state}[/red]: {run.reason}")
        counts = counts_of(run)
        expect(counts["failed"] == 1 and not counts.get("applied"), "the canary fails, and nobody else is touched")
        self._run = run

    def mend(self) -> None:
        assert self._run is not None, "scenes are told in their order"
        self._teller.scene("The canary's data is mended, and the run goes on where it was")
        with self._teller.connect(UNLUCKY) as connection:
            connection.execute("delete from tasks a using tasks b where a.title = b.title and a.id > b.id")
        with self._teller.timed("the run resumed: 4 tenants migrated"):
            self._run = self._fleet.carry_out(resume_run(self._fleet.catalog, self._run))
        self._tell(self._run)
        expect(counts_of(self._run)["applied"] == len(CUSTOMERS), "the run ends everywhere")

    def undo(self) -> None:
        assert self._run is not None, "scenes are told in their order"
        self._teller.scene("The application cannot live with it: the run is undone, everybody goes back to before it")
        with self._fleet.undoing(self._run.id) as undoing, self._teller.timed("undo: 4 tenants back in time, in place"):
            done = undoing.execute(undoing.plan())
        for each in done:
            self._teller.say(
                f"{each.step.slug:<12} {each.failure or f'at {each.version} again'}, "
                f"what it was is kept as branch {each.step.preserved_as}"
            )
        expect(len(done) == len(CUSTOMERS) and all(each.failure is None for each in done), "everybody is back")
        for slug in (REHEARSED_WITH, UNLUCKY):
            with connect(self._fleet.url(slug)) as connection:
                indexes = connection.execute("select 1 from pg_indexes where indexname = 'tasks_project_id_title_key'")
                expect(indexes.fetchone() is None, f"{slug} is without the migration")
                expect(connection.execute(_COUNT).fetchone() is not None, f"{slug} has its rows")

    def _tell(self, run: Run) -> None:
        for tenant in self._fleet.run_tenants(run):
            if tenant.outcome == "failed":
                self._teller.say(f"[red]{tenant.slug:<12} failed[/red]: {failure_of(tenant)}")
            else:
                self._teller.say(f"{tenant.slug:<12} {tenant.outcome or 'not touched'}")
