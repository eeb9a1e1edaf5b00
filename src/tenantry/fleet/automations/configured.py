"""From what tenantry.toml says to what is generated. Pure, but for the name of this version."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import urlsplit

from tenantry.errors import InvalidInput
from tenantry.fleet.automations.aws import Access
from tenantry.fleet.automations.drizzle import Layout
from tenantry.fleet.automations.workflows import (
    AFTER_BACKUP_SECONDS,
    BACKUP_KEY,
    PREVIEWS_KEY,
    Choices,
    Jobs,
    PullRequests,
)
from tenantry.fleet.settings import Drizzle, Github, Settings

_HOSTED: Final = re.compile(r"(ubuntu|macos|windows)-")
"""How the labels of GitHub's own runners begin."""
_LOOPBACK: Final = re.compile(r"(localhost|127\.[\d.]+|\[?::1\]?)")
_ENV: Final = "env:"
_CRON: Final = re.compile(r"[\d*,/-]+( [\d*,/A-Za-z-]+){4}")


def layout_of(said: Drizzle) -> Layout:
    return Layout(
        configs=_inside("drizzle.configs", said.configs),
        out=_inside("drizzle.out", said.out),
        schema=_inside("drizzle.schema_file", said.schema_file),
        shared=said.shared,
        dotenv=said.dotenv,
    )


def choices_of(said: Settings, cell_url: str) -> Choices:
    """Raises InvalidInput for what cannot work, before anything is written."""
    github = said.github
    _check(said, cell_url)
    pull = PullRequests(
        tenant=github.pull_request_tenant,
        parent=github.pull_request_from,
        anonymized=github.pull_request_anonymized,
        expires=github.pull_request_expires,
        command=github.pull_request_command,
        vercel=said.vercel.project is not None,
    )
    return Choices(
        jobs=Jobs(
            cell_url=cell_url,
            install=github.install or f"tenantry=={version('tenantry')}",
            branch=github.branch,
            runs_on_labels=github.runs_on,
            python=github.python,
            node=github.node,
            environment=github.environment,
            more_secrets=github.secrets,
            backup_key=_backup_key(said),
            backup_key_said=said.backups.key_from.startswith(_ENV),
            more_backup_secrets=github.backup_secrets,
            aws_role=_role(said),
            aws_region=said.aws.region,
            backup_minutes=github.backup_minutes,
        ),
        migrate_with=github.migrate_with,
        configs=str(_inside("drizzle.configs", said.drizzle.configs)),
        backup=github.backup if said.backups.vault is not None else "off",
        backup_cron=github.backup_cron,
        backup_shards=github.backup_shards,
        pull_requests=pull if github.pull_requests else None,
    )


def access_of(said: Settings, repository: str) -> Access:
    """Raises InvalidInput where the account or the bucket is not said."""
    aws = said.aws
    if aws.account_id is None:
        raise InvalidInput("which account of AWS?", next_step="say account_id in [aws] of tenantry.toml: twelve digits")
    bucket = bucket_of(said)
    if bucket is None:
        raise InvalidInput(
            "which bucket?",
            next_step="say vault in [backups] of tenantry.toml, for instance s3://acme-backups/tenantry",
        )
    return Access(
        repository=repository,
        account_id=aws.account_id,
        bucket=bucket,
        role=aws.role,
        region=aws.region,
        branch=said.github.branch,
        environment=said.github.environment,
        partition=aws.partition,
        session_seconds=said.github.backup_minutes * 60 + AFTER_BACKUP_SECONDS,
    )


def aws_directory(said: Settings) -> PurePosixPath:
    return _inside("aws.directory", said.aws.directory)


def needs_key(said: Github) -> bool:
    """Whether a workflow asks the fleet."""
    return said.migrate_with == "tenantry" or said.backup != "off" or said.pull_requests


def secrets_of(choices: Choices) -> list[str]:
    """What is passed on as the environment of `tenantry generate` has it, beside the fleet's key."""
    backups = choices.jobs.backup_secrets if choices.backup != "off" else []
    pull = choices.pull_requests
    previews = [PREVIEWS_KEY] if pull is not None and pull.vercel else []
    return [*choices.jobs.more_secrets, *backups, *previews]


def _backup_key(said: Settings) -> str:
    """The name of the secret: the variable that the settings name, or our own where they name a file."""
    place = said.backups.key_from
    return place.removeprefix(_ENV) if place.startswith(_ENV) else BACKUP_KEY


def bucket_of(said: Settings) -> str | None:
    """The bucket of S3 that is said, or the vault's; None where backups are elsewhere."""
    vault = urlsplit(said.backups.vault or "")
    return said.aws.bucket or (vault.hostname if vault.scheme == "s3" else None)


def _role(said: Settings) -> str | None:
    """What backup jobs take where the vault is a bucket of the account that is said."""
    if said.aws.account_id is None or bucket_of(said) is None:
        return None
    return f"arn:{said.aws.partition}:iam::{said.aws.account_id}:role/{said.aws.role}"


def _check(said: Settings, cell_url: str) -> None:
    github, host = said.github, urlsplit(cell_url).hostname or ""
    hosted = any(_HOSTED.match(label) for label in github.runs_on)
    if hosted and github.backup != "off" and (said.backups.vault or "").startswith("file:"):
        raise InvalidInput(
            "a vault in a directory is gone with GitHub's runner that wrote it",
            next_step='say another vault in [backups], or backup = "off" in [github]',
        )
    if _LOOPBACK.fullmatch(host) and hosted:
        raise InvalidInput(
            f"GitHub's runners cannot reach a cell at {host}",
            next_step="say cell_url in [github] of tenantry.toml, or runs_on for runners of your own",
        )
    if github.migrate_with == "drizzle-kit" and not github.secret_per_customer:
        raise InvalidInput(
            "drizzle-kit needs a connection string for each customer",
            next_step='say secret_per_customer = true in [github], or migrate_with = "tenantry"',
        )
    if not _CRON.fullmatch(github.backup_cron):
        raise InvalidInput(f"github.backup_cron: {github.backup_cron!r} is not like 17 2 * * *")


def _inside(key: str, text: str) -> PurePosixPath:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise InvalidInput(f"{key}: {text!r} is not a place inside of the repository")
    return path
