"""What a watcher sees of a real cell: health, metrics and logs, without waking anyone and without a secret."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tenantry.testing.throwaway import ThrowawayCell


@pytest.fixture
def cell(workdir: Path, new_cell: Callable[..., ThrowawayCell]) -> Iterator[ThrowawayCell]:
    made = new_cell(workdir / "d", options=["--no-fleet", "--log-format", "json", "--log-level", "debug"])
    made.start()
    yield made
    made.close()


def metrics(cell: ThrowawayCell) -> dict[tuple[str, ...], float]:
    """Name and label values, by their names in order, to number."""
    answer = httpx.get(cell.target.api_url.replace("/api/v2", "/metrics"))
    assert answer.status_code == 200
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_created"))
    }


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)


def test_numbers_follow_what_happens_and_looking_wakes_nobody(cell: ThrowawayCell) -> None:
    root = cell.target.api_url.replace("/api/v2", "")
    assert httpx.get(f"{root}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{root}/readyz").json() == {"status": "ready", "checks": ["front_door", "state"]}
    before = metrics(cell)
    assert before["tenantry_projects",] == 0
    with httpx.Client(
        base_url=cell.target.api_url, headers={"Authorization": f"Bearer {cell.target.api_key}"}, timeout=30
    ) as api:
        created = api.post("/projects", json={"project": {"name": "acme"}}).json()
        api.get("/no/such/path/acme")
        uri = created["connection_uris"][0]["connection_uri"]
        endpoint = created["endpoints"][0]["id"]
        path = f"/projects/{created['project']['id']}/endpoints/{endpoint}"
        api.post(f"{path}/suspend").raise_for_status()
        asleep = metrics(cell)
        assert asleep["tenantry_instances", "asleep"] == 1
        assert asleep["tenantry_projects",] == asleep["tenantry_branches",] == asleep["tenantry_endpoints",] == 1
        assert asleep["tenantry_api_requests_total", "createProject", "201"] == 1
        assert asleep["tenantry_api_requests_total", "none", "404"] == 1
        assert asleep["tenantry_api_requests_total", "readyz", "200"] == 1
        assert asleep["tenantry_operations_ended_total", "finished", "create_project"] == 1
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute("select 1")
            awake = metrics(cell)
            assert awake["tenantry_instances", "awake"] == 1
            assert awake["tenantry_instances", "asleep"] == 0
            woken = awake["tenantry_wakes_total", "awake"] - asleep.get(("tenantry_wakes_total", "awake"), 0)
            assert woken == 1
            assert awake["tenantry_wake_seconds_count",] == awake["tenantry_wakes_total", "awake"]
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(uri.replace("neondb_owner:", "neondb_owner:x"))
        until(lambda: metrics(cell)["tenantry_door_failed_logins_total",] == 1)  # the client does not wait for that
        api.post(f"{path}/suspend").raise_for_status()
        assert metrics(cell)["tenantry_instances", "asleep"] == 1
        assert api.get(path).json()["endpoint"]["current_state"] == "idle"
    names = " ".join(part for key in metrics(cell) for part in key)
    assert "acme" not in names
    assert created["project"]["id"] not in names


def test_logs_join_requests_with_their_operations_and_hold_no_secret(cell: ThrowawayCell) -> None:
    with httpx.Client(
        base_url=cell.target.api_url, headers={"Authorization": f"Bearer {cell.target.api_key}"}, timeout=30
    ) as api:
        answer = api.post("/projects", json={"project": {"name": "acme"}}, headers={"x-request-id": "watch-me-1"})
        created = answer.json()
        uri = created["connection_uris"][0]["connection_uri"]
        role = f"/projects/{created['project']['id']}/branches/{created['branch']['id']}/roles/neondb_owner"
        reset = api.post(f"{role}/reset_password").json()["role"]["password"]
        api.get(f"{role}/reveal_password", headers={"Cookie": f"keep={cell.target.api_key}"})
        api.get(f"/projects?org_id={uri}")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(uri)
    key = cell.target.api_key
    assert cell.stop() == 0
    text = cell.log.read_text()
    for path in (cell.data / "logs").rglob("*.log"):
        text += path.read_text(errors="replace")
    passwords = [uri.partition("neondb_owner:")[2].partition("@")[0], reset]
    assert all(len(password) > 8 and password not in text for password in passwords)
    assert key not in text
    assert "SCRAM-SHA-256$4096" not in text
    events = [json.loads(line) for line in cell.log.read_text().splitlines() if line.startswith("{")]
    mine = [event for event in events if event.get("request_id") == "watch-me-1"]
    begun = next(event for event in mine if event["event"] == "operations begun")
    answered = next(event for event in mine if event["event"] == "request")
    assert (answered["operation"], answered["status"]) == ("createProject", 201)
    ended = {event["operation_id"] for event in events if event["event"] == "operation ended"}
    assert set(begun["operation_ids"]) <= ended
