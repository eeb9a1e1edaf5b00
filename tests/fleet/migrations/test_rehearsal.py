"""What is concluded from rehearsals: whom to choose, how long a lock was held, and whether a plan may run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.errors import Conflict, InvalidInput
from tenantry.fleet.catalog import events, rehearsals
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.rehearsals import RehearsalRecord
from tenantry.fleet.migrations.formats.base import Format
from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.lock_watch import Span, Spans
from tenantry.fleet.migrations.measured_session import Measured
from tenantry.fleet.migrations.plan import Plan, make_plan, states_of
from tenantry.fleet.migrations.rehearsal import BranchReport, LockReport, branches_of, checksum_of, report_of
from tenantry.fleet.migrations.rehearse import locks_of
from tenantry.fleet.migrations.results import Failure
from tenantry.fleet.migrations.sample import Candidate, parse_sample, take
from tenantry.fleet.migrations.tenant import TenantRef, TenantSlug
from tenantry.fleet.migrations.verdict import Verdict, gate, judge, rehearsal_verdict

AT = datetime(2026, 11, 24, 10, 41, tzinfo=UTC)
A, B, C = TenantSlug("a"), TenantSlug("b"), TenantSlug("c")
EXCLUSIVE = "AccessExclusiveLock"


def applied(tenant: TenantSlug, *versions: str, seconds: float = 1.0, lock: float = 0.1) -> BranchReport:
    return BranchReport(
        tenant=tenant,
        outcome="applied",
        applied=versions,
        seconds=seconds,
        locks=(LockReport(table="public.t", mode=EXCLUSIVE, migration=versions[0], seconds_max=lock),),
    )


def failed(tenant: TenantSlug, version: str) -> BranchReport:
    failure = Failure(kind="sql", message="no", sqlstate="23505", migration=version)
    return BranchReport(tenant=tenant, outcome="failed", failure=failure)


def record(migrations: Mapping[str, str], *branches: BranchReport, number: int = 1) -> RehearsalRecord:
    return RehearsalRecord(
        id=f"rehearsal-{number}",
        format="sql",
        directory=".",
        checksum=checksum_of("sql", migrations.items()),
        migrations=migrations,
        tenants=[],
        report=report_of(branches),
        passed=all(each.passed for each in branches),
        started_at=AT,
        finished_at=AT,
        started_by="x",
    )


@pytest.fixture
def folder(sql_folder: Callable[..., Path]) -> Format:
    return open_folder(sql_folder(_0001_a="select 1", _0002_b="select 2", _0003_c="select 3"))


def plan_of(folder: Format, **at: int | None) -> Plan:
    """Tenants with so many of the folder's migrations; None: nobody has read its ledger."""
    states = states_of(folder)
    return make_plan(folder, [TenantRef(TenantSlug(slug), None if n is None else states[n]) for slug, n in at.items()])


def verdict(folder: Format, plan: Plan, *known: RehearsalRecord) -> Verdict:
    return judge(plan, {each.version: each.checksum for each in folder.migrations}, known, 5.0)


def problems(found: Verdict) -> list[tuple[str, str | None, str | None]]:
    return [(each.problem, each.migration, each.tenant) for each in found.findings]


def test_a_plan_passes_when_all_that_is_pending_was_applied_as_it_is_now(folder: Format) -> None:
    plan, sums = plan_of(folder, a=1, b=2, c=3), {each.version: each.checksum for each in folder.migrations}
    assert problems(verdict(folder, plan)) == [("unrehearsed", "0002", None), ("unrehearsed", "0003", None)]
    rehearsed = record(sums, applied(A, "0002", "0003"))
    assert verdict(folder, plan, rehearsed).passed
    # The same versions with other files were another rehearsal.
    other = record(sums | {"0003": "another"}, applied(A, "0002", "0003"))
    assert problems(verdict(folder, plan, other)) == [("unrehearsed", "0002", None), ("unrehearsed", "0003", None)]
    # Nobody is behind: there is nothing to rehearse.
    assert verdict(folder, plan_of(folder, a=3)).passed


def test_a_tenant_whose_ledger_nobody_has_read_needs_the_newest_to_be_rehearsed(folder: Format) -> None:
    sums = {each.version: each.checksum for each in folder.migrations}
    assert problems(verdict(folder, plan_of(folder, a=None))) == [("unrehearsed", "0003", None)]
    assert verdict(folder, plan_of(folder, a=None), record(sums, applied(B, "0003"))).passed


def test_a_tenant_at_which_it_failed_holds_the_plan_up_until_it_passes_or_is_left_out(folder: Format) -> None:
    sums = {each.version: each.checksum for each in folder.migrations}
    first = record(sums, applied(A, "0003"), failed(B, "0003"))
    assert problems(verdict(folder, plan_of(folder, a=2, b=2), first)) == [("failed", "0003", "b")]
    assert verdict(folder, plan_of(folder, a=2), first).passed
    # Somebody else's success does not mend it; its own does.
    again = record(sums, applied(A, "0003"), number=2)
    assert problems(verdict(folder, plan_of(folder, a=2, b=2), again, first)) == [("failed", "0003", "b")]
    mended = record(sums, applied(B, "0003"), number=3)
    assert verdict(folder, plan_of(folder, a=2, b=2), mended, again, first).passed


def test_a_lock_that_was_kept_too_long_holds_the_plan_up(folder: Format) -> None:
    sums = {each.version: each.checksum for each in folder.migrations}
    found = verdict(folder, plan_of(folder, a=2), record(sums, applied(C, "0003", lock=7.5)))
    assert problems(found) == [("locked", "0003", "c")]
    assert "AccessExclusiveLock on public.t of c for up to 7.50 s, more than 5 s" in found.findings[0].message


def test_the_expected_time_is_its_own_where_it_was_rehearsed_or_that_of_others(folder: Format) -> None:
    sums = {each.version: each.checksum for each in folder.migrations}
    known = record(
        sums, applied(A, "0002", "0003", seconds=9), applied(B, "0003", seconds=2), applied(C, "0003", seconds=4)
    )
    assert verdict(folder, plan_of(folder, a=1, d=2, e=1, f=3), known).seconds == {"a": 9, "d": 3, "e": 9}
    assert verdict(folder, plan_of(folder, a=1)).seconds == {}


def test_the_gate_warns_or_refuses_and_an_override_is_written_down(catalog: Catalog, folder: Format) -> None:
    plan = plan_of(folder, a=2)
    assert gate(catalog, plan, folder, mode="off", lock_seconds_max=5) == []
    assert gate(catalog, plan, folder, mode="warn", lock_seconds_max=5) == ["0003 was not rehearsed"]
    with pytest.raises(Conflict, match="0003 was not rehearsed") as refused:
        gate(catalog, plan, folder, mode="require", lock_seconds_max=5)
    assert "--unrehearsed REASON" in refused.value.next_step
    gate(catalog, plan, folder, mode="require", lock_seconds_max=5, unrehearsed="the site is down")
    with catalog.transaction() as connection:
        [event] = events.events_page(connection, verb="run unrehearsed", limit=9)
        assert event.detail["reason"] == "the site is down"
        connection.exec_driver_sql("TRUNCATE event")


def test_what_was_found_is_kept_and_found_again(catalog: Catalog, folder: Format) -> None:
    sums = {each.version: each.checksum for each in folder.migrations}
    branches = (applied(A, "0003"), failed(B, "0003"))
    assert branches_of(report_of(branches)) == branches
    with catalog.transaction() as connection:
        rehearsals.begin_rehearsal(
            connection,
            "rehearsal-x",
            format="sql",
            directory=".",
            checksum=checksum_of("sql", sums.items()),
            migrations=sums,
            tenants=[],
            by="x",
        )
    # One that has not ended tells nothing.
    assert not rehearsal_verdict(catalog, plan_of(folder, a=2), folder, lock_seconds_max=5).passed
    with catalog.transaction() as connection:
        report = report_of(branches)
        rehearsals.finish_rehearsal(connection, "rehearsal-x", report=report, passed=False, cleared=True)
    found = rehearsal_verdict(catalog, plan_of(folder, a=2, b=2), folder, lock_seconds_max=5)
    assert problems(found) == [("failed", "0003", "b")]
    assert found.rehearsals == ("rehearsal-x",)


# ------------------------------------------------------------------------------------------------------------- locks


@given(
    st.lists(st.floats(0.001, 1), min_size=1, max_size=20),
    st.floats(0, 20),
    st.floats(0.001, 10),
)
def test_a_lock_is_never_told_shorter_than_it_was_held(gaps: Sequence[float], taken: float, held: float) -> None:
    """A model: looks take no time, and see what is held at that moment. What no look meets is not seen at all."""
    spans, now = Spans(begun=0.0), 0.0
    looks: list[float] = []
    for gap in gaps:
        now += gap
        looks.append(now)
        seen = [(1, "public.t", EXCLUSIVE)] if taken <= now < taken + held else []
        spans.look(seen, now, now)
    spans.close(max(now, taken + held))
    met = [look for look in looks if taken <= look < taken + held]
    if not met:
        assert spans.spans == {}
    else:
        span = spans.spans[1, EXCLUSIVE]
        assert span.since <= taken + 1e-9
        assert span.until >= min(taken + held, max(now, taken + held)) - 1e-9


def test_a_lock_that_no_look_met_is_told_by_the_session_itself() -> None:
    measured = Measured(names={1: "public.t"}, taken={(1, EXCLUSIVE): ("0002", 10.0), (2, EXCLUSIVE): ("0002", 10.0)})
    # The relation 2 was made by the migration: it kept nobody out.
    assert locks_of(measured, Spans(begun=0.0), ended=10.5, migrating=9.0) == (
        LockReport(table="public.t", mode=EXCLUSIVE, migration="0002", seconds_max=0.5),
    )
    seen = Spans(begun=0.0)
    seen.spans[1, EXCLUSIVE] = Span(10.2, 10.6)
    seen.names[1] = "public.t"
    [lock] = locks_of(measured, seen, ended=10.5, migrating=9.0)
    assert lock.seconds_max == pytest.approx(0.4)


# ------------------------------------------------------------------------------------------------------------ samples


def test_a_sample_is_read() -> None:
    assert parse_sample("largest:2,oldest,random:3") == {"largest": 2, "oldest": 1, "random": 3}
    for wrong in ("", "newest:1", "largest:-1", "largest:x", "random:1000"):
        with pytest.raises(InvalidInput):
            parse_sample(wrong)


def test_nobody_is_chosen_twice_and_one_seed_chooses_the_same() -> None:
    everybody = [
        Candidate(slug=TenantSlug(f"t{n:02}"), created_at=AT + timedelta(days=n), size_bytes=n % 7 * 100)
        for n in range(20)
    ]
    wanted = parse_sample("largest:2,oldest:2,random:3")
    chosen = take(everybody, wanted, 7)
    assert chosen[:4] == ["t06", "t13", "t00", "t01"]
    assert len(set(chosen)) == 7
    assert take(list(reversed(everybody)), wanted, 7) == chosen
    assert take(everybody, wanted, 8) != chosen
    unknown = [replace(each, size_bytes=None) for each in everybody[:3]]
    assert sorted(take(unknown, wanted, 7)) == ["t00", "t01", "t02"]
