from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.errors import InvalidInput, LimitReached
from tenantry.fleet.catalog.records import ProviderId, Residency, Serving
from tenantry.fleet.providers.placement import Refused, fits, place

EU = Residency(slug="eu", region_patterns=("eu-*",))


def serving(
    provider: str, region: str = "eu-1", *, projects: int = 0, projects_max: int | None = None, accepts_new: bool = True
) -> Serving:
    return Serving(
        provider_id=ProviderId(uuid.uuid5(uuid.NAMESPACE_DNS, provider)),
        provider=provider,
        region=region,
        provider_region=f"{provider}/{region}",
        projects=projects,
        ready=0,
        projects_max=projects_max,
        accepts_new=accepts_new,
    )


def test_the_provider_with_most_room_is_chosen() -> None:
    tight = serving("tight", projects=90, projects_max=100)
    roomy = serving("roomy", projects=900, projects_max=1000)
    assert place([tight, roomy], region="eu-1", residency=None) == roomy
    endless = serving("endless", projects=5000)
    assert place([tight, roomy, endless], region="eu-1", residency=None) == endless
    emptier = serving("emptier", projects=4999)
    assert place([endless, emptier], region="eu-1", residency=None) == emptier


def test_a_tenant_that_says_no_region_may_go_to_any_that_its_residency_allows() -> None:
    us, eu = serving("us", "us-1"), serving("eu", "eu-1", projects=10)
    assert place([us, eu], region=None, residency=None) == us
    assert place([us, eu], region=None, residency=EU) == eu


@pytest.mark.parametrize(
    ("servings", "region", "residency", "rule", "words"),
    [
        ([], "eu-1", None, "region", "no provider serves region eu-1; define one"),
        ([serving("a", "us-1")], "eu-1", None, "region", "no provider serves region eu-1; choose one of: us-1"),
        ([serving("a", "us-1")], "us-1", EU, "residency", r"residency eu keeps data in eu-\*, and region us-1 is not"),
        ([serving("a", "us-1")], None, EU, "residency", "and no provider serves a region there"),
        ([serving("a", accepts_new=False)], "eu-1", None, "closed", r"region eu-1 takes no new tenants \(a\)"),
        (
            [serving("a", projects=7, projects_max=7), serving("b", projects=9, projects_max=8)],
            "eu-1",
            None,
            "capacity",
            "region eu-1 is full: a has 7 of 7, b has 9 of 8; raise --max",
        ),
    ],
)
def test_a_refusal_names_the_rule(
    servings: list[Serving], region: str | None, residency: Residency | None, rule: str, words: str
) -> None:
    refused = place(servings, region=region, residency=residency)
    assert isinstance(refused, Refused)
    assert refused.rule == rule
    with pytest.raises(LimitReached if rule == "capacity" else InvalidInput, match=words):
        raise refused.error()


@pytest.mark.parametrize(
    ("patterns", "region", "inside"),
    [
        (("eu-*",), "eu-1", True),
        (("eu-*",), "neu-1", False),
        (("eu-1",), "eu-10", False),
        (("us-1", "*-west"), "ca-west", True),
        (("*",), "anything", True),
    ],
)
def test_a_star_is_any_text_and_nothing_else_is(patterns: tuple[str, ...], region: str, inside: bool) -> None:
    assert fits(Residency(slug="x", region_patterns=patterns), region) is inside


SERVINGS = st.lists(
    st.builds(
        serving,
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(["eu-1", "eu-2", "us-1"]),
        projects=st.integers(0, 5),
        projects_max=st.one_of(st.none(), st.integers(1, 5)),
        accepts_new=st.booleans(),
    ),
    unique_by=lambda each: (each.provider, each.region),
)


@given(SERVINGS, st.sampled_from([None, "eu-1", "us-1"]), st.sampled_from([None, EU]))
def test_no_choice_breaks_a_rule_and_no_refusal_overlooks_a_place(
    servings: list[Serving], region: str | None, residency: Residency | None
) -> None:
    def possible(each: Serving) -> bool:
        return (
            (region is None or each.region == region)
            and (residency is None or fits(residency, each.region))
            and each.accepts_new
            and (each.projects_max is None or each.projects < each.projects_max)
        )

    chosen = place(servings, region=region, residency=residency)
    if isinstance(chosen, Refused):
        assert not any(map(possible, servings))
    else:
        assert possible(chosen)
        assert place(list(reversed(servings)), region=region, residency=residency) == chosen
