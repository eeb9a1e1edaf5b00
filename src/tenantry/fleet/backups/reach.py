"""The way into a tenant for its backup: which databases and roles are its own, and connections that are checked."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
import stamina

from tenantry.errors import InvalidInput, NotFound, OperatorError, TenantryError, Unavailable
from tenantry.fleet.backups.forwarder import reachable
from tenantry.fleet.providers.ports import Home, Provider
from tenantry.neon.ids import BranchId, ProjectId
from tenantry.postgres.dsn import Dsn, parse_uri
from tenantry.postgres.scram import make_verifier

CONNECT_SECONDS_MAX: Final = 30
CONNECT_ATTEMPTS_MAX: Final = 6
CONNECT_DEADLINE_SECONDS: Final = 60.0
ROLES_MAX: Final = 1_000
DATABASES_MAX: Final = 500
_FINAL_WORDS: Final = ("password authentication failed", "does not exist", "no pg_hba.conf entry", "unknown endpoint")


@dataclass(frozen=True, slots=True)
class Belongings:
    """What of a server is the tenant's."""

    databases: tuple[str, ...]
    roles: tuple[str, ...]
    verifiers: Mapping[str, str]
    """Of roles whose passwords the provider tells."""
    withheld: tuple[str, ...]


def belongings(provider: Provider, project_id: ProjectId, home: Home) -> Belongings:
    """A provider of projects knows; on a server of others a tenant has one database and one role. Wakes nobody."""
    if "branches" not in provider.features:
        return Belongings(
            (home.database_name,), (home.role_name,), {}, (f"the password of {home.role_name}, which is derived",)
        )
    client = provider.api("branches")
    branch = next((branch for branch in client.branches(project_id) if branch.default), None)
    if branch is None:
        raise NotFound(f"project {project_id} has no default branch", project_id=project_id)
    branch_id = BranchId(branch.id)
    databases = sorted(database.name for database in client.list_databases(project_id, branch_id))
    roles = sorted(role.name for role in client.list_roles(project_id, branch_id))
    if len(databases) > DATABASES_MAX or len(roles) > ROLES_MAX:
        raise OperatorError(
            f"the tenant has {len(databases)} databases and {len(roles)} roles;"
            f" {DATABASES_MAX} and {ROLES_MAX} are backed up",
            next_step="look at the tenant",
        )
    verifiers: dict[str, str] = {}
    withheld: list[str] = []
    for role in roles:
        if role == home.role_name:
            continue  # a new tenant's owner has a password of its own
        try:
            verifiers[role] = make_verifier(client.reveal_password(project_id, branch_id, role))
        except TenantryError:
            # Set by SQL, or not stored: nobody but the server knows it, and it does not tell.
            withheld.append(f"the password of role {role}")
    return Belongings(tuple(databases), tuple(roles), verifiers, tuple(withheld))


def dsn_of(uri: str) -> Dsn:
    """Raises InvalidInput, without the text."""
    return parse_uri(uri)


@contextmanager
def way_to(uri: str, ca: Path | None) -> Generator[Dsn]:
    """Where programs and sessions connect: past TLS that is checked, where the server demands it."""
    with reachable(dsn_of(uri), ca) as dsn:
        yield dsn


def connect(dsn: Dsn, *, role: str = "tenantry backup") -> psycopg.Connection:
    """A session in autocommit mode, tried again while the tenant wakes. Raises Unavailable, OperatorError."""
    try:
        for attempt in stamina.retry_context(
            on=_worth_another_try, attempts=CONNECT_ATTEMPTS_MAX, timeout=CONNECT_DEADLINE_SECONDS, wait_max=2.0
        ):
            with attempt:
                parameters: dict[str, Any] = dict(dsn.parameters)
                return psycopg.connect(
                    host=dsn.host,
                    port=dsn.port,
                    dbname=dsn.database,
                    user=dsn.role,
                    password=dsn.password,
                    autocommit=True,
                    prepare_threshold=None,
                    connect_timeout=CONNECT_SECONDS_MAX,
                    application_name=role,
                    client_encoding="utf8",
                    keepalives_idle=30,
                    keepalives_interval=10,
                    keepalives_count=3,
                    **parameters,
                )
    except psycopg.OperationalError as error:
        message = " ".join(str(error).split())
        if any(word in message for word in _FINAL_WORDS):
            raise OperatorError(
                f"the database {dsn.database} does not let {dsn.role} in: {message}", next_step="see `tenantry psql`"
            ) from error
        raise Unavailable(
            f"the database {dsn.database} cannot be reached: {message}",
            next_step="see that the tenant's endpoint answers (`tenantry psql`), then try again",
        ) from error
    except psycopg.ProgrammingError:
        raise InvalidInput("the connection string has a parameter that libpq does not know") from None
    raise AssertionError("retrying ends with a connection or an error")


def _worth_another_try(error: Exception) -> bool:
    return isinstance(error, psycopg.OperationalError) and not any(word in str(error) for word in _FINAL_WORDS)


def in_our_words(error: psycopg.Error, what: str) -> TenantryError:
    """Of a statement of ours that failed."""
    message = error.diag.message_primary or " ".join(str(error).split())
    if isinstance(error, psycopg.OperationalError):
        return Unavailable(f"{what}: {message}", next_step="try again")
    return OperatorError(f"{what}: {message}", next_step="mend the cause in this tenant, then try again")
