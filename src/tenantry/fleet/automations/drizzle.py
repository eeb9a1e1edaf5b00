"""The guide's tree for drizzle-kit: ``configs/<customer>/drizzle.config.ts``, one for each tenant of the fleet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from tenantry.fleet.automations.customers import Customer
from tenantry.fleet.automations.files import Wanted, heading
from tenantry.fleet.automations.render import render

CONFIG_NAME: Final = "drizzle.config.ts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where things lie in the repository, each from its root."""

    configs: PurePosixPath
    out: PurePosixPath
    """A folder of migrations for each customer is below it."""
    schema: PurePosixPath
    shared: bool = False
    """One folder of migrations for all customers instead."""
    dotenv: bool = True
    """Whether the configuration reads a file .env, as in the guide."""

    @property
    def ours(self) -> tuple[str, ...]:
        """Where files of ours may be that are wanted no more."""
        return (f"{self.configs}/*/{CONFIG_NAME}",)


def drizzle_files(customers: Iterable[Customer], layout: Layout) -> list[Wanted]:
    """Pure."""
    head = heading("drizzle", comment="//")
    return [
        Wanted(
            layout.configs / each.slug / CONFIG_NAME,
            render(
                "drizzle.config.ts.j2",
                heading=head,
                dotenv=layout.dotenv,
                out=_dotted(layout.out if layout.shared else layout.out / each.slug),
                schema=_dotted(layout.schema),
                variable=each.variable,
            ),
        )
        for each in customers
    ]


def _dotted(path: PurePosixPath) -> str:
    """As drizzle-kit wants it, from the directory that it runs in."""
    return f"./{path}"
