"""A plan, or a run, as Markdown for a pull request or a job's summary: what will happen, what happened, what to do.

Pure. Nothing in it is longer than GitHub takes, and what tenants and databases say is shown as text, never as markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from tenantry.fleet.migrations.history import Story, objections_of
from tenantry.fleet.migrations.lint.verdict import Finding, Verdict
from tenantry.fleet.migrations.plan import Plan
from tenantry.fleet.migrations.results import Failure, failure_of

SUMMARY_LENGTH_MAX: Final = 60_000
"""A comment of GitHub's has 65,536 characters at most; a job's summary more."""
ROWS_MAX: Final = 50
CELL_LENGTH_MAX: Final = 300
_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]()+!|<>~&-])")
_REFERENCE: Final = re.compile(r"([@#])")
"""GitHub makes mentions and links of these, also where they are escaped."""
_CUT: Final = "\n\n_The rest is left out: GitHub takes no more._\n"


def plan_summary(
    plan: Plan, *, seconds: float | None = None, rehearsal: str | None = None, verdict: Verdict | None = None
) -> str:
    """What a run would do. ``rehearsal`` says what came of trying it on branches."""
    behind = plan.to_visit
    current = len(plan.tenants) - len(behind)
    head = f"**{len(behind)}** of {len(plan.tenants)} tenants are behind {_code(plan.target or 'nothing')}"
    parts = [
        "## Migration plan",
        f"{head}; {current} are current and are not woken. {_text(plan.format)} in {_code(plan.directory)}.",
    ]
    pending: dict[str, int] = {}
    for each in behind:
        for version in each.pending:
            pending[version] = pending.get(version, 0) + 1
    parts.append(_table(["Migration", "Tenants"], [(_code(version), count) for version, count in pending.items()]))
    if behind:
        parts.append(_table(["Wave", "Tenants"], [(_text(name), count) for name, count in plan.waves.items()]))
    if seconds is not None:
        parts.append(f"By earlier runs this takes about {_took(seconds)}.")
    if rehearsal is not None:
        parts.append(f"Rehearsal: {_text(rehearsal)}.")
    for tenants, words in (
        (plan.of("edited"), "files that changed after they were applied"),
        (plan.of("ahead"), "migrations that this folder lacks"),
        (plan.of("no_folder"), "a folder of their own that is not there"),
    ):
        if tenants:
            names = ", ".join(_code(each.tenant.slug) for each in tenants[:10])
            more = f" and {len(tenants) - 10} more" if len(tenants) > 10 else ""
            parts.append(f"Not migrated because of {words}: {names}{more}.")
    if plan.refused:
        parts.append("### Refused")
        rows = [(_code(f"{each.file}:{each.line}"), _text(each.reason), _code(each.excerpt)) for each in plan.refused]
        parts.append(_table(["Where", "Why", "Statement"], rows))
    if verdict is not None:
        parts += _lint(verdict)
    if plan.refused or (verdict is not None and verdict.blocking):
        parts.append("**Next:** nothing is run until what is listed above is mended.")
    elif behind:
        parts.append("**Next:** `tenantry migrate run`")
    else:
        parts.append("**Next:** nothing to do.")
    return _bounded(parts)


def _lint(verdict: Verdict) -> list[str]:
    told: Sequence[Finding] = [*verdict.blocking, *verdict.warnings, *verdict.allowed]
    if not told:
        return [f"Lint: nothing to object to ({len(verdict.judged)} migrations)."]
    rows = [
        (
            _code(f"{each.file}:{each.line}"),
            _code(each.rule),
            _text(f"allowed: {each.allowed.reason}" if each.allowed else each.level),
            _text(f"{each.message}. {each.instead}" if each.instead else each.message),
        )
        for each in told
    ]
    return ["### Lint", _table(["Where", "Rule", "Level", "What"], rows)]


def run_summary(story: Story) -> str:
    """What a run did."""
    run, counts = story.run, story.counts
    said = [
        f"{counts[name]} {words}"
        for name, words in (
            ("applied", "migrated"),
            ("current", "current already"),
            ("skipped", "current by the catalog and not woken"),
            ("failed", "failed"),
            ("gone", "deleted meanwhile"),
            ("waiting", "not started"),
        )
        if counts[name]
    ]
    who = f", by {_text(run.created_by)}" if run.created_by else ""
    took = f" in {_took(story.seconds)}" if story.seconds is not None else ""
    parts = [
        f"## Migration {_code(run.target or 'nothing')}: {_text(run.state)}",
        f"{', '.join(said) or 'no tenants'}{took}. Run {_code(run.id)}, begun {run.started_at:%Y-%m-%d %H:%M}Z{who}.",
    ]
    if run.reason:
        parts.append(f"{_text(run.state.capitalize())}: {_text(run.reason)}.")
    parts.append(
        _table(
            ["Wave", "Tenants", "Migrated", "Failed", "Median", "95 %", "State"],
            [
                (
                    _text(each.name), each.tenants, each.applied, each.failed, _seconds(each.seconds_p50),
                    _seconds(each.seconds_p95), _text("; ".join([each.state, *objections_of(each)])),
                )
                for each in story.waves
            ],
        )
    )  # fmt: skip
    if story.failed:
        parts.append("### Failed")
        rows: list[tuple[str, str, str, str]] = []
        for each in story.failed[:ROWS_MAX]:
            failure = failure_of(each)
            if failure is not None:
                where, why = _where(failure), _text(failure.message)
                rows.append((_code(each.slug), _code(failure.sqlstate or failure.kind), where, why))
        parts.append(_table(["Tenant", "Error", "Where", "Why"], rows, total=counts["failed"]))
        steps = dict.fromkeys(
            failure.next_step for each in story.failed if (failure := failure_of(each)) and failure.next_step
        )
        parts += [f"- {_text(step)}" for step in list(steps)[:10]]
    parts.append(f"**Next:** {_next(story)}")
    return _bounded(parts)


def _next(story: Story) -> str:
    run, counts = story.run, story.counts
    if run.state in {"paused", "stopped", "running"}:
        return f"`tenantry migrate resume {run.id}` goes on, `tenantry migrate abort {run.id}` ends it."
    if counts["failed"]:
        return f"mend what is listed, then `tenantry migrate resume {run.id}`: tenants that are done are not touched."
    if run.state == "aborted":
        return "`tenantry migrate run` begins anew; what is done stays done."
    return "nothing to do."


def _where(failure: Failure) -> str:
    if failure.file is None:
        return ""
    place = failure.file if failure.line is None else f"{failure.file}:{failure.line}"
    return _code(place) + (f", statement {failure.statement}" if failure.statement is not None else "")


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f} s"


def _took(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6_000 else f"{seconds / 3600:.1f} h"


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, total: int | None = None) -> str:
    """Empty where there are no rows; with ``total`` of them where only some are given."""
    lines = list(rows)
    if not lines:
        return ""
    told = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    told += [f"| {' | '.join(str(cell) for cell in row)} |" for row in lines[:ROWS_MAX]]
    more = max(len(lines), total or 0) - min(len(lines), ROWS_MAX)
    return "\n".join(told) + (f"\n\nand {more} more." if more > 0 else "")


def _text(text: str) -> str:
    """As it is: no markup, no mention of anybody, one line."""
    flat = " ".join(text.split())
    flat = flat if len(flat) <= CELL_LENGTH_MAX else f"{flat[:CELL_LENGTH_MAX]}..."
    return _REFERENCE.sub(r"\1<!-- -->", _SPECIAL.sub(r"\\\1", flat))


def _code(text: str) -> str:
    """The same in the type of code; a backtick or a bar would end it, or its cell."""
    flat = " ".join(text.split()).replace("`", "'").replace("|", "\\|")
    flat = flat if len(flat) <= CELL_LENGTH_MAX else f"{flat[:CELL_LENGTH_MAX]}..."
    return f"`{flat}`"


def _bounded(parts: Iterable[str]) -> str:
    whole = "\n\n".join(part for part in parts if part) + "\n"
    if len(whole) <= SUMMARY_LENGTH_MAX:
        return whole
    cut = whole[: SUMMARY_LENGTH_MAX - len(_CUT)]
    return cut[: cut.rfind("\n")] + _CUT
