"""``tenantry psql``: becomes a psql that is connected to a tenant. The password is never on a command line.

libpq reads the parameters from the environment and the password from a file; the file is one in memory that only
this process and its psql can open, so nothing is left on disk whatever ends them.
"""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import typer

from tenantry.cli.options import Data, Pooled, TenantName
from tenantry.errors import Defect, OperatorError

_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_WANTS_TLS: Final = ("require", "verify-ca", "verify-full")


@dataclass(frozen=True, slots=True)
class Psql:
    program: Path
    tls: bool


@dataclass(frozen=True, slots=True)
class Session:
    """What a psql process is given: variables, and the line of its password file."""

    environment: dict[str, str]
    password_line: str = field(repr=False)


def plan_session(uri: str, psql: Psql, environment: Mapping[str, str]) -> Session:
    """Spreads a connection URI over libpq's variables; the caller's other variables stay.

    Raises OperatorError where the URI wants TLS, this psql has none, and the way leads off this machine.
    """
    from psycopg import pq

    options = {option.keyword.decode(): option for option in pq.Conninfo.parse(uri.encode())}
    values = {keyword: option.val.decode() for keyword, option in options.items() if option.val is not None}
    password = values.pop("password", "")
    host = values.get("host", "localhost")
    if not psql.tls and values.get("sslmode") in _WANTS_TLS:
        if host not in _LOOPBACK:
            raise OperatorError(
                f"{psql.program} has no TLS, and {host} is not this machine",
                next_step="install the psql of your system (Debian: apt install postgresql-client)",
            )
        values["sslmode"] = "disable"
        values.pop("channel_binding", None)

    # A service or a password of the caller's would win over what is set here.
    kept = {name: value for name, value in environment.items() if name not in ("PGPASSWORD", "PGSERVICE")}
    if (own := kept.get("PGOPTIONS")) and "options" in values:
        values["options"] += f" {own}"
    for keyword, value in values.items():
        variable = options[keyword].envvar
        if variable is None:
            raise Defect(f"libpq reads {keyword} from no variable")
        kept[variable.decode()] = value
    kept.setdefault("PGAPPNAME", "tenantry psql")
    line = ":".join(_escaped(values.get(keyword, "*")) for keyword in ("host", "port"))
    return Session(kept, f"{line}:*:{_escaped(values.get('user', '*'))}:{_escaped(password)}\n")


def _escaped(field_text: str) -> str:
    return field_text.replace("\\", "\\\\").replace(":", "\\:")


def find_psql(environment: Mapping[str, str]) -> Psql:
    """The system's psql if there is one (it has TLS), else that of the newest engine."""
    if system := shutil.which("psql", path=environment.get("PATH")):
        return Psql(Path(system), tls=True)
    from tenantry.postgres.engines import discover

    for engine in discover():
        program = engine.bin_dir / "psql"
        if program.exists():
            return Psql(program, tls=engine.tls)
    raise OperatorError("no psql found", next_step="install one (Debian: apt install postgresql-client)")


def become(psql: Psql, session: Session, arguments: Sequence[str]) -> None:
    """Replaces this process; returns never."""
    descriptor = os.memfd_create("pgpass")
    os.fchmod(descriptor, 0o600)
    os.write(descriptor, session.password_line.encode())
    os.set_inheritable(descriptor, True)
    environment = session.environment | {"PGPASSFILE": f"/proc/self/fd/{descriptor}"}
    os.execve(psql.program, ["psql", *arguments], environment)  # noqa: S606 - no shell is wanted


def psql_command(
    context: typer.Context,
    tenant: TenantName,
    data: Data = None,
    pooled: Pooled = False,
) -> None:
    """Open psql on a tenant. What follows goes to psql: tenantry psql acme-corp -c 'select 1'."""
    from tenantry.cli.fleet import the_fleet

    with the_fleet(data) as fleet:
        uri = fleet.url(tenant, pooled=pooled)
    psql = find_psql(os.environ)
    become(psql, plan_session(uri, psql, os.environ), context.args)


def register(app: typer.Typer) -> None:
    app.command("psql", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(psql_command)
