"""The arithmetic of the numbers that ``make bench`` prints, and (slow) that it still runs."""

from __future__ import annotations

import importlib.util
import json
import random
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def report() -> Any:
    """The module, which lies beside a program and is in no package."""
    spec = importlib.util.spec_from_file_location("bench_report", _HERE / "report.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_a_percentile_is_a_value_that_was_measured(report: Any) -> None:
    samples = [float(value) for value in range(20, 0, -1)]
    assert report.percentile(samples, 95) == 19
    assert report.percentile(samples, 50) == 10
    assert report.percentile([3.0], 95) == 3


def test_the_interval_is_the_narrowest_that_promises_95_percent(report: Any) -> None:
    ranks = {6: (1, 6), 7: (1, 7), 8: (1, 8), 9: (2, 8), 10: (2, 9), 20: (6, 15)}  # of any table of the sign test
    for count, (low, high) in ranks.items():
        assert report.median_interval([float(value) for value in range(1, count + 1)]) == (low, high)


def test_the_interval_holds_the_true_median_as_often_as_it_says(report: Any) -> None:
    chance = random.Random(4)
    inside = 0
    for _ in range(2000):
        low, high = report.median_interval([chance.lognormvariate(0, 1) for _ in range(9)])
        inside += low <= 1 <= high
    assert inside >= 0.94 * 2000


def test_few_samples_are_shown_as_they_are(report: Any) -> None:
    assert report.median_interval([2.0]) == (2.0, 2.0)
    assert report.median_interval([1.0, 9.0, 2.0]) == (1.0, 9.0)


def test_a_document_has_the_samples_and_the_machine(report: Any, tmp_path: Path) -> None:
    row = report.Row(what="x", ours="1", met=False, numbers={"seconds": [0.1]})
    report.write(tmp_path / "results" / "x.json", [row, report.skipped("y", "not here")], {"cpus": 2})
    document = json.loads((tmp_path / "results" / "x.json").read_text())
    assert document["cpus"] == 2
    assert [each["met"] for each in document["rows"]] == [False, None]
    assert document["rows"][0]["numbers"] == {"seconds": [0.1]}


@pytest.mark.slow
def test_it_runs() -> None:
    done = subprocess.run(
        [sys.executable, str(_HERE / "main.py"), "--quick", "--only", "create,footprint"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (name,) = re.findall(r"written to (.+\.json)", done.stdout)
    document = json.loads(Path(name).read_text())
    Path(name).unlink()
    rows = {row["what"]: row["numbers"] for row in document["rows"]}
    assert rows["memory of a tenant asleep: processes"] == {"processes": 0}
    created = next(numbers for what, numbers in rows.items() if "spare ready" in what)
    assert 0 < statistics.median(created["seconds"]) < 30
