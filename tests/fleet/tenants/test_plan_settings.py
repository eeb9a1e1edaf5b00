from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from tenantry.errors import Conflict, InvalidInput, LimitReached, NotFound
from tenantry.fleet.catalog import events, plans
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Plan
from tenantry.fleet.tenants import contacts
from tenantry.fleet.tenants.create import create_tenant, wish
from tenantry.fleet.tenants.log import forget_old, read_log
from tenantry.fleet.tenants.plan_settings import KEYS, parse_settings, written
from tenantry.fleet.tenants.plans import add_plan, edit_plan, list_plans, remove_plan, show_plan

if TYPE_CHECKING:
    from conftest import MemoryProvider

GIB = 2**30


@pytest.mark.parametrize(
    ("word", "value", "again"),
    [
        ("cu_max=2", Decimal(2), "2"),
        ("cu_min=0.25", Decimal("0.25"), "0.25"),
        ("history_seconds=7d", 604_800, "7d"),
        ("history_seconds=90", 90, "90s"),
        ("suspend_seconds=never", -1, "never"),
        ("suspend_seconds=default", 0, "default"),
        ("suspend_seconds=1h30m", 5_400, "90m"),
        ("quota_logical_bytes=10GiB", 10 * GIB, "10GiB"),
        ("quota_sent_bytes=1.5 gib", 3 * GIB // 2, "1536MiB"),
        ("quota_compute_seconds=100h", 360_000, "100h"),
        ("quota_written_bytes=none", None, "none"),
        ("backup_cron=0 3 * * *", "0 3 * * *", "0 3 * * *"),
        ("backup_keep_days=30d", 30, "30d"),
        ("branches_max=5", 5, "5"),
        ("price_usd_monthly=19.90", Decimal("19.90"), "19.9"),
        ("name=Gold Plus", "Gold Plus", "Gold Plus"),
    ],
)
def test_what_is_typed_is_understood_and_can_be_typed_again(word: str, value: object, again: str) -> None:
    key, _, _ = word.partition("=")
    assert parse_settings([word]) == {key: value}
    assert written(key, value) == again
    assert parse_settings([f"{key}={again}"]) == {key: value}


def test_what_a_provider_says_is_written_as_a_plan_is() -> None:
    assert [written("cu_max", value) for value in (1.0, 0.25, Decimal("1.00"), None)] == ["1", "0.25", "1", "none"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["cu_max"], "is not KEY=VALUE"),
        (["cu_mx=2"], "a plan has no 'cu_mx'; did you mean cu_max"),
        (["cu_max=1", "cu_max=2"], "cu_max is said twice"),
        (["cu_max=nan"], "compute units"),
        (["cu_max=0.1"], "compute units"),
        (["history_seconds=0"], "less than a second"),
        (["history_seconds=soon"], "not a span of time"),
        (["quota_sent_bytes=lots"], "is not a size"),
        (["quota_sent_bytes=0"], "is not a size"),
        (["branches_max=0"], "whole number"),
        (["backup_cron=daily"], "is not a schedule"),
        (["price_usd_monthly=-1"], "amount of money"),
        (["projects_max=none"], "whole number"),
    ],
)
def test_what_makes_no_sense_is_named(words: list[str], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        parse_settings(words)


def test_every_key_is_a_field_of_a_plan() -> None:
    assert set(KEYS) == set(Plan.__dataclass_fields__) - {"slug"}


def test_plans_are_made_changed_and_removed(catalog: Catalog) -> None:
    try:
        made = add_plan(catalog, "gold", parse_settings(["cu_min=1", "cu_max=2", "quota_sent_bytes=1GiB"]))
        assert (made.name, made.cu_max, made.quota_sent_bytes, made.history_seconds) == ("Gold", 2, GIB, None)
        with pytest.raises(Conflict, match="there is a plan gold already"):
            add_plan(catalog, "gold", {})
        was, now = edit_plan(catalog, "gold", parse_settings(["quota_sent_bytes=none", "cu_max=4"]))
        assert (was.quota_sent_bytes, now.quota_sent_bytes, now.cu_max) == (GIB, None, 4)
        with pytest.raises(InvalidInput, match="cu_min 5 is more than cu_max 4"):
            edit_plan(catalog, "gold", parse_settings(["cu_min=5"]))
        with pytest.raises(InvalidInput, match="belong together"):
            edit_plan(catalog, "gold", parse_settings(["cu_min=none"]))
        assert edit_plan(catalog, "gold", parse_settings(["cu_max=4"]))[1] == now
        assert [event.verb for event in read_log(catalog)][:2] == ["edit plan", "add plan"]
        assert "gold" in [shown.plan.slug for shown in list_plans(catalog)]
    finally:
        remove_plan(catalog, "gold")
    for verb in (
        lambda: show_plan(catalog, "gold"),
        lambda: remove_plan(catalog, "gold"),
        lambda: edit_plan(catalog, "gold", {}),
    ):
        with pytest.raises(NotFound, match="there is no plan 'gold'"):
            verb()
    with pytest.raises(InvalidInput, match="cannot name a plan"):
        add_plan(catalog, "Not A Slug", {})


def test_a_plan_counts_its_tenants_and_stays_while_somebody_has_or_had_it(
    catalog: Catalog, provider: MemoryProvider
) -> None:
    create_tenant(catalog, provider.of, wish("ACME Corp", plan="scale"))
    assert {shown.plan.slug: shown.tenants for shown in list_plans(catalog)} == {"launch": 0, "scale": 1, "business": 0}
    with pytest.raises(Conflict, match="are or were on plan scale"):
        remove_plan(catalog, "scale")
    with pytest.raises(Conflict, match="say no plan"):
        remove_plan(catalog, "launch")
    with catalog.transaction() as connection:
        assert plans.plan_by_slug(connection, "scale") is not None


def test_more_tenants_than_a_plans_price_includes_are_not_refused(catalog: Catalog, provider: MemoryProvider) -> None:
    _, plan = edit_plan(catalog, "launch", {"projects_max": 1})
    try:
        for number in range(2):
            assert create_tenant(catalog, provider.of, wish(f"Customer {number}")).new
        shown = show_plan(catalog, "launch")
        assert (shown.tenants, plan.projects_max) == (2, 1)
    finally:
        edit_plan(catalog, "launch", {"projects_max": 100})


# -- people and the log --------------------------------------------------------------------------------------


def test_contacts(catalog: Catalog, provider: MemoryProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    create_tenant(catalog, provider.of, wish("ACME Corp"))
    for kind, person in (("owner", "Ada"), ("billing", None), ("owner", "Ada L.")):
        contacts.add_contact(catalog, "acme-corp", "ada@acme.example", kind=kind, person=person)
    _, found = contacts.list_contacts(catalog, "acme-corp")
    assert [(each.kind, each.name) for each in found] == [("billing", None), ("owner", "Ada L.")]
    for email, kind in (("nobody", "owner"), ("a@b.example", "friend")):
        with pytest.raises(InvalidInput):
            contacts.add_contact(catalog, "acme-corp", email, kind=kind)
    monkeypatch.setattr(contacts, "CONTACTS_MAX", 2)
    with pytest.raises(LimitReached, match="acme-corp has 2 contacts"):
        contacts.add_contact(catalog, "acme-corp", "other@acme.example", kind="owner")
    contacts.remove_contact(catalog, "acme-corp", "ADA@acme.example", kind="billing")
    contacts.remove_contact(catalog, "acme-corp", "ada@acme.example")
    with pytest.raises(NotFound, match="has no such contact"):
        contacts.remove_contact(catalog, "acme-corp", "ada@acme.example")
    assert "ada@" not in str(read_log(catalog))


def test_the_log_says_who_and_forgets_what_is_old(
    catalog: Catalog, provider: MemoryProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENANTRY_ACTOR", "deploy-bot")
    create_tenant(catalog, provider.of, wish("ACME Corp"))
    with events.acting_for("ada@laptop"):
        create_tenant(catalog, provider.of, wish("Other"))
    assert [(event.actor, event.slug) for event in read_log(catalog)] == [
        ("ada@laptop", "other"),
        ("deploy-bot", "acme-corp"),
    ]
    assert [event.slug for event in read_log(catalog, "ACME Corp")] == ["acme-corp"]
    assert read_log(catalog, verb="delete") == []
    with pytest.raises(NotFound, match="there is and was no tenant nobody"):
        read_log(catalog, "nobody")
    with catalog.transaction() as connection:
        connection.exec_driver_sql("UPDATE event SET at = now() - interval '800 days' WHERE slug = 'acme-corp'")
    assert forget_old(catalog) == ["1 events older than 730 days were forgotten"]
    assert forget_old(catalog) == []
    assert [event.slug for event in read_log(catalog)] == ["other"]
