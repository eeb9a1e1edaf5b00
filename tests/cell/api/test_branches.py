"""Branches over HTTP, and the pages of their lists."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.cell.api.branches import SortBy, SortOrder, found, paged
from tenantry.cell.model import Branch
from tenantry.errors import InvalidInput
from tenantry.neon.ids import BranchId, HeadId, ProjectId

NOW = datetime(2026, 11, 24, tzinfo=UTC)


async def test_list_count_and_get(ask: Any, project: Any, project_path: str, branch_path: str) -> None:
    listed = await ask("GET", f"{project_path}/branches")
    assert [branch["id"] for branch in listed["branches"]] == [project["branch"]["id"]]
    assert "next" not in listed["pagination"]
    assert listed["annotations"] == {}
    assert (await ask("GET", f"{project_path}/branches/count"))["count"] == 1
    assert (await ask("GET", f"{project_path}/branches/count?search=nothing"))["count"] == 0
    got = await ask("GET", branch_path)
    assert got["branch"]["current_state"] == "ready"
    assert got["annotation"]["object"] == {"type": "console/branch", "id": project["branch"]["id"]}
    await ask("GET", f"{project_path}/branches/br-not-there-a1234567", expect=404)
    await ask("GET", "/projects/not-there-1/branches", expect=404)


async def test_annotations_of_created_branches_are_listed(ask: Any, project_path: str) -> None:
    body = {"branch": {"name": "preview/1"}, "annotation_value": {"github-pr": "1"}}
    made = await ask("POST", f"{project_path}/branches", body, expect=201)
    listed = await ask("GET", f"{project_path}/branches?search=PREVIEW&limit=10000")
    branch_id = made["branch"]["id"]
    assert [branch["id"] for branch in listed["branches"]] == [branch_id]
    assert listed["annotations"][branch_id]["value"] == {"github-pr": "1"}


async def test_a_branch_needs_no_body(ask: Any, client: Any, project: Any, project_path: str) -> None:
    for body in (b"", b"  ", b"null", b"{}"):
        made = await ask("POST", f"{project_path}/branches", expect=201, content=body)
        assert made["branch"]["parent_id"] == project["branch"]["id"]
        assert "connection_uris" not in made


async def test_a_branch_with_an_endpoint_can_be_connected_to(ask: Any, project: Any, project_path: str) -> None:
    body = {"endpoints": [{"type": "read_write", "autoscaling_limit_min_cu": 0.5}]}
    made = await ask("POST", f"{project_path}/branches", body, expect=201)
    details = made["connection_uris"][0]["connection_parameters"]
    assert details["password"] == project["roles"][0]["password"]
    assert details["host"] == made["endpoints"][0]["host"]
    endpoints = f"{project_path}/branches/{made['branch']['id']}/endpoints"
    assert (await ask("GET", endpoints))["endpoints"] == made["endpoints"]
    again = {"endpoint": {"branch_id": made["branch"]["id"], "type": "read_write"}}
    await ask("POST", f"{project_path}/endpoints", again, expect=409)


async def test_life_of_a_branch(ask: Any, project_path: str, branch_path: str) -> None:
    expiry = "2030-01-01T00:00:00+02:00"
    body = {"branch": {"name": "dev", "protected": True, "expires_at": expiry}}
    path = (
        f"{project_path}/branches/{(await ask('POST', f'{project_path}/branches', body, expect=201))['branch']['id']}"
    )
    assert (await ask("GET", path))["branch"]["expires_at"] == "2029-12-31T22:00:00Z"
    kept = await ask("PATCH", path, {"branch": {"name": "dev2", "protected": False}})
    assert (kept["branch"]["name"], kept["branch"]["expires_at"]) == ("dev2", "2029-12-31T22:00:00Z")
    assert "expires_at" not in (await ask("PATCH", path, {"branch": {"expires_at": None}}))["branch"]
    await ask("PATCH", path, {"branch": {"name": "main"}}, expect=409)
    restored = await ask(
        "POST",
        f"{path}/restore",
        {
            "source_branch_id": path.rpartition("/")[2],
            "source_timestamp": "2026-01-01T00:00:00Z",
            "preserve_under_name": "old",
        },
    )
    assert restored["branch"]["parent_id"]
    assert restored["roles_of_the_past"] == []
    for word in ("set_as_default", "set_as_primary"):
        await ask("POST", f"{path}/{word}")
    assert (await ask("GET", path))["branch"]["default"]
    await ask("DELETE", path, expect=409)
    await ask("POST", f"{branch_path}/set_as_default")
    await ask("DELETE", path)
    await ask("DELETE", path, expect=204)
    listed = (await ask("GET", f"{project_path}/branches?include_deleted=true"))["branches"]
    assert path.rpartition("/")[2] in [branch["id"] for branch in listed]
    await ask("POST", f"{path}/recover")
    await ask("DELETE", f"{path}?hard_delete=true")
    await ask("POST", f"{path}/recover", expect=404)
    await ask("POST", f"{branch_path}/finalize_restore", expect=409)


async def test_schemas_go_through_the_port(ask: Any, branch_path: str) -> None:
    await ask("GET", f"{branch_path}/schema?db_name=nothing", expect=404)
    await ask("GET", f"{branch_path}/schema?db_name=neondb&lsn=0/1DE2850", expect=501)
    await ask("GET", f"{branch_path}/compare_schema?db_name=neondb&timestamp=2026-01-01T00:00:00Z", expect=501)
    assert "format" in (await ask("GET", f"{branch_path}/schema?db_name=neondb&format=json", expect=501))["message"]


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/schema", "db_name"),
        ("/schema?db_name=x&format=xml", "format"),
        ("/schema?db_name=x&lsn=0/1&timestamp=2026-01-01T00:00:00Z", "lsn"),
        ("/schema?db_name=x&lsn=nonsense", "lsn"),
        ("/schema?db_name=x&timestamp=yesterday", "timestamp"),
        ("/schema?db_name=x&timestamp=2026-01-01T00:00:00", "timestamp"),
        ("/compare_schema?db_name=x&base_lsn=0/1", "base_branch_id"),
    ],
)
async def test_a_wrong_schema_request_names_the_field(ask: Any, branch_path: str, path: str, named: str) -> None:
    assert named in (await ask("GET", branch_path + path, expect=400))["message"]


@pytest.mark.parametrize(
    ("query", "named"),
    [("sort_by=size", "sort_by"), ("sort_order=up", "sort_order"), ("limit=0", "limit"), ("limit=10001", "limit"),
     ("cursor=abc", "cursor"), ("cursor=W10=", "cursor"), ("limit=99999999999999999999", "limit")],
)  # fmt: skip
async def test_a_wrong_list_request_names_the_field(ask: Any, project_path: str, query: str, named: str) -> None:
    assert named in (await ask("GET", f"{project_path}/branches?{query}", expect=400))["message"]


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({"branch": {"parent_id": "br-no-such-a1234567"}}, 404, "br-no-such-a1234567"),
        ({"branch": {"parent_lsn": "0/1", "parent_timestamp": "2026-01-01T00:00:00Z"}}, 400, "parent_lsn"),
        ({"branch": {"parent_timestamp": 1767225600}}, 400, "branch.parent_timestamp"),
        ({"branch": {"parent_timestamp": "0001-01-01T00:00:00+14:00"}}, 400, "branch.parent_timestamp"),
        ({"branch": {"expires_at": "9999-12-31T23:59:59-14:00"}}, 400, "branch.expires_at"),
        ({"branch": {"init_source": "thin-air"}}, 400, "branch.init_source"),
        ({"branch": {"archived": True}}, 501, "branch.archived"),
        ({"branch": "dev"}, 400, "branch"),
        ({"endpoints": [{"type": "read_only"}]}, 501, "read-only"),
        ({"endpoints": [{"type": "write_only"}]}, 400, "endpoints.0.type"),
        ({"annotation_value": {"n": 1}}, 400, "annotation_value.n"),
    ],
)
async def test_a_wrong_branch_request_names_what_is_wrong(
    ask: Any, project_path: str, body: object, status: int, named: str
) -> None:
    answer = await ask("POST", f"{project_path}/branches", body, expect=status)
    assert named in answer["message"]


# -- pages, as a pure function ---------------------------------------------------------------------------------


def a_branch(number: int, name: str, created: int, updated: int) -> Branch:
    return Branch(
        id=BranchId(f"br-some-name-{number:08}"),
        project_id=ProjectId("p"),
        name=name,
        state_changed_at=NOW,
        head_id=HeadId("h"),
        created_at=NOW + timedelta(seconds=created),
        updated_at=NOW + timedelta(microseconds=updated),
    )


@given(
    shapes=st.lists(st.tuples(st.sampled_from(["a", "b", "Ä", "preview/1"]), st.integers(0, 3), st.integers(0, 3))),
    sort_by=st.sampled_from(get_args(SortBy)),
    sort_order=st.sampled_from(get_args(SortOrder)),
    limit=st.integers(1, 4),
)
def test_pages_show_every_branch_once_and_in_order(
    shapes: list[tuple[str, int, int]], sort_by: SortBy, sort_order: SortOrder, limit: int
) -> None:
    branches = [a_branch(number, *shape) for number, shape in enumerate(shapes)]
    shown: list[Branch] = []
    cursor: str | None = None
    for _ in range(len(branches) + 1):
        page, cursor = paged(branches, sort_by=sort_by, sort_order=sort_order, cursor=cursor, limit=limit)
        shown += page
        if cursor is None:
            break
    assert cursor is None
    assert sorted(branch.id for branch in shown) == [branch.id for branch in branches]
    keys = [getattr(branch, sort_by) for branch in shown]
    assert keys == sorted(keys, reverse=sort_order == "desc")


def test_a_deleted_branch_does_not_lose_the_place() -> None:
    branches = [a_branch(number, f"b{number}", number, number) for number in range(6)]
    page, cursor = paged(branches, sort_by="name", sort_order="asc", cursor=None, limit=3)
    rest, _ = paged([b for b in branches if b != page[-1]], sort_by="name", sort_order="asc", cursor=cursor, limit=3)
    assert rest == branches[3:]


def test_search_knows_names_and_ids_in_any_case() -> None:
    branches = [a_branch(1, "Straße", 0, 0), replace(a_branch(2, "dev", 0, 0))]
    assert found(branches, "STRASSE") == branches[:1]
    assert found(branches, "00000002") == branches[1:]
    assert found(branches, None) == branches


def test_a_cursor_of_another_making_is_refused() -> None:
    with pytest.raises(InvalidInput, match="cursor"):
        paged([], sort_by="name", sort_order="asc", cursor="é", limit=1)
