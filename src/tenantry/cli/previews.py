"""``tenantry branch vercel`` and ``tenantry generate vercel``: previews at Vercel, each with a branch of its own."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tenantry.cli.branches import Name, Tenant
from tenantry.cli.generate import Check, DryRun, Root, the_root, workflow_choices, write_out
from tenantry.cli.options import Data, Json
from tenantry.cli.output import Output

if TYPE_CHECKING:
    from tenantry.fleet.automations.vercel_api import Vercel
    from tenantry.fleet.settings import Settings

VercelToken = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="Vercel's token, not in VERCEL_TOKEN.", show_default=False),
]


def vercel_command(
    name: Name,
    git_branch: Annotated[
        str, typer.Option("--git-branch", metavar="B", help="The branch of git that is previewed.", show_default=False)
    ],
    gone: Annotated[bool, typer.Option("--gone", help="The preview goes: remove its variables.")] = False,
    no_redeploy: Annotated[
        bool, typer.Option("--no-redeploy", help="Leave a preview alone that was deployed before.")
    ] = False,
    token_file: VercelToken = None,
    tenant: Tenant = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Give previews of a branch of git the connection string of this branch. Safe to repeat.

    The project and its variables are said in [vercel] of tenantry.toml.
    """
    from tenantry.cli.fleet import the_fleet
    from tenantry.errors import Conflict
    from tenantry.fleet.automations.previews import PreviewBranch, give, take_away
    from tenantry.fleet.environments.list import list_branches
    from tenantry.fleet.environments.records import the_branch
    from tenantry.fleet.environments.url import branch_url
    from tenantry.fleet.settings import load_settings

    output, said = Output(json_wanted=json), load_settings()
    if gone:
        with the_vercel(said, token_file) as vercel:
            removed = take_away(vercel, git_branch)
        keys = [each.key for each in removed]
        output.document({"git_branch": git_branch, "removed": keys})
        output.say(f"previews of {git_branch}: {', '.join(keys) if keys else 'nothing'} removed")
        return
    with the_fleet(data) as fleet, the_vercel(said, token_file) as vercel:
        place = fleet.place(tenant)
        branch = the_branch(place, list_branches(place), name)
        if branch.endpoint_id is None:
            raise Conflict(
                f"branch {name!r} has no endpoint", next_step=f"give it one with {place.command('create', name)}"
            )
        values = {said.vercel.variable: branch_url(place, name, pooled=False)}
        if said.vercel.pooled_variable is not None:
            values[said.vercel.pooled_variable] = branch_url(place, name, pooled=True)
        preview = PreviewBranch(name=branch.name, place=place.project_id, endpoint_id=branch.endpoint_id)
        done = give(vercel, git_branch, preview, values, redeploy=not no_redeploy)
    output.document({"git_branch": git_branch, "branch": name, "given": done})
    again = ", and what was deployed before is deployed again" if done.deployed_again else ""
    output.say(f"previews of {git_branch} have {name} in {', '.join(done.variables)}{again}")


def generate_vercel_command(
    clean: Annotated[
        bool, typer.Option("--clean", help="Remove variables of branches that are there no more.")
    ] = False,
    token_file: VercelToken = None,
    root: Root = None,
    check: Check = False,
    dry_run: DryRun = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Write the workflow that gives each preview a branch of its own, and takes it away again.

    It is the one of pull requests (`generate github`), which then needs the secret VERCEL_TOKEN too.
    """
    from tenantry.cli.fleet import the_fleet
    from tenantry.errors import InvalidInput
    from tenantry.fleet.automations.files import plan_files
    from tenantry.fleet.automations.previews import clean as clean_previews
    from tenantry.fleet.automations.workflows import pull_request_workflow
    from tenantry.fleet.environments.list import list_branches
    from tenantry.fleet.settings import load_settings

    output, said, place = Output(json_wanted=json), load_settings(), the_root(root)
    choices = workflow_choices(said, data)
    if choices.pull_requests is None:
        raise InvalidInput("previews belong to pull requests", next_step="say pull_requests = true in [github]")
    with the_vercel(said, token_file) as vercel:
        vercel.project_id()
        if clean and not (check or dry_run):
            with the_fleet(data) as fleet:
                where = fleet.find_place(said.github.pull_request_tenant)
                names = set[str]() if where is None else {each.name for each in list_branches(where)}
                removed = [] if where is None else clean_previews(vercel, where.project_id, names)
            for each in removed:
                output.remark(f"removed {each.key} of previews of {each.git_branch}")
    changes = plan_files(place, [pull_request_workflow(choices)])
    write_out(output, place, changes, check=check, dry_run=dry_run)


def the_vercel(said: Settings, token_file: Path | None) -> Vercel:
    """The project that is said. Raises InvalidInput where none is, or where the token is nowhere."""
    from tenantry.cli.target import secret_of_file
    from tenantry.errors import InvalidInput
    from tenantry.fleet.automations.vercel_api import Vercel

    if said.vercel.project is None:
        raise InvalidInput("which project at Vercel?", next_step="say project in [vercel] of tenantry.toml")
    token = os.environ.get("VERCEL_TOKEN", "") if token_file is None else secret_of_file(token_file, "Vercel's token")
    if not token:
        raise InvalidInput(
            "VERCEL_TOKEN is not set", next_step="set it to a token of Vercel for this project, or give --token-file"
        )
    return Vercel(said.vercel.project, token, team=said.vercel.team, api_url=said.vercel.api_url)


def register(branch: typer.Typer, generate: typer.Typer) -> None:
    branch.command("vercel")(vercel_command)
    generate.command("vercel")(generate_vercel_command)
