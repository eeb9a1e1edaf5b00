"""The client of GitHub's API, and what becomes of secrets when GitHub refuses, is slow or goes away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from tenantry.errors import Forbidden, InvalidInput, NotFound, Unauthorized, Unavailable
from tenantry.fleet.automations.customers import Customer
from tenantry.fleet.automations.github_api import Github
from tenantry.fleet.automations.github_secrets import key_name, out_of_reach, plan_secrets, set_secrets
from tenantry.fleet.automations.pull_requests import say
from tenantry.fleet.catalog.records import ProviderId, ProviderRecord

from .stand_ins import GithubStandIn


@pytest.fixture
def stand_in() -> Iterator[GithubStandIn]:
    with GithubStandIn() as stand_in:
        yield stand_in
        assert stand_in.surprises == []


@pytest.fixture
def github(stand_in: GithubStandIn) -> Iterator[Github]:
    with Github("acme/app", stand_in.TOKEN, api_url=stand_in.url) as github:
        yield github


class KeysOfTheFleet:
    def __init__(self) -> None:
        self.valid: dict[int, tuple[str, str]] = {}
        self._made = 0

    def make(self, name: str) -> tuple[int, str]:
        self._made += 1
        self.valid[self._made] = (name, f"key-{self._made}")
        return self._made, f"key-{self._made}"

    def revoke(self, key_id: int) -> None:
        del self.valid[key_id]

    def named(self, name: str) -> Sequence[int]:
        return [key_id for key_id, (known, _) in self.valid.items() if known == name]


def hand_out(github: Github, keys: KeysOfTheFleet, *, rotate: bool = False) -> None:
    planned = plan_secrets([], [], github.secret_names(), key_needed=True)
    set_secrets(
        github, planned, environment=None, keys=keys, url_of=lambda slug: slug, variables={}, rotate=rotate
    )  # fmt: skip


def test_the_key_at_github_is_always_one_that_opens(stand_in: GithubStandIn, github: Github) -> None:
    keys = KeysOfTheFleet()

    def opens() -> bool:
        return stand_in.secrets[None]["TENANTRY_API_KEY"] in {key for _, key in keys.valid.values()}

    hand_out(github, keys)
    assert opens() and len(keys.valid) == 1
    # GitHub takes the key, and its answer is lost again and again: both keys stay, so the one that is there opens.
    real = stand_in.put

    def answer_lost(**given: object) -> tuple[int, object]:
        real(**given)  # type: ignore[arg-type]
        return 502, {"message": "Bad gateway"}

    stand_in.put = answer_lost  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        hand_out(github, keys, rotate=True)
    assert opens() and len(keys.valid) == 2
    stand_in.put = real  # type: ignore[method-assign]
    hand_out(github, keys, rotate=True)
    assert opens() and len(keys.valid) == 1


def test_a_key_that_github_refuses_is_taken_back(stand_in: GithubStandIn, github: Github) -> None:
    keys = KeysOfTheFleet()
    stand_in.put = lambda **_: (403, {"message": "Resource not accessible by personal access token"})  # type: ignore[method-assign]
    with pytest.raises(Forbidden, match="Resource not accessible"):
        hand_out(github, keys)
    assert keys.valid == {}


def test_a_secret_for_each_customer_as_in_the_guide(stand_in: GithubStandIn, github: Github) -> None:
    customers = [Customer("acme-corp", "ACME_CORP_DATABASE_URL"), Customer("beta", "BETA_DATABASE_URL")]
    planned = plan_secrets(["OTHER"], customers, [], key_needed=False)
    set_secrets(
        github, planned, environment=None, keys=KeysOfTheFleet(), url_of=lambda slug: f"postgresql://{slug}",
        variables={"OTHER": "o"},
    )  # fmt: skip
    assert stand_in.secrets[None] == {
        "OTHER": "o",
        "ACME_CORP_DATABASE_URL": "postgresql://acme-corp",
        "BETA_DATABASE_URL": "postgresql://beta",
    }


def test_an_environments_secrets_are_sealed_with_its_own_key(stand_in: GithubStandIn, github: Github) -> None:
    assert not github.has_environment("pro/duction")
    github.make_environment("pro/duction")
    assert github.has_environment("pro/duction")
    planned = plan_secrets([], [], github.secret_names("pro/duction"), key_needed=True)
    keys = KeysOfTheFleet()
    set_secrets(github, planned, environment="pro/duction", keys=keys, url_of=str, variables={})
    assert stand_in.secrets["pro/duction"] == {"TENANTRY_API_KEY": "key-1"}
    assert stand_in.secrets[None] == {}


def test_more_secrets_than_github_has_room_for_are_refused_with_the_way_out() -> None:
    customers = [Customer(f"c{number}", f"C{number}_DATABASE_URL") for number in range(100)]
    with pytest.raises(InvalidInput, match="room for 100") as refused:
        plan_secrets([], customers, [], key_needed=True)
    assert "one key" in refused.value.next_step
    assert len(plan_secrets([], customers, ["C1_DATABASE_URL"], key_needed=False)) == 100
    with pytest.raises(InvalidInput):
        plan_secrets([], customers, ["SOMEBODY_ELSES"], key_needed=False)


def test_what_cannot_have_happened_is_asked_again(stand_in: GithubStandIn, github: Github) -> None:
    stand_in.secrets[None] = {f"SECRET_{number:03}": "" for number in range(100)}
    stand_in.failures = [(502, {"message": "Bad gateway"}), None, (429, {"message": "slowly"})]
    assert len(github.secret_names()) == 100
    stand_in.failures = [(502, {"message": "Bad gateway"})]
    with pytest.raises(Unavailable, match="Bad gateway"):
        github.write_comment(1, "once")
    assert stand_in.comments == {}
    assert [call for call in stand_in.calls if call[0] == "POST"] == [
        ("POST", "/repos/acme/app/issues/1/comments", {"body": "once"})
    ]


def test_errors_say_whose_and_what_next_and_never_the_token(stand_in: GithubStandIn) -> None:
    with Github("acme/app", "a-wrong-token", api_url=stand_in.url) as github:
        with pytest.raises(Unauthorized, match="GitHub answered 401") as refused:
            github.secret_names()
        assert "a-wrong-token" not in repr(github) + str(refused.value) + repr(refused.value.fields)
    other = Github("acme/other", stand_in.TOKEN, api_url=stand_in.url)
    with other, pytest.raises(NotFound, match="GitHub answered 404"):
        other.secret_names()
    stand_in.surprises.clear()
    for name in ("acme", "acme/app/x", "/app", "acme/"):
        with pytest.raises(InvalidInput, match="is not OWNER/NAME"):
            Github(name, "t")


def test_a_comment_is_found_among_many_and_changed(stand_in: GithubStandIn, github: Github) -> None:
    for number in range(130):
        github.write_comment(7, f"comment {number}")
    body = "<!-- tenantry branch pr-7 -->\nyes"
    assert say(github, 7, "pr-7", body) == "written"
    assert say(github, 7, "pr-7", body) == "same"
    assert say(github, 7, "pr-7", body + " indeed") == "changed"
    assert len(stand_in.comments[7]) == 131
    assert say(github, 8, "pr-8", "gone", only_if_there=True) == "same"
    assert 8 not in stand_in.comments


def test_providers_that_jobs_would_not_reach_are_named() -> None:
    def provider(name: str, secret_from: str, removed_at: datetime | None = None) -> ProviderRecord:
        return ProviderRecord(
            id=ProviderId(uuid4()), name=name, kind="neon", api_url=None, api_ca=None, secret_from=secret_from,
            created_at=datetime.now(UTC), removed_at=removed_at,
        )  # fmt: skip

    said = out_of_reach(
        [
            provider("home", "home"),
            provider("neon", "env:NEON_API_KEY"),
            provider("eu", "env:EU_KEY"),
            provider("old", "env:OLD_KEY", datetime.now(UTC)),
            provider("plain", "file:/etc/plain.key"),
        ],
        ["NEON_API_KEY"],
    )
    assert [sentence.partition(":")[0] for sentence in said] == [
        "jobs do not reach provider eu",
        "jobs do not reach provider plain",
    ]


def test_a_keys_name_fits_where_names_are_bounded() -> None:
    assert key_name("acme/app", None) == "github acme/app"
    assert key_name("acme/app", "production") == "github acme/app production"
    long = [key_name("o" * 39 + "/" + "n" * 100, environment) for environment in (None, "a", "b")]
    assert len(set(long)) == 3 and max(map(len, long)) <= 64
