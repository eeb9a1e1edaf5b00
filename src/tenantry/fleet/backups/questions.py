"""All SQL of ours that asks tenants for their backups; names with ``pg_catalog``, whatever the tenant has called so.

Only names are asked for that the caller has: on a shared server there are roles and databases of others.
"""

from __future__ import annotations

from typing import Final, LiteralString

BEGIN: Final[LiteralString] = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
EXPORT: Final[LiteralString] = "SELECT pg_catalog.pg_export_snapshot(), pg_catalog.current_setting('server_version')"
NEXT_TRANSACTION: Final[LiteralString] = "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text"
"""The same at two moments: nothing was written in between, by anybody in any database."""
OTHERS: Final[LiteralString] = """\
SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity AS a
LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = a.usesysid
WHERE a.backend_type = 'client backend' AND a.pid <> pg_catalog.pg_backend_pid() AND NOT r.rolsuper"""
"""Sessions of anybody else; those of superusers are the provider's."""

ROLES: Final[LiteralString] = """\
SELECT r.rolname, r.rolcanlogin, r.rolinherit, r.rolcreatedb, r.rolcreaterole, r.rolbypassrls, r.rolreplication,
    r.rolconnlimit, r.rolvaliduntil::text, pg_catalog.shobj_description(r.oid, 'pg_authid')
FROM pg_catalog.pg_roles AS r WHERE r.rolname = ANY (%s) ORDER BY r.rolname"""
MEMBERSHIPS: Final[LiteralString] = """\
SELECT g.rolname, m.rolname, b.rolname, a.admin_option,
    (pg_catalog.to_jsonb(a) ->> 'inherit_option')::boolean, (pg_catalog.to_jsonb(a) ->> 'set_option')::boolean
FROM pg_catalog.pg_auth_members AS a
JOIN pg_catalog.pg_roles AS g ON g.oid = a.roleid
JOIN pg_catalog.pg_roles AS m ON m.oid = a.member
LEFT JOIN pg_catalog.pg_roles AS b ON b.oid = a.grantor
WHERE m.rolname = ANY (%s) ORDER BY 1, 2, 3"""
"""The options are there from 16 on."""
SETTINGS: Final[LiteralString] = """\
SELECT d.datname, r.rolname, s.setconfig
FROM pg_catalog.pg_db_role_setting AS s
LEFT JOIN pg_catalog.pg_database AS d ON d.oid = s.setdatabase
LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = s.setrole
WHERE (s.setdatabase, s.setrole) <> (0, 0)
    AND (s.setdatabase = 0 OR d.datname = ANY (%s)) AND (s.setrole = 0 OR r.rolname = ANY (%s))
ORDER BY 1 NULLS FIRST, 2 NULLS FIRST"""
DATABASES: Final[LiteralString] = """\
SELECT d.datname, o.rolname, pg_catalog.pg_encoding_to_char(d.encoding), d.datcollate, d.datctype,
    pg_catalog.to_jsonb(d) ->> 'datlocprovider',
    coalesce(pg_catalog.to_jsonb(d) ->> 'datlocale', pg_catalog.to_jsonb(d) ->> 'daticulocale'),
    d.datconnlimit, pg_catalog.shobj_description(d.oid, 'pg_database'), pg_catalog.pg_database_size(d.oid)
FROM pg_catalog.pg_database AS d JOIN pg_catalog.pg_roles AS o ON o.oid = d.datdba
WHERE d.datname = ANY (%s) AND d.datallowconn AND NOT d.datistemplate ORDER BY d.datname"""
DATABASE_GRANTS: Final[LiteralString] = """\
SELECT d.datname, g.rolname, x.privilege_type, x.is_grantable
FROM pg_catalog.pg_database AS d
CROSS JOIN LATERAL pg_catalog.aclexplode(d.datacl) AS x
LEFT JOIN pg_catalog.pg_roles AS g ON g.oid = x.grantee
WHERE d.datname = ANY (%s) AND x.grantee <> d.datdba AND (x.grantee = 0 OR g.rolname IS NOT NULL)
ORDER BY 1, 2 NULLS FIRST, 3"""
"""A grantee that is NULL is everybody."""
WITHOUT_DEFAULT_GRANTS: Final[LiteralString] = (
    "SELECT d.datname FROM pg_catalog.pg_database AS d WHERE d.datname = ANY (%s) AND d.datacl IS NOT NULL"
)
"""Databases whose grants were changed: what everybody may is what is written, and no more."""

TABLES_MAX: Final = 50_000
"""Tables that are counted; a tenant with more is refused, so that nobody believes what was not looked at."""
TABLES: Final[LiteralString] = """\
SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname)
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't'
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND n.nspname !~ '^pg_temp_'
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS e WHERE e.classid = 'pg_catalog.pg_class'::regclass
        AND e.objid = c.oid AND e.deptype = 'e')
ORDER BY 1 LIMIT %s"""
"""Tables with rows of their own. Those of extensions come with the extension."""
COUNTED_AT_ONCE: Final = 100


def count_rows(tables: list[str]) -> str:
    """Names as the server has quoted them; the counts come in the same order."""
    return "\nUNION ALL\n".join(
        f"SELECT {number}, pg_catalog.count(*) FROM ONLY {table}"  # noqa: S608 - quoted by the server
        for number, table in enumerate(tables)
    )


LARGE_OBJECTS: Final[LiteralString] = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_largeobject_metadata"
CLOSED_LARGE_OBJECTS: Final[LiteralString] = """\
SELECT pg_catalog.count(*) OVER (), m.oid::bigint, o.rolname
FROM pg_catalog.pg_largeobject_metadata AS m JOIN pg_catalog.pg_roles AS o ON o.oid = m.lomowner
WHERE NOT pg_catalog.pg_has_role(m.lomowner, 'USAGE')
    AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(m.lomacl) AS x WHERE x.privilege_type = 'SELECT'
        AND (x.grantee = 0 OR pg_catalog.pg_has_role(x.grantee, 'USAGE')))
ORDER BY m.oid LIMIT 1"""
"""Those that the session's role may not read. Whoever may read all tables may not read these."""

SUBSCRIPTIONS: Final[LiteralString] = """\
SELECT s.subname FROM pg_catalog.pg_subscription AS s JOIN pg_catalog.pg_database AS d ON d.oid = s.subdbid
WHERE d.datname = pg_catalog.current_database() ORDER BY 1 LIMIT 100"""
"""pg_dump leaves them out for somebody who is no superuser."""

# Of a target that something is restored into.
ROLES_THERE: Final[LiteralString] = "SELECT rolname FROM pg_catalog.pg_roles WHERE rolname = ANY (%s)"
TABLE_THERE: Final[LiteralString] = "SELECT pg_catalog.to_regclass(%s::text) IS NOT NULL"
