"""``tenantry generate github|aws|drizzle``: files and secrets, so that a repository looks after the fleet.

``vercel`` is in ``previews``.
"""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tenantry.cli.failures import FAILED
from tenantry.cli.options import Data, Json
from tenantry.cli.output import Output

if TYPE_CHECKING:
    from tenantry.fleet.automations.customers import Customer
    from tenantry.fleet.automations.files import Change
    from tenantry.fleet.automations.github_secrets import Secret
    from tenantry.fleet.automations.workflows import Choices
    from tenantry.fleet.main import Fleet
    from tenantry.fleet.settings import Settings

generate = typer.Typer(
    name="generate",
    help="Files and secrets for your repository and your accounts, from what tenantry.toml says.",
    no_args_is_help=True,
)

DIFF_LINES_MAX: Final = 2000

Root = Annotated[
    Path | None,
    typer.Option(
        "--root", metavar="DIR", help="The root of your repository.", show_default="where .git is, or tenantry.toml"
    ),
]
Check = Annotated[
    bool, typer.Option("--check", help="Write nothing; exit with 1 and a diff where files are not as they would be.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be written and set; do nothing.")]

Repository = Annotated[
    str | None,
    typer.Option("--repository", metavar="OWNER/NAME", help="Instead of [github] repository.", show_default=False),
]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="GitHub's token, not in GITHUB_TOKEN.", show_default=False),
]


@generate.command("drizzle")
def drizzle_command(
    root: Root = None, check: Check = False, dry_run: DryRun = False, data: Data = None, json: Json = False
) -> None:
    """Write configs/CUSTOMER/drizzle.config.ts for every customer, as [drizzle] says. Wakes nobody."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.automations.configured import layout_of
    from tenantry.fleet.automations.drizzle import drizzle_files
    from tenantry.fleet.automations.files import plan_files
    from tenantry.fleet.settings import load_settings

    output, layout, place = Output(json_wanted=json), layout_of(load_settings().drizzle), the_root(root)
    with the_fleet(data) as fleet:
        customers = _customers(fleet)
    changes = plan_files(place, drizzle_files(customers, layout), ours=layout.ours)
    write_out(output, place, changes, check=check, dry_run=dry_run)


@generate.command("github")
def github_command(
    secrets: Annotated[
        bool, typer.Option("--secrets", help="Set the secrets at GitHub too; the token is in GITHUB_TOKEN.")
    ] = False,
    rotate: Annotated[bool, typer.Option("--rotate", help="With --secrets: renew the fleet's key.")] = False,
    repository: Repository = None,
    key_file: Annotated[
        Path | None,
        typer.Option(
            "--key-file", metavar="FILE", help="A key of the fleet, instead of a new one.", show_default=False
        ),
    ] = None,
    token_file: TokenFile = None,
    root: Root = None,
    check: Check = False,
    dry_run: DryRun = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Write workflows that migrate after a merge, back up at night, and give each pull request a branch.

    What they are is said in [github] of tenantry.toml. Safe to repeat: only what differs is written. A file whose first
    line you take away is yours and left alone.
    """
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.automations.configured import secrets_of
    from tenantry.fleet.automations.files import plan_files
    from tenantry.fleet.automations.github_secrets import out_of_reach
    from tenantry.fleet.automations.workflows import KEY, OURS, workflows
    from tenantry.fleet.providers.manage import overview
    from tenantry.fleet.settings import load_settings

    output, said, place = Output(json_wanted=json), load_settings(), the_root(root)
    choices = workflow_choices(said, data)
    setting = secrets and not check
    if not (setting or choices.by_customer):
        changes = plan_files(place, workflows(choices, ()), ours=OURS)
        write_out(output, place, changes, check=check, dry_run=dry_run)
        if not check:
            _remind(output, [KEY, *secrets_of(choices)])
            _warn(output, said)
        return
    with the_fleet(data) as fleet:
        customers = _customers(fleet) if choices.by_customer or said.github.secret_per_customer else ()
        changes = plan_files(place, workflows(choices, customers), ours=OURS)
        if not setting:
            write_out(output, place, changes, check=check, dry_run=dry_run)
            return
        planned = _set_secrets(
            output, fleet, said, choices, customers, repository=repository, key_file=key_file, token_file=token_file,
            rotate=rotate, dry_run=dry_run,
        )  # fmt: skip
        for sentence in out_of_reach(overview(fleet.catalog).providers, secrets_of(choices)):
            output.remark(f"warning: {sentence}")
    write_out(output, place, changes, check=False, dry_run=dry_run, secrets=planned, rotate=rotate)
    _warn(output, said)


@generate.command("aws")
def aws_command(
    repository: Repository = None,
    root: Root = None,
    check: Check = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Write who may use the bucket of backups: CloudFormation, Terraform and plain JSON, as [aws] says.

    GitHub's jobs of this repository take a role that may list, read, write and delete in that bucket alone. Asks
    nobody, and changes nothing at AWS: that is the command which it prints.
    """
    from tenantry.fleet.automations.aws import aws_files, next_commands
    from tenantry.fleet.automations.configured import access_of, aws_directory
    from tenantry.fleet.automations.files import plan_files
    from tenantry.fleet.settings import load_settings

    output, said, place = Output(json_wanted=json), load_settings(), the_root(root)
    access, directory = access_of(said, the_repository(said, repository)), aws_directory(said)
    write_out(output, place, plan_files(place, aws_files(access, directory)), check=check, dry_run=dry_run)
    if not check and not json:
        output.remark("then one of these; the role is " + access.role_arn)
        for command in next_commands(access, directory):
            output.remark(f"  {command}")


def _set_secrets(
    output: Output,
    fleet: Fleet,
    said: Settings,
    choices: Choices,
    customers: Sequence[Customer],
    *,
    repository: str | None,
    key_file: Path | None,
    token_file: Path | None,
    rotate: bool,
    dry_run: bool,
) -> Sequence[Secret]:
    from tenantry.cli.target import secret_of_file
    from tenantry.fleet.automations.configured import needs_key, secrets_of
    from tenantry.fleet.automations.github_api import Github
    from tenantry.fleet.automations.github_secrets import GivenKey, ProviderKeys, plan_secrets, set_secrets

    github_said = said.github
    environment = github_said.environment
    if key_file is None:
        keys = ProviderKeys(fleet.client)
    else:
        keys = GivenKey(secret_of_file(key_file, "the key for GitHub"))
    name, token = the_repository(said, repository), github_token(token_file)
    with Github(name, token, api_url=os.environ.get("GITHUB_API_URL") or github_said.api_url) as github:
        if environment is not None and not github.has_environment(environment):
            if dry_run:
                output.say(f"would make the environment {environment}")
            else:
                github.make_environment(environment)
        known = [] if environment is not None and dry_run else github.secret_names(environment)
        planned = plan_secrets(
            secrets_of(choices),
            customers if github_said.secret_per_customer else (),
            known,
            key_needed=needs_key(github_said),
        )
        if not dry_run:
            set_secrets(
                github,
                planned,
                environment=environment,
                keys=keys,
                url_of=fleet.url,
                variables=os.environ | _backup_key(said, choices),
                rotate=rotate,
                on_set=lambda secret: output.remark(f"secret {secret.name} is set"),
            )
    return planned


def write_out(
    output: Output,
    root: Path,
    changes: Sequence[Change],
    *,
    check: bool,
    dry_run: bool,
    secrets: Sequence[Secret] = (),
    rotate: bool = False,
) -> None:
    """Writes what was planned, or says what it would be. Exit status 1 of a check that finds something."""
    from tenantry.fleet.automations.files import write_files

    needed = [change for change in changes if change.needed]
    if not check and not dry_run:
        write_files(root, changes)
    files = [{"path": str(each.path), "state": each.state} for each in changes]
    document: dict[str, object] = {"root": root, "written": not (check or dry_run), "files": files}
    if check:
        document["diff"] = "".join(change.diff() for change in needed)
    if secrets:
        document["secrets"] = [
            {"name": each.name, "source": each.source, "set": each.is_set(rotate=rotate)} for each in secrets
        ]
    output.document(document)
    if not output.json_wanted:
        _tell(output, changes, check=check, dry_run=dry_run)
        for secret in secrets:
            if dry_run and secret.is_set(rotate=rotate):
                output.say(f"would set {secret.name}")
    if check and needed:
        raise typer.Exit(FAILED)


def _tell(output: Output, changes: Sequence[Change], *, check: bool, dry_run: bool) -> None:
    needed = [change for change in changes if change.needed]
    if check:
        lines = [line for change in needed for line in change.diff().splitlines()]
        for line in lines[:DIFF_LINES_MAX]:
            output.say(line)
        if len(lines) > DIFF_LINES_MAX:
            output.say(f"and {len(lines) - DIFF_LINES_MAX} more lines: --json has all of them")
    words = {"new": "write", "changed": "change", "gone": "remove"}
    done = {"new": "wrote", "changed": "changed", "gone": "removed"}
    for change in needed:
        if not check:
            output.say(f"{f'would {words[change.state]}' if dry_run else done[change.state]} {change.path}")
    for change in changes:
        if change.state == "theirs":
            output.remark(f"left alone: {change.path}, which is yours")
    same = sum(change.state == "same" for change in changes)
    if check:
        output.say(f"{len(needed)} of {len(changes)} files are not as they would be generated")
    elif not needed:
        output.say(f"nothing to write: {same} files are as they would be generated")


def _remind(output: Output, names: Sequence[str]) -> None:
    if not output.json_wanted:
        output.remark(f"the workflows need the secrets {', '.join(names)}: --secrets sets them")


def _warn(output: Output, said: Settings) -> None:
    if said.github.backup != "off" and said.backups.vault is None:
        output.remark("no backups: say where they go, vault in [backups] of tenantry.toml, and generate again")


def _backup_key(said: Settings, choices: Choices) -> dict[str, str]:
    """The fleet's key for backups where it lies in a file; elsewhere the environment has it."""
    from tenantry.fleet.providers.secrets import read_secret

    place = said.backups.key_from
    if choices.backup == "off" or place.startswith("env:"):
        return {}
    return {choices.jobs.backup_key: read_secret(place, "for backups")}


def _customers(fleet: Fleet) -> Sequence[Customer]:
    from tenantry.fleet.automations.customers import customers_of

    return customers_of(fleet.list(states=["ready"]))


def workflow_choices(said: Settings, data: Path | None) -> Choices:
    """Which workflows the settings ask for. Runners reach the fleet where is said for them, or for everybody."""
    from tenantry.fleet.automations.configured import choices_of

    return choices_of(said, _cell_url(said, data))


def _cell_url(said: Settings, data: Path | None) -> str:
    from tenantry.cli.target import the_target

    if said.github.cell_url is not None:
        return said.github.cell_url.rstrip("/")
    if said.cell.api_url is not None:
        return said.cell.api_url.rstrip("/")
    return the_target(data).api_url


def the_root(root: Path | None) -> Path:
    """The repository's: what was said, or the nearest directory with .git or tenantry.toml from here upwards."""
    from tenantry.fleet.config import SETTINGS_FILE

    if root is not None:
        return root
    here = Path.cwd()
    for directory in (here, *here.parents):
        if (directory / ".git").exists():
            return directory
    return next((each for each in (here, *here.parents) if (each / SETTINGS_FILE).is_file()), here)


def the_repository(said: Settings, repository: str | None) -> str:
    """OWNER/NAME at GitHub. Raises InvalidInput where nobody says it."""
    from tenantry.errors import InvalidInput

    name = repository or said.github.repository or os.environ.get("GITHUB_REPOSITORY")
    if not name:
        raise InvalidInput(
            "which repository at GitHub?", next_step="say repository in [github] of tenantry.toml, or --repository"
        )
    return name


def github_token(file: Path | None) -> str:
    """Never typed: from a file that nobody else may read, or the environment."""
    from tenantry.cli.target import secret_of_file
    from tenantry.errors import InvalidInput

    if file is not None:
        return secret_of_file(file, "GitHub's token")
    token = os.environ.get("GITHUB_TOKEN") or os.environ.get("GH_TOKEN")
    if not token:
        raise InvalidInput(
            "GITHUB_TOKEN is not set",
            next_step="set it to a token of GitHub that may write this repository's secrets, or give --token-file",
        )
    return token


def register(app: typer.Typer) -> None:
    app.add_typer(generate)
