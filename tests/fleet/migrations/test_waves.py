"""Who comes when, what is next, and what a gate says: all of it decided from values alone."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tenantry.errors import InvalidInput
from tenantry.fleet.catalog.records import Run, Wave
from tenantry.fleet.migrations.conduct import Begin, Finish, Held, Judge, Migrate, Others, Prove, Shut, next_step
from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.gates import Gates, ask_outside, objections, too_many_failed
from tenantry.fleet.migrations.selection import Selection
from tenantry.fleet.migrations.tenant import TenantRef, TenantSlug
from tenantry.fleet.migrations.waves import CANARY, GOLDEN, REST, Ring, Rules, place_of, waves_of


def tenants(number: int, **fields: Any) -> list[TenantRef]:
    return [TenantRef(TenantSlug(f"tenant-{each}"), **fields) for each in range(number)]


def sizes(refs: list[TenantRef], rules: Rules) -> dict[str, int]:
    waves = waves_of(refs, rules)
    counted = Counter(waves.name_of(tenant) for tenant in refs)
    assert set(counted) <= set(waves.names)
    return {name: counted[name] for name in waves.names}


def test_few_come_at_once_and_many_behind_a_canary_and_a_first_part() -> None:
    assert sizes(tenants(4), Rules()) == {REST: 4}
    assert sizes(tenants(4), Rules(canaries=1)) == {CANARY: 1, REST: 3}
    assert sizes(tenants(1), Rules(canaries=1)) == {REST: 1}
    assert sizes(tenants(20), Rules()) == {CANARY: 1, REST: 19}
    many = sizes(tenants(1000), Rules(canaries=3))
    assert list(many) == [CANARY, "first 10%", REST]
    assert many[CANARY] == 3
    assert 70 < many["first 10%"] < 130


def test_a_tenant_is_in_the_first_ring_that_has_it() -> None:
    rings = (
        Ring(name="ours", tenants=("tenant-1", "tenant-2*")),
        Ring(name="small", plans=("launch",), regions=("eu-*",)),
    )
    refs = [*tenants(30, plan="launch", region="eu-west"), TenantRef(TenantSlug("big"), plan="business", region="eu-1")]
    assert sizes(refs, Rules(canaries=0, rings=rings)) == {"ours": 12, "small": 18, REST: 1}


def test_the_same_tenants_come_first_whoever_else_there_is() -> None:
    waves = waves_of(tenants(500), Rules())
    first = {t.slug for t in tenants(500) if waves.name_of(t) == "first 10%"}
    more = waves_of(tenants(900), Rules())
    assert first - {t.slug for t in tenants(500) if more.name_of(t) in {"first 10%", CANARY}} == set()
    assert place_of("acme", "x") == place_of("acme", "x") != place_of("acme", "y")


def test_a_selection_means_all_that_is_given(sql_folder: Any) -> None:
    folder = open_folder(sql_folder(_0001_a="select 1"))
    refs = [*tenants(5, plan="launch", region="here"), *tenants(3, plan="scale", region="there")]
    rings = [Ring(name="first", tenants=("tenant-0",))]

    def chosen(**given: Any) -> int:
        return len(list(Selection(**given).of(refs, rings, folder)))

    assert chosen() == 8
    assert chosen(plan="scale") == chosen(region="there") == 3
    assert chosen(plan="scale", region="here") == 0
    assert chosen(ring="first") == 2
    assert chosen(ring="rest", plan="launch") == 4
    assert chosen(limit=6) == 6
    assert 0 < len(list(Selection(percent=20).of(tenants(400), rings, folder))) < 140
    with pytest.raises(InvalidInput, match="no ring 'second'") as raised:
        chosen(ring="second")
    assert "first, rest" in raised.value.next_step


NOW = datetime(2026, 11, 28, tzinfo=UTC)


def run(state: Any = "running") -> Run:
    return Run(
        id="run-1", state=state, reason=None, format="sql", directory="d", target="0001", fingerprint="f",
        folder_digest=None, created_by="me", plan={}, started_at=NOW, finished_at=None, interrupted=False, counts={},
    )  # fmt: skip


def wave(name: str = REST, state: Any = "running", **numbers: Any) -> Wave:
    fields: dict[str, Any] = {
        "number": 0, "worker": None, "silent": False, "started_at": None, "finished_at": None, "verdict": None,
        "tenants": 10, "waiting": 0, "in_hand": 0, "shut": 0, "opens_at": None, "applied": 10, "failed": 0,
        "lock_waits": 0, "seconds_p50": 0.1, "seconds_p95": 0.2,
    }  # fmt: skip
    return Wave(name=name, state=state, **(fields | numbers))


def test_what_a_run_needs_next() -> None:
    done, todo = wave(state="passed"), wave(state="waiting", waiting=10)
    assert next_step(run("paused"), [todo]) == Held()
    assert next_step(run(), []) == Finish()
    assert next_step(run(), [done, done]) == Finish()
    assert next_step(run(), [done, todo]) == Begin(todo)
    half = wave(waiting=3, in_hand=2)
    assert next_step(run(), [half, todo]) == Migrate(half)
    others = wave(waiting=3, in_hand=3)
    assert next_step(run(), [others]) == Others(others)
    shut = wave(waiting=3, shut=3, opens_at=NOW)
    assert next_step(run(), [shut]) == Shut(shut, NOW)
    mixed = wave(waiting=3, shut=2, in_hand=1)
    assert next_step(run(), [mixed]) == Others(mixed)
    over = wave()
    assert next_step(run(), [over, todo]) == Judge(over)
    judged = wave(state="judging", worker="w")
    assert next_step(run(), [judged]) == Others(judged)
    assert next_step(run(), [judged], worker="v") == Others(judged)
    assert next_step(run(), [judged], worker="w") == Judge(judged), "its answer was lost: it was never told"
    left = wave(state="judging", worker="w", silent=True)
    assert next_step(run(), [left]) == Judge(left)
    golden = wave(GOLDEN, tenants=0)
    assert next_step(run(), [golden, todo]) == Prove(golden)
    assert next_step(run(), [wave(state="failed"), todo]) == Held()


def test_no_canary_may_fail_and_of_the_others_some() -> None:
    gates = Gates()
    assert too_many_failed(wave(CANARY, tenants=3, failed=1), gates) == "1 of 3 canaries failed"
    assert too_many_failed(wave(tenants=4, failed=2), gates) is None
    assert too_many_failed(wave(tenants=4, failed=3), gates) == "3 of 4 tenants failed, and 2 may"
    assert too_many_failed(wave(tenants=100, failed=10), gates) is None
    assert too_many_failed(wave(tenants=100, failed=11), gates) is not None
    assert too_many_failed(wave(tenants=100, failed=11), Gates(failures_percent=20)) is None


def test_the_numbers_of_a_wave() -> None:
    assert objections(wave(), Gates(p95_seconds=0.2, lock_waits_max=0)) == []
    (slow,) = objections(wave(seconds_p95=0.31), Gates(p95_seconds=0.3))
    assert "0.31 s" in slow
    (locks,) = objections(wave(failed=1, lock_waits=1), Gates(lock_waits_max=0))
    assert "waiting for a lock" in locks


def test_a_command_of_the_operators_is_asked(tmp_path: Path) -> None:
    told = {"run": "run-1", "wave": "rest", "failed": 1}
    said = tmp_path / "said"
    assert ask_outside(Gates(command=f'cat > {said}; test "$TENANTRY_WAVE" = rest'), told) == []
    assert '"failed": 1' in said.read_text()
    (refusal,) = ask_outside(Gates(command="echo errors rose; exit 3"), told)
    assert "ended with 3: errors rose" in refusal
    (slow,) = ask_outside(Gates(command="sleep 60", outside_seconds_max=0.2), told)
    assert "took longer than 0.2 s" in slow
