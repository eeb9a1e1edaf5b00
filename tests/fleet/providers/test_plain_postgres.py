"""What only a plain Postgres has: beginnings of projects, a key for passwords, and neighbours who are not ours."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tenantry.errors import InvalidInput, NotFound, OperatorError, Unauthorized
from tenantry.fleet.providers.plain_postgres import PlainPostgres, read_access
from tenantry.neon.ids import ProjectId

KEY = "0123456789abcdef0123456789abcdef"


def opened(admin: str, key: str = KEY) -> PlainPostgres:
    return PlainPostgres(read_access(f"{admin}\n{key}", "here"), "here")


@pytest.fixture(params=["admin", "superuser"])
def server(request: pytest.FixtureRequest, admin_uri: str, postgres_server: str) -> PlainPostgres:
    if request.param == "admin":
        return opened(admin_uri)
    fields = conninfo_to_dict(postgres_server)
    return opened(f"postgresql://{fields['user']}:{fields['password']}@/postgres?host={fields['host']}")


@pytest.fixture
def mark(server: PlainPostgres) -> Iterator[uuid.UUID]:
    mark = uuid.uuid4()
    yield mark
    server.delete_project(named(mark))


def named(mark: uuid.UUID) -> ProjectId:
    return ProjectId(f"tenant_{mark.hex}")


# Forks for each call that it is told, and the child is killed by SIGKILL before its nth statement.
MORTAL = """
import json, os, signal, sys
import psycopg
from tenantry.fleet.providers.plain_postgres import PlainPostgres, read_access

original, left = psycopg.Connection.execute, 0

def execute(self, *arguments, **how):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, *arguments, **how)

psycopg.Connection.execute = execute
provider = PlainPostgres(read_access(os.environ["SECRET"], "here"), "here")
for line in sys.stdin:
    call, how, left = json.loads(line)
    child = os.fork()
    if child == 0:
        getattr(provider, call)(**how)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

KilledBefore = Callable[..., bool]


@pytest.fixture
def killed_before(admin_uri: str) -> Iterator[KilledBefore]:
    """Calls a method in a process that is killed before a statement; False when the call came to its end."""
    process = subprocess.Popen(
        [sys.executable, "-c", MORTAL],
        env={**os.environ, "SECRET": f"{admin_uri} {KEY}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    requests, answers = process.stdin, process.stdout

    def call(statement: int, method: str, **how: object) -> bool:
        requests.write(json.dumps([method, how, statement]) + "\n")
        requests.flush()
        status = int(answers.readline())
        assert status in (0, -signal.SIGKILL)
        return status != 0

    yield call
    requests.close()
    process.wait(30)
    answers.close()


def test_killed_before_any_statement_it_is_found_and_made_whole(admin_uri: str, killed_before: KilledBefore) -> None:
    server, statement, found_later = opened(admin_uri), 0, 0
    while True:
        mark = uuid.uuid4()
        if not killed_before(statement, "create_project", name=f"x [{mark}]", region=None, pg_version=None):
            break
        for project in server.find_projects(str(mark)):
            found_later += 1
            # Whoever adopts it asks where its data is.
            home = server.home(project.id)
            uri = server.connection_uri(project.id, home, pooled=False)
            with psycopg.connect(uri) as db:
                db.execute("CREATE TABLE t ()")
            with psycopg.connect(admin_uri) as db:
                row = db.execute(
                    "SELECT has_database_privilege('public', datname, 'CONNECT') FROM pg_database WHERE datname = %s",
                    [project.id],
                ).fetchone()
            assert row == (False,)
        if not server.find_projects(str(mark)):
            # Nothing was begun, so nothing is left: not a role, and not a database.
            with psycopg.connect(admin_uri) as db:
                assert db.execute("SELECT FROM pg_roles WHERE rolname = %s", [named(mark)]).fetchall() == []
        server.delete_project(named(mark))
        statement += 1
    server.delete_project(named(mark))
    assert statement > 8
    assert found_later > 5


def test_killed_before_any_statement_a_deletion_is_finished_by_the_next(
    admin_uri: str, killed_before: KilledBefore
) -> None:
    server, statement = opened(admin_uri), 0
    while True:
        mark = uuid.uuid4()
        project, home = server.create_project(name=f"x [{mark}]", region=None, pg_version=None)
        ended = not killed_before(statement, "delete_project", project_id=project.id)
        if not ended:
            assert server.find_projects(str(mark)), "what is left of it is found"
            with psycopg.connect(admin_uri) as db:
                there = db.execute("SELECT FROM pg_database WHERE datname = %s", [project.id]).fetchall()
            if not there:
                # Never an empty database in the place of one that is gone.
                with pytest.raises(NotFound):
                    server.home(project.id)
                with pytest.raises(NotFound):
                    server.connection_uri(project.id, home, pooled=False)
        server.delete_project(project.id)
        assert not server.find_projects(str(mark))
        if ended:
            break
        statement += 1
    assert statement > 2


def test_making_one_twice_is_one(server: PlainPostgres, mark: uuid.UUID) -> None:
    made = [server.create_project(name=f"{name} [{mark}]", region=None, pg_version=18) for name in ("a", "b")]
    assert made[0] == made[1]
    uri = server.connection_uri(made[0][0].id, made[0][1], pooled=False)
    with psycopg.connect(uri) as db:
        assert db.execute("SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication FROM pg_roles"
                          " WHERE rolname = current_user").fetchone() == (False, False, False, False)  # fmt: skip


def test_no_customers_name_is_on_the_server(server: PlainPostgres, mark: uuid.UUID, postgres_server: str) -> None:
    project, home = server.create_project(name=f"Very Secret Client [{mark}]", region=None, pg_version=None)
    with psycopg.connect(server.connection_uri(project.id, home, pooled=False)) as db:
        said = db.execute("SELECT string_agg(description, ' ') FROM pg_shdescription").fetchone()
    assert said is not None
    assert "Secret" not in said[0]
    assert project.name == f"[{mark}]"


def test_only_what_is_ours_is_ever_deleted(server: PlainPostgres, postgres_server: str) -> None:
    other = f"tenant_{secrets.token_hex(4)}"
    with psycopg.connect(postgres_server, dbname="postgres", autocommit=True) as db:
        db.execute(f"CREATE ROLE {other}".encode())
        db.execute(f"CREATE DATABASE {other} OWNER {other}".encode())
    try:
        for name in ("postgres", "template1", other, "tenantry_admin", 'x"; DROP ROLE postgres; --'):
            assert not server.delete_project(ProjectId(name))
            with pytest.raises(NotFound):
                server.home(ProjectId(name))
        assert all(other not in project.id for project in server.find_projects(""))
    finally:
        with psycopg.connect(postgres_server, dbname="postgres", autocommit=True) as db:
            assert db.execute("SELECT 1 FROM pg_database WHERE datname = %s", [other]).fetchone() == (1,)
            db.execute(f"DROP DATABASE {other}".encode())
            db.execute(f"DROP ROLE {other}".encode())


def test_another_key_is_noticed_and_new_passwords_mend_it(admin_uri: str) -> None:
    server, mark = opened(admin_uri), uuid.uuid4()
    project, home = server.create_project(name=f"x [{mark}]", region=None, pg_version=None)
    before = server.connection_uri(project.id, home, pooled=False)
    changed = opened(admin_uri, key="another-key-of-the-same-length!!")
    with pytest.raises(OperatorError, match="derived from another key") as refused:
        changed.connection_uri(project.id, home, pooled=False)
    assert "provider rotate here" in refused.value.next_step
    changed.new_password(project.id, home)
    after = changed.connection_uri(project.id, home, pooled=False)
    assert conninfo_to_dict(after)["password"] != conninfo_to_dict(before)["password"]
    psycopg.connect(after).close()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(before)
    changed.delete_project(project.id)


def test_the_server_never_sees_a_password(server: PlainPostgres, mark: uuid.UUID, postgres_server: str) -> None:
    """Not in a statement either, where a log would have it."""
    project, home = server.create_project(name=f"x [{mark}]", region=None, pg_version=None)
    with psycopg.connect(postgres_server, dbname="postgres") as db:
        row = db.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [project.id]).fetchone()
    assert row is not None
    assert row[0].startswith("SCRAM-SHA-256$")
    password = conninfo_to_dict(server.connection_uri(project.id, home, pooled=False))["password"]
    assert str(password) not in repr(server) + repr(project) + repr(home)


def test_what_a_role_still_owns_elsewhere_is_named(
    server: PlainPostgres, mark: uuid.UUID, postgres_server: str
) -> None:
    project, _ = server.create_project(name=f"x [{mark}]", region=None, pg_version=None)
    with psycopg.connect(postgres_server, dbname="postgres", autocommit=True) as db:
        db.execute(f"CREATE SCHEMA s_{mark.hex} AUTHORIZATION {project.id}".encode())
        with pytest.raises(OperatorError, match=f"drop or give away.*s_{mark.hex}"):
            server.delete_project(project.id)
        assert server.find_projects(str(mark)), "what is left is found"
        db.execute(f"DROP SCHEMA s_{mark.hex}".encode())
    assert server.delete_project(project.id)


def test_an_admin_who_may_not_is_told_what_it_needs(postgres_server: str, admin_uri: str) -> None:
    weak = f"weak_{secrets.token_hex(4)}"
    with psycopg.connect(postgres_server, dbname="postgres", autocommit=True) as db:
        db.execute(f"CREATE ROLE {weak} LOGIN PASSWORD 'x'".encode())
        host = conninfo_to_dict(postgres_server)["host"]
        provider = opened(f"postgresql://{weak}:x@/postgres?host={host}")
        with pytest.raises(OperatorError, match="may not make databases and roles; ALTER ROLE"):
            provider.check()
        with pytest.raises(OperatorError, match="does not let its admin do this"):
            provider.create_project(name="x", region=None, pg_version=None)
        with pytest.raises(Unauthorized, match="does not let its admin in"):
            opened(make_uri(admin_uri, password="wrong")).check()
        db.execute(f"DROP ROLE {weak}".encode())


def make_uri(uri: str, *, password: str) -> str:
    fields = conninfo_to_dict(uri)
    return f"postgresql://{fields['user']}:{password}@/{fields['dbname']}?host={fields['host']}"


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "postgresql://admin:hunter2@host/postgres",
        f"postgresql://admin:hunter2@host/postgres {KEY[:31]}",
        f"host=h password=hunter2 {KEY}",
        f"postgresql://admin:hunter2@host/postgres?nonsense=hunter2 {KEY}",
        f"postgresql://admin:hunter2@host/postgres {KEY} more",
    ],
)
def test_a_secret_that_is_none_is_refused_without_being_shown(secret: str) -> None:
    with pytest.raises(InvalidInput, match="the secret of provider here is not") as refused:
        read_access(secret, "here")
    assert "hunter2" not in f"{refused.value}{refused.value.__cause__!r}{refused.value.__context__}" or (
        refused.value.__suppress_context__
    )


@pytest.mark.parametrize(
    ("dsn", "uri"),
    [
        ("postgresql://a:b@db.example/postgres", "postgresql://tenant_x:P@db.example/tenant_x"),
        (
            "postgresql://a:b@db.example:6543/postgres?sslmode=verify-full&sslrootcert=/etc/ca.pem&options=-cx%3Dy",
            "postgresql://tenant_x:P@db.example:6543/tenant_x?sslmode=verify-full&sslrootcert=%2Fetc%2Fca.pem",
        ),
        (
            "postgresql://a:b@one:1,two:2/postgres?target_session_attrs=read-write",
            "postgresql://tenant_x:P@/tenant_x?host=one%2Ctwo&port=1%2C2&target_session_attrs=read-write",
        ),
        ("postgresql://a:b@[::1]:5433/postgres", "postgresql://tenant_x:P@[::1]:5433/tenant_x"),
        ("postgresql://a:b@/postgres?host=/run/pg", "postgresql://tenant_x:P@%2Frun%2Fpg/tenant_x"),
    ],
)
def test_a_tenants_uri_leads_where_the_admins_does(dsn: str, uri: str) -> None:
    made = opened(dsn).uri("tenant_x", "P")
    assert made == uri
    theirs, ours = conninfo_to_dict(make_conninfo(made)), conninfo_to_dict(dsn)
    assert [theirs.get(each) for each in ("host", "port", "sslmode")] == [
        ours.get(each) for each in ("host", "port", "sslmode")
    ]
