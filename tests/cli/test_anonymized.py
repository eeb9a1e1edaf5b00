"""Anonymized branches as the operator makes them, on a real cell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import psycopg.conninfo
import pytest

if TYPE_CHECKING:
    from conftest import Operator, Query

SCHEMA = """
    create schema "Crm";
    create table users (id int primary key, email text not null unique, phone text, city text);
    create table "Crm"."Leads" (id int, "E-Mail" text) partition by range (id);
    create table "Crm".leads_1 partition of "Crm"."Leads" for values from (0) to (1000);
    create table audit (what text);
    create function keep_old() returns trigger language plpgsql as
        $$ begin insert into audit values (old.email); return new; end $$;
    create trigger users_audit after update on users for each row execute function keep_old();
    create materialized view mails as select email from users;
    insert into users
        select i, 'person' || i || '@secret.example', '555-' || i, 'Berlin' from generate_series(1, 200) i;
    insert into "Crm"."Leads" select i, 'lead' || i || '@secret.example' from generate_series(1, 50) i;
    refresh materialized view mails;
    analyze;
"""
RULES = """
[anonymize.columns]
"public.users.email" = "'user' || id || '@example.com'"
"public.users.phone" = "NULL"
"Crm.Leads.E-Mail" = "'lead' || id"
[anonymize]
personal = ["public.users.*mail", "*.*.phone", "Crm.*.E-Mail"]
"""
SECRETS = """
    select count(*) from (
        select users::text from users union all select "Leads"::text from "Crm"."Leads" union all
        select audit::text from audit union all select mails::text from mails union all
        select most_common_vals::text || coalesce(histogram_bounds::text, '') from pg_stats where schemaname !~ '^pg_'
    ) as everything(t) where t like '%secret.example%' or t like '%555-%'
"""


@pytest.fixture
def acme(operator: Operator, name: str, query: Query) -> str:
    slug = str(operator.json("create", name)["tenant"]["slug"])
    query(operator.do("url", slug).stdout, SCHEMA)
    return slug


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    path = tmp_path / "tenantry.toml"
    monkeypatch.setenv("TENANTRY_CONFIG", str(path))

    def write(text: str) -> None:
        path.write_text(text)

    return write


def test_no_personal_value_is_left_in_rows_statistics_views_or_logs(
    operator: Operator, acme: str, rules: Callable[[str], None], query: Query
) -> None:
    rules(RULES)
    production = operator.do("url", acme).stdout
    assert query(production, SECRETS)[0] > 0, "the question finds what is there"

    done = operator.do("branch", "create", "staging", "--tenant", acme, "--anonymized", "--expires", "7d")
    assert "public.users, 200 rows masked" in done.stderr
    url = operator.do("branch", "url", "staging", "--tenant", acme).stdout
    assert query(url, SECRETS) == [0]
    assert query(url, "select email from users where id = 7") == ["user7@example.com"]
    assert query(url, 'select count("E-Mail") from "Crm"."Leads" where "E-Mail" = \'lead\' || id') == [50]
    assert query(url, "select distinct city from users") == ["Berlin"]
    # Triggers work again, and did not before.
    query(url, "update users set city = 'Bonn' where id = 1")
    assert query(url, "select what from audit") == ["user1@example.com"]
    assert query(production, "select email from users where id = 7") == ["person7@secret.example"]

    # Production's password opens it not, nor the other way round.
    secret = psycopg.conninfo.conninfo_to_dict(production)["password"]
    masked = psycopg.conninfo.conninfo_to_dict(url)
    assert masked["password"] != secret
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url.strip(), password=secret)

    branches = operator.json("branch", "list", "--tenant", acme)["branches"]
    assert {branch["name"] for branch in branches} == {"main", "staging"}
    assert next(branch for branch in branches if branch["name"] == "staging")["expires_at"] is not None
    again = operator.json("branch", "create", "staging", "--tenant", acme, "--anonymized")
    assert again["created"] is False

    # Its parent has what it hides; a branch of it has not.
    refused = operator.do("branch", "reset", "staging", "--tenant", acme, code=1).stderr
    assert "is anonymized, and its parent is not" in refused
    operator.do("branch", "create", "pr-1", "--tenant", acme, "--from", "staging")
    assert query(operator.do("branch", "url", "pr-1", "--tenant", acme).stdout, SECRETS) == [0]
    assert "exists, and is not anonymized" in operator.do(
        "branch", "create", "pr-1", "--tenant", acme, "--anonymized", code=1
    ).stderr  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('"public.users.phone" = "NULL"', ""), "personal columns without a rule: neondb: public.users.phone"),
        (("public.users.phone\" =", "public.users.fone\" ="), "without a rule"),
        (('"*.*.phone", ', ""), None),
        (("\"'lead' || id\"", "\"nonsense(id)\""), "Crm.Leads in neondb cannot be masked: function nonsense"),
        (("\"'user' || id || '@example.com'\"", "\"'x'\""), "public.users in neondb cannot be masked: duplicate key"),
    ],
    ids=["exposed", "misspelt", "fewer", "no-such-function", "not-unique"],
)  # fmt: skip
def test_what_cannot_be_masked_leaves_no_branch(
    operator: Operator, acme: str, rules: Callable[[str], None], change: tuple[str, str], says: str | None
) -> None:
    rules(RULES.replace(*change))
    code = 0 if says is None else (2 if "without a rule" in says else 1)
    done = operator.do("branch", "create", "staging", "--tenant", acme, "--anonymized", code=code)
    names = {branch["name"] for branch in operator.json("branch", "list", "--tenant", acme)["branches"]}
    if says is None:
        assert names == {"main", "staging"}
    else:
        assert says in done.stderr
        assert names == {"main"}


def test_a_place_has_room_for_so_many_branches(operator: Operator, acme: str, rules: Callable[[str], None]) -> None:
    rules("[branches]\nmax = 2\nexpires = '1h'\n")
    made = operator.json("branch", "create", "one", "--tenant", acme)
    assert made["branch"]["expires_at"] is not None
    assert operator.json("branch", "create", "one", "--tenant", acme)["created"] is False
    full = operator.do("branch", "create", "two", "--tenant", acme, code=1).stderr
    assert "has 2 branches, and may have 2" in full
    assert f"tenantry branch delete one --tenant {acme}" in full
