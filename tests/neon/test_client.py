"""The client against the API over a fake cell, by real HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from tenantry.errors import Conflict, InvalidInput, Locked, NotFound, NotSupported, Unauthorized, Unavailable
from tenantry.neon.client import NeonClient
from tenantry.neon.ids import BranchId, EndpointId, OperationId, ProjectId, RegionId, SnapshotId
from tenantry.postgres.dsn import parse_uri
from tenantry.testing.fake_api import FakeApi
from tenantry.testing.fake_cell import FakeCell


@pytest.fixture
def made(client: NeonClient) -> tuple[ProjectId, BranchId, EndpointId]:
    created = client.create_project(name="ACME Corp", region_id=RegionId("aws-us-east-1"))
    return ProjectId(created.project.id), BranchId(created.branch.id), EndpointId(created.endpoints[0].id)


def test_projects(client: NeonClient) -> None:
    created = client.create_project(
        name="Payroll Inc",
        pg_version=17,
        branch_name="production",
        role_name="alice",
        database_name="payroll",
        store_passwords=False,
        history_retention_seconds=3600,
        default_endpoint_settings={"suspend_timeout_seconds": 120},
    )
    project_id = ProjectId(created.project.id)
    assert (created.branch.name, created.roles[0].name, created.databases[0].name) == ("production", "alice", "payroll")
    assert created.endpoints[0].suspend_timeout_seconds == 120
    project = client.get_project(project_id)
    assert (project.pg_version, project.history_retention_seconds, project.store_passwords) == (17, 3600, False)
    assert project.created_at.tzinfo is not None
    client.update_project(project_id, name="Payroll Ltd")
    assert [item.name for item in client.list_projects(search="ltd").projects] == ["Payroll Ltd"]
    client.delete_project(project_id)
    with pytest.raises(NotFound, match="answered 404"):
        client.delete_project(project_id)
    assert [item.id for item in client.projects(recoverable=True)] == [project_id]
    client.recover_project(project_id)
    assert client.get_project(project_id).name == "Payroll Ltd"


def test_iterating_turns_the_pages(client: NeonClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantry.neon.client.PAGE_PROJECTS", 2)
    monkeypatch.setattr("tenantry.neon.client.PAGE_BRANCHES", 2)
    ids = {client.create_project().project.id for _ in range(5)}
    listed = [item.id for item in client.projects()]
    assert len(listed) == 5
    assert set(listed) == ids
    project_id = ProjectId(listed[0])
    for _ in range(4):
        client.create_branch(project_id, endpoint=False)
    assert len({branch.id for branch in client.branches(project_id)}) == 5


def test_connecting(client: NeonClient, made: tuple[ProjectId, BranchId, EndpointId]) -> None:
    project_id, branch_id, endpoint_id = made
    uri = client.connection_uri(project_id, database_name="neondb", role_name="neondb_owner")
    assert client.reveal_password(project_id, branch_id, "neondb_owner") in uri
    pooled = client.connection_uri(
        project_id,
        database_name="neondb",
        role_name="neondb_owner",
        branch_id=branch_id,
        endpoint_id=endpoint_id,
        pooled=True,
    )
    assert f"{endpoint_id}-pooler" in pooled


def test_branches(client: NeonClient, made: tuple[ProjectId, BranchId, EndpointId]) -> None:
    project_id, main, _ = made
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    created = client.create_branch(
        project_id, name="dev", parent_id=main, expires_at=moment, annotations={"pr": "1"}, protected=True
    )
    branch_id = BranchId(created.branch.id)
    assert created.branch.expires_at == moment
    assert created.connection_uris
    assert client.update_branch(project_id, branch_id, never_expires=True, protected=False).branch.expires_at is None
    client.restore_branch(project_id, branch_id, source_branch_id=main, preserve_under_name="old")
    client.set_default_branch(project_id, branch_id)
    with pytest.raises(Conflict, match="default"):
        client.delete_branch(project_id, branch_id)
    client.set_default_branch(project_id, main)
    assert client.delete_branch(project_id, branch_id) is not None
    assert client.delete_branch(project_id, branch_id) is None
    assert client.delete_branch(project_id, branch_id, hard=True) is not None, "what could be recovered goes for good"
    assert client.delete_branch(project_id, branch_id, hard=True) is None
    with pytest.raises(NotSupported):
        client.branch_schema(project_id, main, database_name="neondb", timestamp=moment)
    assert client.get_branch(project_id, main).default


def test_an_operators_way_in(client: NeonClient, made: tuple[ProjectId, BranchId, EndpointId]) -> None:
    project_id, branch_id, _ = made
    owner = {"database_name": "neondb", "role_name": "neondb_owner"}
    uri = parse_uri(client.operator_uri(project_id, branch_id=branch_id, **owner))
    assert uri.parameters["options"].endswith(f" operator=fake-{project_id}")
    with pytest.raises(NotFound):
        client.operator_uri(project_id, database_name="neondb", role_name="nobody")
    assert "operator%3D" in client.operator_uri(project_id, **owner), "nobody's absence says nothing of the API"


@pytest.mark.parametrize("status", [404, 405, 501, 403])
def test_where_operators_have_no_way_of_their_own(script: Any, connect: Any, new_reply: Any, status: int) -> None:
    plain = new_reply(200, b'{"uri": "postgresql://u:p@h/d"}')
    script.replies += [new_reply(status, b'{"code": "", "message": "this route does not exist"}'), plain, plain]
    client = connect(script.base_url)
    for _ in range(2):
        uri = client.operator_uri(ProjectId("p-1"), database_name="d", role_name="u")
        assert uri == "postgresql://u:p@h/d"
    assert [asked.partition("?")[0] for asked in script.asked] == [
        "POST /api/v2/projects/p-1/operator_access",
        "GET /api/v2/projects/p-1/connection_uri",
        "GET /api/v2/projects/p-1/connection_uri",
    ], "asked once"


def test_an_operators_way_into_many(client: NeonClient, made: tuple[ProjectId, BranchId, EndpointId]) -> None:
    project_id, *_ = made
    owner = ("neondb", "neondb_owner")
    found = client.operator_accesses({project_id: owner, ProjectId("gone-sun-1"): owner})
    assert list(found) == [project_id]
    assert parse_uri(found[project_id].uri).parameters["options"].endswith(f" operator=fake-{project_id}")
    assert client.operator_accesses({}) == {}


@pytest.mark.parametrize("status", [404, 405, 501, 403])
def test_where_operators_have_no_way_into_many(script: Any, connect: Any, new_reply: Any, status: int) -> None:
    script.replies += [new_reply(status, b'{"code": "", "message": "this route does not exist"}')]
    client = connect(script.base_url)
    for _ in range(2):
        assert client.operator_accesses({ProjectId("p-1"): ("d", "u"), ProjectId("p-2"): ("d", "u")}) == {}
    assert script.asked == ["POST /api/v2/operator_access"], "asked once"


def test_endpoints(client: NeonClient, made: tuple[ProjectId, BranchId, EndpointId]) -> None:
    project_id, branch_id, endpoint_id = made
    assert client.start_endpoint(project_id, endpoint_id).endpoint.current_state == "active"
    assert client.suspend_endpoint(project_id, endpoint_id).endpoint.current_state == "idle"
    assert len(client.restart_endpoint(project_id, endpoint_id).operations) == 2
    changed = client.update_endpoint(project_id, endpoint_id, suspend_timeout_seconds=60, min_cu=0.5, max_cu=2)
    assert changed.endpoint.autoscaling_limit_max_cu == 2
    assert client.list_endpoints(project_id) == client.list_endpoints(project_id, branch_id=branch_id)
    assert client.delete_endpoint(project_id, endpoint_id) is not None
    assert client.delete_endpoint(project_id, endpoint_id) is None
    created = client.create_endpoint(project_id, branch_id)
    assert client.get_endpoint(project_id, EndpointId(created.endpoint.id)).branch_id == branch_id


def test_roles_and_databases(client: NeonClient, made: tuple[ProjectId, BranchId, EndpointId]) -> None:
    project_id, branch_id, _ = made
    role = client.create_role(project_id, branch_id, name="a/b c").role
    assert client.reveal_password(project_id, branch_id, "a/b c") == role.password
    assert client.reset_password(project_id, branch_id, "a/b c").role.password != role.password
    client.create_database(project_id, branch_id, name="crm?", owner_name="a/b c")
    client.update_database(project_id, branch_id, "crm?", new_name="crm#2", owner_name="neondb_owner")
    assert client.get_database(project_id, branch_id, "crm#2").owner_name == "neondb_owner"
    assert {database.name for database in client.list_databases(project_id, branch_id)} == {"neondb", "crm#2"}
    assert client.delete_database(project_id, branch_id, "crm#2") is not None
    assert client.delete_database(project_id, branch_id, "crm#2") is None
    assert client.get_role(project_id, branch_id, "a/b c").name == "a/b c"
    assert client.delete_role(project_id, branch_id, "a/b c") is not None
    assert client.delete_role(project_id, branch_id, "a/b c") is None
    assert [found.name for found in client.list_roles(project_id, branch_id)] == ["neondb_owner"]


def test_snapshots(client: NeonClient, made: tuple[ProjectId, BranchId, EndpointId]) -> None:
    project_id, branch_id, _ = made
    snapshot = client.create_snapshot(project_id, branch_id, name="before").snapshot
    snapshot_id = SnapshotId(snapshot.id)
    assert client.rename_snapshot(project_id, snapshot_id, "after").name == "after"
    assert client.restore_snapshot(project_id, snapshot_id, name="back").branch.name == "back"
    client.delete_snapshot(project_id, snapshot_id)
    assert client.list_snapshots(project_id) == []


def test_the_account(client: NeonClient, api: FakeApi) -> None:
    assert client.users_me().id == client.auth_details().account_id
    assert client.list_regions()[0].region_id == "local"
    key = client.create_api_key("ci")
    with NeonClient(api.base_url + "/", key.key) as other:
        assert other.users_me() == client.users_me()
        client.revoke_api_key(key.id)
        with pytest.raises(Unauthorized):
            other.users_me()


class TestOperations:
    @pytest.fixture
    def api(self) -> Iterator[FakeApi]:
        with FakeApi(FakeCell(looks=3)) as api:
            yield api

    def test_waiting_looks_until_they_have_finished(self, client: NeonClient) -> None:
        created = client.create_project()
        project_id = ProjectId(created.project.id)
        finished = client.wait_for_operations(project_id, created.operations)
        assert [operation.status for operation in finished] == ["finished", "finished"]
        listed = client.list_operations(project_id, limit=1)
        assert listed.pagination is not None
        assert listed.operations[0] == client.get_operation(project_id, OperationId(finished[-1].id))

    def test_waiting_ends_at_the_deadline(self, client: NeonClient) -> None:
        created = client.create_project()
        with pytest.raises(Unavailable, match="still running"):
            client.wait_for_operations(ProjectId(created.project.id), created.operations, deadline_seconds=0)

    def test_waiting_ends_when_told(self, client: NeonClient) -> None:
        created, stopping = client.create_project(), threading.Event()
        stopping.set()
        with pytest.raises(Unavailable, match="still running"):
            client.wait_for_operations(ProjectId(created.project.id), created.operations, stopping=stopping)

    def test_a_lost_operation_is_an_error_with_its_reason(self, client: NeonClient) -> None:
        created = client.create_project()
        lost = created.operations[0].model_copy(update={"status": "failed", "error": "disk full"})
        with pytest.raises(Unavailable, match="failed: disk full") as caught:
            client.wait_for_operations(ProjectId(created.project.id), [lost])
        assert caught.value.fields["operation_id"] == lost.id

    def test_a_locked_project_is_asked_again_until_it_is_free(self, client: NeonClient) -> None:
        created = client.create_project()
        project_id = ProjectId(created.project.id)
        with ThreadPoolExecutor() as pool:
            deleting = pool.submit(client.delete_project, project_id)
            client.wait_for_operations(project_id, created.operations)
            assert deleting.result(timeout=10).id == project_id


@pytest.mark.usefixtures("even_pace")
def test_a_lock_that_lasts_is_told(api: FakeApi, client: NeonClient) -> None:
    project_id = ProjectId(client.create_project().project.id)
    api.cell.hold(project_id)
    with NeonClient(api.base_url, api.key, deadline_seconds=30) as hasty, pytest.raises(Locked, match="running"):
        hasty.delete_project(project_id)


def test_one_client_serves_many_threads(client: NeonClient) -> None:
    with ThreadPoolExecutor(16) as pool:
        ids = list(pool.map(lambda number: client.create_project(name=f"p{number}").project.id, range(64)))
    assert {item.id for item in client.projects()} == set(ids)


def test_errors_carry_what_the_server_said(client: NeonClient) -> None:
    with pytest.raises(InvalidInput) as caught:
        client.create_project(name="x" * 300)
    error = caught.value
    assert "project.name" in error.client_text
    assert error.fields["status"] == 400
    assert error.fields["code"] == "INVALID_INPUT"
    assert error.fields["request_id"]
    assert str(error.fields["request_id"]) in str(error)
    with pytest.raises(NotFound, match="GET /projects/no%2Fproject"):
        client.get_project(ProjectId("no/project"))


def test_closing_twice_is_safe(api: FakeApi) -> None:
    client = NeonClient(api.base_url, api.key)
    client.close()
    client.close()
