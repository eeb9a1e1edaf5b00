"""What every provider does, whoever it is. What one does not declare is asked for all the same, and must be refused."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tenantry.errors import InvalidInput, NotFound, NotSupported, Unauthorized, Unavailable
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.providers.open import open_provider
from tenantry.fleet.providers.ports import FEATURES, Feature, Limits, Provider
from tenantry.neon.ids import ProjectId

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import NewProject, Project, Secret
    from tenantry.neon.client import NeonClient


def ask(uri: str, statement: str) -> object:
    with psycopg.connect(uri, connect_timeout=30) as db:
        return (db.execute(statement.encode()).fetchone() or (None,))[0]


def test_it_declares_what_it_has(provider: Provider, secret: Secret) -> None:
    assert provider.features == secret.features


def test_it_says_what_it_is(provider: Provider) -> None:
    health = provider.check()
    assert health.version
    assert health.clock_seconds is None or abs(health.clock_seconds) < 30


def test_a_project_is_found_by_its_mark_alone(provider: Provider, new_project: NewProject) -> None:
    one, other = new_project(), new_project()
    (found,) = provider.find_projects(str(one.mark))
    assert (found.id, found.pg_version) == (one.made.id, one.made.pg_version)
    assert str(one.mark) in found.name
    assert found.name.endswith(f"[{one.mark}]")
    assert found.created_at <= datetime.now(UTC)
    assert provider.home(one.made.id) == one.home
    assert provider.find_projects(str(uuid4())) == []
    provider.rename_project(one.made.id, f"Acme Inc [{one.mark}]")
    assert [each.id for each in provider.find_projects(str(one.mark))] == [one.made.id]
    assert other.made.id != one.made.id


def test_its_owner_connects_and_owns_it(provider: Provider, new_project: NewProject) -> None:
    project = new_project()
    for uri in (
        provider.connection_uri(project.made.id, project.home, pooled=False),
        provider.operator_uri(project.made.id, project.home),
    ):
        assert ask(uri, "SELECT current_user || '/' || current_database()") == (
            f"{project.home.role_name}/{project.home.database_name}"
        )
    with psycopg.connect(uri) as db:
        db.execute("CREATE TABLE t (id int PRIMARY KEY)")
        db.execute("CREATE SCHEMA mine")
        db.execute("CREATE EXTENSION citext")
    assert ask(uri, "SELECT count(*) FROM t") == 0


def test_ways_to_many_lead_where_those_to_one_do(provider: Provider, new_project: NewProject, secret: Secret) -> None:
    one, other = new_project(), new_project()
    homes = {each.made.id: each.home for each in (one, other)}
    ways = provider.operator_ways({**homes, ProjectId("gone-sun-1"): one.home})
    assert set(ways) == (set(homes) if secret.kind == "cell" else set()), "one by one is as good elsewhere"
    for project_id, way in ways.items():
        home = homes[project_id]
        assert ask(way.uri, "SELECT current_user") == home.role_name
        assert way.keys is not None
        client_key, server_key = way.keys
        keyed = make_conninfo(way.uri, password="wrong", scram_client_key=client_key, scram_server_key=server_key)
        assert ask(keyed, "SELECT current_user") == home.role_name
    if ways:
        theirs = ways[other.made.id].keys or ("", "")
        keyed = make_conninfo(
            ways[one.made.id].uri, password="", scram_client_key=theirs[0], scram_server_key=theirs[1]
        )
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            ask(keyed, "SELECT 1")


def test_nobody_else_gets_in(provider: Provider, new_project: NewProject) -> None:
    one, other = new_project(), new_project()
    theirs = provider.connection_uri(other.made.id, other.home, pooled=False)
    mine = provider.connection_uri(one.made.id, one.home, pooled=False)
    if other.home.database_name != one.home.database_name:
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            ask(make_conninfo(mine, dbname=other.home.database_name), "SELECT 1")
    guessed = make_conninfo(theirs, password=str(conninfo_to_dict(mine)["password"]))
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        ask(guessed, "SELECT 1")


def test_a_new_password_takes_the_place_of_the_old(provider: Provider, new_project: NewProject) -> None:
    project = new_project()
    before = provider.connection_uri(project.made.id, project.home, pooled=False)
    assert ask(before, "SELECT 1") == 1
    provider.new_password(project.made.id, project.home)
    after = provider.connection_uri(project.made.id, project.home, pooled=False)
    assert ask(after, "SELECT 1") == 1
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        ask(before, "SELECT 1")


def test_deleting_ends_it_and_is_safe_twice(provider: Provider, new_project: NewProject) -> None:
    project = new_project()
    uri = provider.connection_uri(project.made.id, project.home, pooled=False)
    session = psycopg.connect(uri)
    session.execute("CREATE TABLE t ()")
    assert provider.delete_project(project.made.id)
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")
    session.close()
    assert not provider.delete_project(project.made.id)
    assert provider.find_projects(str(project.mark)) == []
    for call in (
        lambda: provider.home(project.made.id),
        lambda: provider.connection_uri(project.made.id, project.home, pooled=False),
        lambda: provider.endpoints(project.made.id),
        lambda: provider.limits(project.made.id),
        lambda: provider.rename_project(project.made.id, "x"),
        lambda: provider.new_password(project.made.id, project.home),
    ):
        with pytest.raises(NotFound):
            call()
    with pytest.raises(psycopg.OperationalError):
        ask(uri, "SELECT 1")


def test_a_version_that_it_has_not_is_refused_for_ever(provider: Provider) -> None:
    mark = uuid4()
    with pytest.raises(InvalidInput, match="14"):
        provider.create_project(name=f"x [{mark}]", region=None, pg_version=14)
    assert provider.find_projects(str(mark)) == []


# ------------------------------------------------------------------------------- features, declared or refused


def _branches(provider: Provider, project: Project) -> None:
    api: NeonClient = provider.api("branches")
    made = api.create_branch(project.made.id, name="preview")
    api.wait_for_operations(project.made.id, made.operations)
    assert {branch.name for branch in api.branches(project.made.id)} >= {"preview"}


def _restore(provider: Provider, project: Project) -> None:
    assert provider.api("restore").get_project(project.made.id).history_retention_seconds > 0


def _snapshots(provider: Provider, project: Project) -> None:
    assert provider.api("snapshots").list_snapshots(project.made.id) == []


def _suspend(provider: Provider, project: Project) -> None:
    uri = provider.connection_uri(project.made.id, project.home, pooled=False)
    (endpoint,) = provider.endpoints(project.made.id)
    for _ in range(2):
        provider.start_endpoint(project.made.id, endpoint.id)
    assert [each.state for each in provider.endpoints(project.made.id)] == ["active"]
    for _ in range(2):
        provider.suspend_endpoint(project.made.id, endpoint.id)
    assert [each.state for each in provider.endpoints(project.made.id)] == ["idle"]
    assert ask(uri, "SELECT 1") == 1


def _pooled(provider: Provider, project: Project) -> None:
    uri = provider.connection_uri(project.made.id, project.home, pooled=True)
    assert "-pooler" in uri
    assert ask(uri, "SELECT 1") == 1


def _limits(wanted: Limits) -> Callable[[Provider, Project], None]:
    def change(provider: Provider, project: Project) -> None:
        before = provider.limits(project.made.id)
        said = {name: value for name in Limits.__dataclass_fields__ if (value := getattr(wanted, name)) is not None}
        for _ in range(2):
            provider.change_limits(project.made.id, wanted)
        after = provider.limits(project.made.id)
        assert {name: getattr(after, name) for name in said} == said
        untouched = [name for name in Limits.__dataclass_fields__ if name not in said]
        assert {name: getattr(after, name) for name in untouched} == {name: getattr(before, name) for name in untouched}

    return change


def _usage(provider: Provider, project: Project) -> None:
    del project  # what was metered of it comes when its meters are read
    today = datetime.now(UTC).date()
    assert all(used.day == today and used.active_seconds >= 0 for used in provider.usage(today, today))


EXERCISES: dict[Feature, Callable[[Provider, Project], None]] = {
    "branches": _branches,
    "restore": _restore,
    "snapshots": _snapshots,
    "suspend": _suspend,
    "pooled": _pooled,
    "compute": _limits(Limits(cu_min=0.5, cu_max=1.0, suspend_seconds=120)),
    "history": _limits(Limits(history_seconds=3600)),
    "quotas": _limits(Limits(quota_active_seconds=3600, quota_written_bytes=10**9, quota_sent_bytes=10**9)),
    "usage": _usage,
}


@pytest.mark.parametrize("feature", FEATURES)
def test_a_feature_is_declared_and_works_or_is_refused_by_name(
    provider: Provider, new_project: NewProject, feature: Feature
) -> None:
    project = new_project()
    if feature in provider.features:
        EXERCISES[feature](provider, project)
        return
    with pytest.raises(NotSupported, match=f"provider here .* does not have {FEATURES[feature]}") as refused:
        EXERCISES[feature](provider, project)
    assert refused.value.fields["feature"] == feature


# ------------------------------------------------------------------------------- when it cannot be worked with


def test_a_wrong_key_is_said_to_be_wrong_and_never_shown(secret: Secret, catalog: Catalog, tmp_path: Path) -> None:
    wrong = "hunter2" + "x" * 20
    text = secret.text.replace(":", f":{wrong}", 2).replace(f"postgresql:{wrong}", "postgresql:", 1)
    with_key = open_provider(secret.record(catalog, "there", tmp_path / "s"), text if "://" in text else wrong)
    with pytest.raises(Unauthorized) as refused:
        with_key.check()
    assert "hunter2" not in f"{refused.value} {refused.value.fields} {refused.value.__cause__!r}"
    with_key.close()


def test_one_that_is_not_there_is_said_not_to_answer(secret: Secret, catalog: Catalog, tmp_path: Path) -> None:
    record = secret.record(catalog, "there", tmp_path / "s")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there, and nobody else comes to
        port = taken.getsockname()[1]
        if secret.url is None:
            away = open_provider(record, f"postgresql://a:hunter2@127.0.0.1:{port}/postgres {'k' * 32}")
        else:
            away = open_provider(replace(record, api_url=f"http://127.0.0.1:{port}/api/v2"), "hunter2")
        for call in (
            away.check,
            lambda: away.find_projects("x"),
            lambda: away.create_project(name="x", region=None, pg_version=None),
        ):
            with pytest.raises(Unavailable) as refused:
                call()
            assert "hunter2" not in f"{refused.value} {refused.value.__cause__!r}"
        away.close()
