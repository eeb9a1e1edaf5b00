"""All SQL of ours that looks at what a verification has restored; names with ``pg_catalog``, whatever is in there."""

from __future__ import annotations

from typing import Final, LiteralString

BEGIN: Final[LiteralString] = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
TIMEOUT: Final[LiteralString] = "SELECT pg_catalog.set_config('statement_timeout', %s, true)"
CONSTRAINTS: Final[LiteralString] = """\
SELECT pg_catalog.count(*), pg_catalog.count(*) FILTER (WHERE NOT c.convalidated)
FROM pg_catalog.pg_constraint AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.connamespace
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')"""
"""All of them, and those that were said to be NOT VALID: a restore checks every other one against every row."""
INDEXES: Final[LiteralString] = """\
SELECT pg_catalog.count(*), coalesce(pg_catalog.min(pg_catalog.format('%I.%I', n.nspname, c.relname))
    FILTER (WHERE NOT (i.indisvalid AND i.indisready)), '')
FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'i' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')"""
"""All of them, and one that is not usable."""
