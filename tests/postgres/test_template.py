"""Clones are stamped right, start, and give a tenant no way out; a template is whole or made again."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from tenantry.errors import Defect, Unavailable
from tenantry.postgres import pages, postmaster, scram, template
from tenantry.postgres.engines import Engine
from tenantry.postgres.template import ADMIN_ROLE, OWNER_ROLE, Template
from tenantry.runtime import files

from .conftest import ADMIN_PASSWORD, OWNER_PASSWORD, Connect, StartInstance

ROOT = os.geteuid() == 0
IDENTIFIER = 7_654_321_012_345_678_901


def control(engine: Engine, data: Path) -> str:
    asked = subprocess.run(
        [engine.program("pg_controldata"), "-D", str(data)], capture_output=True, text=True, check=True
    )
    return asked.stdout + asked.stderr


def tree(data: Path) -> dict[str, tuple[int, int, int, str]]:
    def content(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""

    return {
        str(path.relative_to(data)): (status.st_mode, status.st_uid, status.st_gid, content(path))
        for path in data.rglob("*")
        if (status := path.lstat())
    }


# ------------------------------------------------------------------------------------------------ checksums


def test_crc32c_is_the_published_one() -> None:
    assert pages.crc32c(b"123456789") == 0xE3069283
    assert pages.crc32c(bytes(32)) == 0x8A9136AA


def test_our_page_checksum_is_the_one_that_postgres_stored(data: Path) -> None:
    relations = [path for path in data.glob("base/*/*") if re.fullmatch(r"\d+(_fsm)?", path.name)]
    candidates = [(path, block) for path in relations for block in range(path.stat().st_size // pages.PAGE_BYTES)]
    for path, block in random.Random(1).sample(candidates, 60):
        page = path.read_bytes()[block * pages.PAGE_BYTES : (block + 1) * pages.PAGE_BYTES]
        if any(page):
            assert pages.page_checksum(page, block) == pages.stored_checksum(page), (path, block)
            assert pages.page_checksum(page, block + 1) != pages.stored_checksum(page)


# ------------------------------------------------------------------------------------------------ clones


def test_a_clone_is_what_its_arguments_say(
    workdir: Path, engine: Engine, the_template: Template, verifiers: dict[str, str], owner: files.Owner | None
) -> None:
    one, same, other = workdir / "one", workdir / "same", workdir / "other"
    for place in (one, same):
        the_template.clone(place, system_identifier=IDENTIFIER, verifiers=verifiers, owner=owner)
    the_template.clone(other, system_identifier=IDENTIFIER + 1, verifiers=verifiers, owner=owner, durable=True)
    first, third = tree(one), tree(other)
    assert tree(same) == first
    changed = {name for name, what in first.items() if third[name] != what}
    assert len(changed) == 2, "the same passwords: only pg_control and the WAL segment differ"
    text = control(engine, one)
    assert re.search(rf"Database system identifier: +{IDENTIFIER}\n", text)
    assert "WARNING" not in text
    assert "shut down\n" in text
    nonces = {re.search(r"nonce: +(\w+)", control(engine, place))[1] for place in (one, same, other)}
    assert len(nonces) == 2
    subprocess.run([engine.program("pg_checksums"), "--check", "-D", str(one)], check=True, capture_output=True)
    for name, (mode, uid, gid, _) in {**first, ".": (one.stat().st_mode, *_ids(one), "")}.items():
        assert stat.S_IMODE(mode) == (0o700 if stat.S_ISDIR(mode) else 0o600), name
        assert (uid, gid) == (owner or (os.geteuid(), os.getegid())), name
    everything = b"".join(path.read_bytes() for path in one.rglob("*") if path.is_file())
    for role, verifier in verifiers.items():
        assert everything.count(verifier.encode()) == 1
        assert template.placeholder_verifier(role).encode() not in everything
    assert not (one / "postgresql.conf").exists(), "nobody starts it before it is configured"


def _ids(path: Path) -> tuple[int, int]:
    return path.stat().st_uid, path.stat().st_gid


def test_a_clone_is_small(the_template: Template) -> None:
    assert the_template.image_bytes < 28 * 2**20
    assert the_template.file_count < 1000


@pytest.mark.parametrize(
    ("identifier", "change", "word"),
    [
        (0, {}, "identifier"),
        (1 << 63, {}, "identifier"),
        (1, {ADMIN_ROLE: None}, "verifiers"),
        (1, {"somebody": "x"}, "verifiers"),
        (1, {OWNER_ROLE: scram.make_verifier("x", iterations=10_000)}, "4096"),
        (1, {OWNER_ROLE: scram.make_verifier("x", salt=bytes(20))}, "16-byte"),
        (1, {OWNER_ROLE: "md5" + "0" * 130}, "SCRAM"),
        (1, {OWNER_ROLE: "x"}, "SCRAM"),
    ],
)
def test_what_cannot_be_stamped_is_refused(
    workdir: Path, the_template: Template, verifiers: dict[str, str], identifier: int, change: dict[str, str | None],
    word: str,
) -> None:  # fmt: skip
    given = {role: verifier for role, verifier in {**verifiers, **change}.items() if verifier is not None}
    with pytest.raises(Defect, match=word) as caught:
        the_template.clone(workdir / "c", system_identifier=identifier, verifiers=given)
    assert all(verifier not in str(caught.value) for verifier in given.values() if len(verifier) > 1)
    assert not (workdir / "c").exists()


def test_a_clone_never_goes_over_what_is_there(
    workdir: Path, the_template: Template, verifiers: dict[str, str]
) -> None:
    (workdir / "full").mkdir()
    (workdir / "full/file").write_text("precious")
    (workdir / "empty").mkdir()
    (workdir / "link").symlink_to("nowhere")
    for name in ("full", "empty", "link"):
        with pytest.raises(Defect, match="exists"):
            the_template.clone(workdir / name, system_identifier=1, verifiers=verifiers)
    assert (workdir / "full/file").read_text() == "precious"
    assert not (workdir / "nowhere").exists()


def test_a_durable_clone_survives_a_power_cut(workdir: Path, the_template: Template, verifiers: dict[str, str]) -> None:
    (workdir / "root").mkdir()
    with files.Recorder(workdir / "root") as recorder:
        the_template.clone(workdir / "root/c", system_identifier=1, verifiers=verifiers, durable=True)
    recorder.replay(len(recorder.operations), workdir / "after")
    assert tree(workdir / "after/c") == tree(workdir / "root/c")


FULL_DISK = """
import subprocess, sys
from pathlib import Path
from tenantry.errors import OperatorError
from tenantry.postgres import engines, scram, template
mount, engine_dirs, templates = map(Path, sys.argv[1:])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", mount], check=True)
engine = engines.choose(engines.discover(extra_dirs=[engine_dirs]), 18)
made = template.build_template(engine, templates)
verifiers = {role: scram.make_verifier("x") for role in template.STAMPED_ROLES}
def full(action):
    try:
        action()
    except OperatorError as error:
        print(repr(str(error)))
    else:
        print("no error")
full(lambda: made.clone(mount / "clone", system_identifier=1, verifiers=verifiers))
full(lambda: template.build_template(engine, mount / "templates"))
full(lambda: engines.install(engine, mount / "engines"))
print(sorted(str(path.relative_to(mount)) for path in mount.rglob("*")))
"""


def test_a_full_disk_is_said_and_leaves_nothing(workdir: Path, the_template: Template, shared: Path) -> None:
    (workdir / "m").mkdir()
    (workdir / "m").chmod(0o711)
    namespaces = ["unshare", "--mount"] if ROOT else ["unshare", "--mount", "--map-current-user", "--keep-caps"]
    if subprocess.run([*namespaces, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("mount namespaces are not allowed here")
    tried = subprocess.run(
        [*namespaces, sys.executable, "-c", FULL_DISK, workdir / "m", shared / "engines", shared / "templates"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert tried.returncode == 0, tried.stderr
    clone, build, install, left = tried.stdout.splitlines()
    assert "the disk is full" in clone
    assert "No space left" in build
    assert "free space" in build
    assert "the disk is full" in install
    assert left == "['engines', 'engines/.lock', 'templates', 'templates/.lock']"


# ------------------------------------------------------------------------------------------------ on Postgres


async def test_a_clone_starts_and_lets_in_those_it_was_stamped_for(
    data: Path, start: StartInstance, connect: Connect, engine: Engine, workdir: Path
) -> None:
    await start(data)
    with connect(ADMIN_ROLE, dbname="postgres") as session:
        assert session.execute("SELECT system_identifier FROM pg_control_system()").fetchone() == (
            7_000_000_000_000_000_001,
        )
        assert session.execute("SHOW data_checksums").fetchone() == ("on",)
        assert session.execute("SHOW search_path").fetchone() == ("pg_catalog, pg_temp",)
    with connect() as session:
        session.execute("CREATE TABLE t AS SELECT n, n::text AS s FROM generate_series(1, 1000) n")
        assert session.execute("SELECT upper('äöü'), 'Ä' ~ '[[:alpha:]]'").fetchone() == ("ÄÖÜ", True)
        assert session.execute("SELECT pg_relation_filepath('pg_authid'::regclass)").fetchone()
    for role in (ADMIN_ROLE, OWNER_ROLE):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            connect(role, password="wrong")
    checked = subprocess.run(
        [
            engine.program("pg_amcheck"), "--all", "--install-missing", "--heapallindexed", "-h", str(workdir / "s"),
            "-U", ADMIN_ROLE, "--maintenance-db=postgres",
        ],
        env={"PGPASSWORD": ADMIN_PASSWORD, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stderr


REFUSED = [
    "ALTER SYSTEM SET work_mem = '1GB'",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "COPY pg_class TO '/tmp/out'",
    "CREATE TEMP TABLE x (t text); COPY x FROM '/etc/passwd'",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_read_file('PG_VERSION')",
    "SELECT pg_ls_dir('.')",
    "SELECT lo_import('/etc/passwd')",
    "CREATE ROLE x SUPERUSER",
    "CREATE ROLE x REPLICATION",
    f"ALTER ROLE {OWNER_ROLE} SUPERUSER",
    f"ALTER ROLE {OWNER_ROLE} REPLICATION",
    f"ALTER ROLE {ADMIN_ROLE} PASSWORD 'mine'",
    f"ALTER ROLE {ADMIN_ROLE} SET search_path = public",
    f"DROP ROLE {template.GROUP_ROLE}",
    f"GRANT {ADMIN_ROLE} TO {OWNER_ROLE}",
    f"GRANT {template.GROUP_ROLE} TO {OWNER_ROLE} WITH ADMIN OPTION",
    f"GRANT pg_execute_server_program TO {OWNER_ROLE}",
    f"GRANT pg_read_server_files TO {OWNER_ROLE}",
    f"GRANT pg_write_server_files TO {OWNER_ROLE}",
    f"SET ROLE {ADMIN_ROLE}",
    "SET ROLE pg_execute_server_program",
    f"SET SESSION AUTHORIZATION {ADMIN_ROLE}",
    "SET log_min_messages = debug5",
    "SET session_preload_libraries = 'x'",
    "ALTER ROLE ALL RESET log_min_messages",
    "CREATE LANGUAGE c",
    "CREATE FUNCTION f() RETURNS int LANGUAGE c AS '/lib/x86_64-linux-gnu/libc.so.6', 'system'",
    "CREATE EXTENSION file_fdw",
    "CREATE EXTENSION dblink",
    "CREATE TABLESPACE x LOCATION '/tmp'",
    "CREATE EVENT TRIGGER x ON ddl_command_start EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "SELECT pg_create_physical_replication_slot('x')",
    "SELECT pg_switch_wal()",
    "SELECT pg_promote()",
    "UPDATE pg_authid SET rolsuper = true",
    "UPDATE pg_database SET datallowconn = true",
    "ALTER DATABASE postgres RENAME TO mine",
    "ALTER DATABASE template1 SET work_mem = '1GB'",
    "DROP DATABASE postgres",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'autovacuum launcher'",
]
ALLOWED = [
    "CREATE DATABASE another",
    "CREATE SCHEMA s CREATE TABLE s.t (a int)",
    "CREATE EXTENSION citext",
    "SELECT count(*) FROM pg_stat_activity",
    f"ALTER ROLE {OWNER_ROLE} PASSWORD '{OWNER_PASSWORD}'",
    f"ALTER DATABASE {template.DATABASE} SET work_mem = '5MB'",
    "DROP DATABASE another",
]


WALLS = (errors.InsufficientPrivilege, errors.UndefinedFile, errors.FeatureNotSupported, errors.DuplicateObject)


async def check_the_walls(major: int, connect: Connect) -> None:
    with connect() as session:
        for statement in REFUSED:
            try:
                session.execute(statement)
            except psycopg.Error as error:
                refusal: Exception | None = error
            else:
                refusal = None
            assert isinstance(refusal, WALLS), f"{statement}: {refusal or 'allowed'}"
        for statement in ALLOWED:
            session.execute(statement)
        if major >= 16:
            session.execute("CREATE ROLE app LOGIN PASSWORD 'app'")
            with pytest.raises(errors.InsufficientPrivilege):
                session.execute(f"GRANT {template.GROUP_ROLE} TO app")
        else:
            with pytest.raises(errors.InsufficientPrivilege):
                session.execute("CREATE ROLE app")
        roles = session.execute(
            "SELECT rolname, rolsuper, rolreplication, rolcreaterole, rolcanlogin, rolbypassrls, rolcreatedb"
            " FROM pg_roles WHERE rolname IN (%s, %s) ORDER BY 1",
            (template.GROUP_ROLE, OWNER_ROLE),
        ).fetchall()
        creates = major >= 16
        assert roles == [
            (template.GROUP_ROLE, False, False, creates, False, True, True),
            (OWNER_ROLE, False, False, creates, True, True, True),
        ]
        held = session.execute(
            "SELECT array_agg(rolname ORDER BY rolname) FROM pg_roles"
            " WHERE pg_has_role(%s, oid, 'MEMBER') AND rolname <> ALL (%s)",
            (OWNER_ROLE, [OWNER_ROLE, "app"]),
        ).fetchone()
        assert held == (
            [
                template.GROUP_ROLE, "pg_database_owner", "pg_monitor", "pg_read_all_data", "pg_read_all_settings",
                "pg_read_all_stats", "pg_stat_scan_tables", "pg_write_all_data",
            ],
        )  # fmt: skip
    with connect(dbname="postgres") as session:
        for statement in ("CREATE TABLE t (a int)", "CREATE SCHEMA s", "CREATE TEMP TABLE t (a int)"):
            with pytest.raises(errors.InsufficientPrivilege):
                session.execute(statement)
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        connect(dbname="template1")
    with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry for replication"):
        psycopg.connect(connect_string(connect), replication="true")


def connect_string(connect: Connect) -> str:
    with connect() as session:
        return f"{session.info.dsn} password={OWNER_PASSWORD}"


async def test_a_tenant_gets_no_further_than_its_databases(
    data: Path, start: StartInstance, connect: Connect, engine: Engine
) -> None:
    await start(data)
    await check_the_walls(engine.major, connect)


async def test_sessions_do_not_fill_the_log(data: Path, start: StartInstance, connect: Connect, workdir: Path) -> None:
    await start(data)
    with connect() as session:
        session.execute("DO $$ BEGIN RAISE LOG 'spam'; RAISE WARNING 'spam'; END $$")
        with pytest.raises(errors.SyntaxError):
            session.execute("ALTER ROLE me PASSWORD 'secret' spam")
    text = (workdir / "postgres.log").read_text()
    assert "ready to accept connections" in text
    assert "spam" not in text
    assert "secret" not in text


async def test_the_other_majors_on_this_machine_pass_the_same(
    found_engines: list[Engine], engine: Engine, shared: Path, workdir: Path, verifiers: dict[str, str],
    owner: files.Owner | None, start: StartInstance, connect: Connect,
) -> None:  # fmt: skip
    others = [one for one in found_engines if one != engine]
    if not others:
        pytest.skip("no other major here")
    for other in others:
        made = template.build_template(other, shared / "templates")
        data = workdir / str(other.major)
        made.clone(data, system_identifier=IDENTIFIER, verifiers=verifiers, owner=owner)
        assert re.search(rf"identifier: +{IDENTIFIER}\n", control(other, data))
        running = await start(data, of=other)
        await check_the_walls(other.major, connect)
        with connect() as session:
            assert session.execute("SELECT upper('äöü'), 'Ä' ~ '[[:alpha:]]'").fetchone() == ("ÄÖÜ", True)
            assert session.execute("SHOW server_version").fetchone() == (other.version,)
        assert await postmaster.stop(running, mode="fast", timeout_seconds=30) == "fast"
        subprocess.run([other.program("pg_checksums"), "--check", "-D", data], check=True, capture_output=True)


@pytest.mark.parametrize("major", range(14, 19))
def test_the_recipe_gives_createrole_only_where_it_is_harmless(major: int) -> None:
    statements = " ".join(statement for _, many in template.recipe_sql(major) for statement in many)
    assert ("CREATEROLE" in statements) == (major >= 16)
    assert "REPLICATION" not in statements
    assert not re.search(r"pg_(execute_server_program|(read|write)_server_files)", statements)


# ------------------------------------------------------------------------------------------------ building


PYTHONS = (Path(sys.executable), Path(f"/usr/bin/python3.{sys.version_info.minor}"))
BUILD = """
import dataclasses, shutil, sys
from pathlib import Path
from tenantry.postgres import engines, template
found, into, *more = map(Path, sys.argv[1:])
engine = engines.choose(engines.discover(extra_dirs=[found]), 18)
if more and (more[0] / "image").exists():
    def build(engine, staging, *_):
        for name in ("image", "template.json"):
            shutil.copy(more[0] / name, staging / name)
    template._build = build
elif more:
    engine = dataclasses.replace(engine, bin_dir=more[0])
print(template.build_template(engine, into).directory.name)
"""


def build_elsewhere(
    shared: Path, into: Path, *more: Path, uid: int | None = None, python: Path = PYTHONS[0]
) -> subprocess.Popen[str]:
    """``more`` is a template to be copied instead, or a directory of other programs."""
    return subprocess.Popen(
        [python, "-c", BUILD, shared / "engines", into, *more],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/", user=uid, group=uid,
        extra_groups=[] if uid is not None else None,
    )  # fmt: skip


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)


@pytest.fixture
def copied_build(monkeypatch: pytest.MonkeyPatch, the_template: Template) -> list[int]:
    """Building copies the shared template instead of running initdb; the list counts how often."""
    builds: list[int] = []

    def build(_engine: Engine, staging: Path, *_: object) -> None:
        builds.append(1)
        for name in ("image", "template.json"):
            content = (the_template.directory / name).read_bytes()
            files.write_new(str(staging / name), content, mode=0o600, owner=None)

    monkeypatch.setattr(template, "_build", build)
    return builds


def test_a_builder_killed_at_work_leaves_no_template_and_the_next_one_waits_for_its_programs(
    engine: Engine, shared: Path, workdir: Path, copied_build: list[int]
) -> None:
    into = workdir / "templates"
    # An initdb that has not ended before it may.
    (workdir / "bin").mkdir()
    (workdir / "bin").chmod(0o755)
    slow = workdir / "bin" / "initdb"
    slow.write_text(
        f'#!/bin/sh\n{engine.program("initdb")} "$@"\nuntil [ -e {workdir}/may_end ]; do sleep 0.01; done\n'
    )
    slow.chmod(0o755)
    builder = build_elsewhere(shared, into, slow.parent)
    until((into / ".staging/data/base/1").exists)
    builder.send_signal(signal.SIGKILL)
    builder.communicate()
    assert not list(into.glob("pg*"))
    with pytest.raises(Unavailable), files.lock_file(into / ".lock", timeout_seconds=0):
        pytest.fail("initdb does not hold the lock")
    (workdir / "may_end").touch()
    made = template.build_template(engine, into)
    assert copied_build == [1]
    assert sorted(path.name for path in into.iterdir()) == [".lock", made.directory.name]


@pytest.mark.parametrize("damage", ["image changed", "image cut", "manifest cut", "manifest gone", "other recipe"])
def test_a_damaged_template_is_made_again(engine: Engine, workdir: Path, copied_build: list[int], damage: str) -> None:
    made = template.build_template(engine, workdir / "t")
    assert template.build_template(engine, workdir / "t").directory == made.directory
    assert copied_build == [1]
    image, manifest = made.directory / "image", made.directory / "template.json"
    match damage:
        case "image changed":
            with image.open("r+b") as file:
                file.seek(1_000_000)
                file.write(b"\xff")
        case "image cut":
            os.truncate(image, image.stat().st_size - 1)
        case "manifest cut":
            os.truncate(manifest, 100)
        case "manifest gone":
            manifest.unlink()
        case _:
            manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "recipe": 0}))
    again = template.build_template(engine, workdir / "t")
    assert copied_build == [1, 1]
    assert again.directory == made.directory
    assert sorted(path.name for path in (workdir / "t").iterdir()) == [".lock", made.directory.name]


@pytest.mark.parametrize("loss", ["unsynced", "data", "nothing"])
def test_a_power_cut_leaves_no_template_or_a_whole_one(
    engine: Engine, workdir: Path, monkeypatch: pytest.MonkeyPatch, loss: files.Loss
) -> None:
    def build(_engine: Engine, staging: Path, *_: object) -> None:
        manifest = {
            "format": 1, "recipe": template.RECIPE_VERSION, "image_bytes": 3, "files": [["a", 1], ["b", 2]],
            "image_sha256": hashlib.sha256(b"abb").hexdigest(),
        }  # fmt: skip
        files.write_new(str(staging / "image"), b"abb", mode=0o600, owner=None)
        files.write_new(str(staging / "template.json"), json.dumps(manifest).encode(), mode=0o600, owner=None)

    monkeypatch.setattr(template, "_build", build)
    into = workdir / "t"
    into.mkdir()
    with files.Recorder(into) as recorder:
        directory = template.build_template(engine, into).directory.name
    present = False
    for length in range(len(recorder.operations) + 1):
        recorder.replay(length, workdir / str(length), loss=loss)
        target = workdir / str(length) / directory
        present = target.exists()
        if present:
            assert (target / "image").read_bytes() == b"abb"
            assert json.loads((target / "template.json").read_bytes())["image_bytes"] == 3
    assert present, "what was returned is durable"


def test_two_builders_at_once_make_one(the_template: Template, shared: Path, workdir: Path) -> None:
    both = [build_elsewhere(shared, workdir / "t", the_template.directory) for _ in range(2)]
    answers = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert sorted(path.name for path in (workdir / "t").iterdir()) == [".lock", answers[0][0].strip()]


@pytest.mark.skipif(not ROOT, reason="changes the user")
def test_a_user_without_passwd_entry_builds_too(found_engines: list[Engine], shared: Path, workdir: Path) -> None:
    uid = 50_124
    python = next((path for path in PYTHONS if files.traversable_for(path.resolve().parent, uid, uid)), None)
    if python is None:
        pytest.skip("every Python of this version is closed to other users")
    into = workdir / "t"
    into.mkdir()
    os.chown(into, uid, uid)
    allowed = subprocess.run(["unshare", "--user", "true"], user=uid, group=uid, extra_groups=[], check=False)
    output, problem = build_elsewhere(shared, into, uid=uid, python=python).communicate(timeout=120)
    if allowed.returncode == 0:
        assert [path.name for path in into.glob("pg*")] == [output.strip()], problem
    else:
        assert f"add a passwd entry for uid {uid}" in problem
