"""Any other tool, as a command: run for each tenant with its URL in the environment, remembered by a row of our own.

The command's exit status is its word: 0 says that the tenant is at the newest version now, also when there was nothing
to do; anything else says that it failed. What version that is, is said in the settings, or is the checksum of files.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from tenantry.errors import InvalidInput
from tenantry.fleet.migrations import tenant_sql, tool_sql
from tenantry.fleet.migrations.formats.base import (
    Judgement,
    LedgerRow,
    Migration,
    Session,
    ToolTask,
    ahead,
    read_rows,
    state_of,
)
from tenantry.fleet.migrations.formats.python_project import ToolSettings, ended_failure
from tenantry.fleet.migrations.results import Failure, MigrationFailed
from tenantry.fleet.migrations.tenant import SchemaState
from tenantry.fleet.migrations.tools import (
    INSIDE,
    OPEN_SECONDS_MAX,
    Child,
    Children,
    ToolEnded,
    libpq_variables,
    uri_of,
    without_secrets,
)

NAME: Final = "command"
FILES_MAX: Final = 5_000
FILES_BYTES_MAX: Final = 256 * 1024 * 1024


class CommandProject:
    """A directory in which a command migrates the database of its environment."""

    name: str = NAME

    def __init__(self, directory: Path, settings: ToolSettings, *, through: str | None = None) -> None:
        """Raises InvalidInput where neither a version nor files are said."""
        assert settings.command is not None
        if through is not None:
            raise InvalidInput("a command goes to its newest version only", next_step="leave --through out")
        self.directory = directory
        self._command = settings.command
        self._variables = settings.dsn_env
        version, checksum = _version(directory, settings)
        only = Migration(version=version, name="", file=settings.command, checksum=checksum, text="", segments=())
        self.migrations: tuple[Migration, ...] = (only,)
        self._children = Children()

    def _start(self) -> Child:
        child = Child([sys.executable, "-I", "-S", str(INSIDE / "command_project.py")], self.directory.absolute())
        child.ask({"command": self._command}, seconds_max=OPEN_SECONDS_MAX, cancelled=lambda: False)
        return child

    def read_ledger(self, session: Session) -> Sequence[LedgerRow] | None:
        rows = read_rows(session, tool_sql.COMMAND_TABLE, tool_sql.COMMAND_READ)
        return None if rows is None else [LedgerRow(str(version), str(checksum)) for version, checksum in rows]

    def judge(self, ledger: Sequence[LedgerRow] | None) -> Judgement:
        """The last row is where the tenant stands; one that had this version before has moved on since."""
        only = self.migrations[0]
        rows = [(row.key, row.checksum) for row in ledger or ()]
        state = state_of(NAME, rows[-1:])
        if rows[-1:] == [(only.version, only.checksum)]:
            return Judgement(state=state, pending=())
        if (only.version, only.checksum) in rows:
            return Judgement(state=state, pending=(), objections=(ahead(rows[-1][0]),))
        return Judgement(state=state, pending=self.migrations)

    def standing_of(self, known: SchemaState) -> Literal["behind", "unknown", "ahead"]:
        return "behind"

    def apply_by_tool(self, task: ToolTask) -> None:
        uri = uri_of(task.place)
        environment = {
            **libpq_variables(task.place), **dict.fromkeys(self._variables, uri), "TENANTRY_TENANT": task.slug,
        }  # fmt: skip
        output = ""
        try:
            with self._children.one(self._start) as child:
                try:
                    reply = child.ask(
                        {"environment": environment}, seconds_max=task.seconds_max, cancelled=task.cancelled
                    )
                finally:
                    output = without_secrets(child.output, task.place)
        except ToolEnded as ended:
            raise MigrationFailed(ended_failure(ended, task, output)) from ended
        status = reply.get("exit")
        if status != 0:
            said = f"the command ended with status {status}" if "exit" in reply else "the command could not be started"
            last = (output.strip().splitlines() or [""])[-1]
            raise MigrationFailed(
                Failure(
                    kind="tool",
                    message=f"{said}: {last}" if last else said,
                    next_step="its output is kept with the failure (--json); mend the cause, then run again",
                    migration=task.pending[-1].version,
                    output=output or None,
                )
            )

    def applied(self, session: Session, task: ToolTask) -> None:
        only = task.pending[-1]
        session.query(tenant_sql.SQL_CREATE_SCHEMA)
        session.query(tool_sql.COMMAND_CREATE_TABLE)
        session.query(tool_sql.COMMAND_INSERT, [only.version, only.checksum])

    def sql_of(self, migration: Migration) -> str | None:
        """For the lint: nobody but the command knows."""
        return None

    def close(self) -> None:
        self._children.close()


def _version(directory: Path, settings: ToolSettings) -> tuple[str, str]:
    """The version and its checksum: what is said, or the last of the files and the checksum of all."""
    if settings.version is not None:
        return settings.version, hashlib.sha256(settings.version.encode()).hexdigest()
    found = sorted({path for pattern in settings.files for path in directory.glob(pattern) if path.is_file()})
    if not found:
        raise InvalidInput(
            f"nothing says which version the command brings ({', '.join(settings.files) or 'no files are named'})",
            next_step='say files = ["migrations/*"] or version = "..." in [migrations]',
        )
    if len(found) > FILES_MAX or sum(path.stat().st_size for path in found) > FILES_BYTES_MAX:
        raise InvalidInput(
            f"the command has {len(found)} files; {FILES_MAX} of {FILES_BYTES_MAX} bytes together are the most",
            next_step="name the files of migrations only: files in [migrations]",
        )
    total = hashlib.sha256()
    for path in found:
        total.update(f"{path.relative_to(directory)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return f"{found[-1].stem}@{total.hexdigest()[:12]}", total.hexdigest()
