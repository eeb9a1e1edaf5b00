"""The page of the docs says of every operation what it does here."""

from __future__ import annotations

from pathlib import Path

from tenantry.cell.api import coverage
from tenantry.cell.api.app import routes, served
from tenantry.cell.api.page import page
from tenantry.neon.contract import contract_operations

COMMITTED = Path(__file__).parents[3] / "docs" / "api.md"


def test_the_committed_page_is_what_there_is() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == page(), "make docs"


def test_no_operation_is_missing_and_none_is_silent() -> None:
    text = page().partition("## Beyond the contract")[0]
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `")]
    by_id = {row[1].strip(" `"): row for row in rows}
    assert len(rows) == len(by_id)
    assert set(by_id) == {operation.id for operation in contract_operations()}
    for operation in contract_operations():
        _, _, request, key, here, _ = by_id[operation.id]
        assert request.strip() == f"`{operation.method} {operation.path}`"
        assert here.strip().startswith(("served", "501"))
        assert bool(key.strip()) == here.strip().startswith("served")
        assert coverage.why_not(operation) if here.strip().startswith("501") else operation.id in served()


def test_words_are_about_operations_that_there_are() -> None:
    known = {operation.id for operation in contract_operations()}
    assert set(coverage.LIMITS) <= set(served())
    assert set(coverage.BEYOND) == {f"{method} {path}" for method, path, operation in routes() if operation is None}
    assert set(coverage.WHY_NOT) <= known
    assert not set(coverage.WHY_NOT) & set(served())
    assert set(coverage.WHY_NOT_GROUP) <= {operation.group for operation in contract_operations()}
