"""`tenantry usage` of a real cell: who used what on which day, as a table, as JSON and as CSV."""

from __future__ import annotations

import csv
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

if TYPE_CHECKING:
    from conftest import Operator

USED_SECONDS_MAX = 60.0
DAY_SECONDS_MIN = 30.0
"""What is left of the day when something begins that is told by day."""


def used(operator: Operator, name: str) -> str:
    """A tenant that somebody has used and left; returns once its cell has counted that."""
    slug = operator.json("create", name)["tenant"]["slug"]
    with psycopg.connect(operator.json("url", slug)["url"]) as db:
        db.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")
        db.execute("SELECT * FROM t").fetchall()
    operator.do("suspend", slug)
    pause, deadline = threading.Event(), time.monotonic() + USED_SECONDS_MAX
    while not line_of(operator.json("usage"), slug).get("sent_bytes"):
        assert time.monotonic() < deadline, "the cell has not counted what was used"
        pause.wait(0.2)
    return slug


@pytest.fixture
def within_a_day() -> None:
    """Lets midnight pass where it is near."""
    while (datetime.now(UTC) + timedelta(seconds=DAY_SECONDS_MIN)).date() != datetime.now(UTC).date():
        time.sleep(0.1)


def line_of(document: dict[str, Any], slug: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = [line for line in document["lines"] if line["tenant"] == slug]
    return found[0] if found else {}


@pytest.mark.usefixtures("within_a_day")
def test_what_a_tenant_used_is_told_by_tenant_and_day_with_its_cost(
    operator: Operator, name: str, workdir: Path
) -> None:
    slug = used(operator, name)
    today = datetime.now(UTC).date().isoformat()
    everybody = operator.json("usage")
    assert (everybody["by"], everybody["until"]) == ("tenant", today)
    assert [(each["provider"], each["problem"]) for each in everybody["collected"]] == [("home", None)]
    mine = line_of(everybody, slug)
    assert mine["written_bytes"] > 0
    assert mine["cost"] is None

    of_one = operator.json("usage", name)
    assert (of_one["by"], of_one["tenant"]) == ("day", slug)
    assert of_one["lines"][-1]["day"] == today
    assert of_one["total"]["sent_bytes"] == mine["sent_bytes"]
    # Other tests' tenants are of this fleet too, and a screen shows only those that used the most.
    assert slug in operator.do("usage", slug, "--by", "tenant").stdout
    assert "TENANT" in operator.do("usage").stdout

    prices = workdir / "tenantry.toml"
    prices.write_text('[prices]\ncurrency = "EUR"\nsent_gib = 1000000.0\n')
    priced = operator.do("usage", slug, "--by", "tenant", "--cached", TENANTRY_CONFIG=str(prices))
    assert "EUR" in priced.stdout
    assert "as of" in priced.stderr

    file = workdir / "usage.csv"
    said = operator.do("usage", "--csv", str(file)).stdout
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert f"{len(rows)} lines are in {file}" in said
    assert [(row["day"], int(row["sent_bytes"])) for row in rows if row["tenant"] == slug] == [
        (today, mine["sent_bytes"])
    ]
    assert list(workdir.glob("*.unfinished")) == []
    to_stdout = operator.do("usage", slug, "--csv", "-", "--by", "day").stdout
    assert to_stdout.splitlines()[0].startswith("day,tenants,active_seconds")


def test_nobody_is_idle_yet_and_nobody_is_noisy(operator: Operator, name: str) -> None:
    operator.do("create", name)
    unused = operator.json("usage", "--idle")
    assert (unused["days"], unused["idle"], unused["not_known"]) == (30, [], [])
    assert "has been used since" in operator.do("usage", "--idle", "--days", "7").stdout
    assert operator.json("usage", "--noisy")["noisy"] == []
    assert "no tenant used 10 times" in operator.do("usage", "--noisy").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--since", "yesterday"), "'yesterday' is not a day"),
        (("--since", "2999-01-01"), "is after"),
        (("--idle", "--noisy"), "are two questions"),
        (("--idle", "--by", "day"), "looks at all tenants"),
        (("--idle", "--since", "2026-01-01"), "looks back from today"),
        (("--csv", "-", "--json"), "both want stdout"),
        (("--by", "week"), "week"),
    ],
)
def test_what_makes_no_sense_is_said_before_anybody_is_asked(
    operator: Operator, arguments: tuple[str, ...], says: str
) -> None:
    assert says in operator.do("usage", *arguments, code=2).stderr


def test_a_tenant_that_there_is_not_is_said(operator: Operator) -> None:
    assert "there is no tenant nobody-here" in operator.do("usage", "nobody-here", code=1).stderr


def test_a_provider_that_is_away_is_said_and_what_is_known_is_shown(
    workdir: Path, within: Callable[..., Any], operator: Operator, name: str
) -> None:
    slug = used(operator, name)
    target = operator.cell.target
    assert target.catalog_url is not None
    away = {
        "TENANTRY_API_URL": "http://127.0.0.1:1/api/v2",
        "TENANTRY_API_KEY": "x",
        "TENANTRY_CATALOG_URL": target.catalog_url,
    }
    done = within("usage", slug, "--since", "2026-01-01", "--by", "tenant", **away)
    assert done.returncode == 3, done.stderr
    assert "usage of provider home was not collected" in done.stderr
    assert slug in done.stdout
