"""Markdown of plans and runs: complete, bounded, and never markup of somebody else's."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.fleet.catalog.records import ProviderId, Run, RunTenant, TenantId, Wave
from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.history import Story
from tenantry.fleet.migrations.lint.verdict import lint_verdict
from tenantry.fleet.migrations.plan import make_plan
from tenantry.fleet.migrations.summary import ROWS_MAX, SUMMARY_LENGTH_MAX, plan_summary, run_summary
from tenantry.fleet.migrations.tenant import SchemaState, TenantRef, TenantSlug

BEGUN = datetime(2026, 11, 30, 1, 2, tzinfo=UTC)
RUN = Run(
    id="run-1", state="finished", reason=None, format="sql", directory="migrations", target="0002", fingerprint="f",
    folder_digest=None, created_by="ada@build", plan={"total": 12, "to_visit": 10}, started_at=BEGUN,
    finished_at=BEGUN + timedelta(seconds=42), interrupted=False, counts={"applied": 9, "failed": 1},
)  # fmt: skip
WAVE = Wave(
    number=0, name="canary", state="passed", worker=None, silent=False, started_at=BEGUN, finished_at=BEGUN,
    verdict=None, tenants=10, waiting=0, in_hand=0, shut=0, opens_at=None, applied=9, failed=1, lock_waits=0,
    seconds_p50=0.25, seconds_p95=1.5,
)  # fmt: skip


def failed(number: int = 1, **failure: Any) -> RunTenant:
    said = {
        "kind": "sql", "message": "duplicate key", "sqlstate": "23505", "file": "0002_b.sql", "line": 3,
        "statement": 2, "next_step": "mend the rows",
    }  # fmt: skip
    return RunTenant(
        run_id="run-1", tenant_id=TenantId(UUID(int=number)), slug=f"t{number}", provider_id=ProviderId(UUID(int=0)),
        wave=0, from_version="0001", pending=("0002",), outcome="failed", applied=(), to_version=None,
        failure=said | failure, notes=(), restore_point=None, seconds=1.0, attempts=1, worker=None, opens_at=None,
        finished_at=BEGUN,
    )  # fmt: skip


def test_a_run_is_told_with_what_to_do_next() -> None:
    text = run_summary(Story(run=RUN, waves=(WAVE,), failed=(failed(),)))
    assert text == (
        "## Migration `0002`: finished\n\n"
        "9 migrated, 2 current by the catalog and not woken, 1 failed in 42.0 s. Run `run-1`, begun 2026-11-30 01:02Z,"
        " by ada@<!-- -->build.\n\n"
        "| Wave | Tenants | Migrated | Failed | Median | 95 % | State |\n| --- | --- | --- | --- | --- | --- | --- |\n"
        "| canary | 10 | 9 | 1 | 0.25 s | 1.50 s | passed |\n\n"
        "### Failed\n\n"
        "| Tenant | Error | Where | Why |\n| --- | --- | --- | --- |\n"
        "| `t1` | `23505` | `0002_b.sql:3`, statement 2 | duplicate key |\n\n"
        "- mend the rows\n\n"
        "**Next:** mend what is listed, then `tenantry migrate resume run-1`: tenants that are done are not touched.\n"
    )


def test_each_end_has_its_next_step() -> None:
    def following(**changed: Any) -> str:
        return run_summary(Story(run=replace(RUN, **changed), waves=(), failed=())).rsplit("**Next:** ", 1)[1]

    assert following(counts={"applied": 10}) == "nothing to do.\n"
    assert "resume run-1" in following(state="stopped", reason="a gate")
    assert "begins anew" in following(state="aborted", counts={})
    stopped = run_summary(
        Story(
            run=replace(RUN, state="stopped", reason="1 of 1 canaries failed", finished_at=None),
            waves=(replace(WAVE, state="failed", verdict={"objections": ["1 of 1 canaries failed"]}),),
            failed=(),
        )
    )
    assert "Stopped: 1 of 1 canaries failed." in stopped
    assert "| failed; 1 of 1 canaries failed |" in stopped


def test_many_failures_are_cut_and_counted() -> None:
    tenants = tuple(failed(number, message="x" * 5_000) for number in range(1_000))
    text = run_summary(Story(run=replace(RUN, counts={"failed": 3_000}), waves=(WAVE,) * 200, failed=tenants))
    assert len(text) <= SUMMARY_LENGTH_MAX
    assert f"and {3_000 - ROWS_MAX} more." in text
    assert "and 150 more." in text
    wide = tuple(failed(number, message="x" * 290, file="f" * 290) for number in range(ROWS_MAX))
    steps = Story(run=replace(RUN, target="t" * 290), waves=(replace(WAVE, name="|" * 290),) * ROWS_MAX, failed=wide)
    assert len(run_summary(steps)) <= SUMMARY_LENGTH_MAX


@given(st.text(max_size=400))
def test_what_others_say_is_no_markup(said: str) -> None:
    text = run_summary(Story(run=RUN, waves=(), failed=(failed(message=said, next_step=f"mend {said}"),)))
    assert len(text.splitlines()) == len(run_summary(Story(run=RUN, waves=(), failed=(failed(),))).splitlines())
    row = next(line for line in text.splitlines() if line.startswith("| `t1`"))
    assert row.count("|") - row.count("\\|") == 5
    assert "<b" not in text and "@a" not in text and "](" not in text


def test_a_plan_is_told_with_its_lint(tmp_path: Path) -> None:
    (tmp_path / "0001_a.sql").write_text("create table a (x int);")
    (tmp_path / "0002_b.sql").write_text("set lock_timeout = 0;\nalter table a drop column x;")
    folder = open_folder(tmp_path)
    first = open_folder(tmp_path, through="0001").judge(None).state
    states = [None, None, SchemaState("sql", None, first.fingerprint), SchemaState("sql", "0009", "f")]
    plan = make_plan(folder, [TenantRef(TenantSlug(f"t{index}"), state) for index, state in enumerate(states)])
    verdict = lint_verdict(folder, {}, allowed={"ban-drop-column": "nobody reads it"})
    text = plan_summary(plan, seconds=90.0, rehearsal="none of them", verdict=verdict)
    assert text.startswith("## Migration plan\n\n**4** of 4 tenants are behind `0002`; 0 are current")
    assert "| `0001` | 3 |" in text
    assert "takes about 90.0 s." in text
    assert "Rehearsal: none of them." in text
    assert "Not migrated because of migrations that this folder lacks: `t3`." in text
    assert "| `0002_b.sql:1` | `lock-timeout-disabled` | block |" in text
    assert "| allowed: nobody reads it |" in text
    assert text.endswith("**Next:** nothing is run until what is listed above is mended.\n")
    assert "**Next:** `tenantry migrate run`" in plan_summary(plan)
    assert "Lint: nothing to object to" in plan_summary(plan, verdict=lint_verdict(folder, {}, versions=["0001"]))
    nobody = make_plan(folder, [])
    assert plan_summary(nobody).endswith("**Next:** nothing to do.\n")


@pytest.mark.parametrize("seconds", [0.0, 99.0, 5_000.0, 90_000.0])
def test_times_are_told_in_fitting_units(seconds: float) -> None:
    story = Story(run=replace(RUN, finished_at=BEGUN + timedelta(seconds=seconds)), waves=(), failed=())
    assert {0.0: "0.0 s", 99.0: "99.0 s", 5_000.0: "83 min", 90_000.0: "25.0 h"}[seconds] in run_summary(story)
