"""``@neondatabase/api-client`` from npm, unmodified, with nothing but ``baseURL`` set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.node


@pytest.fixture(scope="module", params=["1.10", "2.7"])
def home(request: pytest.FixtureRequest, npm_install: Callable[..., Path]) -> Path:
    return npm_install(f"@neondatabase/api-client@{request.param}")


@pytest.fixture
def seen(home: Path, address: Any, run_node: Callable[..., Any]) -> Any:
    """What the script saw of the API."""
    return run_node("api_client.mjs", address.api_url, address.api_key, str(home))


def test_the_guides_story(seen: Any) -> None:
    project, endpoint = seen["project"], seen["endpoint"]
    assert seen["createdStatus"] == 201
    assert (project["name"], project["region_id"]) == ("ACME Corp", "aws-us-east-1")
    assert "ACME Corp" in seen["listed"]
    assert seen["found"] >= 1
    assert seen["shared"] == 0
    assert seen["uri"].startswith("postgresql://neondb_owner:")
    assert seen["password"] in seen["uri"]
    assert endpoint["id"] in seen["uri"]
    assert endpoint["id"] in endpoint["host"]
    assert endpoint["type"] == seen["rw"]
    assert (seen["branches"], seen["endpoints"]) == (1, 1)
    assert seen["databases"] == ["neondb"]
    assert "neondb_owner" in seen["roles"]
    assert seen["crm"] == "alice"
    assert seen["goneRole"] == 204
    assert seen["suspended"] == "idle"
    assert seen["renamed"] == "ACME Ltd"
    assert seen["me"]["billing_account"]["email"] == seen["me"]["email"]
    assert ([one["id"] for one in seen["organizations"]], seen["regions"]) == ([seen["project"]["org_id"]], 1)
    assert seen["deleted"] == 200
    for answer, status in (("notThere", 404), ("badName", 400), ("notHere", 501), ("wrongKey", 401), ("gone", 404)):
        assert seen[answer]["status"] == status
        assert seen[answer].keys() >= {"code", "message", "request_id"}
    assert "project.name" in seen["badName"]["message"]
