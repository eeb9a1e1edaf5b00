from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantry.errors import InvalidInput
from tenantry.fleet.tenants.slugs import NAME_LENGTH_MAX, SLUG_LENGTH_MAX, checked_slug, clean_name, same_name, slugify


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("ACME Corp", "acme-corp"),
        ("  ACME\tCorp\n", "acme-corp"),
        ("acme-corp", "acme-corp"),
        ("Payroll, Inc.", "payroll-inc"),
        ("Müller & Söhne GmbH", "muller-and-sohne-gmbh"),
        ("Straße 7", "strasse-7"),
        ("Ærø Łódź", "aero-lodz"),
        ("O'Neill S.A.", "oneill-sa"),
        ("ﬁne ½ print", "fine-1-2-print"),
        ("İstanbul", "istanbul"),
        ("𝐀cme Ǽ", "acme-ae"),
        ("-- a __ b --", "a-b"),
    ],
)
def test_a_name_gives_the_slug_one_would_write_by_hand(name: str, slug: str) -> None:
    assert slugify(name) == slug


def test_names_that_ascii_cannot_spell_stay_apart() -> None:
    one, other, kanji = slugify("ООО Ромашка LLC"), slugify("ООО Весна LLC"), slugify("株式会社")
    assert one != other
    assert re.fullmatch("llc-[0-9a-f]{8}", one)
    assert re.fullmatch("tenant-[0-9a-f]{8}", kanji)
    assert slugify("株式会社") == kanji


def test_long_names_are_cut_and_stay_apart() -> None:
    one, other = slugify("a" * 190 + "x"), slugify("a" * 190 + "y")
    assert one != other
    assert len(one) == len(other) == SLUG_LENGTH_MAX


@pytest.mark.parametrize("name", ["", "   ", "\u200b", "!?", "x" * (NAME_LENGTH_MAX + 1)])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        slugify(name)


@settings(max_examples=500)
@given(st.text(min_size=1, max_size=NAME_LENGTH_MAX))
def test_every_name_gives_a_slug_that_is_its_own_slug_or_is_refused(name: str) -> None:
    try:
        slug = slugify(name)
    except InvalidInput:
        return
    assert checked_slug(slug) == slug
    assert slugify(slug) == slug
    assert slugify(clean_name(name)) == slug


@pytest.mark.parametrize("text", ["ACME", "a--b", "-a", "a-", "a b", "é", "a" * 49, ""])
def test_a_given_slug_is_taken_as_it_is_or_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not a slug"):
        checked_slug(text)


def test_case_and_spacing_do_not_tell_customers_apart() -> None:
    assert same_name("ACME  Corp", "acme corp")
    assert not same_name("ACME, Corp", "ACME Corp")
