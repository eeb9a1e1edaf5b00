"""The statements that bring back what lies outside of databases: roles, memberships, settings, grants. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final, LiteralString

from psycopg import sql

from tenantry.fleet.backups.contents import Contents, DatabaseContents, Role
from tenantry.fleet.backups.ports import ROLES_OF_PROVIDERS


@dataclass(frozen=True, slots=True)
class Step:
    """One statement, and what cannot be had without it."""

    statement: sql.Composed
    what: str


def create_role(role: Role) -> Step:
    """REPLICATION is nothing that a tenant may give."""
    words: list[LiteralString] = [
        "LOGIN" if role.can_login else "NOLOGIN",
        "INHERIT" if role.inherits else "NOINHERIT",
        "CREATEDB" if role.creates_databases else "NOCREATEDB",
        "CREATEROLE" if role.creates_roles else "NOCREATEROLE",
        "BYPASSRLS" if role.bypasses_rls else "NOBYPASSRLS",
    ]
    made = sql.SQL("CREATE ROLE {} {}").format(sql.Identifier(role.name), sql.SQL(" ").join(map(sql.SQL, words)))
    if role.connections_max >= 0:
        made += sql.SQL(" CONNECTION LIMIT {}").format(sql.Literal(role.connections_max))
    if role.valid_until is not None:
        made += sql.SQL(" VALID UNTIL {}").format(sql.Literal(role.valid_until))
    if role.verifier is not None:
        made += sql.SQL(" PASSWORD {}").format(sql.Literal(role.verifier))
    return Step(made, f"role {role.name}")


def create_plain_role(role: Role) -> Step:
    """With those attributes alone that anybody who makes roles may give."""
    made = sql.SQL("CREATE ROLE {} {}").format(
        sql.Identifier(role.name), sql.SQL("LOGIN" if role.can_login else "NOLOGIN")
    )
    if role.verifier is not None:
        made += sql.SQL(" PASSWORD {}").format(sql.Literal(role.verifier))
    return Step(made, f"role {role.name}")


def become_member(role: str, major: int) -> sql.Composed:
    options = sql.SQL(" WITH INHERIT TRUE, SET TRUE" if major >= 16 else "")
    return sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(role)) + options


def leave(role: str) -> sql.Composed:
    return sql.SQL("REVOKE {} FROM CURRENT_USER").format(sql.Identifier(role))


def memberships(contents: Contents, roles: Collection[str], major: int) -> Iterator[Step]:
    for each in contents.memberships:
        if each.member not in roles or each.role in ROLES_OF_PROVIDERS:
            continue  # what a role has of its provider it has by being made
        grant = sql.SQL("GRANT {} TO {}").format(sql.Identifier(each.role), sql.Identifier(each.member))
        if major >= 16:
            grant += sql.SQL(" WITH ADMIN {}, INHERIT {}, SET {}").format(
                sql.Literal(each.admin), sql.Literal(each.inherit is not False), sql.Literal(each.set is not False)
            )
        elif each.admin:
            grant += sql.SQL(" WITH ADMIN OPTION")
        yield Step(grant, f"membership of {each.member} in {each.role}")


def settings(contents: Contents, databases: dict[str, str]) -> Iterator[Step]:
    """``databases``: what those that were restored are called now."""
    for each in contents.settings:
        if each.database is not None and each.database not in databases:
            continue
        if each.role is None:
            assert each.database is not None
            start = sql.SQL("ALTER DATABASE {} ").format(sql.Identifier(databases[each.database]))
            whose = f"database {each.database}"
        else:
            start = sql.SQL("ALTER ROLE {} ").format(sql.Identifier(each.role))
            whose = f"role {each.role}"
            if each.database is not None:
                start += sql.SQL("IN DATABASE {} ").format(sql.Identifier(databases[each.database]))
        for setting in each.settings:
            name, _, value = setting.partition("=")
            # A list is set as its parts: one text would be one name with commas in it.
            parts = [part.strip().strip('"') for part in value.split(",")] if name in _LISTS else [value]
            made = sql.SQL("SET {} = {}").format(
                sql.SQL(".").join(sql.Identifier(part) for part in name.split(".")),
                sql.SQL(", ").join(sql.Literal(part) for part in parts),
            )
            yield Step(start + made, f"setting {name} of {whose}")


_LISTS: Final = frozenset(
    {
        "search_path",
        "DateStyle",
        "datestyle",
        "temp_tablespaces",
        "session_preload_libraries",
        "local_preload_libraries",
    }
)


def grants(contents: Contents, database: DatabaseContents, name: str) -> Iterator[Step]:
    if database.default_grants:
        return
    target = sql.Identifier(name)
    what = f"grants on database {database.name}"
    yield Step(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(target), what)
    for each in contents.grants:
        if each.database != database.name or each.grantee in ROLES_OF_PROVIDERS or each.privilege not in _PRIVILEGES:
            continue
        to = sql.SQL("PUBLIC") if each.grantee is None else sql.Identifier(each.grantee)
        made = sql.SQL("GRANT {} ON DATABASE {} TO {}").format(sql.SQL(_PRIVILEGES[each.privilege]), target, to)
        yield Step(made + sql.SQL(" WITH GRANT OPTION" if each.grantable else ""), what)


_PRIVILEGES: Final[dict[str, LiteralString]] = {"CREATE": "CREATE", "TEMPORARY": "TEMPORARY", "CONNECT": "CONNECT"}


def properties(database: DatabaseContents, name: str) -> Iterator[Step]:
    if database.comment is not None:
        made = sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(name), sql.Literal(database.comment))
        yield Step(made, f"comment on database {database.name}")
    if database.connections_max >= 0:
        made = sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(
            sql.Identifier(name), sql.Literal(database.connections_max)
        )
        yield Step(made, f"connection limit of database {database.name}")


def role_comments(contents: Contents, roles: Collection[str]) -> Iterator[Step]:
    for role in contents.roles:
        if role.comment is not None and role.name in roles:
            made = sql.SQL("COMMENT ON ROLE {} IS {}").format(sql.Identifier(role.name), sql.Literal(role.comment))
            yield Step(made, f"comment on role {role.name}")
