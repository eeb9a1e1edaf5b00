"""Previews at a stand-in of Vercel: what they see, what is deployed again, and whose variables are left alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tenantry.errors import Conflict, InvalidInput, NotFound
from tenantry.fleet.automations.previews import PreviewBranch, clean, give, take_away
from tenantry.fleet.automations.vercel_api import Vercel

from .stand_ins import VercelStandIn

BRANCH = PreviewBranch(name="pr 12", place="calm-river-1", endpoint_id="ep-one")
URLS = {"DATABASE_URL": "postgresql://one"}


@pytest.fixture
def stand_in() -> Iterator[VercelStandIn]:
    with VercelStandIn() as stand_in:
        yield stand_in
        assert stand_in.surprises == []


@pytest.fixture
def vercel(stand_in: VercelStandIn) -> Iterator[Vercel]:
    with Vercel("shop", stand_in.TOKEN, team=stand_in.TEAM, api_url=stand_in.url) as vercel:
        yield vercel


def test_a_preview_has_its_branch_as_long_as_both_are_there(stand_in: VercelStandIn, vercel: Vercel) -> None:
    both = URLS | {"POOLED": "postgresql://pooled"}
    given = give(vercel, "feature/x", BRANCH, both)
    assert given.new and not given.deployed_again
    assert stand_in.of("feature/x") == both
    again = give(vercel, "feature/x", BRANCH, {**both, "DATABASE_URL": "postgresql://new-password"})
    assert not again.new and len(stand_in.variables) == 2
    assert stand_in.of("feature/x")["DATABASE_URL"] == "postgresql://new-password"
    assert [each.key for each in take_away(vercel, "feature/x")] == ["DATABASE_URL", "POOLED"]
    assert stand_in.variables == [] and take_away(vercel, "feature/x") == []


def test_what_was_deployed_before_it_had_the_branch_is_deployed_again_once(
    stand_in: VercelStandIn, vercel: Vercel
) -> None:
    stand_in.deployed("feature/x")
    stand_in.deployed("other")
    assert give(vercel, "feature/x", BRANCH, URLS).deployed_again
    assert [each["branch"] for each in stand_in.deployments] == ["feature/x", "other", "feature/x"]
    assert not give(vercel, "feature/x", BRANCH, URLS).deployed_again
    # Made anew, it has another endpoint, and so another connection string.
    anew = replace(BRANCH, endpoint_id="ep-two")
    assert give(vercel, "feature/x", anew, URLS).deployed_again
    assert not give(vercel, "feature/x", BRANCH, URLS, redeploy=False).deployed_again


def test_production_is_never_deployed_again(stand_in: VercelStandIn, vercel: Vercel) -> None:
    stand_in.deployed("main", target="production")
    assert not give(vercel, "main", BRANCH, URLS).deployed_again
    assert len(stand_in.deployments) == 1


def test_variables_of_others_are_left_alone(stand_in: VercelStandIn, vercel: Vercel) -> None:
    stand_in.variables = [
        {"id": "env_a", "key": "DATABASE_URL", "value": "of all previews", "target": ["preview"]},
        {"id": "env_b", "key": "DATABASE_URL", "value": "mine", "target": ["preview"], "gitBranch": "theirs"},
        {"id": "env_c", "key": "DATABASE_URL", "value": "p", "target": ["production"], "gitBranch": None},
    ]
    with pytest.raises(Conflict, match="set at Vercel by somebody else"):
        give(vercel, "theirs", BRANCH, URLS)
    give(vercel, "feature/x", BRANCH, URLS)
    assert take_away(vercel, "theirs") == []
    assert len(take_away(vercel, "feature/x")) == 1
    assert [each["id"] for each in stand_in.variables] == ["env_a", "env_b", "env_c"]


def test_what_is_left_of_branches_that_are_gone_is_cleaned_up(stand_in: VercelStandIn, vercel: Vercel) -> None:
    for number in range(7):
        give(vercel, f"feature/{number}", replace(BRANCH, name=f"pr-{number}"), URLS)
    give(vercel, "elsewhere", replace(BRANCH, name="pr-0", place="another-place-2"), URLS)
    removed = clean(vercel, "calm-river-1", {"main", "pr-5"})
    assert sorted(each.git_branch for each in removed) == [f"feature/{number}" for number in (0, 1, 2, 3, 4, 6)]
    assert {each["gitBranch"] for each in stand_in.variables} == {"feature/5", "elsewhere"}


def test_a_lost_answer_is_asked_again_and_a_refusal_is_told(stand_in: VercelStandIn, vercel: Vercel) -> None:
    assert list(vercel.variables()) == []
    stand_in.failures = [None, (500, {"error": {"message": "oops"}})]
    vercel.set_variable("DATABASE_URL", "u", "feature/x", "Set by tenantry: pr-1 of p, ep")
    assert stand_in.of("feature/x") == {"DATABASE_URL": "u"}
    with pytest.raises(InvalidInput, match="between 1 and 250"):
        give(vercel, "x" * 251, BRANCH, URLS)
    with pytest.raises(InvalidInput, match="Vercel answered 400 to POST"):
        vercel.set_variable("DATABASE_URL", "u", "feature/x", "c" * 501)
    stand_in.variables.clear()
    with pytest.raises(NotFound, match="not found"):
        vercel.delete_variable("env_404")
