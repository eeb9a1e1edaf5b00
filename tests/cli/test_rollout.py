"""What is seen of a run of migrations while it runs."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from tenantry.cli import rollout, rollout_bar
from tenantry.cli.output import Output
from tenantry.fleet.catalog.records import Run
from tenantry.fleet.migrations.events import (
    Event,
    Progressed,
    RunStarted,
    Stopping,
    TenantFinished,
    TenantStarted,
    Waiting,
    Warned,
    WaveJudged,
    WaveStarted,
)
from tenantry.fleet.migrations.results import Failure, TenantResult
from tenantry.fleet.migrations.tenant import TenantSlug

ACME = TenantSlug("acme")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
RUN = Run(
    id="run-1", state="running", reason=None, format="sql", directory="m", target="2", fingerprint="f",
    folder_digest=None, created_by="me", plan={}, started_at=NOW, finished_at=None, interrupted=False, counts={},
)  # fmt: skip
APPLIED = TenantResult(slug=ACME, outcome="applied", applied=("1", "2"), seconds=0.126, notes=("a note",))
FAILED = TenantResult(
    slug=ACME, outcome="failed", failure=Failure(kind="sql", message="no [column]", sqlstate="42703"), seconds=1
)
EVENTS: list[Event] = [
    RunStarted(RUN, total=3, to_visit=2),
    WaveStarted(0, "canary", 1),
    TenantStarted(ACME),
    TenantFinished(APPLIED, 1, 2),
    WaveJudged(0, "canary", ()),
    Progressed(1, 2),
    TenantFinished(FAILED, 2, 2),
    WaveJudged(1, "rest", ("1 of 1 [failed]",)),
    Waiting(NOW, 2),
    Warned("the catalog was away"),
    Stopping(cancelling=False),
    Stopping(cancelling=True),
]


def test_lines_outside_of_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with rollout.listener(Output(json_wanted=False), terminal=False) as listener:
        for event in EVENTS:
            listener.on_event(event)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "run-1: 2 of 3 tenants to visit",
        "wave canary: 1 tenant",
        "[1/2] acme: applied 1, 2 (0.13 s); a note",
        "wave canary: passed",
        "[1/2]",
        "[2/2] acme: FAILED: 42703 no [column] (1.00 s)",
        "wave rest: STOPPED: 1 of 1 [failed]",
        "2 tenants wait for their maintenance window until 2026-01-01 00:00Z",
        "warning: the catalog was away",
        "stopping: what is under way ends first (interrupt again to cancel it)",
        "cancelling: what is under way is rolled back",
    ]


def test_a_bar_in_a_terminal_with_a_line_for_each_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(
        rollout_bar, "Console", lambda **_: Console(file=screen, force_terminal=True, width=200, color_system=None)
    )
    with rollout.listener(Output(json_wanted=False), terminal=True) as listener:
        for event in EVENTS:
            listener.on_event(event)
    text = screen.getvalue()
    assert "acme: FAILED: 42703 no [column] (1.00 s)" in text
    assert "warning: the catalog was away" in text
    assert "wave rest: STOPPED: 1 of 1 [failed]" in text
    assert "migrating, 1 failed" in text
    assert "2/2" in text
    assert "applied 1, 2" not in text
