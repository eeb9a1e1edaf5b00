"""Which workflows a repository gets, and what is said in each: decided from the settings and the customers alone."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final, Literal

from tenantry.errors import InvalidInput
from tenantry.fleet.automations.customers import Customer
from tenantry.fleet.automations.files import Wanted, heading
from tenantry.fleet.automations.render import quoted, render

FOLDER: Final = PurePosixPath(".github/workflows")
OURS: Final = (f"{FOLDER}/tenantry-*.yml",)
"""Where files of ours may be that are wanted no more. Each command has names of its own below it."""
KEY: Final = "TENANTRY_API_KEY"
"""The secret that opens the fleet: one, however many customers there are."""
PREVIEWS_KEY: Final = "VERCEL_TOKEN"
"""The secret that opens Vercel, where previews get branches."""
BACKUP_KEY: Final = "TENANTRY_BACKUP_KEY"
"""The secret that opens backups. Only those jobs are given it."""
RECENT: Final = "12h"
"""Who was backed up within this time is left alone: a job that goes on, or one that is run again, does the rest."""
WORKFLOWS_MAX: Final = 1000
AFTER_BACKUP_SECONDS: Final = 25 * 60
"""A job of backups is given this behind the time after which they end by themselves."""
_COMMAND: Final = "github"


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs:
    """What every job of the repository has in common."""

    cell_url: str
    """The API that runners ask."""
    install: str
    """What pip installs."""
    branch: str = "main"
    runs_on_labels: Sequence[str] = ("ubuntu-24.04",)
    python: str = "3.13"
    node: str = "22"
    environment: str | None = None
    more_secrets: Sequence[str] = ()
    backup_key: str = BACKUP_KEY
    """The secret that has the fleet's key for backups."""
    backup_key_said: bool = True
    """Whether the settings in the repository say so already."""
    more_backup_secrets: Sequence[str] = ()
    aws_role: str | None = None
    """The whole name (ARN) of the role that opens the bucket; None: the vault is opened by secrets, or is no bucket."""
    aws_region: str = "us-east-1"
    backup_minutes: int = 300

    @property
    def runs_on(self) -> str:
        labels = [quoted(label) for label in self.runs_on_labels]
        return labels[0] if len(labels) == 1 else f"[{', '.join(labels)}]"

    @property
    def secrets(self) -> list[str]:
        return [KEY, *(name for name in self.more_secrets if name != KEY)]

    @property
    def backup_secrets(self) -> list[str]:
        names = [self.backup_key, *self.more_backup_secrets]
        return [name for name in names if name not in self.secrets]

    @property
    def backup_timeout_minutes(self) -> int:
        return self.backup_minutes + AFTER_BACKUP_SECONDS // 60

    @property
    def aws_seconds(self) -> int:
        """As long as a job may take, which is what the role must allow."""
        return self.backup_minutes * 60 + AFTER_BACKUP_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class PullRequests:
    """How the branch of a pull request is made."""

    tenant: str | None = None
    parent: str | None = None
    anonymized: bool = False
    expires: str = "14d"
    command: str | None = None
    vercel: bool = False
    """Whether a preview at Vercel gets the branch."""

    @property
    def where(self) -> str:
        return f"--tenant {shlex.quote(self.tenant)} " if self.tenant else ""

    @property
    def create(self) -> str:
        words = [
            "tenantry branch create",
            *([self.where.strip()] if self.tenant else []),
            *(["--from", shlex.quote(self.parent)] if self.parent else []),
            *(["--anonymized"] if self.anonymized else []),
            f"--expires {shlex.quote(self.expires)}",
            '"$BRANCH"',
        ]
        return " ".join(words)

    @property
    def renew(self) -> str:
        """An anonymized branch is made anew, since its parent has what it hides."""
        if self.anonymized:
            return f"{self.delete} && {self.create}"
        return f'tenantry branch reset {self.where}"$BRANCH"'

    @property
    def delete(self) -> str:
        return f'tenantry branch delete {self.where}--yes --missing-ok "$BRANCH"'

    @property
    def give(self) -> str:
        return f'tenantry branch vercel {self.where}--git-branch "$GIT_BRANCH" "$BRANCH"'

    @property
    def take_away(self) -> str:
        return f'tenantry branch vercel {self.where}--git-branch "$GIT_BRANCH" --gone "$BRANCH"'

    @property
    def comment(self) -> str:
        return f'tenantry branch comment {self.where}--pull-request "$NUMBER" "$BRANCH"'

    @property
    def comment_gone(self) -> str:
        return f'tenantry branch comment {self.where}--pull-request "$NUMBER" --gone "$BRANCH"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """Which workflows are wanted."""

    jobs: Jobs
    migrate_with: Literal["tenantry", "drizzle-kit", "off"] = "tenantry"
    configs: str = "configs"
    """Where `tenantry generate drizzle` writes; for drizzle-kit."""
    backup: Literal["fleet", "customer", "off"] = "fleet"
    backup_cron: str = "17 2 * * *"
    backup_shards: int = 1
    pull_requests: PullRequests | None = field(default_factory=PullRequests)

    @property
    def by_customer(self) -> bool:
        """Whether the files depend on who the customers are."""
        return self.migrate_with == "drizzle-kit" or self.backup == "customer"


@dataclass(frozen=True, slots=True)
class _Round:
    id: str
    name: str
    run: str
    needs: str | None = None


@dataclass(frozen=True, slots=True)
class _Step:
    name: str
    run: str


def workflows(choices: Choices, customers: Sequence[Customer]) -> list[Wanted]:
    """Pure. Raises InvalidInput for more files than a repository can use."""
    wanted: list[Wanted] = []
    if choices.migrate_with != "off":
        wanted.append(_migrate(choices, customers))
    if choices.backup == "fleet":
        wanted.append(_backup_of_fleet(choices))
    elif choices.backup == "customer":
        if len(customers) > WORKFLOWS_MAX:
            raise InvalidInput(
                f"{len(customers)} customers would each have a workflow; {WORKFLOWS_MAX} are the most",
                next_step='say backup = "fleet" in [github]: one workflow for all of them',
            )
        wanted.extend(_backup_of_customer(choices, customer) for customer in customers)
    if choices.pull_requests is not None:
        wanted.append(pull_request_workflow(choices))
    return wanted


def pull_request_workflow(choices: Choices) -> Wanted:
    """Pure. Only where pull requests are wanted."""
    assert choices.pull_requests is not None
    return _workflow("tenantry-pull-request.yml", "pull-request.yml.j2", jobs=choices.jobs, pull=choices.pull_requests)


def _migrate(choices: Choices, customers: Sequence[Customer]) -> Wanted:
    return _workflow(
        "tenantry-migrate.yml",
        "migrate.yml.j2",
        jobs=choices.jobs,
        by_tool=choices.migrate_with == "drizzle-kit",
        configs=choices.configs,
        customers=customers,
    )


def _backup_of_fleet(choices: Choices) -> Wanted:
    shards = [f"{number}/{choices.backup_shards}" for number in range(1, choices.backup_shards + 1)]
    part = ' --shard "$PART"' if len(shards) > 1 else ""
    run = f"tenantry backup run --all{part} --older-than {RECENT} --minutes {choices.jobs.backup_minutes}"
    of_part = ", part ${{ matrix.part }}" if len(shards) > 1 else ""
    return _workflow(
        "tenantry-backup.yml",
        "backup.yml.j2",
        jobs=choices.jobs,
        name="Tenantry backup",
        group="tenantry-backup",
        cron=choices.backup_cron,
        shards=shards,
        rounds=[
            _Round("backup", f"Back up{of_part}", run),
            # GitHub ends a job after six hours.
            _Round("rest", f"Back up what is left{of_part}", run, needs="backup"),
        ],
        prove=[
            _Step("Verify", f"tenantry backup verify --minutes {choices.jobs.backup_minutes}"),
            _Step("Prune", "tenantry backup prune --yes"),
        ],
    )


def _backup_of_customer(choices: Choices, customer: Customer) -> Wanted:
    return _workflow(
        f"tenantry-backup-{customer.slug}.yml",
        "backup.yml.j2",
        jobs=choices.jobs,
        name=f"Tenantry backup of {customer.slug}",
        group=f"tenantry-backup-{customer.slug}",
        cron=spread(choices.backup_cron, customer.slug),
        shards=["1/1"],
        rounds=[_Round("backup", "Back up", f"tenantry backup run {customer.slug}")],
        prove=[
            _Step("Verify", f"tenantry backup verify {customer.slug}"),
            _Step("Prune", f"tenantry backup prune {customer.slug} --yes"),
        ],
    )


def spread(cron: str, slug: str) -> str:
    """The same hour, and for each customer its own minute, so that not all of them come at once. Pure."""
    minute, _, rest = cron.partition(" ")
    if not minute.isdecimal():
        return cron
    digest = hashlib.sha256(slug.encode()).digest()
    return f"{(int(minute) + int.from_bytes(digest[:4])) % 60} {rest}"


def _workflow(file: str, template: str, **values: object) -> Wanted:
    return Wanted(FOLDER / file, render(template, heading=heading(_COMMAND, comment="#"), **values))
