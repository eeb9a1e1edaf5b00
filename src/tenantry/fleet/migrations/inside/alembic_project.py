"""One Alembic project: its revisions as Alembic reads them, and upgrades of one tenant after another through env.py."""

# The tools say little of their types.
# pyright: basic
from __future__ import annotations

import argparse
import io
import os
import re
import ssl
import sys
from typing import TYPE_CHECKING, Any

# Run by its path: its own directory is no part of the user's world.
_here = sys.path.pop(0)
sys.path.append(_here)

if TYPE_CHECKING:
    from tenantry.fleet.migrations.inside.conversation import (
        SEE_LOCK,
        Handler,
        Refused,
        Reply,
        Request,
        check_ledger,
        check_lock,
        converse,
    )
else:
    from conversation import SEE_LOCK, Handler, Refused, Reply, Request, check_ledger, check_lock, converse

sys.path.remove(_here)

_LIBPQ_ONLY = (
    "options", "application_name", "hostaddr", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl",
    "sslnegotiation", "channel_binding", "gssencmode",
)  # fmt: skip
"""Parameters of a URL that asyncpg does not take by these names."""


def opened(request: Request) -> tuple[Reply, Handler]:
    try:
        import alembic
        from alembic.script import ScriptDirectory
        from sqlalchemy import engine, event
    except ImportError as error:
        raise Refused(
            f"{sys.executable} cannot import {error.name}",
            "say which interpreter the project runs with: python in [migrations]",
        ) from error
    config = _config(request)
    script = ScriptDirectory.from_config(config)
    heads = script.get_heads()
    if len(heads) > 1:
        raise Refused(
            f"the history has {len(heads)} heads: {', '.join(sorted(heads))}", "merge them: alembic merge heads"
        )
    revisions = [
        {
            "version": revision.revision,
            "name": revision.doc or "",
            "path": os.path.abspath(revision.path),  # noqa: PTH100
            "after": list(revision._all_down_revisions),
        }
        for revision in reversed(list(script.walk_revisions()))
    ]
    project = _Project(request, script, _driver(config))
    _let_plain_urls_work()
    event.listen(engine.Engine, "do_connect", project.on_connect)
    return {"tool": "alembic " + alembic.__version__, "migrations": revisions}, project.asked


def _config(request: Request) -> Any:
    from alembic.config import Config

    files: dict[str, Any] = {"file_": request["ini"]}
    if request["toml"]:
        files["toml_file"] = request["toml"]
    return Config(**files)


def _driver(config: Any) -> str:
    """What stands before ``://`` in the project's own URL: its driver is kept."""
    try:
        url = config.get_main_option("sqlalchemy.url") or ""
    except Exception:  # noqa: BLE001 - an option that refers to what only env.py puts in place says no driver
        return "postgresql"
    scheme = url.partition("://")[0]
    return scheme if scheme.startswith("postgresql+") else "postgresql"


def _let_plain_urls_work() -> None:
    """SQLAlchemy's driver for ``postgresql://`` depends on its version; where it is missing, the other one serves."""
    from sqlalchemy.dialects import registry
    from sqlalchemy.engine.url import make_url

    for plain in ("postgresql", *(f"postgresql.{name}" for name in ("psycopg", "psycopg2", "asyncpg"))):
        try:
            found: Any = make_url(plain.replace(".", "+") + "://").get_dialect()
            found.import_dbapi()
        except ImportError:
            continue
        registry.register("postgresql", found.__module__, found.__name__)
        return
    raise Refused(
        f"{sys.executable} has no driver for Postgres", "install psycopg there, or say python in [migrations]"
    )


_OF_LEDGER = re.compile(
    r"^(?:BEGIN;|COMMIT;|-- Running upgrade .*|CREATE TABLE (?:\w+\.)?alembic_version \([^;]*\);"
    r"|(?:INSERT INTO|UPDATE|DELETE FROM) (?:\w+\.)?alembic_version [^;]*;)$",
    re.MULTILINE,
)


class _Project:
    def __init__(self, request: Request, script: Any, driver: str) -> None:
        self._request = request
        self._script = script
        self._driver = driver
        self._task: Request = {}

    def asked(self, request: Request) -> Reply:
        return self.sql_of(request["sql_of"]) if "sql_of" in request else self.upgrade(request)

    def sql_of(self, version: str) -> Reply:
        """The SQL of one revision, as ``alembic upgrade --sql`` prints it, without the statements of the ledger."""
        from alembic.runtime.environment import EnvironmentContext

        before = self._script.get_revision(version).down_revision
        if before is not None and not isinstance(before, str):
            return {"sql": None}  # a merge: from which side it is come to decides nothing that Alembic could print
        config = _config(self._request)
        config.output_buffer = io.StringIO()
        config.set_main_option("sqlalchemy.url", self._driver + "://")
        with EnvironmentContext(
            config,
            self._script,
            fn=lambda heads, _: self._script._upgrade_revs(version, heads),
            as_sql=True,
            starting_rev=before,
            destination_rev=version,
            tag=None,
        ):
            self._script.run_env()
        own = _OF_LEDGER.sub("", config.output_buffer.getvalue())
        return {"sql": own.strip() + "\n"}

    def upgrade(self, task: Request) -> Reply:
        """Brings one tenant to ``target`` by running env.py, as ``alembic upgrade`` does."""
        from alembic.runtime.environment import EnvironmentContext

        self._task = task
        os.environ.update(task["environment"])
        config = _config(self._request)
        url = self._driver + task["url"][task["url"].index("://") :]
        config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
        config.attributes["tenant"] = task["slug"]
        config.cmd_opts = argparse.Namespace(
            config=self._request["ini"], name="alembic", x=["tenant=" + task["slug"]], raiseerr=False,
            revision=task["target"], sql=False, tag=None,
        )  # fmt: skip

        # One script directory for all tenants: Alembic's own command would read every revision again for each.
        with EnvironmentContext(
            config, self._script, fn=self._steps, as_sql=False, destination_rev=task["target"], tag=None
        ):
            self._script.run_env()
        return {}

    def _steps(self, heads: Any, context: Any) -> list[Any]:
        """What to run, asked by Alembic once env.py has connected and the ledger is read, before anything changes."""
        import sqlalchemy

        lock = sqlalchemy.text(SEE_LOCK.format(pid=int(self._task["lock_pid"])))
        check_lock(context.connection.execute(lock).scalar())
        table = context._version
        where = f"{table.schema}.{table.name}" if table.schema else table.name
        if where != self._request["version_table"]:
            raise Refused(
                f"env.py keeps the versions in {where}, not in {self._request['version_table']}",
                f'say version_table = "{where}" in [migrations]',
            )
        check_ledger(set(heads), set(self._task["applied"]), where)
        return self._script._upgrade_revs(self._task["target"], heads)

    def on_connect(self, dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
        """Gives every connection the tenant's timeouts, also where env.py has put its URL together by itself."""
        ours = self._task["parameters"]
        if dialect.driver in ("psycopg", "psycopg2"):
            said = parameters.get("options") or ""
            parameters["options"] = said if ours["timeouts"] in said else f"{said} {ours['timeouts']}".strip()
            parameters["application_name"] = ours["application_name"]
        elif dialect.driver == "asyncpg":
            server = dict(parameters.get("server_settings") or {})
            said = parameters.get("options") or server.get("options") or ""
            server["options"] = said if ours["timeouts"] in said else f"{said} {ours['timeouts']}".strip()
            server["application_name"] = ours["application_name"]
            encryption = _encryption(parameters)
            for name in _LIBPQ_ONLY:
                parameters.pop(name, None)
            parameters["server_settings"] = server
            if encryption is not None:
                parameters.setdefault("ssl", encryption)


def _encryption(parameters: dict[str, Any]) -> Any | None:
    """asyncpg's ``ssl`` for libpq's ``sslmode`` and ``sslrootcert``."""
    mode, root = parameters.get("sslmode"), parameters.get("sslrootcert")
    if not root or root == "system" or mode not in ("verify-ca", "verify-full"):
        return ssl.create_default_context() if root == "system" else mode
    context = ssl.create_default_context(cafile=root)
    context.check_hostname = mode == "verify-full"
    return context


if __name__ == "__main__":
    converse(opened)
