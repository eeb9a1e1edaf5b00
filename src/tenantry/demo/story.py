"""The story in five acts, on a throwaway cell and fleet; and how to go on where it is kept."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from tenantry.demo.backups import BackupsAct
from tenantry.demo.branches import BranchesAct
from tenantry.demo.customers import SUSPEND_SECONDS, CustomersAct
from tenantry.demo.growth import GrowthAct
from tenantry.demo.rollout import RolloutAct
from tenantry.demo.teller import Teller
from tenantry.errors import OperatorError
from tenantry.fleet.main import open_fleet
from tenantry.testing.throwaway import ThrowawayCell


def tell(*, keep: bool) -> None:
    """Tells the whole story; raises what went wrong, having cleaned up."""
    console = Console(highlight=False)
    folder = _example()
    console.print("[bold]Tenantry: a database for every customer[/bold], on a throwaway cell that this demo starts")
    with ThrowawayCell(options=["--suspend-after", str(SUSPEND_SECONDS)]) as stage:
        target = stage.target
        with open_fleet(target.api_url, target.api_key, target.catalog_url, api_ca=target.api_ca) as fleet:
            teller = Teller(console, fleet, folder)
            teller.note("a cell and its catalog from nothing (first start ever)", stage.ready_seconds)
            for act in (
                CustomersAct(teller),
                RolloutAct(teller),
                BranchesAct(teller),
                GrowthAct(teller),
                BackupsAct(teller),
            ):
                for scene in act.scenes:
                    scene()
            teller.summary()
        if keep:
            _how_to_go_on(console, stage)
            stage.abandon()
    if not keep:
        console.print("\nThe cell has stopped and its data is gone. `tenantry demo --keep` leaves it running.")


def _how_to_go_on(console: Console, stage: ThrowawayCell) -> None:
    data = stage.data
    console.print(f"\nIt runs on (pid {stage.process.pid}). Try:")
    for command in (
        f"tenantry list --data {data}",
        f"tenantry psql acme-corp --data {data}",
        f"tenantry branch list --data {data}",
        f"tenantry restore acme-corp --to '1m ago' --data {data}",
        f'psql "$(tenantry url acme-corp --data {data})"',
        f"kill {stage.process.pid} && rm -r {data.parent}    # the end of it",
    ):
        console.print(f"  {command}", soft_wrap=True)


def _example() -> Path:
    """The example application's migrations: beside the sources, or in the installed package."""
    here = Path(__file__).resolve()
    for candidate in (here.parent / "tasks", here.parents[3] / "examples" / "tasks"):
        if (candidate / "drizzle" / "meta" / "_journal.json").exists():
            return candidate / "drizzle"
    raise OperatorError("the example application is missing", next_step="install tenantry again")
