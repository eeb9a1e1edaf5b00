"""Tenants on a Postgres server that is somebody else's: a database and its owner for each, and nothing more.

A project is a role and a database of the same name, ``tenant_`` and the uuid that its name ends with. The role's
comment says that the project is complete; without it, whatever is there is the beginning of one. The password of a
role is kept by nobody: it is derived from a key that only the fleet has (docs/decisions/0011). Must never touch a
database or a role that is not named so.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Final, LiteralString, NoReturn, cast

import psycopg
from psycopg import errors as pg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tenantry.errors import InvalidInput, NotFound, OperatorError, TenantryError, Unauthorized, Unavailable
from tenantry.fleet.providers.ports import (
    LIMIT_FEATURES,
    Feature,
    Health,
    Home,
    Limits,
    ListedProject,
    OperatorWay,
    ProviderEndpoint,
    ProviderProject,
    UsedOnDay,
    no_feature,
)
from tenantry.neon.ids import EndpointId, ProjectId, RegionId
from tenantry.postgres.dsn import DEFAULT_PORT, Dsn
from tenantry.postgres.scram import make_verifier

if TYPE_CHECKING:
    from tenantry.neon.client import NeonClient

PREFIX: Final = "tenant_"
KEY_CHARS_MIN: Final = 32
CONNECT_SECONDS_MAX: Final = 10
STATEMENT_SECONDS_MAX: Final = 120
"""Making and dropping a database copies and removes files."""
_NAME: Final = re.compile(r"tenant_[0-9a-f]{32}")
_MARK: Final = re.compile(r"\[([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\]$")
_KIND: Final = "plain Postgres"
_SCHEMES: Final = ("postgresql://", "postgres://")
_SEVERAL: Final = ("host", "port")
_SHARED: Final = (
    "hostaddr", "sslmode", "sslrootcert", "sslnegotiation", "channel_binding", "gssencmode",
    "target_session_attrs",
)  # fmt: skip
"""What a tenant's connection shares with the admin's."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a server's secret holds."""

    parameters: Mapping[str, str] = field(repr=False)
    """Of the admin's connection."""
    key: bytes = field(repr=False)
    """From which tenants' passwords are derived."""


def read_access(secret: str, provider: str) -> Access:
    """``postgresql://admin:...@host/postgres KEY``, in two words or lines. Raises InvalidInput without the text."""
    words = secret.split()
    if len(words) != 2 or not words[0].startswith(_SCHEMES) or len(words[1]) < KEY_CHARS_MIN:
        raise InvalidInput(
            f"the secret of provider {provider} is not an admin's postgresql:// URI and, on the next line, a key of at"
            f" least {KEY_CHARS_MIN} characters that tenants' passwords are derived from",
            next_step="make such a key with `openssl rand -hex 32`, and keep it for as long as there are tenants",
        )
    try:
        parsed = conninfo_to_dict(words[0])
    except psycopg.ProgrammingError:
        # Its text repeats what it could not read.
        raise InvalidInput(f"the secret of provider {provider} is not a URI that libpq reads") from None
    parameters = {name: str(value) for name, value in parsed.items() if value is not None}
    return Access({"dbname": "postgres", "connect_timeout": str(CONNECT_SECONDS_MAX), **parameters}, words[1].encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A role of ours, as far as it got."""

    name: str
    database: bool
    """Whether its database is there."""
    note: _Note | None
    """None: it was never completed."""

    @property
    def project_name(self) -> str:
        return f"[{uuid.UUID(self.name.removeprefix(PREFIX))}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Note:
    """What a complete role's comment says. Everybody on the server may read it."""

    created_at: datetime
    key: str
    """Which key its password was derived from: a fingerprint."""
    generation: int
    """How often it has had a new password."""

    def text(self) -> str:
        return json.dumps(
            {"created_at": self.created_at.isoformat(), "key": self.key, "generation": self.generation}, sort_keys=True
        )

    @classmethod
    def read(cls, text: str | None) -> _Note | None:
        try:
            said = cast("dict[str, Any]", json.loads(text or ""))
            return cls(
                created_at=datetime.fromisoformat(said["created_at"]),
                key=str(said["key"]),
                generation=int(said["generation"]),
            )
        except (ValueError, KeyError, TypeError):
            return None


class PlainPostgres:
    """See ``ports.Provider``. Every call has a connection of its own; threads may share it."""

    def __init__(self, access: Access, name: str) -> None:
        self._access = access
        self.name: Final = name
        self.features: Final[frozenset[Feature]] = frozenset()

    def check(self) -> Health:
        with self._session() as db:
            began = datetime.now(UTC)
            row = db.execute(
                """
                SELECT current_setting('server_version'), clock_timestamp(),
                    rolsuper OR rolcreatedb, rolsuper OR rolcreaterole, pg_is_in_recovery()
                FROM pg_roles WHERE rolname = current_user
                """
            ).fetchone()
            assert row is not None, "whoever is connected is a role"
            version, clock, creates_databases, creates_roles, standby = row
            here = began + (datetime.now(UTC) - began) / 2
            if standby:
                raise OperatorError(f"provider {self.name} is a standby, which takes no changes")
            if not (creates_databases and creates_roles):
                raise OperatorError(
                    f"the role that provider {self.name} is opened with may not make databases and roles",
                    next_step="ALTER ROLE ... CREATEDB CREATEROLE",
                )
            public = db.execute(
                """
                SELECT datname FROM pg_database
                WHERE datallowconn AND (datacl IS NULL OR datacl::text ~ '[{,]=[^,/]*c')
                ORDER BY datname
                """
            ).fetchall()
        ours = [name for (name,) in public if _NAME.fullmatch(name)]
        if ours:
            raise OperatorError(
                f"on provider {self.name} every role may connect to {', '.join(ours)}",
                next_step=f"REVOKE CONNECT ON DATABASE {ours[0]} FROM PUBLIC",
            )
        note = f"tenants' roles may connect to {', '.join(name for (name,) in public)}, as every role may"
        return Health(
            version=f"PostgreSQL {version}",
            regions=(),
            clock_seconds=(clock - here).total_seconds(),
            notes=[note] if public else [],
        )

    def find_projects(self, part_of_name: str) -> Sequence[ProviderProject]:
        with self._session() as db:
            return [self._project(db, found) for found in _find(db, part_of_name)]

    def list_projects(self) -> Iterator[ListedProject]:
        for project in self.find_projects("["):
            yield ListedProject(project=project, limits=Limits())

    def create_project(
        self, *, name: str, region: str | None, pg_version: int | None, limits: Limits | None = None
    ) -> tuple[ProviderProject, Home]:
        del region  # the server is where it is
        self._refuse_limits(limits or Limits())
        mark = _MARK.search(name)
        role = f"{PREFIX}{(uuid.UUID(mark[1]) if mark else uuid.uuid4()).hex}"
        with self._session() as db:
            if pg_version not in (None, _major(db)):
                raise InvalidInput(
                    f"provider {self.name} has Postgres {_major(db)}, not {pg_version}",
                    next_step="leave the version out, or choose another region",
                )
            self._complete(db, role)
            return self._project(db, _the_one(db, self.name, role)), _home(role)

    def rename_project(self, project_id: ProjectId, name: str) -> None:
        del name  # the uuid in it never changes, and no more is kept
        self.home(project_id)

    def home(self, project_id: ProjectId) -> Home:
        with self._session() as db:
            found = _the_one(db, self.name, project_id)
            if found.note is None:
                self._complete(db, found.name)
            elif not found.database:
                raise _gone(self.name, project_id)
        return _home(found.name)

    def endpoints(self, project_id: ProjectId) -> Sequence[ProviderEndpoint]:
        self.home(project_id)
        where = self._access.parameters
        return [
            ProviderEndpoint(
                id=EndpointId(project_id),
                host=f"{where.get('host', 'localhost')}:{where.get('port', '5432')}",
                state="active",
                suspend_timeout_seconds=None,
                cu_min=None,
                cu_max=None,
                last_active=None,
            )
        ]

    def connection_uri(self, project_id: ProjectId, home: Home, *, pooled: bool) -> str:
        if pooled:
            self._refuse("pooled")
        with self._session() as db:
            found = _the_one(db, self.name, project_id)
        if found.note is None or not found.database:
            raise _gone(self.name, project_id)
        if found.note.key != self._fingerprint():
            raise OperatorError(
                f"the password of {project_id} was derived from another key than the one that provider {self.name} has",
                next_step=f"put the old key back, or give new passwords: `tenantry provider rotate {self.name}`",
                project_id=project_id,
            )
        return self.uri(home.database_name, self._password(found.name, found.note.generation))

    def uri(self, name: str, password: str) -> str:
        """Of the role and database of this name, at the server where the admin's connection goes."""
        where = self._access.parameters
        # Several hosts have no other place in a URI that every driver reads, and one has none better than its own.
        several = "," in where.get("host", "") or "," in where.get("port", "")
        return Dsn(
            host="" if several else where.get("host", "localhost"),
            port=DEFAULT_PORT if several else int(where.get("port", DEFAULT_PORT)),
            database=name,
            role=name,
            password=password,
            parameters={name: where[name] for name in (*(_SEVERAL if several else ()), *_SHARED) if name in where},
        ).uri()

    def operator_uri(self, project_id: ProjectId, home: Home) -> str:
        return self.connection_uri(project_id, home, pooled=False)

    def operator_ways(self, homes: Mapping[ProjectId, Home]) -> Mapping[ProjectId, OperatorWay]:
        del homes  # one costs what one of many does
        return {}

    def new_password(self, project_id: ProjectId, home: Home) -> None:
        del home  # owner and database have one name
        with self._session() as db:
            found = _the_one(db, self.name, project_id)
            if found.note is None or not found.database:
                raise _gone(self.name, project_id)
            with db.transaction():
                self._set_password(db, found.name, found.note.created_at, found.note.generation + 1)

    def suspend_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> None:
        self._refuse("suspend")

    def start_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> None:
        self._refuse("suspend")

    def limits(self, project_id: ProjectId) -> Limits:
        self.home(project_id)
        return Limits()

    def change_limits(self, project_id: ProjectId, wanted: Limits) -> None:
        self._refuse_limits(wanted)
        self.home(project_id)

    def usage(self, since: date, until: date, projects: Sequence[ProjectId] | None = None) -> Iterator[UsedOnDay]:
        self._refuse("usage")

    def refuse_connections(self, project_id: ProjectId, refused: bool) -> None:
        with self._session() as db:
            found = _the_one(db, self.name, project_id)
            if not found.database:
                raise _gone(self.name, project_id)
            allow = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
            db.execute(allow.format(sql.Identifier(project_id), sql.SQL("false" if refused else "true")))
            if refused:
                db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [project_id])

    def delete_project(self, project_id: ProjectId, *, for_good: bool = False) -> bool:
        del for_good  # nothing is kept in any case
        if not _NAME.fullmatch(project_id):
            return False
        name = sql.Identifier(project_id)
        with self._session() as db:
            there = next(iter(_find(db, project_id, exact=True)), None)
            if there is None:
                return False
            # The role last: while it is there, what is left is found again.
            db.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
            db.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(name))
        return True

    def api(self, feature: Feature) -> NeonClient:
        self._refuse(feature)

    def close(self) -> None:
        """Holds no connection."""

    # -- making one whole ------------------------------------------------------------------------------------

    def _complete(self, db: psycopg.Connection, role: str) -> None:
        """Makes whatever is missing of a project. Nobody can connect to its database before it is closed to others."""
        name = sql.Identifier(role)
        db.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [role])
        found = next(iter(_find(db, role, exact=True)), None)
        if found is not None and found.note is not None:
            return
        if found is None:
            db.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
        self._join(db, name)
        if found is None or not found.database:
            # template0, because anybody may have put things into template1.
            make: LiteralString = "CREATE DATABASE {} OWNER {} TEMPLATE template0 ALLOW_CONNECTIONS false"
            db.execute(sql.SQL(make).format(name, name))
        with db.transaction():
            db.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))
            self._set_password(db, role, datetime.now(UTC), 1)
            db.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))

    def _join(self, db: psycopg.Connection, name: sql.Identifier) -> None:
        """An admin that is no superuser may only give a database to a role whose member it is."""
        row = db.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
        if row == (True,):
            return
        options = sql.SQL(" WITH INHERIT TRUE, SET TRUE" if _major(db) >= 16 else "")
        db.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(name) + options)

    def _set_password(self, db: psycopg.Connection, role: str, created_at: datetime, generation: int) -> None:
        """Password and comment; the caller's transaction. The server sees a verifier, so its log has no password."""
        note = _Note(created_at=created_at, key=self._fingerprint(), generation=generation)
        verifier = make_verifier(self._password(role, generation))
        name = sql.Identifier(role)
        db.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(name, sql.Literal(verifier)))
        db.execute(sql.SQL("COMMENT ON ROLE {} IS {}").format(name, sql.Literal(note.text())))

    def _password(self, role: str, generation: int) -> str:
        digest = hmac.digest(self._access.key, f"{role}:{generation}".encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    def _fingerprint(self) -> str:
        return hmac.digest(self._access.key, b"fingerprint", hashlib.sha256)[:4].hex()

    # -- asking ----------------------------------------------------------------------------------------------

    def _project(self, db: psycopg.Connection, found: _Found) -> ProviderProject:
        return ProviderProject(
            id=ProjectId(found.name),
            name=found.project_name,
            region=RegionId(self.name),
            pg_version=_major(db),
            created_at=datetime.now(UTC) if found.note is None else found.note.created_at,
        )

    def _refuse_limits(self, wanted: Limits) -> None:
        for each in fields(wanted):
            if getattr(wanted, each.name) is not None:
                self._refuse(LIMIT_FEATURES[each.name])

    def _refuse(self, feature: Feature) -> NoReturn:
        raise no_feature(self.name, _KIND, feature)

    @contextmanager
    def _session(self) -> Generator[psycopg.Connection]:
        """A connection of the admin's, in autocommit. Raises only our own errors."""
        try:
            # Keywords, so that no text with a password in it is ever put together.
            parameters = cast("dict[str, Any]", dict(self._access.parameters))
            with psycopg.connect(**parameters, autocommit=True, application_name="tenantry") as db:
                db.execute("SELECT set_config('statement_timeout', %s, false)", [f"{STATEMENT_SECONDS_MAX}s"])
                yield db
        except psycopg.Error as error:
            raise self._in_our_words(error) from error

    def _in_our_words(self, error: psycopg.Error) -> TenantryError:
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        match error:
            case pg.InsufficientPrivilege():
                return OperatorError(
                    f"provider {self.name} does not let its admin do this: {said}",
                    next_step=f"see `tenantry provider check {self.name}` for the rights that it needs",
                )
            case pg.DependentObjectsStillExist():
                return OperatorError(
                    f"provider {self.name}: {said}",
                    next_step=f"drop or give away what it owns elsewhere: {error.diag.message_detail}",
                )
            case psycopg.OperationalError() if "authentication failed" in str(error) or "pg_hba.conf" in str(error):
                return Unauthorized(f"provider {self.name} does not let its admin in: {said}")
            case psycopg.OperationalError() | psycopg.InterfaceError():
                return Unavailable(f"provider {self.name} does not answer: {said}", next_step="see that it runs")
            case _:
                return OperatorError(f"provider {self.name} refuses this: {said}", sqlstate=error.sqlstate)


def _find(db: psycopg.Connection, part: str, *, exact: bool = False) -> list[_Found]:
    """Our roles whose name, or whose uuid in brackets, contains the text."""
    rows = db.execute(
        """
        SELECT rolname, datname IS NOT NULL, shobj_description(pg_roles.oid, 'pg_authid')
        FROM pg_roles LEFT JOIN pg_database ON datname = rolname
        WHERE rolname ~ '^tenant_[0-9a-f]{32}$' AND (rolname = %(exact)s OR %(exact)s IS NULL)
        ORDER BY rolname
        """,
        {"exact": part if exact else None},
    ).fetchall()
    found = [_Found(name=name, database=there, note=_Note.read(comment)) for name, there, comment in rows]
    return [each for each in found if exact or part in each.project_name]


def _the_one(db: psycopg.Connection, provider: str, name: str) -> _Found:
    found = _find(db, name, exact=True) if _NAME.fullmatch(name) else []
    if not found:
        raise _gone(provider, name)
    return found[0]


def _gone(provider: str, name: str) -> NotFound:
    return NotFound(f"provider {provider} has no project {name}", project_id=name)


def _home(name: str) -> Home:
    return Home(database_name=name, role_name=name)


def _major(db: psycopg.Connection) -> int:
    return db.info.server_version // 10_000
