"""Limits as Neon's own programs set and read them, and as a client meets them at the front door."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]


@pytest.mark.parametrize("version", ["2", "5"])
def test_ip_allow_of_neonctl_holds_at_the_front_door(
    npm_install: Callable[..., Path], real_cell: Any, version: str
) -> None:
    home = npm_install(f"neonctl@{version}")

    def neonctl(*arguments: str) -> Any:
        done = subprocess.run(
            [
                *("node", str(home / "node_modules/.bin/neonctl"), *arguments, "--output", "json", "--no-analytics"),
                *("--api-host", real_cell.api_url, "--api-key", real_cell.api_key, "--config-dir", str(home)),
            ],
            cwd=home, capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        return json.loads(done.stdout)

    def admitted() -> bool:
        try:
            psycopg.connect(uri, connect_timeout=30).close()
        except psycopg.OperationalError as error:
            assert "password authentication failed" in str(error)
            return False
        return True

    with real_cell.http() as http:
        made = http.post("/projects", json={"project": {"name": f"ip-allow {version}"}}).json()
        uri, at = made["connection_uris"][0]["connection_uri"], ("--project-id", made["project"]["id"])
        assert admitted()
        assert neonctl("ip-allow", "add", "203.0.113.0/24", "198.51.100.1-198.51.100.9", *at)["IP_addresses"] == [
            "203.0.113.0/24", "198.51.100.1-198.51.100.9",
        ]  # fmt: skip
        assert not admitted()
        neonctl("ip-allow", "add", "127.0.0.1", "::1", *at)
        assert admitted()
        neonctl("ip-allow", "add", "203.0.113.7", "--protected-only", "true", *at)
        assert neonctl("ip-allow", "list", *at)["protected_branches_only"] is True
        assert admitted(), "the branch is not protected"
        neonctl("ip-allow", "reset", *at)
        assert admitted()
        http.delete(f"/projects/{made['project']['id']}").raise_for_status()


def test_consumption_as_the_published_client_asks_for_it(
    npm_install: Callable[..., Path], real_cell: Any, tenant: Any
) -> None:
    home = npm_install("@neondatabase/api-client@2")
    now = datetime.now(UTC)
    script = home / "consumption.mjs"
    script.write_text(
        """
        import { createApiClient } from '@neondatabase/api-client';
        const [baseURL, apiKey, from, to, id] = process.argv.slice(2);
        const client = createApiClient({ apiKey, baseURL });
        const range = { from, to, granularity: 'hourly' };
        const legacy = await client.getConsumptionHistoryPerProject({ ...range, project_ids: [id, 'other-1'] });
        const metrics = ['compute_unit_seconds', 'root_branch_bytes_month', 'public_network_transfer_bytes'];
        const asked = { ...range, org_id: 'org-any', metrics, project_ids: [id] };
        const usage = await client.getConsumptionHistoryPerProjectV2?.(asked);
        let refused = null;
        try { await client.getConsumptionHistoryPerProject({ ...range, from: '2024-03-01T00:00:00Z' }); }
        catch (error) { refused = error.response.status; }
        console.log(JSON.stringify({ legacy: legacy.data, usage: usage?.data ?? null, refused }));
        """
    )
    stamps = [moment.strftime("%Y-%m-%dT%H:%M:%SZ") for moment in (now - timedelta(hours=1), now + timedelta(hours=1))]
    arguments = [real_cell.api_url, real_cell.api_key, *stamps, tenant.project_id]
    done = subprocess.run(["node", script, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert [project["project_id"] for project in answer["legacy"]["projects"]] == [tenant.project_id]
    assert answer["refused"] == 406
    if answer["usage"] is not None:
        frame = answer["usage"]["projects"][0]["periods"][-1]["consumption"][-1]
        assert [metric["metric_name"] for metric in frame["metrics"]] == [
            "compute_unit_seconds", "root_branch_bytes_month", "public_network_transfer_bytes",
        ]  # fmt: skip
