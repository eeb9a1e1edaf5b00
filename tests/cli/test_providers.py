"""``tenantry provider``: from the words that are typed to what the catalog and the providers have after it."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tenantry.neon.client import NeonClient
from tenantry.testing.neon_cloud import StandIn
from tenantry.testing.throwaway import ThrowawayCell

if TYPE_CHECKING:
    from conftest import Operator


def secret_file(path: Path, text: str) -> Path:
    with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w") as opened:
        opened.write(text)
    return path


@pytest.fixture(scope="module")
def cell(new_workdir: Callable[[str], Path], new_cell: Callable[..., ThrowawayCell]) -> Iterator[ThrowawayCell]:
    """One of our own: once a region is defined, every new tenant is placed in one."""
    with new_cell(new_workdir("regions") / "data", options=["--spares", "0"]) as cell:
        yield cell


@pytest.fixture
def provider() -> str:
    """A name that no other test has."""
    return f"p-{secrets.token_hex(4)}"


@pytest.fixture
def key_file(operator: Operator, tmp_path: Path) -> Path:
    return secret_file(tmp_path / "key", operator.cell.target.api_key + "\n")


def test_a_tenants_life_at_another_provider(operator: Operator, provider: str, key_file: Path, name: str) -> None:
    with StandIn(operator.cell.target) as cloud:
        add = ("provider", "add", provider, "--kind", "neon", "--url", cloud.url, "--key-file", str(key_file))
        assert operator.do(*add).stdout == f"provider {provider} (neon) is added\n"
        assert operator.do(*add).stdout == f"provider {provider} (neon) was there already\n"
        region = f"eu-{provider}"
        said = operator.do("provider", "region", provider, region, "--provider-region", "local", "--max", "1").stdout
        assert said == f"{provider} serves region {region} (there local): 0 tenants of 1\n"

        made = operator.json("create", name, "--region", region)["tenant"]
        assert made["region"] == region
        assert cloud.asked["POST /projects"] == 1
        assert operator.json("show", made["slug"])["provider"] == provider
        assert "asked again" not in operator.do("url", made["slug"], "--json").stdout
        operator.do("suspend", made["slug"])
        assert cloud.asked["POST /projects/{}/endpoints/{}/suspend"] + cloud.asked["GET /projects/{}/endpoints"] >= 1

        full = operator.do("create", f"{name} two", "--region", region, code=1)
        assert f"region {region} is full: {provider} has 1 of 1" in full.stderr
        kept = operator.do("provider", "remove", provider, "--yes", code=1)
        assert f"provider {provider} has 1 tenant, and is not removed" in kept.stderr

        checked = operator.json("provider", "check", provider)
        assert checked["ok"], checked
        rotated = operator.json("provider", "rotate", provider, "--yes")
        assert rotated == {"rotated": [made["slug"]], "failed": {}}
        assert not cloud.refused[429]


def test_a_command_that_asks_again_prints_one_document(
    operator: Operator, provider: str, key_file: Path, name: str
) -> None:
    with StandIn(operator.cell.target) as cloud:
        operator.do("provider", "add", provider, "--kind", "neon", "--url", cloud.url, "--key-file", str(key_file))
        operator.do("provider", "region", provider, f"eu-{provider}", "--provider-region", "local")
        slug = operator.json("create", name, "--region", f"eu-{provider}")["tenant"]["slug"]
        # In a process of its own: nothing has configured any logs there.
        cloud.lock_next = 2
        done = operator.run("provider", "rotate", provider, "--yes", "--json", TENANTRY_LOG_LEVEL="info")
        assert json.loads(done.stdout) == {"rotated": [slug], "failed": {}}
        assert cloud.refused[423] == 2
        assert done.stderr.count("asked again") == 2
        assert operator.cell.target.api_key not in done.stderr


def test_a_check_that_finds_something_wrong_fails_and_names_it(
    operator: Operator, provider: str, key_file: Path, tmp_path: Path
) -> None:
    away = "http://127.0.0.1:1/api/v2"
    operator.do("provider", "add", provider, "--kind", "cell", "--url", away, "--key-file", str(key_file))
    found = operator.json("provider", "check", code=1)
    assert not found["ok"]
    seen = {each["name"]: each for each in found["providers"]}
    assert seen["home"]["ok"]
    assert seen["home"]["health"]["regions"]
    assert seen["home"]["health"]["version"].startswith("tenantry/")
    assert abs(seen["home"]["health"]["clock_seconds"]) < 30
    assert "failed" in seen[provider]["wrong"][0]
    assert "PROVIDER" in operator.do("provider", "check", code=1).stdout

    wrong_key = secret_file(tmp_path / "wrong", "tenantry_hunter2hunter2hunter2")
    url = operator.cell.target.api_url
    change = ("provider", "add", provider, "--kind", "cell", "--url", url, "--key-file", str(wrong_key))
    refused = operator.do(*change, code=1)
    assert f"provider {provider} is there already, as cell at {away}" in refused.stderr
    assert operator.do(*change, "--change").stdout == f"provider {provider} (cell) is changed\n"
    done = operator.do("provider", "check", provider, "--json", code=1)
    assert "401" in json.loads(done.stdout)["providers"][0]["wrong"][0]
    assert "hunter2" not in done.stdout + done.stderr

    wrong_key.write_text(operator.cell.target.api_key)
    assert operator.json("provider", "check", provider)["ok"]


def test_residency_is_enforced(operator: Operator, provider: str, key_file: Path, name: str) -> None:
    url = operator.cell.target.api_url
    operator.do("provider", "add", provider, "--kind", "cell", "--url", url, "--key-file", str(key_file))
    residency, inside, abroad = f"r-{provider}", f"in-{provider}", f"out-{provider}"
    assert operator.do("provider", "residency", residency, "--regions", f"in-p-*, {inside}").stdout == (
        f"residency {residency}: data stays in in-p-*, {inside}\n"
    )
    operator.do("provider", "region", "home", abroad)
    nowhere = operator.do("create", name, "--residency", residency, code=2)
    assert f"residency {residency} keeps data in in-p-*, {inside}, and no provider serves a region" in nowhere.stderr
    outside = operator.do("create", name, "--residency", residency, "--region", abroad, code=2)
    assert f"region {abroad} is not there" in outside.stderr
    operator.do("provider", "region", provider, inside, "--closed")
    closed = operator.do("create", name, "--residency", residency, code=2)
    assert "takes no new tenants" in closed.stderr
    operator.do("provider", "region", provider, inside, "--open")

    made = operator.json("create", name, "--residency", residency)["tenant"]
    assert (made["region"], made["residency"]) == (inside, residency)
    assert operator.json("create", name, "--residency", residency)["created"] is False
    other = operator.do("create", name, "--residency", "none-such", code=1)
    assert f"exists with residency {residency}" in other.stderr
    narrower = operator.do("provider", "residency", residency, "--regions", "else-*", code=1)
    assert f"would not allow where some of its tenants are: 1 tenant in {inside}" in narrower.stderr
    known = {each["slug"]: each["region_patterns"] for each in operator.json("provider", "list")["residencies"]}
    assert known[residency] == ["in-p-*", inside]
    lived_in = operator.do("provider", "region", provider, inside, "--remove", code=1)
    assert f"1 tenant of {provider} live" in lived_in.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("add", "x", "--kind", "cell", "--url", "http://h/api/v2"), "where is the provider's key?"),
        (("add", "x", "--kind", "cell", "--url", "http://h/api/v2", "--key-env", "A-B"), "the name of a variable"),
        (("add", "x", "--kind", "cell", "--key-env", "K"), "where is the cell's API?"),
        (("add", "x", "--kind", "cell", "--url", "http://u:hunter2@h/api/v2", "--key-env", "K"), "--url is not like"),
        (("add", "X!", "--kind", "cell", "--url", "http://h/api/v2", "--key-env", "K"), "is not a provider's name"),
        (("add", "x", "--kind", "heap", "--url", "http://h/api/v2", "--key-env", "K"), "no kind of provider"),
        (("add", "x", "--kind", "postgres", "--url", "postgresql://h", "--key-env", "K"), "neither --url nor --ca"),
        (("region", "home", "EU"), "is not a region's name"),
        (("region", "home", "eu-1", "--max", "0"), "lets nobody in"),
        (("region", "home", "eu-1", "--remove", "--max", "3"), "--remove stands alone"),
        (("residency", "eu", "--regions", "EU*"), "is no pattern of regions"),
        (("residency", "eu"), "which regions?"),
    ],
)
def test_what_is_wrong_is_said(operator: Operator, words: tuple[str, ...], said: str) -> None:
    done = operator.do("provider", *words, code=2)
    assert said in done.stderr
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("add", "x", "--kind", "cell", "--url", "http://h/api/v2", "--key-env", "NOBODY_SETS_THIS"),
            "is not set here",
        ),
        (("add", "x", "--kind", "cell", "--url", "http://h/api/v2", "--key-file", "/nowhere"), "cannot be read"),
        (("add", "home", "--kind", "cell", "--url", "http://h/api/v2", "--key-env", "HOME", "--change"), "is there al"),
        (("remove", "home", "--yes"), "stays"),
        (("remove", "nobody", "--yes"), "there is no provider 'nobody'; see `tenantry provider list`"),
        (("region", "nobody", "eu-1"), "there is no provider 'nobody'"),
        (("check", "nobody"), "there is no provider 'nobody'"),
    ],
)
def test_what_is_not_there_is_named(operator: Operator, words: tuple[str, ...], said: str) -> None:
    done = operator.do("provider", *words, code=1)
    assert said in done.stderr.replace("\n  -> ", "; ")


def test_a_key_that_everybody_may_read_is_refused(operator: Operator, provider: str, key_file: Path) -> None:
    key_file.chmod(0o604)
    url = operator.cell.target.api_url
    done = operator.do("provider", "add", provider, "--kind", "cell", "--url", url, "--key-file", str(key_file), code=1)
    assert "which every user of this machine may read" in done.stderr
    assert f"chmod 600 {key_file}" in done.stderr


def test_nothing_of_a_key_is_in_the_catalog_or_on_a_screen(operator: Operator, provider: str, key_file: Path) -> None:
    target: Any = operator.cell.target
    operator.do("provider", "add", provider, "--kind", "cell", "--url", target.api_url, "--key-file", str(key_file))
    shown = operator.do("provider", "list").stdout + json.dumps(operator.json("provider", "list"))
    assert f"file:{key_file}" in shown
    assert target.api_key not in shown
    with NeonClient(target.api_url, target.api_key) as client:
        assert target.api_key not in repr(client)
