from __future__ import annotations

import pytest

from tenantry.errors import InvalidInput
from tenantry.fleet.environments.masks import Column, Mask, Rules, masks_of, unknown, unmasked


def column(dotted: str, *, writable: bool = True) -> Column:
    schema, table, name = dotted.split(".")
    return Column(schema=schema, table=table, name=name, writable=writable)


USERS = [column(f"public.users.{name}") for name in ("id", "email", "phone")]
RULES = Rules({"public.users.email": "'user' || id", "public.users.phone": "NULL"}, ["*.*.email", "public.users.phone"])


def test_a_table_is_masked_in_one_update() -> None:
    assert masks_of([*USERS, column("crm.leads.email")], RULES) == [
        Mask("public", "users", (("email", "'user' || id"), ("phone", "NULL")))
    ]


def test_names_are_quoted_and_expressions_are_the_operators() -> None:
    mask = Mask("My Schema", 'us"ers', (("e-mail", "md5(name)"), ("x", "1")))
    assert mask.update().as_string() == 'UPDATE "My Schema"."us""ers" SET "e-mail" = (md5(name)), "x" = (1)'


def test_a_personal_column_without_a_rule_is_found_by_pattern() -> None:
    assert unmasked([*USERS, column("crm.leads.email")], RULES) == ["crm.leads.email"]
    assert unmasked([*USERS, column("crm.leads.email", writable=False)], RULES) == []
    assert unmasked(USERS, RULES) == []


def test_a_rule_for_no_column_is_found() -> None:
    assert unknown([column("public.users.email")], RULES) == ["public.users.phone"]


def test_what_follows_from_others_is_not_written() -> None:
    with pytest.raises(InvalidInput, match=r"public\.users\.email follows from other columns"):
        masks_of([column("public.users.email", writable=False)], RULES)


@pytest.mark.parametrize("name", ["email", "users.email", "a.b.c.d", "a..c"])
def test_a_rule_names_schema_table_and_column(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"is not schema\.table\.column"):
        Rules({name: "NULL"})
    with pytest.raises(InvalidInput, match=r"is not schema\.table\.column"):
        Rules({}, [name])


def test_an_empty_expression_is_no_rule() -> None:
    with pytest.raises(InvalidInput, match="empty expression"):
        Rules({"a.b.c": " "})
