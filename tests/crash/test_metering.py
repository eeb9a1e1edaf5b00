"""kill -9 of the control process: what tenants use meanwhile is counted all the same, and nothing of it twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

LSN = "select (pg_current_wal_insert_lsn() - '0/0')::bigint"
LOST_SECONDS_MAX = 60
"""What is promised at most; in truth nothing is lost while instances and workers live."""


def until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for: {what}"
        time.sleep(0.05)


def test_a_killed_cell_loses_nothing_of_what_is_used(make_cell: Any, api: Any, connect: Any) -> None:
    cell = make_cell("d", "--spares", "0")
    cell.start()
    client = api(cell)
    project_id = client.create("ACME", default_endpoint_settings={"suspend_timeout_seconds": -1})["project"]["id"]

    def used(name: str) -> int:
        return api(cell).call("GET", f"/projects/{project_id}")["project"][name]

    with connect(client.uri(project_id)) as connection:
        began = time.monotonic()
        (first,) = connection.execute(LSN).fetchone()
        rows = 0
        for _ in range(3):
            connection.execute("create table if not exists t (text text)")
            connection.execute("insert into t select repeat('x', 100) from generate_series(1, 5000)")
            rows += len(connection.execute("select text from t").fetchall())
            cell.kill()
            connection.execute("insert into t select repeat('y', 100) from generate_series(1, 5000)")
            rows += len(connection.execute("select text from t").fetchall())
            cell.start()
        (last,) = connection.execute(LSN).fetchone()
        lasted = time.monotonic() - began
        assert last - first > 3_000_000
        until(lambda: used("written_data_bytes") >= last - first, "the log is read")
        assert used("written_data_bytes") < last - first + 1_000_000, "what starting and resting wrote besides"
        until(lambda: used("data_transfer_bytes") >= 100 * rows, "the door's reports come")
        assert used("data_transfer_bytes") < 130 * rows
        active = used("active_time_seconds")
        assert lasted - LOST_SECONDS_MAX <= active <= time.monotonic() - began + 30
        assert active >= lasted - 1, "an instance that lived on was active all the time"
    assert cell.stop() == 0
    cell.start()
    before = {name: used(name) for name in ("active_time_seconds", "written_data_bytes", "data_transfer_bytes")}
    assert before["active_time_seconds"] >= active
    assert before["data_transfer_bytes"] >= 100 * rows
    now = datetime.now(UTC)
    hours = api(cell).call(
        "GET",
        "/consumption_history/projects?granularity=hourly&limit=100"
        f"&from={(now - timedelta(hours=1)).strftime('%Y-%m-%dT%H:%M:%SZ')}&to={now.strftime('%Y-%m-%dT%H:%M:%SZ')}",
    )
    frames = [f for p in hours["projects"] for period in p["periods"] for f in period["consumption"]]
    assert sum(frame["written_data_bytes"] for frame in frames) == before["written_data_bytes"]


def test_limits_at_the_front_door(make_cell: Any, api: Any, connect: Any) -> None:
    """A quota, an address list and an operator's token, as clients of the real door see them."""
    cell = make_cell("d", "--spares", "0")
    cell.start()
    client = api(cell)
    project_id = client.create("ACME")["project"]["id"]
    uri = client.uri(project_id)

    def change(**settings: Any) -> None:
        client.call("PATCH", f"/projects/{project_id}", {"project": {"settings": settings}})

    def refused(to: str) -> str:
        try:
            with connect(to):
                return ""
        except Exception as error:
            return str(error)

    wanted = {"database_name": "neondb", "role_name": "neondb_owner"}
    operator = client.call("POST", f"/projects/{project_id}/operator_access", {"operator_access": wanted})
    with connect(uri) as connection:
        connection.execute("create table t (n int)")
        time.sleep(1.1)
        # While an operator is at work nobody's session is ended, however long this takes.
        with connect(operator["uri"]):
            change(quota={"active_time_seconds": 1})
            assert "exceeded the active time quota" in refused(uri)
            assert connection.execute("select 1").fetchone() == (1,), "who is in may go on for a moment"
            with connect(operator["uri"]) as at_work:
                at_work.execute("insert into t values (1)")
                assert at_work.execute("show application_name").fetchone() == ("",)
            assert "not valid here" in refused(operator["uri"].replace(operator["token"], "1.x"))
            status = client.call("GET", f"/projects/{project_id}")["project"]["quota_status"]
            assert [(one["quota"], one["level"]) for one in status] == [("active_time_seconds", "exceeded")]

        def asleep() -> bool:
            (endpoint,) = client.call("GET", f"/projects/{project_id}/endpoints")["endpoints"]
            return endpoint["current_state"] == "idle"

        until(asleep, "the endpoint is put to sleep")
    endpoint = _endpoint(client, project_id)

    def settled() -> bool:
        # The operation that puts it to sleep ends a moment after the state can be read.
        operations = client.call("GET", f"/projects/{project_id}/operations")["operations"]
        return all(each["status"] == "finished" for each in operations)

    until(settled, "nothing goes on that locks the project")
    started = client.post(f"/projects/{project_id}/endpoints/{endpoint}/start", {})
    assert (started.status_code, started.json()["code"]) == (402, "QUOTA_EXCEEDED")
    change(quota={})
    assert refused(uri) == ""

    change(allowed_ips={"ips": ["203.0.113.0/24"]})
    outside, wrong = refused(uri), refused(uri.replace("neondb_owner:", "neondb_owner:not"))
    assert "password authentication failed" in outside
    assert outside == wrong, "nobody learns that the password was right"
    change(allowed_ips={"ips": ["203.0.113.0/24", "127.0.0.0/8"]})
    assert refused(uri) == ""
    change(allowed_ips={"ips": []}, block_public_connections=True)
    assert refused(uri) == "", "the loopback is not public"


def _endpoint(client: Any, project_id: str) -> str:
    return client.call("GET", f"/projects/{project_id}/endpoints")["endpoints"][0]["id"]
