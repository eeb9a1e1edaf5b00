"""Restore a backup into a project, a branch of one, or a database: roles, databases, rows, then settings and grants.

What is restored is counted and compared with what was dumped before it is called restored. A target that holds
anything already is refused: nothing is ever written over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psycopg

from tenantry.errors import Conflict, DamagedBackup, InvalidInput, NotFound, TenantryError
from tenantry.fleet.backups import questions, restore_sql
from tenantry.fleet.backups.contents import DatabaseContents, count_large_objects, count_tables
from tenantry.fleet.backups.load import load_dump
from tenantry.fleet.backups.opened import OpenedBackup
from tenantry.fleet.backups.programs import clients, fitting
from tenantry.fleet.backups.reach import connect, dsn_of, in_our_words, way_to
from tenantry.fleet.backups.restore_sql import Step
from tenantry.fleet.providers.ports import Home, Provider
from tenantry.neon.ids import BranchId, ProjectId
from tenantry.runtime.failpoints import failpoint

if TYPE_CHECKING:
    from tenantry.neon.client import NeonClient

NOTES_MAX: Final = 200


@dataclass(slots=True)
class Restored:
    """What came of it. ``notes``: what is not as it was, each with its reason."""

    databases: list[str] = field(default_factory=list[str])
    tables: int = 0
    rows: int = 0
    notes: list[str] = field(default_factory=list[str])

    def note(self, text: str) -> None:
        if len(self.notes) < NOTES_MAX:
            self.notes.append(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where to restore into. ``uri_of`` gives the connection string, a secret, of a database there by its name."""

    home: Home
    uri_of: Callable[[str], str] = field(repr=False)
    make_database: Callable[[str, str], None] | None = None
    """By name and owner, where SQL is not the way. None: one database is all there is."""
    make_role: Callable[[str], None] | None = None
    """Where SQL may make none."""
    whole: bool = True
    """A cluster of the tenant's own: roles, settings and further databases come along."""
    tls_ca: Path | None = None


def target_of_project(
    provider: Provider, project_id: ProjectId, home: Home, *, branch_id: BranchId | None = None, tls_ca: Path | None
) -> Target:
    """A project's default branch, or another one, where the provider has branches; else the one database."""
    if "branches" not in provider.features:
        return Target(home=home, uri_of=lambda _: provider.operator_uri(project_id, home), whole=False, tls_ca=tls_ca)
    client = provider.api("branches")
    branch = branch_id or _default_branch(client, project_id)

    def make_database(name: str, owner: str) -> None:
        made = client.create_database(project_id, branch, name=name, owner_name=owner)
        client.wait_for_operations(project_id, made.operations)

    def make_role(name: str) -> None:
        made = client.create_role(project_id, branch, name=name)
        client.wait_for_operations(project_id, made.operations)

    def uri_of(database: str) -> str:
        return client.operator_uri(
            project_id,
            database_name=database,
            role_name=home.role_name,
            branch_id=None if branch_id is None else branch,
        )

    return Target(home=home, uri_of=uri_of, make_database=make_database, make_role=make_role, tls_ca=tls_ca)


def _default_branch(client: NeonClient, project_id: ProjectId) -> BranchId:
    for branch in client.branches(project_id):
        if branch.default:
            return BranchId(branch.id)
    raise NotFound(f"project {project_id} has no default branch", project_id=project_id)


def target_of_dsn(uri: str, *, tls_ca: Path | None) -> Target:
    """One database somewhere, by its connection string. Raises InvalidInput without the text."""
    dsn = dsn_of(uri)
    home = Home(database_name=dsn.database, role_name=dsn.role)
    return Target(home=home, uri_of=lambda _: uri, whole=False, tls_ca=tls_ca)


def restore_into(backup: OpenedBackup, target: Target, *, tables: Sequence[str] = ()) -> Restored:
    """``tables`` (schema.table) are all that is restored, of the tenant's own database, where some are named.

    Raises TenantryError; then the target may hold a part, and is to be thrown away, or nothing where it is one
    database.
    """
    done = Restored()
    home = next(each for each in backup.contents.databases if each.name == backup.contents.home)
    chosen = _chosen(home, tables)
    with way_to(target.uri_of(target.home.database_name), target.tls_ca) as dsn, connect(dsn) as session:
        try:
            if not chosen:
                _refuse_full(session, target.home.database_name)
            major = session.info.server_version // 10_000
            same_owner = target.home.role_name == backup.contents.owner
            roles: set[str] = set()
            if target.whole and not chosen:
                roles = _make_roles(backup, target, session, major, done)
            failpoint("restore.roles")
            _load(backup, home, target, target.home.database_name, done, chosen=chosen, owners=same_owner, major=major)
            if not target.whole or chosen:
                _name_what_is_left(backup, done, chosen=chosen)
                return done
            names = {home.name: target.home.database_name}
            for database in backup.contents.databases:
                if database.name == home.name:
                    continue
                assert target.make_database is not None
                known = roles | {target.home.role_name}
                target.make_database(
                    database.name, database.owner if database.owner in known else target.home.role_name
                )
                names[database.name] = database.name
                _load(backup, database, target, database.name, done, owners=same_owner, major=major)
            _finish(backup, session, names, roles, major, done)
        except psycopg.Error as error:
            raise in_our_words(error, f"restoring into {target.home.database_name} failed") from error
    return done


def _chosen(home: DatabaseContents, tables: Sequence[str]) -> list[str]:
    """The tables as the server quotes them. Raises NotFound."""
    found: list[str] = []
    for wanted in tables:
        name = wanted if "." in wanted else f"public.{wanted}"
        match = next((each for each in home.tables if each in (wanted, name) or each.replace('"', "") == name), None)
        if match is None:
            near = ", ".join(list(home.tables)[:20])
            raise NotFound(f"the backup has no table {wanted}", next_step=f"it has {near}" if near else "it has none")
        found.append(match)
    return found


def _refuse_full(session: psycopg.Connection, database: str) -> None:
    there = session.execute(questions.TABLES, [1]).fetchone()
    if there is not None or count_large_objects(session):
        raise Conflict(
            f"the database {database} is not empty: it has {f'a table {there[0]}' if there else 'large objects'}",
            next_step="restore into a new one; nothing is written over",
        )


def _make_roles(
    backup: OpenedBackup, target: Target, session: psycopg.Connection, major: int, done: Restored
) -> set[str]:
    """Those of the backup that are there afterwards, the owner of everything not among them."""
    there = {
        name
        for (name,) in session.execute(
            questions.ROLES_THERE, [[role.name for role in backup.contents.roles]]
        ).fetchall()
    }
    made: set[str] = set()
    for role in backup.contents.roles:
        if role.name in (target.home.role_name, backup.contents.owner):
            continue
        if role.name not in there and not _make_role(session, target, role, done):
            continue
        made.add(role.name)
        _try(
            session, Step(restore_sql.become_member(role.name, major), f"objects of role {role.name}"), done, quiet=True
        )
    return made


def _make_role(session: psycopg.Connection, target: Target, role: restore_sql.Role, done: Restored) -> bool:
    if _try(session, restore_sql.create_role(role), done, quiet=True):
        return True
    if _try(session, restore_sql.create_plain_role(role), done, quiet=True):
        done.note(f"role {role.name} is there without those attributes that may not be given here")
        return True
    if target.make_role is not None:
        try:
            target.make_role(role.name)
        except TenantryError as error:
            done.note(f"role {role.name} is not there: {error.message}")
            return False
        done.note(f"role {role.name} has a new password, and the attributes that the provider gives")
        return True
    done.note(f"role {role.name} is not there: the target lets nobody make it")
    return False


def _load(
    backup: OpenedBackup, database: DatabaseContents, target: Target, name: str, done: Restored, *,
    chosen: Collection[str] = (), owners: bool, major: int,
) -> None:  # fmt: skip
    client = fitting(clients(), max(major, backup.manifest.client_major))
    options = [] if owners and target.whole else ["--no-owner", "--no-privileges"]
    if not owners and target.whole:
        done.note(
            f"everything in {name} belongs to {target.home.role_name}, which is called otherwise than its owner was"
        )
    dump = backup.manifest.dump_of(database.name)
    with way_to(target.uri_of(name), target.tls_ca) as dsn:
        if chosen:
            with connect(dsn) as session:
                options += _options_of(session, chosen)
        for warning in load_dump(client, backup.read(dump), dsn, server_major=major, options=options):
            done.note(warning)
        failpoint("restore.loaded")
    # Asked for anew: what it was loaded by may have run out meanwhile.
    with way_to(target.uri_of(name), target.tls_ca) as dsn, connect(dsn) as session:
        session.execute(questions.BEGIN)
        found = count_tables(session)
        large_objects = count_large_objects(session)
    wanted = {table: count for table, count in database.tables.items() if not chosen or table in chosen}
    wrong = [table for table, count in wanted.items() if found.get(table) != count]
    if wrong:
        first = wrong[0]
        raise DamagedBackup(
            f"{name} is not what was backed up: {first} has {found.get(first, 'no')} rows, not {wanted[first]}"
            + (f", and {len(wrong) - 1} more tables differ" if len(wrong) > 1 else ""),
            next_step="restore from another backup, and report this",
        )
    if not chosen and database.large_objects not in (None, large_objects):
        raise DamagedBackup(
            f"{name} is not what was backed up: it has {large_objects} large objects, not {database.large_objects}",
            next_step="restore from another backup, and report this",
        )
    done.databases.append(name)
    done.tables += len(wanted)
    done.rows += sum(wanted.values())


def _options_of(session: psycopg.Connection, chosen: Collection[str]) -> list[str]:
    """Tables that are there get their rows, those that are not are made. Raises Conflict for a mixture."""
    there = {table: session.execute(questions.TABLE_THERE, [table]).fetchone() == (True,) for table in chosen}
    if len(set(there.values())) > 1:
        raise Conflict(
            "some of the tables are there and some are not",
            next_step="restore those first that are not, then the others",
        )
    for table in chosen:
        if there[table] and session.execute(questions.count_rows([table]).encode()).fetchone() != (0, 0):
            raise Conflict(f"{table} has rows; nothing is written over", next_step="rename or empty it first")
    options = ["--data-only"] if all(there.values()) else []
    for table in chosen:
        schema, _, name = _parts(table)
        options += [f"--schema={schema}", f"--table={name}"]
    return options


def _parts(table: str) -> tuple[str, str, str]:
    """Schema and table, without quotes. Pure."""
    words: list[str] = [""]
    quoted = False
    for letter in table:
        if letter == '"':
            quoted = not quoted
        elif letter == "." and not quoted:
            words.append("")
        else:
            words[-1] += letter
    if len(words) != 2:
        raise InvalidInput(f"{table} is not schema.table")
    return words[0], ".", words[1]


def _name_what_is_left(backup: OpenedBackup, done: Restored, *, chosen: Collection[str]) -> None:
    if chosen:
        done.note("indexes, constraints and whatever refers to the tables were left out")
        return
    others = [each.name for each in backup.contents.databases if each.name != backup.contents.home]
    if others:
        done.note(f"the target is one database; left out: {', '.join(others)}")
    done.note("roles, grants and settings were left out: the target is one database")


def _finish(
    backup: OpenedBackup, session: psycopg.Connection, names: dict[str, str], roles: set[str], major: int,
    done: Restored,
) -> None:  # fmt: skip
    contents = backup.contents
    for step in restore_sql.memberships(contents, roles, major):
        _try(session, step, done)
    for step in restore_sql.settings(contents, names):
        _try(session, step, done)
    for database in contents.databases:
        for step in restore_sql.grants(contents, database, names[database.name]):
            _try(session, step, done)
        for step in restore_sql.properties(database, names[database.name]):
            _try(session, step, done)
    for step in restore_sql.role_comments(contents, roles):
        _try(session, step, done)
    had = {each.role for each in contents.memberships if each.member == contents.owner}
    for role in roles - had:
        _try(session, Step(restore_sql.leave(role), f"leaving role {role}"), done, quiet=True)
    for left in backup.manifest.withheld:
        done.note(f"not in the backup: {left}")


def _try(session: psycopg.Connection, step: Step, done: Restored, *, quiet: bool = False) -> bool:
    try:
        session.execute(step.statement)
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        if not quiet:
            done.note(f"{step.what} could not be given: {error.diag.message_primary}")
        return False
    return True
