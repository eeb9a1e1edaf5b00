"""The way in and out: keys, request ids, and an answer whatever happens."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest
import structlog
from structlog.testing import capture_logs

from tenantry.errors import Defect, LimitReached, OperatorError, StartFailed
from tenantry.testing.fake_cell import FakeCell

PATHS = ["/api/v2", "/api/v2/", "/api/v2/projects", "/api/v2/projects/x/branches", "/api/v2/no/such/path"]


@pytest.fixture(autouse=True)
def _plain_logging() -> Any:
    structlog.reset_defaults()
    return structlog.get_config()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic {key}", "{key}", "Bearer {key}x", "Bearer " + "x" * 10_000,
     "Bearer {key} {key}", "Bearer \xe9"],
)  # fmt: skip
async def test_without_a_living_key_nothing_is_told(
    client: httpx.AsyncClient, cell: FakeCell, path: str, authorization: str | None
) -> None:
    headers = (
        {} if authorization is None else {"Authorization": authorization.format(key=cell.new_key()).encode("latin-1")}
    )
    client.headers.pop("Authorization")
    response = await client.get(path, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json().keys() == {"code", "message", "request_id"}


async def test_a_cookie_is_no_key(client: httpx.AsyncClient, cell: FakeCell) -> None:
    client.headers.pop("Authorization")
    key = cell.new_key()
    for name in ("Authorization", "zenith", "keycloak_token", "neon_api_key"):
        with capture_logs() as logs:
            response = await client.get("/api/v2/users/me", headers={"Cookie": f"{name}={key}"})
        assert response.status_code == 401
        assert key not in str(logs)


async def test_the_key_is_asked_for_before_the_body_is_read(client: httpx.AsyncClient) -> None:
    client.headers.pop("Authorization")
    read = 0

    async def large() -> Any:
        nonlocal read
        while read < 100:
            read += 1
            yield b"x" * 1000

    response = await client.post("/api/v2/projects", content=large())
    assert (response.status_code, read) == (401, 0)


async def test_other_paths_need_no_key_and_are_not_there(client: httpx.AsyncClient) -> None:
    client.headers.pop("Authorization")
    for path in ("/", "/api/v1/projects", "/api/v2x", "/docs", "/openapi.json", "/redoc"):
        response = await client.get(path)
        assert (response.status_code, response.json()["code"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize("chosen", ["abc-123", "A" * 128, "d8ac46eb.a757_42b1"])
async def test_a_request_id_may_be_chosen(client: httpx.AsyncClient, chosen: str) -> None:
    response = await client.get("/api/v2/projects/none", headers={"X-Request-ID": chosen})
    assert response.headers["x-request-id"] == response.headers["x-neon-ret-request-id"] == chosen
    assert response.json()["request_id"] == chosen


@pytest.mark.parametrize("chosen", ["", "a b", "A" * 129, "{}", "<script>", "\x7f"])
async def test_a_harmful_request_id_is_replaced(client: httpx.AsyncClient, chosen: str) -> None:
    response = await client.get("/api/v2/projects/none", headers={"X-Request-ID": chosen})
    assert re.fullmatch(r"[0-9a-f-]{36}", response.headers["x-request-id"])


async def test_what_nobody_foresaw_is_answered_and_logged_whole(
    client: httpx.AsyncClient, cell: FakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("postgresql://alice:hunter2@host/db")

    monkeypatch.setattr(cell, "get_project", broken)
    with capture_logs() as logs:
        response = await client.get("/api/v2/projects/some-project-1")
    assert response.status_code == 500
    body = response.json()
    assert (body["code"], body["message"]) == ("DEFECT", "internal error")
    [entry] = [entry for entry in logs if entry["event"] != "request"]
    assert entry["log_level"] == "error"
    assert entry["request_id"] == body["request_id"] == response.headers["x-request-id"]
    assert isinstance(entry["exc_info"].__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    ("error", "status", "message", "level"),
    [
        (Defect("the invariant of row 7 is broken"), 500, "internal error", "error"),
        (OperatorError("disk full at /secret/path"), 500, "the cell needs its operator; see its log", "error"),
        (
            StartFailed("postgres said no", client_text="the instance did not start"),
            503,
            "the instance did not start",
            "warning",
        ),
    ],
)
async def test_the_client_reads_its_own_text_and_the_log_the_whole(
    client: httpx.AsyncClient, cell: FakeCell, monkeypatch: pytest.MonkeyPatch,
    error: Exception, status: int, message: str, level: str,
) -> None:  # fmt: skip
    async def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr(cell, "get_project", failing)
    with capture_logs() as logs:
        response = await client.get("/api/v2/projects/some-project-1")
    assert (response.status_code, response.json()["message"]) == (status, message)
    [entry] = [entry for entry in logs if entry["event"] != "request"]
    assert entry["log_level"] == level
    assert str(error) in entry["error"]


async def test_a_full_bound_says_when_to_ask_again(
    client: httpx.AsyncClient, cell: FakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise LimitReached("8 instances are starting", next_step="ask again soon")

    monkeypatch.setattr(cell, "start_endpoint", full)
    response = await client.post("/api/v2/projects/p-1/endpoints/ep-a-b-c1/start")
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")


async def test_answers_are_json_and_omit_what_is_none(client: httpx.AsyncClient) -> None:
    response = await client.post("/api/v2/projects", json={"project": {}})
    assert response.headers["content-type"] == "application/json"

    def nulls(value: object) -> bool:
        if isinstance(value, dict):
            return any(map(nulls, value.values()))
        return any(map(nulls, value)) if isinstance(value, list) else value is None

    assert not nulls(json.loads(response.content))
