"""``tenantry.toml``: what an operator has configured, over the defaults and under the environment and the flags.

The file is looked for in the working directory and above it, up to the root of the repository. Every setting can also
come from the environment: ``[migrations] jobs`` is ``TENANTRY_MIGRATIONS__JOBS``. Secrets are in neither: settings name
the file or the variable that holds one. An error names the key and where it was said.

Only the sections that are said somewhere are checked, and only then is what checks them built: every command reads its
settings, most say little, and building all of it takes longer than many commands.
"""

# ruff: noqa: PLC0415 - what reads the environment is loaded where it says something

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Final, Literal, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tenantry.errors import InvalidInput, TenantryError
from tenantry.fleet.config import SETTINGS_VARIABLE, find_settings
from tenantry.runtime.spans import parse_span

FILE_BYTES_MAX: Final = 1_000_000
PREFIX: Final = "TENANTRY_"
_DELIMITER: Final = "__"


def _span(text: str) -> str:
    try:
        parse_span(text)
    except TenantryError as error:
        raise ValueError(error.message) from error
    return text


Span = Annotated[str, AfterValidator(_span)]
"""A span of time as people write it: 7d, 12h, 1h30m."""


LintRule = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$", max_length=100)]


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Cell(_Section):
    """Which cell a command is meant for, where neither --data nor TENANTRY_API_URL says it."""

    data: Path | None = Field(default=None, description="Data directory of a cell on this machine.")
    api_url: str | None = Field(default=None, description="A cell elsewhere: its API, with /api/v2.")
    api_key_file: Path | None = Field(default=None, description="The file that holds its key, readable by nobody else.")
    catalog_url_file: Path | None = Field(
        default=None, description="The file that holds the catalog's URL, if not in the cell."
    )


class Tenants(_Section):
    """What a new tenant gets that does not say otherwise, and what deleting one means."""

    plan: str = Field(default="launch", description="The plan of a new tenant.")
    region: str | None = Field(default=None, description="The region of a new tenant; by default the provider's own.")
    residency: str | None = Field(default=None, description="Where the data of a new tenant must stay.")
    pg_version: int | None = Field(default=None, ge=14, le=18, description="Postgres version; default: the provider's.")
    grace: Span = Field(default="7d", description="How long a deleted tenant can be brought back.")
    ready: int = Field(default=0, ge=0, le=1000, description="Projects kept ready for sign-ups.")
    jobs: int = Field(default=8, ge=1, le=64, description="Tenants that `create --csv` makes at a time.")


class Ring(_Section):
    """Some of the tenants, that one wave takes."""

    name: str = Field(min_length=1, max_length=40, description="What the wave is called.")
    tenants: list[str] = Field(default_factory=list, description="Only these slugs; a star is any text.")
    plans: list[str] = Field(default_factory=list, description="Only tenants of these plans.")
    regions: list[str] = Field(default_factory=list, description="Only tenants in these regions.")
    percent: float = Field(default=100.0, gt=0, le=100, description="Of those, always the same part.")


class Migrations(_Section):
    """How `tenantry migrate` runs."""

    dir: Path = Field(default=Path(), description="The folder of migrations.")
    jobs: int = Field(default=8, ge=1, le=256, description="Tenants at a time.")
    jobs_per_provider: int = Field(default=256, ge=1, le=256, description="Tenants at a time of one provider.")
    lock_timeout: float = Field(default=5.0, gt=0, description="Seconds to wait for a lock.")
    statement_timeout: float = Field(default=0.0, ge=0, description="Seconds that a statement may take; 0: any time.")
    restore_point: Literal["lsn", "snapshot", "none"] = Field(
        default="lsn", description="How the state of a tenant before a run is kept, for `tenantry migrate undo`."
    )
    rehearse: Literal["off", "warn", "require"] = Field(
        default="off", description="What a run does whose migrations were not rehearsed, or not well."
    )
    rehearsal_lock_seconds_max: float = Field(
        default=5.0, gt=0, description="How long a rehearsal may have kept others out of a table, for a run to follow."
    )
    rehearsal_sample: str = Field(
        default="largest:1,oldest:1,random:1", description="Whom `migrate rehearse` chooses of those that are behind."
    )
    lint: dict[LintRule, Literal["off", "warn", "block"]] = Field(
        default_factory=dict,
        description="Rules of `tenantry migrate lint`: off, warn (the default of most), or block.",
        examples=[{"ban-drop-column": "block", "prefer-text-field": "warn"}],
    )
    tool_timeout: float = Field(default=3600.0, gt=0, description="Seconds that a tool may take for one tenant.")
    python: Path | None = Field(default=None, description="The interpreter of an Alembic or Django project.")
    dsn_env: Annotated[list[str], BeforeValidator(_listed)] = Field(
        default=["DATABASE_URL"], min_length=1, description="Variables that hold the tenant's URL while a tool runs."
    )
    version_table: str = Field(default="alembic_version", description="Alembic's ledger: a table, or schema.table.")
    command: str | None = Field(
        default=None,
        description="A command that migrates one tenant, for tools that are not known here; run in dir.",
        examples=["npx knex migrate:latest"],
    )
    files: list[str] = Field(
        default_factory=list,
        description="The files below dir that the command applies: a change of them is a new version.",
        examples=[["migrations/*"]],
    )
    version: str | None = Field(default=None, max_length=200, description="Or the command's version, said outright.")
    canaries: int | None = Field(
        default=None, ge=0, le=1000, description="Tenants that go first; default: 1 of 10 or more."
    )
    golden: bool = Field(default=True, description="Try migrations on an empty database of the fleet's own first.")
    born_current: bool = Field(default=True, description="Give new tenants the schema that the last run brought.")
    rings: list[Ring] = Field(
        default_factory=list, description="Who comes when, behind the canaries; the rest is last."
    )
    gate_failures_percent: float = Field(default=10.0, ge=0, le=100, description="Tenants of a wave that may fail.")
    gate_p95_seconds: float | None = Field(default=None, gt=0, description="What 95 % of a wave may take at most.")
    gate_lock_waits_max: int | None = Field(default=None, ge=0, description="Tenants that may fail waiting for a lock.")
    gate_command: str | None = Field(default=None, description="Run after each wave; status 0 lets the run go on.")
    gate_url: str | None = Field(default=None, description="Is sent each wave by POST; 2xx lets the run go on.")
    gate_seconds_max: float = Field(default=600.0, gt=0, description="How long the command or the URL may take.")


class Branches(_Section):
    """Branches for development and tests."""

    max: int = Field(default=50, ge=1, description="Branches of one place, its main branch included.")
    expires: Span | None = Field(default=None, description="When a branch goes by itself without --expires.")


class Anonymize(_Section):
    """How `tenantry branch create --anonymized` makes personal data unrecognizable."""

    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Column (schema.table.column) to the SQL expression that replaces it, in quotes.",
        examples=[{"public.users.email": "'user' || id || '@example.com'"}],
    )
    personal: list[str] = Field(
        default_factory=list,
        description="Columns that are personal: a branch is refused while one of them has no expression.",
        examples=[["public.users.email", "*.*.phone"]],
    )


class Worker(_Section):
    """`tenantry worker`, and the one inside `tenantry up`."""

    concurrency: int = Field(default=4, ge=1, le=64, description="Tenants that one worker works on at a time.")
    queues: list[str] = Field(default_factory=list, description="Only these queues; empty: all.")


class Backups(_Section):
    """Where backups are kept, and how they are proved."""

    vault: str | None = Field(
        default=None,
        description="The vault: file:///DIR, s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or az://CONTAINER/FOLDER.",
        examples=["s3://acme-backups/tenantry"],
    )
    options: dict[str, str] = Field(
        default_factory=dict,
        description="What the storage needs beside its URL and is no secret, by the names that obstore has for it.",
        examples=[{"region": "eu-central-1", "endpoint": "https://s3.example.com"}],
    )
    credentials_file: Path | None = Field(
        default=None,
        description="NAME=VALUE lines, readable by nobody else; else the environment, as the storage's own tools do.",
    )
    key_from: str = Field(
        default="env:TENANTRY_BACKUP_KEY",
        pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$",
        description="Where the fleet's key for backups is: env:NAME or file:PATH.",
    )
    jobs: int = Field(default=4, ge=1, le=64, description="Tenants at a time.")
    keep: str = Field(
        default="30d",
        description="Which backups stay where no plan says it: all of some days, or so many of each kind.",
        examples=["daily=7 weekly=4 monthly=12"],
    )
    tls_ca: Path | None = Field(
        default=None, description="An authority to trust beside the system's, for databases that demand TLS."
    )
    verify_within: Span = Field(
        default="7d", description="Each tenant has a backup that was restored and compared within this time."
    )
    verify_checks: dict[str, str] = Field(
        default_factory=dict,
        description="Queries, by name, that must be true in a restored backup: each gives one boolean.",
        examples=[{"users-have-an-email": "SELECT bool_and(email IS NOT NULL) FROM users"}],
    )


class Prices(_Section):
    """What usage costs, for `tenantry usage`."""

    currency: str = Field(default="USD", pattern="^[A-Z]{3}$", description="Three letters.")
    compute_hour: float = Field(default=0.0, ge=0, description="An hour at one compute unit.")
    storage_gib_month: float = Field(default=0.0, ge=0, description="A GiB kept for a month (30 days).")
    written_gib: float = Field(default=0.0, ge=0, description="A GiB written to the log.")
    sent_gib: float = Field(default=0.0, ge=0, description="A GiB sent to clients.")


class Drizzle(_Section):
    """What `tenantry generate drizzle` writes: a configuration of drizzle-kit for each customer."""

    configs: str = Field(default="configs", description="The folder that has a folder for each customer.")
    schema_file: str = Field(default="src/db/schema.ts", description="The schema, one for all customers.")
    out: str = Field(default="drizzle", description="Where drizzle-kit writes migrations.")
    shared: bool = Field(default=False, description="One folder of migrations for all, instead of one for each.")
    dotenv: bool = Field(default=True, description="Whether the configurations read a file .env.")


class Github(_Section):
    """What `tenantry generate github` writes into .github/workflows, and which secrets it sets."""

    repository: str | None = Field(default=None, pattern=r"^[\w.-]+/[\w.-]+$", description="OWNER/NAME.")
    branch: str = Field(default="main", min_length=1, description="Whose merges migrate the fleet.")
    api_url: str = Field(default="https://api.github.com", description="GitHub's API; GitHub Enterprise has another.")
    cell_url: str | None = Field(
        default=None, description="The API that runners ask, with /api/v2; by default that of [cell]."
    )
    runs_on: Annotated[list[str], BeforeValidator(_listed)] = Field(
        default=["ubuntu-24.04"], min_length=1, description="Labels of the runners."
    )
    python: str = Field(default="3.13", description="The Python that runners install.")
    node: str = Field(default="22", description="The Node.js of runners, where drizzle-kit runs.")
    install: str | None = Field(default=None, description="What pip installs; by default this version of tenantry.")
    environment: str | None = Field(
        default=None, min_length=1, description="The environment at GitHub that has the secrets; none: the repository."
    )
    secrets: list[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]] = Field(
        default_factory=list,
        description="Further secrets that every job is given: keys of providers, the catalog's URL.",
        examples=[["NEON_API_KEY", "TENANTRY_CATALOG_URL"]],
    )
    backup_secrets: list[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]] = Field(
        default_factory=list,
        description="Further secrets that backups are given beside the fleet's key for them: those of a vault.",
        examples=[["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]],
    )
    secret_per_customer: bool = Field(
        default=False, description="A connection string for each customer too, as drizzle-kit needs them."
    )
    migrate_with: Literal["tenantry", "drizzle-kit", "off"] = Field(
        default="tenantry", description="What migrates after a merge."
    )
    backup: Literal["fleet", "customer", "off"] = Field(
        default="fleet",
        description="One workflow that backs everybody up, or one for each customer; none without a vault.",
    )
    backup_cron: str = Field(default="17 2 * * *", description="When backups begin, in UTC.")
    backup_shards: int = Field(default=1, ge=1, le=64, description="Runners that share the fleet between them.")
    backup_minutes: int = Field(
        default=300, ge=1, le=330, description="After so long a backup ends, and another job goes on with the rest."
    )
    pull_requests: bool = Field(default=True, description="A branch of the database for each pull request.")
    pull_request_tenant: str | None = Field(
        default=None, description="Whose branches these are; none: those of the non-production project."
    )
    pull_request_from: str | None = Field(default=None, description="Their parent; none: the default branch.")
    pull_request_anonymized: bool = Field(default=False, description="Without personal data, by [anonymize].")
    pull_request_expires: Span = Field(default="14d", description="When they go that nobody deletes.")
    pull_request_command: str | None = Field(
        default=None,
        description="Run for each of them with its URL in DATABASE_URL: migrations, tests.",
        examples=["npm ci && npx drizzle-kit migrate"],
    )


class Aws(_Section):
    """What `tenantry generate aws` writes: who may use the bucket of your backups."""

    account_id: str | None = Field(default=None, pattern=r"^\d{12}$", description="The account, twelve digits.")
    region: str = Field(default="us-east-1", pattern=r"^[a-z0-9-]+$", description="Where the bucket is.")
    bucket: str | None = Field(
        default=None, pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", description="By default that of the vault."
    )
    role: str = Field(
        default="tenantry-backups", pattern=r"^[\w+=,.@-]{1,64}$", description="The role that GitHub's jobs take."
    )
    partition: str = Field(default="aws", pattern=r"^aws(-[a-z-]+)?$", description="aws, aws-cn or aws-us-gov.")
    directory: str = Field(default="infra/tenantry", description="Where the files are written.")


class Usage(_Section):
    """What is remembered of what tenants used."""

    # More than the days that may still change: what is forgotten must not be collected again.
    keep_days: int = Field(default=400, ge=62, le=3660, description="How long each tenant's days are remembered.")


class Vercel(_Section):
    """What `tenantry generate vercel` and `tenantry branch vercel` need to know."""

    project: str | None = Field(default=None, pattern=r"^[\w.-]{1,100}$", description="The project's id or name.")
    team: str | None = Field(default=None, pattern=r"^[\w.-]{1,100}$", description="The team's id, if it has one.")
    api_url: str = Field(default="https://api.vercel.com", description="Vercel's API.")
    variable: str = Field(
        default="DATABASE_URL", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="The variable of the branch's URL."
    )
    pooled_variable: str | None = Field(
        default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="Another for the URL of the pooler."
    )


class Settings(BaseModel):
    """Everything that can be configured."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    cell: Cell = Field(default_factory=Cell.model_construct)
    tenants: Tenants = Field(default_factory=Tenants.model_construct)
    migrations: Migrations = Field(default_factory=Migrations.model_construct)
    branches: Branches = Field(default_factory=Branches.model_construct)
    anonymize: Anonymize = Field(default_factory=Anonymize.model_construct)
    worker: Worker = Field(default_factory=Worker.model_construct)
    backups: Backups = Field(default_factory=Backups.model_construct)
    usage: Usage = Field(default_factory=Usage.model_construct)
    prices: Prices = Field(default_factory=Prices.model_construct)
    drizzle: Drizzle = Field(default_factory=Drizzle.model_construct)
    github: Github = Field(default_factory=Github.model_construct)
    aws: Aws = Field(default_factory=Aws.model_construct)
    vercel: Vercel = Field(default_factory=Vercel.model_construct)


def load_settings(start: Path | None = None) -> Settings:
    """What is configured for whoever works in ``start`` (the working directory). Raises InvalidInput."""
    path = find_settings((start or Path.cwd()).absolute())
    return read_settings(path)


def read_settings(path: Path | None) -> Settings:
    """The file's settings under the environment's. Raises InvalidInput naming the key and the line or variable."""
    text = "" if path is None else _text(path)
    try:
        said = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{path}: {error}", next_step="see `tenantry init --help` for a file that works") from error
    merged = _over(said, _said_by_environment())
    unknown = next((name for name in merged if name not in Settings.model_fields), None)
    if unknown is not None:
        raise _no_such_setting((unknown,), path, text)
    sections = {name: _section(name, value, path, text) for name, value in merged.items()}
    settings = Settings.model_construct(_fields_set=set(sections), **sections)
    return settings if path is None else _anchored(settings, path.parent)


def _section(name: str, value: object, path: Path | None, text: str) -> BaseModel:
    section = Settings.model_fields[name].annotation
    assert isinstance(section, type) and issubclass(section, BaseModel), "every setting is in a section"
    try:
        return section.model_validate(value)
    except ValidationError as error:
        raise _in_our_words(error, name, path, text) from error


def _said_by_environment() -> Mapping[str, object]:
    """By sections. Nothing is loaded for an environment that says nothing, as most."""
    names = {variable.upper().partition(_DELIMITER)[0] for variable in os.environ}
    if names.isdisjoint(PREFIX + section.upper() for section in Settings.model_fields):
        return {}
    from tenantry.fleet.settings_environment import said_by_environment

    return said_by_environment(Settings, prefix=PREFIX, delimiter=_DELIMITER)


def _over(below: Mapping[str, object], above: Mapping[str, object]) -> dict[str, object]:
    """``above`` where both say something, table by table."""
    merged = dict(below)
    for name, value in above.items():
        known = merged.get(name)
        if isinstance(known, dict) and isinstance(value, dict):
            value = _over(cast("dict[str, object]", known), cast("dict[str, object]", value))  # noqa: PLW2901
        merged[name] = value
    return merged


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}", next_step=f"see {SETTINGS_VARIABLE}") from error
    if len(content) > FILE_BYTES_MAX:
        raise InvalidInput(f"{path} is longer than {FILE_BYTES_MAX} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text") from error


def _anchored(settings: Settings, directory: Path) -> Settings:
    """Paths that the file says are meant from where it lies; those of the environment are absolute or as they are."""
    cell = settings.cell.model_copy(
        update={
            name: directory / value
            for name in ("data", "api_key_file", "catalog_url_file")
            if isinstance(value := getattr(settings.cell, name), Path) and _variable(("cell", name)) not in os.environ
        }
    )
    migrations = settings.migrations
    said = migrations.model_fields_set
    # A command is run in the file's own directory where it says no other.
    if not said.isdisjoint({"dir", "command"}) and _variable(("migrations", "dir")) not in os.environ:
        migrations = migrations.model_copy(update={"dir": directory / migrations.dir})
    if migrations.python is not None and _variable(("migrations", "python")) not in os.environ:
        migrations = migrations.model_copy(update={"python": directory / migrations.python})
    backups = settings.backups
    if backups.credentials_file is not None and _variable(("backups", "credentials_file")) not in os.environ:
        backups = backups.model_copy(update={"credentials_file": directory / backups.credentials_file})
    if backups.tls_ca is not None and _variable(("backups", "tls_ca")) not in os.environ:
        backups = backups.model_copy(update={"tls_ca": directory / backups.tls_ca})
    if backups.key_from.startswith("file:") and _variable(("backups", "key_from")) not in os.environ:
        backups = backups.model_copy(update={"key_from": f"file:{directory / backups.key_from.removeprefix('file:')}"})
    return settings.model_copy(update={"cell": cell, "migrations": migrations, "backups": backups})


# ------------------------------------------------------------------------------------------- what is wrong, and where


def _in_our_words(error: ValidationError, section: str, path: Path | None, text: str) -> InvalidInput:
    """The first thing that is wrong: one is mended at a time."""
    first = error.errors(include_url=False, include_input=False)[0]
    key = (section, *(str(part) for part in first["loc"]))
    if first["type"] == "extra_forbidden":
        return _no_such_setting(key, path, text)
    dotted = ".".join(key)
    return InvalidInput(
        f"{_where(key, path, text)}: {dotted}: {first['msg'].removeprefix('Value error, ')}", key=dotted
    )


def _no_such_setting(key: tuple[str, ...], path: Path | None, text: str) -> InvalidInput:
    known = _names(key[:-1])
    near = get_close_matches(key[-1], known, n=1)
    dotted = ".".join(key)
    return InvalidInput(
        f"{_where(key, path, text)}: there is no setting {dotted}",
        next_step=f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}",
        key=dotted,
    )


def _where(key: tuple[str, ...], path: Path | None, text: str) -> str:
    variable = next((name for name in _variables(key) if name in os.environ), None)
    if variable is not None:
        return f"${variable}"
    line = line_of(text, key)
    return f"{path}, line {line}" if line else str(path)


def _names(section: tuple[str, ...]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in section:
        field = model.model_fields.get(part)
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return []
        model = field.annotation
    return list(model.model_fields)


def _variable(key: tuple[str, ...]) -> str:
    return PREFIX + _DELIMITER.join(key).upper()


def _variables(key: tuple[str, ...]) -> Iterator[str]:
    """A value inside a list or a table may have come with the whole of it."""
    for length in range(len(key), 0, -1):
        yield _variable(key[:length])


def line_of(text: str, key: tuple[str, ...]) -> int | None:
    """The line that says ``key``, or else its table. Pure; as exact as files that people write need."""
    table: tuple[str, ...] = ()
    found: int | None = None
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        if bare.startswith("["):
            table = tuple(part.strip().strip("\"'") for part in bare.strip("[]").split(".") if part)
            here = table
        elif "=" in bare and not bare.startswith("#"):
            name = bare.split("=", 1)[0].strip()
            here = (*table, *((name.strip("\"'"),) if name[:1] in "\"'" else tuple(name.split("."))))
        else:
            continue
        if here == key:
            return number
        if here and here == key[: len(here)]:
            found = number
    return found
