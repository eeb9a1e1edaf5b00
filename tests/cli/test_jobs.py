"""Jobs at the command line, done by the worker of a real `tenantry up`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Operator


def test_many_tenants_are_suspended_and_what_failed_says_why(operator: Operator, name: str) -> None:
    slug = operator.json("create", name)["tenant"]["slug"]
    started = operator.json("jobs", "start", "suspend", slug, "no-such-tenant")["job"]
    # A worker may have begun by the time that it is told.
    assert started["kind"] == "suspend"
    job = started["id"][:8]

    ended = operator.json("jobs", "wait", job, code=3)["job"]
    assert (ended["state"], ended["done"], ended["failed"]) == ("failed", 1, 1)
    shown = operator.json("jobs", "show", job)
    assert [(item["subject"], item["error"]) for item in shown["items"]] == [
        ("no-such-tenant", "there is no tenant no-such-tenant; see `tenantry list`")
    ]
    everything = operator.do("jobs", "show", job, "--all").stdout
    assert f"{slug} " in everything
    assert operator.json("show", slug)["endpoints"][0]["state"] == "idle"

    assert operator.json("jobs", "retry", job)["waiting"] == 1
    operator.do("jobs", "wait", job, code=3)
    assert "has ended" in operator.do("jobs", "cancel", job, code=1).stderr


def test_a_name_of_a_customer_is_as_good_as_a_slug(operator: Operator, name: str) -> None:
    operator.do("create", name)
    job = operator.json("jobs", "start", "resume", name)["job"]["id"]
    assert operator.json("jobs", "wait", job)["job"]["state"] == "done"
    assert operator.json("show", name)["endpoints"][0]["state"] == "active"


def test_jobs_and_passes_are_listed(operator: Operator, name: str) -> None:
    operator.do("create", name)
    job = operator.json("jobs", "start", "suspend", name)["job"]["id"]
    operator.do("jobs", "wait", job)
    listed = operator.json("jobs", "list")
    (mine,) = [each for each in listed["jobs"] if each["id"] == job]
    assert (mine["kind"], mine["state"], mine["done"]) == ("suspend", "done", 1)
    assert {"finish_unfinished", "prune_jobs"} <= {each["name"] for each in listed["passes"]}
    table = operator.do("jobs", "list").stdout
    assert job[:8] in table
    assert "finish_unfinished" in table


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("start", "suspend"), "name tenants, or say --all"),
        (("start", "suspend", "x", "--all"), "name tenants, or say --all"),
        (("start", "create", "x"), "cannot be started here"),
        (("show", "nonsense"), "not a job's id"),
    ],
)
def test_wrong_usage(operator: Operator, arguments: tuple[str, ...], says: str) -> None:
    assert says in operator.do("jobs", *arguments, code=2).stderr


def test_a_job_that_is_not_there(operator: Operator) -> None:
    assert "there is no job 0000" in operator.do("jobs", "show", "0000", code=1).stderr
