"""Request bodies: bounded, timed, strict, and never a reason for a 5xx."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tenantry.cell.api import bodies
from tenantry.cell.api.app import build_app
from tenantry.cell.api.site import Site
from tenantry.neon.ids import RegionId
from tenantry.testing.fake_api import DOOR
from tenantry.testing.fake_cell import FakeCell

BODY_ROUTES: Final = [
    ("POST", "/projects"),
    ("PATCH", "{project}"),
    ("POST", "{project}/branches"),
    ("PATCH", "{branch}"),
    ("POST", "{branch}/restore"),
    ("POST", "{branch}/finalize_restore"),
    ("POST", "{project}/endpoints"),
    ("PATCH", "{endpoint}"),
    ("POST", "{branch}/roles"),
    ("POST", "{branch}/databases"),
    ("PATCH", "{branch}/databases/neondb"),
    ("PUT", "{branch}/backup_schedule"),
    ("POST", "/api_keys"),
]
FIELDS: Final = [
    "project", "branch", "endpoint", "role", "database", "endpoints", "name", "owner_name", "settings", "pg_version",
    "region_id", "type", "branch_id", "parent_id", "parent_timestamp", "expires_at", "key_name", "schedule",
    "frequency", "hour", "source_branch_id", "source_timestamp", "annotation_value", "default_endpoint_settings",
    "autoscaling_limit_min_cu", "suspend_timeout_seconds", "history_retention_seconds", "store_passwords",
    "pg_settings", "preload_libraries", "quota", "allowed_ips", "ips", "no_login", "protected",
]  # fmt: skip

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        ["read_write", "daily", "2030-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "0/1", "main", "x" * 300]
    )
    | st.sampled_from([2**31, 2**63, -(2**63), 0.25, -1, 18])
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=3), inner, max_size=6)
    ),
    max_leaves=20,
)


@pytest.fixture(scope="module")
def world() -> Any:
    """One app and one project for all examples; changes that fit are carried out."""
    cell = FakeCell()
    app = build_app(cell, Site(door=DOOR, region_id=RegionId("local")))
    headers = {"Authorization": f"Bearer {cell.new_key()}"}

    async def send(method: str, path: str, **options: Any) -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://cell/api/v2", headers=headers) as client:
            return await client.request(method, path, **options)

    made = asyncio.run(send("POST", "/projects", json={"project": {}})).json()
    project = f"/projects/{made['project']['id']}"
    paths = {
        "project": project,
        "branch": f"{project}/branches/{made['branch']['id']}",
        "endpoint": f"{project}/endpoints/{made['endpoints'][0]['id']}",
    }
    return lambda method, path, **options: asyncio.run(send(method, path.format(**paths), **options))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(route=st.sampled_from(BODY_ROUTES), body=trees)
def test_no_json_is_answered_with_a_5xx(world: Any, route: tuple[str, str], body: object) -> None:
    response = world(*route, content=json.dumps(body).encode())
    assert response.status_code < 500 or response.status_code == 501, response.text
    assert response.json() is not None


@settings(deadline=None, max_examples=60)
@given(route=st.sampled_from(BODY_ROUTES), body=st.binary(max_size=200))
def test_no_bytes_are_answered_with_a_5xx(world: Any, route: tuple[str, str], body: bytes) -> None:
    assert world(*route, content=body).status_code < 500


@settings(deadline=None, max_examples=100)
@given(
    path=st.sampled_from(
        ["/projects", "{project}/branches", "{project}/operations", "{project}/connection_uri", "{branch}/schema",
         "{branch}/compare_schema"]
    ),
    query=st.dictionaries(
        st.sampled_from(["limit", "cursor", "search", "sort_by", "lsn", "timestamp", "db_name", "pooled", "recoverable",
                         "database_name", "role_name", "branch_id"]),
        st.text(max_size=12) | st.integers().map(str) | st.sampled_from(["0", "1e400", "NaN", "9" * 400]),
    ),
)  # fmt: skip
def test_no_query_is_answered_with_a_5xx(world: Any, path: str, query: dict[str, str]) -> None:
    response = world("GET", path, params=query)
    assert response.status_code < 500 or response.status_code == 501, response.text


@settings(deadline=None, max_examples=100)
@given(path=st.text(max_size=40), method=st.sampled_from(["GET", "POST", "DELETE", "PATCH", "PUT", "OPTIONS", "TRACE"]))
def test_no_path_is_answered_with_a_5xx(world: Any, path: str, method: str) -> None:
    response = world(method, "/projects/" + quote(path, errors="replace"))
    assert response.status_code < 500 or response.status_code == 501, response.text


@pytest.mark.parametrize(
    "body", [b"", b"{", b"nonsense", b"[1", b"\xff\xfe", b'{"project": {"name": "\\ud800"}}', b"null", b"[]", b"7"]
)
async def test_a_body_that_is_no_object_is_refused(ask: Any, body: bytes) -> None:
    assert (await ask("POST", "/projects", expect=400, content=body))["code"] == "INVALID_INPUT"


@pytest.mark.parametrize(
    ("project", "named"),
    [
        ({"name": 5}, "project.name"),
        ({"name": ""}, "project.name"),
        ({"name": "x" * 257}, "project.name"),
        ({"name": "bell\a"}, "project.name"),
        ({"pg_version": "18"}, "project.pg_version"),
        ({"pg_version": 13}, "project.pg_version"),
        ({"pg_version": True}, "project.pg_version"),
        ({"region_id": "../../etc"}, "project.region_id"),
        ({"store_passwords": 1}, "project.store_passwords"),
        ({"history_retention_seconds": 2_592_001}, "project.history_retention_seconds"),
        ({"branch": {"database_name": "x" * 64}}, "project.branch.database_name"),
        ({"branch": {"annotations": {"a": 1}}}, "project.branch.annotations.a"),
        ({"settings": {"quota": {"active_time_seconds": 2**63}}}, "project.settings.quota.active_time_seconds"),
        ({"default_endpoint_settings": {"suspend_timeout_seconds": -2}}, "suspend_timeout_seconds"),
        ({"autoscaling_limit_min_cu": 8, "autoscaling_limit_max_cu": 1}, "autoscaling_limit_min_cu"),
        (None, "project"),
    ],
)
async def test_a_wrong_field_is_named_and_its_value_is_not(ask: Any, project: object, named: str) -> None:
    message = (await ask("POST", "/projects", {"project": project}, expect=400))["message"]
    assert named in message
    assert "x" * 64 not in message


async def test_nan_is_no_size(ask: Any) -> None:
    for text in (b"NaN", b"Infinity", b"1e999"):
        body = b'{"project": {"autoscaling_limit_min_cu": %s}}' % text
        await ask("POST", "/projects", expect=400, content=body)


async def test_many_mistakes_make_a_short_message(ask: Any, branch_path: str) -> None:
    body = {"schedule": [{"frequency": str(number)} for number in range(32)]}
    assert len((await ask("PUT", f"{branch_path}/backup_schedule", body, expect=400))["message"]) < 1_000


async def test_the_content_type_does_not_matter(ask: Any) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    await ask("POST", "/projects", expect=201, content=b'{"project": {}}', headers=headers)


async def test_a_body_at_the_bound_is_read_and_one_beyond_is_not(ask: Any) -> None:
    filling = len(b'{"project": {}, "pad": ""}')
    fits = b'{"project": {}, "pad": "' + b"x" * (bodies.BODY_BYTES_MAX - filling) + b'"}'
    await ask("POST", "/projects", expect=201, content=fits)
    answer = await ask("POST", "/projects", expect=413, content=fits + b" ")
    assert answer["code"] == "BODY_TOO_LARGE"


async def test_a_chunked_body_is_bounded_while_it_arrives(client: httpx.AsyncClient) -> None:
    sent = 0

    async def large() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 8 * bodies.BODY_BYTES_MAX:
            sent += 2**16
            yield b"x" * 2**16

    response = await client.post("/api/v2/projects", content=large())
    assert (response.status_code, response.headers["connection"]) == (413, "close")
    assert sent <= bodies.BODY_BYTES_MAX + 2**17


async def test_a_body_that_does_not_come_is_given_up(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS_MAX", 0.01)

    async def stuck() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    response = await client.post("/api/v2/projects", content=stuck())
    assert (response.status_code, response.json()["code"]) == (408, "BODY_TOO_SLOW")
