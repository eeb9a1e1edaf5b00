"""``tenantry branch comment``: tells a pull request at GitHub how its branch is used."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

import os
from typing import Annotated

import typer

from tenantry.cli.branches import Name, Tenant
from tenantry.cli.generate import Repository, TokenFile, github_token, the_repository
from tenantry.cli.options import Data, Json
from tenantry.cli.output import Output


def comment_command(
    name: Name,
    pull_request: Annotated[
        int, typer.Option("--pull-request", metavar="N", min=1, help="Its number.", show_default=False)
    ],
    gone: Annotated[bool, typer.Option("--gone", help="Say that the branch is gone.")] = False,
    repository: Repository = None,
    token_file: TokenFile = None,
    tenant: Tenant = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Write into a pull request how its branch is used, without passwords. One comment, changed when that changes."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.automations.github_api import Github
    from tenantry.fleet.automations.pull_requests import BranchNote, gone_note, note_of, say
    from tenantry.fleet.environments.anonymize import is_anonymized
    from tenantry.fleet.environments.list import list_branches
    from tenantry.fleet.environments.records import the_branch
    from tenantry.fleet.settings import load_settings

    output, said = Output(json_wanted=json), load_settings()
    where, token = the_repository(said, repository), github_token(token_file)
    if gone:
        body = gone_note(name)
    else:
        with the_fleet(data) as fleet:
            place = fleet.place(tenant)
            branch = the_branch(place, list_branches(place), name)
            note = BranchNote(
                name=branch.name,
                owner=place.owner,
                parent=branch.parent,
                expires_at=branch.expires_at,
                anonymized=is_anonymized(place, branch),
                commands=[
                    (what, place.command(verb, branch.name).strip("`"))
                    for what, verb in (("look into it", "psql"), ("connect to it", "url"), ("begin anew", "reset"))
                ],
            )
        body = note_of(note, commit=os.environ.get("TENANTRY_COMMIT"))
    with Github(where, token, api_url=os.environ.get("GITHUB_API_URL") or said.github.api_url) as github:
        done = say(github, pull_request, name, body, only_if_there=gone)
    output.document({"comment": done, "pull_request": pull_request, "branch": name})
    output.say(f"the comment of {name} in #{pull_request} is {'as it was' if done == 'same' else done}")


def register(branch: typer.Typer) -> None:
    branch.command("comment")(comment_command)
