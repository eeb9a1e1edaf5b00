from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest

from tenantry.cli.output import Output, as_json, shown


@dataclass(frozen=True)
class _Record:
    name: str
    when: datetime | None


def test_records_times_and_ids_have_a_json_form() -> None:
    when = datetime(2026, 11, 24, 12, 0, tzinfo=timezone(timedelta(hours=2)))
    assert as_json(
        {"a": [_Record("x", when)], "b": (UUID(int=1), Decimal("19.00"), Path("p"), date(2026, 11, 24))}
    ) == {
        "a": [{"name": "x", "when": "2026-11-24T10:00:00Z"}],
        "b": ["00000000-0000-0000-0000-000000000001", "19.00", "p", "2026-11-24"],
    }
    with pytest.raises(TypeError, match="object has no JSON form"):
        as_json(object())


def test_with_json_stdout_is_one_document_whatever_else_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(json_wanted=True)
    output.say("a sentence")
    output.remark("a remark")
    output.table(["A"], [["b"]])
    output.facts([("name", "value")])
    output.event({"event": "x"})
    output.document({"é": 1})
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"é": 1}
    assert printed.err.splitlines() == ["a sentence", "a remark", '{"event": "x"}']


def test_people_see_tables_uncut_and_markup_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(json_wanted=False)
    name = "[red]" + "x" * 300
    output.table(["NAME", "WHEN"], [[name, None], ["b", datetime(2026, 1, 2, tzinfo=UTC)]])
    output.document({"not": "shown"})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["NAME", "WHEN"]
    assert lines[2:] == [[name, "-"], ["b", "2026-01-02", "00:00:00Z"]]


@pytest.mark.parametrize(("value", "text"), [(True, "yes"), (False, "no"), (None, "-"), (18, "18")])
def test_values_as_people_read_them(value: object, text: str) -> None:
    assert shown(value) == text
