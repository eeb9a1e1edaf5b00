"""What a tenant's schema is, as rows of name and definition: the questions to pg_catalog behind a fingerprint.

Each question answers for one kind of object. None of the answers depends on OIDs, on the order in which things were
made, or on what the owner is called: the database's owner is always ``owner``. Extensions count as such and by their
version, not by what they hold; the ledgers of migration tools do not count.

``search_path`` is empty meanwhile, so that every name in an answer has its schema.
"""

# ruff: noqa: S608 - the questions are put together from constants of this file alone
from __future__ import annotations

from typing import Final, LiteralString

ROWS_MAX: Final = "50000"
"""Objects of one kind that are read from a tenant."""
DEFINITION_LENGTH_MAX: Final = "100000"
"""Characters of one definition: a function's body may have any length."""

SETTINGS: Final[LiteralString] = """
    SELECT pg_catalog.set_config(name, value, true) FROM (VALUES
        ('search_path', ''), ('datestyle', 'ISO, YMD'), ('intervalstyle', 'postgres'), ('timezone', 'UTC'),
        ('bytea_output', 'hex'), ('extra_float_digits', '1'), ('quote_all_identifiers', 'off'),
        ('standard_conforming_strings', 'on'), ('xmloption', 'content')
    ) AS wanted(name, value)
"""
MAJOR: Final[LiteralString] = "SELECT pg_catalog.current_setting('server_version_num')::int / 10000"

# Of what is left out: the schemas of the system and ours, what belongs to an extension, and the ledgers of tools.
_SCHEMAS: Final[LiteralString] = """
    n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'tenantry')
    AND n.nspname !~ '^pg_(temp|toast_temp)_'
"""
_LEDGERS: Final[LiteralString] = "(n.nspname || '.' || c.relname) <> ALL (%(ledgers)s::text[])"


def _not_of_extension(catalog: LiteralString, oid: LiteralString) -> LiteralString:
    return (
        "NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog."
        + catalog
        + "'::pg_catalog.regclass AND d.objid = "
        + oid
        + " AND d.deptype = 'e')"
    )


_ROLE: Final[LiteralString] = """
    CASE WHEN {0} = 0 THEN 'public'
         WHEN {0} = (SELECT datdba FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
         THEN 'owner' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid({0})) END
"""


def _role(oid: LiteralString) -> LiteralString:
    return _ROLE.replace("{0}", oid)


_TABLE_NAME: Final[LiteralString] = "pg_catalog.format('%%I.%%I', n.nspname, c.relname)"
_REAL_TABLES: Final[LiteralString] = (
    _SCHEMAS + " AND " + _LEDGERS + " AND c.relkind IN ('r', 'p', 'f') AND " + _not_of_extension("pg_class", "c.oid")
)

_SCHEMA: Final[LiteralString] = (
    """
    SELECT pg_catalog.quote_ident(n.nspname), 'create schema ' || pg_catalog.quote_ident(n.nspname)
    FROM pg_catalog.pg_namespace n
    WHERE n.nspname <> ALL (%(ledger_schemas)s::text[]) AND """
    + _SCHEMAS
    + " AND "
    + _not_of_extension("pg_namespace", "n.oid")
)

_EXTENSION: Final[LiteralString] = """
    SELECT pg_catalog.quote_ident(e.extname),
        pg_catalog.format('create extension %%I with schema %%I version %%L', e.extname, n.nspname, e.extversion)
    FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
"""

_TABLE: Final[LiteralString] = (
    """
    SELECT """
    + _TABLE_NAME
    + """,
        pg_catalog.concat('create ', CASE c.relpersistence WHEN 'u' THEN 'unlogged ' END,
            CASE c.relkind WHEN 'f' THEN 'foreign ' END, 'table ', """
    + _TABLE_NAME
    + """,
            CASE WHEN c.reloftype <> 0 THEN ' of ' || pg_catalog.format_type(c.reloftype, NULL) END,
            CASE WHEN c.relispartition THEN ' partition of ' || (
                    SELECT i.inhparent::pg_catalog.regclass::text FROM pg_catalog.pg_inherits i
                    WHERE i.inhrelid = c.oid
                ) || ' ' || pg_catalog.pg_get_expr(c.relpartbound, c.oid)
                ELSE (SELECT ' inherits (' || pg_catalog.string_agg(i.inhparent::pg_catalog.regclass::text, ', '
                        ORDER BY i.inhparent::pg_catalog.regclass::text COLLATE "C") || ')'
                    FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid) END,
            CASE WHEN c.relkind = 'p' THEN ' partition by ' || pg_catalog.pg_get_partkeydef(c.oid) END,
            CASE WHEN m.amname <> 'heap' THEN ' using ' || pg_catalog.quote_ident(m.amname) END,
            CASE WHEN s.srvname IS NOT NULL THEN ' server ' || pg_catalog.quote_ident(s.srvname) END)
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_catalog.pg_am m ON m.oid = c.relam
    LEFT JOIN pg_catalog.pg_foreign_table f ON f.ftrelid = c.oid
    LEFT JOIN pg_catalog.pg_foreign_server s ON s.oid = f.ftserver
    WHERE """
    + _REAL_TABLES
)

_TABLE_SETTING: Final[LiteralString] = (
    """
    SELECT name || '.' || what, 'alter table ' || name || ' ' || what FROM (
        SELECT """
    + _TABLE_NAME
    + """ AS name, unnest(ARRAY[
            CASE WHEN c.relrowsecurity THEN 'enable row level security' END,
            CASE WHEN c.relforcerowsecurity THEN 'force row level security' END,
            CASE c.relreplident WHEN 'n' THEN 'replica identity nothing' WHEN 'f' THEN 'replica identity full'
                WHEN 'i' THEN 'replica identity using index ' || (SELECT pg_catalog.quote_ident(x.relname)
                    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
                    WHERE i.indrelid = c.oid AND i.indisreplident) END,
            (SELECT 'cluster on ' || pg_catalog.quote_ident(x.relname) FROM pg_catalog.pg_index i
                JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = c.oid AND i.indisclustered)
        ] || (SELECT pg_catalog.array_agg('set (' || o || ')') FROM unnest(c.reloptions) o)) AS what
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE """
    + _REAL_TABLES
    + """
    ) settings WHERE what IS NOT NULL
"""
)

_COLUMN: Final[LiteralString] = (
    """
    SELECT """
    + _TABLE_NAME
    + """ || '.' || pg_catalog.quote_ident(a.attname),
        pg_catalog.concat('alter table ', """
    + _TABLE_NAME
    + """, ' add column ', pg_catalog.quote_ident(a.attname), ' ', pg_catalog.format_type(a.atttypid, a.atttypmod),
            CASE WHEN a.attcollation <> t.typcollation THEN ' collate ' || (
                SELECT pg_catalog.format('%%I.%%I', cn.nspname, co.collname) FROM pg_catalog.pg_collation co
                JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace WHERE co.oid = a.attcollation) END,
            CASE WHEN a.attstorage <> t.typstorage THEN ' storage ' || CASE a.attstorage
                WHEN 'p' THEN 'plain' WHEN 'e' THEN 'external' WHEN 'm' THEN 'main' ELSE 'extended' END END,
            CASE a.attcompression WHEN 'p' THEN ' compression pglz' WHEN 'l' THEN ' compression lz4' END,
            CASE WHEN a.attidentity <> '' THEN pg_catalog.concat(' generated ',
                CASE a.attidentity WHEN 'a' THEN 'always' ELSE 'by default' END, ' as identity', (
                    SELECT pg_catalog.concat(' (',
                        CASE WHEN q.seqstart <> 1 THEN 'start ' || q.seqstart || ' ' END, 'increment ', q.seqincrement,
                        ' minvalue ', q.seqmin, ' maxvalue ', q.seqmax, ' cache ', q.seqcache,
                        CASE WHEN q.seqcycle THEN ' cycle' END, ')')
                    FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_sequence q ON q.seqrelid = d.objid
                    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'i'
                        AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = a.attrelid
                        AND d.refobjsubid = a.attnum)) END,
            CASE a.attgenerated
                WHEN 's' THEN ' generated always as (' || pg_catalog.pg_get_expr(e.adbin, e.adrelid) || ') stored'
                WHEN 'v' THEN ' generated always as (' || pg_catalog.pg_get_expr(e.adbin, e.adrelid) || ') virtual'
                ELSE ' default ' || pg_catalog.pg_get_expr(e.adbin, e.adrelid) END,
            CASE WHEN a.attnotnull THEN ' not null' END)
    FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_catalog.pg_attrdef e ON e.adrelid = a.attrelid AND e.adnum = a.attnum
    WHERE a.attnum > 0 AND NOT a.attisdropped AND """
    + _REAL_TABLES
)

# Since 18 a NOT NULL is a constraint too; here it is the column's. What a partition has from its parent is not its own.
_CONSTRAINT: Final[LiteralString] = (
    """
    SELECT """
    + _TABLE_NAME
    + """ || '.' || pg_catalog.quote_ident(k.conname),
        pg_catalog.concat('alter table ', """
    + _TABLE_NAME
    + """, ' add constraint ', pg_catalog.quote_ident(k.conname), ' ', pg_catalog.pg_get_constraintdef(k.oid))
    FROM pg_catalog.pg_constraint k
    JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE k.contype IN ('c', 'f', 'p', 'u', 'x') AND k.conparentid = 0 AND """
    + _REAL_TABLES
)

_INDEX: Final[LiteralString] = (
    """
    SELECT pg_catalog.format('%%I.%%I', n.nspname, x.relname),
        pg_catalog.concat(pg_catalog.pg_get_indexdef(i.indexrelid), CASE WHEN NOT i.indisvalid THEN ' -- invalid' END)
    FROM pg_catalog.pg_index i
    JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
    JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE NOT x.relispartition AND c.relkind IN ('r', 'p', 'm') AND """
    + _SCHEMAS
    + " AND "
    + _LEDGERS
    + " AND "
    + _not_of_extension("pg_class", "c.oid")
    + """
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k
            WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x'))
"""
)

_VIEW: Final[LiteralString] = (
    """
    SELECT """
    + _TABLE_NAME
    + """,
        pg_catalog.concat('create ', CASE c.relkind WHEN 'm' THEN 'materialized ' END, 'view ', """
    + _TABLE_NAME
    + """, ' with (' || (SELECT pg_catalog.string_agg(o, ', ' ORDER BY o COLLATE "C") FROM unnest(c.reloptions) o)
            || ')', ' as ', pg_catalog.rtrim(pg_catalog.pg_get_viewdef(c.oid), ';'))
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('v', 'm') AND """
    + _SCHEMAS
    + " AND "
    + _not_of_extension("pg_class", "c.oid")
)

_FUNCTION: Final[LiteralString] = (
    """
    SELECT p.oid::pg_catalog.regprocedure::text, CASE WHEN p.prokind <> 'a' THEN pg_catalog.pg_get_functiondef(p.oid)
        ELSE (SELECT pg_catalog.concat('create aggregate ', p.oid::pg_catalog.regprocedure::text,
                ' (sfunc = ', g.aggtransfn::text, ', stype = ', pg_catalog.format_type(g.aggtranstype, NULL),
                ', initcond = ' || pg_catalog.quote_literal(g.agginitval),
                ', finalfunc = ' || pg_catalog.nullif(g.aggfinalfn::text, '-'),
                ', combinefunc = ' || pg_catalog.nullif(g.aggcombinefn::text, '-'),
                ', parallel = ', p.proparallel, ')')
            FROM pg_catalog.pg_aggregate g WHERE g.aggfnoid = p.oid) END
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    WHERE """
    + _SCHEMAS
    + " AND "
    + _not_of_extension("pg_proc", "p.oid")
    # A range type brings its own constructors.
    + """
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
            AND d.objid = p.oid AND d.deptype = 'i')
"""
).replace("pg_catalog.nullif", "nullif")

_TRIGGER: Final[LiteralString] = (
    """
    SELECT """
    + _TABLE_NAME
    + """ || '.' || pg_catalog.quote_ident(g.tgname),
        pg_catalog.concat(pg_catalog.pg_get_triggerdef(g.oid),
            CASE g.tgenabled WHEN 'D' THEN ' -- disabled' WHEN 'R' THEN ' -- replica' WHEN 'A' THEN ' -- always' END)
    FROM pg_catalog.pg_trigger g
    JOIN pg_catalog.pg_class c ON c.oid = g.tgrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE NOT g.tgisinternal AND g.tgparentid = 0 AND """
    + _SCHEMAS
    + " AND "
    + _LEDGERS
    + " AND "
    + _not_of_extension("pg_trigger", "g.oid")
)

_EVENT_TRIGGER: Final[LiteralString] = """
    SELECT pg_catalog.quote_ident(v.evtname), pg_catalog.concat('create event trigger ',
        pg_catalog.quote_ident(v.evtname), ' on ', v.evtevent, ' when tag in (' || (
            SELECT pg_catalog.string_agg(pg_catalog.quote_literal(w), ', ' ORDER BY w COLLATE "C")
            FROM unnest(v.evttags) w) || ')',
        ' execute function ', v.evtfoid::pg_catalog.regprocedure::text,
        CASE v.evtenabled WHEN 'D' THEN ' -- disabled' WHEN 'R' THEN ' -- replica' WHEN 'A' THEN ' -- always' END)
    FROM pg_catalog.pg_event_trigger v
    WHERE """ + _not_of_extension("pg_event_trigger", "v.oid")

_RULE: Final[LiteralString] = (
    """
    SELECT """
    + _TABLE_NAME
    + """ || '.' || pg_catalog.quote_ident(r.rulename), pg_catalog.rtrim(pg_catalog.pg_get_ruledef(r.oid), ';')
    FROM pg_catalog.pg_rewrite r
    JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE r.rulename <> '_RETURN' AND """
    + _SCHEMAS
    + " AND "
    + _not_of_extension("pg_class", "c.oid")
)

_POLICY: Final[LiteralString] = (
    """
    SELECT """
    + _TABLE_NAME
    + """ || '.' || pg_catalog.quote_ident(p.polname), pg_catalog.concat('create policy ',
        pg_catalog.quote_ident(p.polname), ' on ', """
    + _TABLE_NAME
    + """, CASE WHEN NOT p.polpermissive THEN ' as restrictive' END, ' for ',
        CASE p.polcmd WHEN 'r' THEN 'select' WHEN 'a' THEN 'insert' WHEN 'w' THEN 'update' WHEN 'd' THEN 'delete'
            ELSE 'all' END, ' to ', (SELECT pg_catalog.string_agg(who, ', ' ORDER BY who COLLATE "C") FROM (
                SELECT """
    + _role("o")
    + """ AS who FROM unnest(p.polroles) o) roles),
        ' using (' || pg_catalog.pg_get_expr(p.polqual, p.polrelid) || ')',
        ' with check (' || pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) || ')')
    FROM pg_catalog.pg_policy p
    JOIN pg_catalog.pg_class c ON c.oid = p.polrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE """
    + _SCHEMAS
)

_TYPE: Final[LiteralString] = (
    """
    SELECT pg_catalog.format('%%I.%%I', n.nspname, t.typname),
        pg_catalog.concat(CASE t.typtype WHEN 'd' THEN 'create domain ' ELSE 'create type ' END,
            pg_catalog.format('%%I.%%I', n.nspname, t.typname), ' as ', CASE t.typtype
            WHEN 'e' THEN 'enum (' || (SELECT pg_catalog.string_agg(pg_catalog.quote_literal(e.enumlabel), ', '
                ORDER BY e.enumsortorder) FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid) || ')'
            WHEN 'c' THEN '(' || (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname) || ' '
                    || pg_catalog.format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum)
                FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped)
                || ')'
            WHEN 'd' THEN pg_catalog.concat(pg_catalog.format_type(t.typbasetype, t.typtypmod),
                ' default ' || t.typdefault, CASE WHEN t.typnotnull THEN ' not null' END,
                ' ' || (SELECT pg_catalog.string_agg('constraint ' || pg_catalog.quote_ident(k.conname) || ' '
                        || pg_catalog.pg_get_constraintdef(k.oid), ' ' ORDER BY k.conname COLLATE "C")
                    FROM pg_catalog.pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c'))
            WHEN 'r' THEN (SELECT pg_catalog.concat('range (subtype = ', pg_catalog.format_type(r.rngsubtype, NULL),
                ', canonical = ' || nullif(r.rngcanonical::text, '-'),
                ', subtype_diff = ' || nullif(r.rngsubdiff::text, '-'), ')')
                FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid)
            ELSE 'base' END,
            CASE WHEN t.typtype = 'd' AND t.typcollation <> b.typcollation THEN ' collate ' || (
                SELECT pg_catalog.format('%%I.%%I', cn.nspname, co.collname) FROM pg_catalog.pg_collation co
                JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace WHERE co.oid = t.typcollation) END)
    FROM pg_catalog.pg_type t
    JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
    LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
    LEFT JOIN pg_catalog.pg_type b ON b.oid = t.typbasetype
    WHERE t.typtype IN ('e', 'c', 'd', 'r', 'b') AND (c.relkind IS NULL OR c.relkind = 'c')
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_type element WHERE element.typarray = t.oid) AND """
    + _SCHEMAS
    + " AND "
    + _not_of_extension("pg_type", "t.oid")
)

# Sequences of identity columns are told with their column.
_SEQUENCE: Final[LiteralString] = (
    """
    SELECT """
    + _TABLE_NAME
    + """, pg_catalog.concat('create sequence ', """
    + _TABLE_NAME
    + """, ' as ', pg_catalog.format_type(q.seqtypid, NULL), ' start ', q.seqstart, ' increment ', q.seqincrement,
        ' minvalue ', q.seqmin, ' maxvalue ', q.seqmax, ' cache ', q.seqcache, CASE WHEN q.seqcycle THEN ' cycle' END,
        (SELECT ' owned by ' || d.refobjid::pg_catalog.regclass::text || '.' || pg_catalog.quote_ident(a.attname)
            FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_attribute a
                ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
            WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype = 'a'
                AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass))
    FROM pg_catalog.pg_sequence q
    JOIN pg_catalog.pg_class c ON c.oid = q.seqrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE """
    + _SCHEMAS
    + " AND "
    + _not_of_extension("pg_class", "c.oid")
    + """
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
            AND d.objid = c.oid AND d.deptype = 'i')
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
            JOIN pg_catalog.pg_class t ON t.oid = d.refobjid
            JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
            WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype = 'a'
                AND (tn.nspname || '.' || t.relname) = ANY (%(ledgers)s::text[]))
"""
)

# Postgres tells their columns in the order of the table's, which does not count.
_STATISTICS: Final[LiteralString] = (
    """
    SELECT pg_catalog.format('%%I.%%I', n.nspname, s.stxname), pg_catalog.concat('create statistics ',
        pg_catalog.format('%%I.%%I', n.nspname, s.stxname), ' (', (
            SELECT pg_catalog.string_agg(CASE k WHEN 'd' THEN 'ndistinct' WHEN 'f' THEN 'dependencies'
                WHEN 'm' THEN 'mcv' ELSE 'expressions' END, ', ' ORDER BY k) FROM unnest(s.stxkind) k), ') on ', (
            SELECT pg_catalog.string_agg(part, ', ' ORDER BY part COLLATE "C") FROM (
                SELECT pg_catalog.quote_ident(a.attname) FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = s.stxrelid AND a.attnum = ANY (s.stxkeys)
                UNION ALL
                SELECT unnest(pg_catalog.pg_get_statisticsobjdef_expressions(s.oid))
            ) parts(part)), ' from ', s.stxrelid::pg_catalog.regclass::text)
    FROM pg_catalog.pg_statistic_ext s JOIN pg_catalog.pg_namespace n ON n.oid = s.stxnamespace
    WHERE """
    + _SCHEMAS
)

_COLLATION: Final[LiteralString] = (
    """
    SELECT pg_catalog.format('%%I.%%I', n.nspname, o.collname), pg_catalog.concat('create collation ',
        pg_catalog.format('%%I.%%I', n.nspname, o.collname), ' (provider = ', o.collprovider::text,
        CASE WHEN NOT o.collisdeterministic THEN ', deterministic = false' END, ')')
    FROM pg_catalog.pg_collation o JOIN pg_catalog.pg_namespace n ON n.oid = o.collnamespace
    WHERE """
    + _SCHEMAS
    + " AND "
    + _not_of_extension("pg_collation", "o.oid")
)

_OPERATOR: Final[LiteralString] = (
    """
    SELECT o.oid::pg_catalog.regoperator::text, pg_catalog.concat('create operator ',
        o.oid::pg_catalog.regoperator::text, ' (function = ', o.oprcode::text, ')')
    FROM pg_catalog.pg_operator o JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
    WHERE """
    + _SCHEMAS
    + " AND "
    + _not_of_extension("pg_operator", "o.oid")
)

_PUBLICATION: Final[LiteralString] = """
    SELECT pg_catalog.quote_ident(p.pubname), pg_catalog.concat('create publication ',
        pg_catalog.quote_ident(p.pubname), CASE WHEN p.puballtables THEN ' for all tables'
            ELSE ' for table ' || (SELECT pg_catalog.string_agg(r.prrelid::pg_catalog.regclass::text, ', '
                ORDER BY r.prrelid::pg_catalog.regclass::text COLLATE "C")
                FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid) END)
    FROM pg_catalog.pg_publication p
"""

# The options of a server may hold an address or a password; only their names are read.
_SERVER: Final[LiteralString] = """
    SELECT pg_catalog.quote_ident(s.srvname), pg_catalog.concat('create server ', pg_catalog.quote_ident(s.srvname),
        ' foreign data wrapper ', pg_catalog.quote_ident(w.fdwname), ' options (' || (
            SELECT pg_catalog.string_agg(pg_catalog.split_part(o, '=', 1), ', ' ORDER BY o COLLATE "C")
            FROM unnest(s.srvoptions) o) || ')')
    FROM pg_catalog.pg_foreign_server s JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = s.srvfdw
"""


def _owned(kind: LiteralString, catalog: LiteralString, rows: LiteralString) -> LiteralString:
    """Objects that the database's owner does not own."""
    return (
        "SELECT '" + kind + " ' || name, pg_catalog.concat('alter " + kind + " ', name, ' owner to ', "
        + _role("owner") + ") FROM (" + rows + ") owned WHERE owner NOT IN (SELECT datdba FROM pg_catalog.pg_database"
        " WHERE datname = pg_catalog.current_database()) AND " + _not_of_extension(catalog, "owned.oid")
    )  # fmt: skip


_OWNED_RELATIONS: Final[LiteralString] = (
    "SELECT c.oid, c.relowner AS owner, "
    + _TABLE_NAME
    + """ AS name, c.relacl AS acl, CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char" AS acl_kind,
        NULL::aclitem[] AS usual
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S') AND """
    + _SCHEMAS
    + " AND "
    + _LEDGERS
    # A sequence of an identity column, or of a ledger, follows its table.
    + """ AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend i
        JOIN pg_catalog.pg_class it ON it.oid = i.refobjid
        JOIN pg_catalog.pg_namespace itn ON itn.oid = it.relnamespace
        WHERE c.relkind = 'S' AND i.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND i.objid = c.oid
            AND i.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
            AND (i.deptype = 'i' OR (itn.nspname || '.' || it.relname) = ANY (%(ledgers)s::text[])))"""
)
_OWNED_FUNCTIONS: Final[LiteralString] = (
    """SELECT p.oid, p.proowner AS owner, p.oid::pg_catalog.regprocedure::text AS name, p.proacl AS acl,
        'f'::"char" AS acl_kind, NULL::aclitem[] AS usual
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    WHERE """
    + _SCHEMAS
    + """ AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend i
        WHERE i.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND i.objid = p.oid AND i.deptype = 'i')"""
)
_OWNED_TYPES: Final[LiteralString] = (
    """SELECT t.oid, t.typowner AS owner, pg_catalog.format('%%I.%%I', n.nspname, t.typname) AS name, t.typacl AS acl,
        'T'::"char" AS acl_kind, NULL::aclitem[] AS usual
    FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
    LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
    WHERE t.typtype IN ('e', 'c', 'd', 'r') AND (c.relkind IS NULL OR c.relkind = 'c') AND """
    + _SCHEMAS
)
# The schema public belongs to whoever made the database's template; what it usually grants is as since Postgres 15.
_OWNED_SCHEMAS: Final[LiteralString] = (
    """SELECT n.oid, n.nspowner AS owner, pg_catalog.quote_ident(n.nspname) AS name, n.nspacl AS acl,
        'n'::"char" AS acl_kind,
        CASE n.nspname WHEN 'public' THEN ARRAY[pg_catalog.makeaclitem(0, 10, 'USAGE', false)] END AS usual
    FROM pg_catalog.pg_namespace n
    WHERE n.nspname <> ALL (%(ledger_schemas)s::text[]) AND """
    + _SCHEMAS
)


def _granted(kind: LiteralString, catalog: LiteralString, rows: LiteralString) -> LiteralString:
    """Rights beside the default ones, and default ones that are missing. All of a table's rights are ``all``."""
    return (
        "WITH things AS (" + rows + """), rights AS (
        SELECT t.oid, t.name, now.grantee, now.privilege_type, now.is_grantable, 'grant' AS verb
        FROM things t, pg_catalog.aclexplode(coalesce(t.acl, pg_catalog.acldefault(t.acl_kind, t.owner))) now
        WHERE now.grantee <> t.owner AND NOT EXISTS (
            SELECT FROM pg_catalog.aclexplode(coalesce(t.usual, pg_catalog.acldefault(t.acl_kind, t.owner))) was
            WHERE (was.grantee, was.privilege_type) = (now.grantee, now.privilege_type))
        UNION ALL
        SELECT t.oid, t.name, was.grantee, was.privilege_type, false, 'revoke'
        FROM things t, pg_catalog.aclexplode(coalesce(t.usual, pg_catalog.acldefault(t.acl_kind, t.owner))) was
        WHERE t.acl IS NOT NULL AND was.privilege_type <> 'MAINTAIN' AND NOT EXISTS (
            SELECT FROM pg_catalog.aclexplode(t.acl) now
            WHERE (was.grantee, was.privilege_type) = (now.grantee, now.privilege_type))
    ), gathered AS (
        SELECT r.name, r.verb, r.is_grantable, r.grantee, CASE
            WHEN pg_catalog.count(*) FILTER (WHERE r.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE',
                'TRUNCATE', 'REFERENCES', 'TRIGGER')) = 7 THEN 'all'
            ELSE pg_catalog.string_agg(pg_catalog.lower(r.privilege_type), ', '
                ORDER BY r.privilege_type COLLATE "C") END AS what
        FROM rights r WHERE """ + _not_of_extension(catalog, "r.oid") + """
        GROUP BY r.name, r.verb, r.is_grantable, r.grantee
    )
    SELECT pg_catalog.concat_ws(' ', '""" + kind + """', g.name, g.verb, """ + _role("g.grantee") + """,
            CASE WHEN g.is_grantable THEN 'with grant option' END),
        pg_catalog.concat(g.verb, ' ', g.what, ' on """ + kind + """ ', g.name,
            CASE g.verb WHEN 'grant' THEN ' to ' ELSE ' from ' END, """ + _role("g.grantee") + """,
            CASE WHEN g.is_grantable THEN ' with grant option' END)
    FROM gathered g
"""
    )  # fmt: skip


_GRANT_ON_COLUMN: Final[LiteralString] = (
    """
    SELECT pg_catalog.concat_ws(' ', 'column', """ + _TABLE_NAME + """ || '.' || pg_catalog.quote_ident(a.attname), """
    + _role("x.grantee") + """, x.privilege_type),
        pg_catalog.format('grant %%s (%%I) on table %%s to %%s', pg_catalog.lower(x.privilege_type), a.attname, """
    + _TABLE_NAME + ", " + _role("x.grantee") + """)
    FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace, pg_catalog.aclexplode(a.attacl) x
    WHERE a.attnum > 0 AND NOT a.attisdropped AND x.grantee <> c.relowner AND """ + _SCHEMAS + " AND "
    + _not_of_extension("pg_class", "c.oid")
)  # fmt: skip

_DEFAULT_PRIVILEGE: Final[LiteralString] = (
    """
    SELECT pg_catalog.concat_ws(' ', """ + _role("d.defaclrole") + """, n.nspname, d.defaclobjtype::text, """
    + _role("x.grantee") + """, x.privilege_type),
        pg_catalog.concat('alter default privileges for role ', """ + _role("d.defaclrole") + """,
            ' in schema ' || pg_catalog.quote_ident(n.nspname), ' grant ', pg_catalog.lower(x.privilege_type), ' on ',
            CASE d.defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences' WHEN 'f' THEN 'functions'
                WHEN 'T' THEN 'types' WHEN 'n' THEN 'schemas' ELSE 'large objects' END, ' to ', """
    + _role("x.grantee") + """)
    FROM pg_catalog.pg_default_acl d LEFT JOIN pg_catalog.pg_namespace n ON n.oid = d.defaclnamespace,
        pg_catalog.aclexplode(d.defaclacl) x
    WHERE x.privilege_type <> 'MAINTAIN'
"""
)  # fmt: skip

_COMMENT: Final[LiteralString] = (
    """
    SELECT what, pg_catalog.format('comment on %%s is %%L', what, words) FROM (
        SELECT pg_catalog.concat(CASE c.relkind WHEN 'v' THEN 'view ' WHEN 'm' THEN 'materialized view '
                WHEN 'i' THEN 'index ' WHEN 'S' THEN 'sequence ' ELSE 'table ' END, """ + _TABLE_NAME + """) AS what,
            d.description AS words
        FROM pg_catalog.pg_description d
        JOIN pg_catalog.pg_class c ON c.oid = d.objoid AND d.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE d.objsubid = 0 AND """ + _SCHEMAS + " AND " + _LEDGERS + " AND " + _not_of_extension("pg_class", "c.oid")
    + """
        UNION ALL
        SELECT 'column ' || """ + _TABLE_NAME + """ || '.' || pg_catalog.quote_ident(a.attname), d.description
        FROM pg_catalog.pg_description d
        JOIN pg_catalog.pg_class c ON c.oid = d.objoid AND d.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.objsubid
        WHERE d.objsubid > 0 AND """ + _SCHEMAS + " AND " + _LEDGERS + " AND " + _not_of_extension("pg_class", "c.oid")
    + """
        UNION ALL
        SELECT 'function ' || p.oid::pg_catalog.regprocedure::text, d.description
        FROM pg_catalog.pg_description d
        JOIN pg_catalog.pg_proc p ON p.oid = d.objoid AND d.classoid = 'pg_catalog.pg_proc'::pg_catalog.regclass
        JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
        WHERE """ + _SCHEMAS + " AND " + _not_of_extension("pg_proc", "p.oid") + """
    ) comments
"""
)  # fmt: skip

COMMENTS: Final = "comment"
"""The kind that counts only when it is asked for."""

QUESTIONS: Final[tuple[tuple[str, LiteralString], ...]] = (
    ("schema", _SCHEMA),
    ("extension", _EXTENSION),
    ("type", _TYPE),
    ("collation", _COLLATION),
    ("sequence", _SEQUENCE),
    ("table", _TABLE),
    ("column", _COLUMN),
    ("constraint", _CONSTRAINT),
    ("index", _INDEX),
    ("statistics", _STATISTICS),
    ("setting", _TABLE_SETTING),
    ("view", _VIEW),
    ("function", _FUNCTION),
    ("operator", _OPERATOR),
    ("trigger", _TRIGGER),
    ("event trigger", _EVENT_TRIGGER),
    ("rule", _RULE),
    ("policy", _POLICY),
    ("publication", _PUBLICATION),
    ("server", _SERVER),
    ("owner", _owned("table", "pg_class", _OWNED_RELATIONS)),
    ("owner", _owned("function", "pg_proc", _OWNED_FUNCTIONS)),
    ("owner", _owned("type", "pg_type", _OWNED_TYPES)),
    ("grant", _granted("table", "pg_class", _OWNED_RELATIONS)),
    ("grant", _granted("function", "pg_proc", _OWNED_FUNCTIONS)),
    ("grant", _granted("type", "pg_type", _OWNED_TYPES)),
    ("grant", _granted("schema", "pg_namespace", _OWNED_SCHEMAS)),
    ("grant", _GRANT_ON_COLUMN),
    ("grant", _DEFAULT_PRIVILEGE),
    (COMMENTS, _COMMENT),
)
"""Kind and question, in the order in which one would make the objects."""


def bounded(question: LiteralString) -> LiteralString:
    """The question, with an answer of bounded size: of a definition that is too long the beginning and a checksum."""
    return f"""
        SELECT pg_catalog.left(a.name, 1000), CASE WHEN pg_catalog.length(a.definition) > {DEFINITION_LENGTH_MAX}
            THEN pg_catalog.concat(pg_catalog.left(a.definition, {DEFINITION_LENGTH_MAX}), ' -- and more: ',
                pg_catalog.md5(a.definition)) ELSE a.definition END
        FROM ({question}) a(name, definition) LIMIT {ROWS_MAX}
    """


def begin(*, lock_seconds: float, statement_seconds: float) -> bytes:
    """Begins a transaction that sees one moment, can change nothing, and waits for nothing for long."""
    timeouts = f"SET LOCAL lock_timeout = {round(lock_seconds * 1000)}; "
    timeouts += f"SET LOCAL statement_timeout = {round(statement_seconds * 1000)}"
    return f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {timeouts}".encode()
