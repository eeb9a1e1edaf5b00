"""What Alembic's and Django's projects have in common: an interpreter of the user's, in which their tool is asked.

The project is loaded once by each child, and every child must find the migrations that the first one found.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, cast

from tenantry.errors import InvalidInput
from tenantry.fleet.migrations.formats.base import MIGRATIONS_MAX, Migration, ToolTask
from tenantry.fleet.migrations.results import Failure, MigrationFailed
from tenantry.fleet.migrations.sqlstates import NEXT_STEPS
from tenantry.fleet.migrations.tools import (
    INSIDE,
    OPEN_SECONDS_MAX,
    Child,
    Children,
    ToolEnded,
    timeouts_in,
    uri_of,
    without_secrets,
)

DSN_ENV_DEFAULT: Final = ("DATABASE_URL",)
_PACKAGES: Final = frozenset({"site-packages", "dist-packages"})
_NOBODY: Final = "postgresql://nobody@127.0.0.1:1/nobody"
"""What stands in the variable while no tenant's turn has come: settings may want one to be there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSettings:
    """What an operator says of tools, ``[migrations]`` of tenantry.toml."""

    python: Path | None = None
    """The interpreter that the project runs with."""
    dsn_env: tuple[str, ...] = DSN_ENV_DEFAULT
    """Variables that hold the tenant's URL while the tool runs."""
    version_table: str = "alembic_version"
    command: str | None = None
    version: str | None = None
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """The migrations of a project as its tool lists them."""

    migrations: tuple[Migration, ...]
    after: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    """The versions that each one needs."""
    replaces: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    """The versions that each one stands for."""
    generated: Mapping[str, str] = field(default_factory=dict[str, str])
    """When each file was written, where it says so; sorts as text."""
    known: frozenset[str] = frozenset()
    """Every version that the project has a file of, or had."""


class PythonProject:
    """A project whose tool runs in children of its own interpreter."""

    def __init__(self, directory: Path, script: str, opening: Mapping[str, object], settings: ToolSettings) -> None:
        """Raises InvalidInput when the project cannot be loaded."""
        # Absolute, since the child works in that directory, and never resolved: a venv's python is a link.
        self._directory = directory.absolute()
        self._python = settings.python or _interpreter(self._directory)
        self._script = INSIDE / script
        self._variables = settings.dsn_env
        self._opening = {**opening, "environment": dict.fromkeys(settings.dsn_env, _NOBODY)}
        child, self.listed = self._open()
        self.children = Children()
        self.children.keep(child)

    def _open(self) -> tuple[Child, Listed]:
        try:
            child = Child([str(self._python), str(self._script)], self._directory)
        except OSError as error:
            raise InvalidInput(
                f"the interpreter {self._python} cannot be started: {error.strerror}",
                next_step="say which one the project runs with: python in [migrations]",
            ) from error
        try:
            reply = child.ask(self._opening, seconds_max=OPEN_SECONDS_MAX, cancelled=lambda: False)
            if error := reply.get("error"):
                raise _not_loaded(self._directory, cast("dict[str, Any]", error), child.output)
            return child, _listed(self._directory, reply)
        except ToolEnded as ended:
            raise InvalidInput(
                f"the project in {self._directory} was not loaded: {ended.message}", next_step=_last_line(child.output)
            ) from ended
        except BaseException:
            child.end()
            raise

    def _another(self) -> Child:
        child, listed = self._open()
        if [(each.version, each.checksum) for each in listed.migrations] != [
            (each.version, each.checksum) for each in self.listed.migrations
        ]:
            child.end()
            raise InvalidInput(
                f"the migrations in {self._directory} have changed while they were rolled out",
                next_step="run again, so that all tenants get the same",
            )
        return child

    def run(self, task: ToolTask, more: Mapping[str, object]) -> None:
        """Has the tool do ``task``. Raises MigrationFailed."""
        uri = uri_of(task.place)
        request = {
            "slug": task.slug,
            "url": uri,
            "parameters": {**task.place, "timeouts": timeouts_in(task.place)},
            "environment": dict.fromkeys(self._variables, uri),
            "lock_pid": task.lock_pid,
            "applied": sorted(task.applied),
            **more,
        }
        output = ""
        try:
            with self.children.one(self._another) as child:
                try:
                    reply = child.ask(request, seconds_max=task.seconds_max, cancelled=task.cancelled)
                finally:
                    output = without_secrets(child.output, task.place)
        except ToolEnded as ended:
            raise MigrationFailed(ended_failure(ended, task, output)) from ended
        except InvalidInput as error:
            raise MigrationFailed(Failure(kind="tool", message=error.message, next_step=error.next_step)) from error
        if error := reply.get("error"):
            raise MigrationFailed(self._failure(cast("dict[str, Any]", error), task, output))

    def sql_of(self, migration: Migration) -> str | None:
        """The SQL that the tool would send; None where it cannot say that without a database."""
        try:
            with self.children.one(self._another) as child:
                request = {"sql_of": migration.version}
                reply = child.ask(request, seconds_max=OPEN_SECONDS_MAX, cancelled=lambda: False)
        except ToolEnded:
            return None
        sql = reply.get("sql")
        return sql if isinstance(sql, str) else None

    def _failure(self, said: dict[str, Any], task: ToolTask, output: str) -> Failure:
        """What the tool's error means, in our words and without secrets."""
        texts = {name: without_secrets(text, task.place) for name, text in said.items() if isinstance(text, str)}
        if said.get("refused"):
            return Failure(kind="tool", message=texts["message"], next_step=texts["next_step"])
        file = _shown(Path(texts["file"]), self._directory) if "file" in texts else None
        at = next((each for each in self.listed.migrations if file is not None and each.file == file), None)
        sqlstate = texts.get("sqlstate")
        plain = Failure(
            kind="sql" if sqlstate else "tool",
            sqlstate=sqlstate,
            message=texts["message"] if sqlstate else f"{texts['type']}: {texts['message']}",
            detail=texts.get("detail"),
            hint=texts.get("hint"),
            migration=texts.get("migration") or (at.version if at else None),
            file=file,
            line=said.get("line") if file else None,
            sql=texts.get("sql"),
            output=output or None,
            next_step=NEXT_STEPS.get(sqlstate or "", "mend the cause in this tenant, then run again"),
        )
        if plain.file is None and plain.migration is not None:
            file = next((each.file for each in self.listed.migrations if each.version == plain.migration), None)
            return replace(plain, file=file)
        return plain


def ended_failure(ended: ToolEnded, task: ToolTask, output: str) -> Failure:
    """The failure of a tool whose process is gone."""
    if ended.why == "cancelled":
        return Failure(kind="cancelled", message=ended.message, output=output or None)
    if ended.why == "timeout":
        return Failure(
            kind="tool",
            message=f"the tool was ended after {task.seconds_max:g} s",
            next_step="see what it waits for; raise tool_timeout in [migrations] if it needs that long",
            output=output or None,
        )
    return Failure(kind="tool", message=ended.message, next_step="run again", output=output or None)


def _interpreter(directory: Path) -> Path:
    """The environment that is active, else the project's own, else ours."""
    active = os.environ.get("VIRTUAL_ENV")
    candidates = [Path(active)] if active else []
    candidates += [parent / ".venv" for parent in (directory, *directory.parents[:2])]
    for environment in candidates:
        if (environment / "bin/python").exists():
            return environment / "bin/python"
    return Path(sys.executable)


def _listed(directory: Path, reply: dict[str, Any]) -> Listed:
    listed = cast("list[dict[str, Any]]", reply["migrations"])
    if len(listed) > MIGRATIONS_MAX:
        raise InvalidInput(f"{directory} has {len(listed)} migrations; {MIGRATIONS_MAX} are the most")
    return Listed(
        migrations=tuple(
            Migration(
                version=each["version"],
                name=each["name"],
                file=_shown(Path(each["path"]), directory),
                checksum=_checksum(each["version"], Path(each["path"]), directory),
                text="",
                segments=(),
            )
            for each in listed
        ),
        after={each["version"]: frozenset(each["after"]) for each in listed},
        replaces={each["version"]: frozenset(each["replaces"]) for each in listed if each.get("replaces")},
        generated={each["version"]: each["generated"] for each in listed if each.get("generated")},
        known=frozenset(reply.get("known", ())),
    )


def _shown(path: Path, directory: Path) -> str:
    """The file from the project's directory, or from where packages are installed."""
    if _of_package(path, directory):
        place = max((i for i, part in enumerate(path.parts) if part in _PACKAGES), default=0)
        return str(Path(*path.parts[place + 1 :])) if place else str(path)
    return str(path.relative_to(directory.absolute()))


def _of_package(path: Path, directory: Path) -> bool:
    return not path.is_relative_to(directory.absolute()) or not _PACKAGES.isdisjoint(path.parts)


def _checksum(version: str, path: Path, directory: Path) -> str:
    """Of what the user has written; a package's migration is known by its name, whichever release brings it."""
    if _of_package(path, directory):
        return hashlib.sha256(version.encode()).hexdigest()
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"the migration {path} cannot be read: {error.strerror}") from error
    return hashlib.sha256(raw.replace(b"\r\n", b"\n")).hexdigest()


def _not_loaded(directory: Path, said: dict[str, Any], output: str) -> InvalidInput:
    if said.get("refused"):
        return InvalidInput(f"{directory}: {said['message']}", next_step=str(said["next_step"]))
    where = f" in {said['file']}, line {said['line']}" if "file" in said else ""
    return InvalidInput(
        f"the project in {directory} was not loaded: {said['type']}: {said['message']}{where}",
        next_step="see that its own tool works there",
        output=output,
    )


def _last_line(output: str) -> str:
    return (output.strip().splitlines() or [""])[-1]
