"""Neon's serverless driver from npm, unmodified: SQL over HTTP and over WebSockets, with TLS and without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from tenantry.fleet.config import verification
from tenantry.neon.client import NeonClient
from tenantry.neon.ids import ProjectId
from tenantry.testing.throwaway import ThrowawayCell

pytestmark = pytest.mark.node

PACKAGES: Final = ("@neondatabase/serverless@1", "ws@8")


@pytest.fixture(scope="module", params=["plain", "tls"])
def seen(
    request: pytest.FixtureRequest,
    new_workdir: Callable[[str], Path],
    npm_install: Callable[..., Path],
    run_node: Callable[..., Any],
) -> Iterator[dict[str, Any]]:
    """What the driver saw of a cell of its own, whose HTTP port is on the loopback, or speaks TLS."""
    home = npm_install(*PACKAGES)
    http = "127.0.0.1:0" if request.param == "plain" else "0.0.0.0:0"
    cell = ThrowawayCell(data=new_workdir("sql") / "d", options=["--no-fleet"], http=http)
    try:
        target = cell.start()
        assert target.api_url is not None
        with NeonClient(target.api_url, str(target.api_key), tls_verify=verification(target.api_ca)) as client:
            created = client.create_project(name="ACME Corp")
            project_id = ProjectId(created.project.id)
            uri = client.connection_uri(project_id, database_name="neondb", role_name="neondb_owner")
        yield run_node(
            "serverless.mjs",
            uri,
            urlsplit(target.api_url).netloc,
            request.param,
            str(home),
            environment={"NODE_EXTRA_CA_CERTS": str(cell.data / "tls" / "ca.crt")},
        )
    finally:
        cell.close()


def test_http_queries(seen: dict[str, Any]) -> None:
    http = seen["http"]
    assert http["row"] == {"role": "neondb_owner", "database": "neondb", "n": 7}
    assert (http["tags"], http["empty"], http["nothing"], http["date"]) == (True, [], None, True)
    assert http["types"] == {
        "i2": 1, "i8": "9007199254740993", "num": "1.50", "f8": 1.5, "nan": "NaN", "yes": True,
        "js": {"a": [1, {"b": None}]}, "jn": [1, 2], "bin": [0, 255], "ints": [1, None, 3], "matrix": [[1, 2], [3, 4]],
        "bools": [True, False], "jsons": [{"x": 1}], "ip": "10.0.0.1", "day": {"days": 1}, "pad": "x  ",
        "date": "2020", "nil": None, "point": {"x": 1, "y": 2}, "odd": r"\n\t" + '"',
    }  # fmt: skip
    assert http["bytes"] == "0001ff"
    assert http["json"] == {"a": ["ü", 1]}
    assert http["arrays"] == [[2, "x"]]
    assert http["full"] == {"command": "SELECT", "rowCount": 2, "rows": [{"id": 1}, {"id": 2}], "rowAsArray": False}
    assert {name: http["field"][name] for name in ("name", "dataTypeID", "columnID", "format")} == {
        "name": "id", "dataTypeID": 23, "columnID": 1, "format": "text",
    }  # fmt: skip
    assert http["changed"] == {"command": "UPDATE", "rowCount": 2, "rows": [], "fields": []}
    assert http["made"] == {"command": "CREATE", "rowCount": None}
    assert http["big"]
    assert http["many"] == 20_000 * 20_001 // 2
    assert http["parallel"] == list(range(40))
    assert http["raw"] == [{"n": "<1>", "ns": "<{1,2}>"}]


def test_nothing_is_left_for_the_next_request(seen: dict[str, Any]) -> None:
    assert seen["http"]["clean"] == {"work_mem": False, "left_over": None, "role": "neondb_owner", "locks": 0}


def test_batches(seen: dict[str, Any]) -> None:
    http = seen["http"]
    assert http["batch"] == [[{"a": 1}], [{"n": 2}]]
    off = {"read_only": "off", "deferrable": "off"}
    assert http["levels"] == {
        "ReadUncommitted": {"level": "read uncommitted", **off},
        "ReadCommitted": {"level": "read committed", **off},
        "RepeatableRead": {"level": "repeatable read", **off},
        "Serializable": {"level": "serializable", **off},
    }
    assert http["strict"] == {"level": "serializable", "read_only": "on", "deferrable": "on"}
    assert http["mixed"] == [[[1]], [{"n": 2}]]
    assert http["readOnly"]["code"] == "25006"
    assert (http["undone"]["code"], http["undone"]["constraint"]) == ("23514", "t2_n_check")
    assert http["left"] == [2], "a batch that fails has done nothing"
    assert http["wrongLevel"]["message"] == "invalid isolation level"


def test_errors(seen: dict[str, Any]) -> None:
    http = seen["http"]
    assert (
        http["syntax"] | {"name": "NeonDbError", "code": "42601", "severity": "ERROR", "position": "10"}
        == (http["syntax"])
    )
    unique = http["unique"]
    assert (unique["code"], unique["constraint"], unique["table"]) == ("23505", "notes_pkey", "notes")
    assert (unique["detail"], unique["schema"]) == ("Key (id)=(1) already exists.", "public")
    assert http["several"]["code"] == "42601"
    raised = http["raised"]
    assert (raised["message"], raised["detail"], raised["hint"], raised["code"]) == ("oh", "d", "h", "ZZ001")
    assert http["password"]["code"] == "28P01"
    assert http["password"]["message"] == 'password authentication failed for user "neondb_owner"'
    assert http["database"]["code"] == "3D000"
    assert http["aborted"] == "NeonDbError"


@pytest.mark.parametrize("mode", ["pipelined", "patient"])
def test_websockets(seen: dict[str, Any], mode: str) -> None:
    ws = seen[mode]
    assert ws["row"] == {"role": "neondb_owner", "database": "neondb", "n": 7}
    assert ws["undone"] is None
    assert ws["error"]["code"] == "22012"
    assert ws["big"]
    assert ws["many"] == 100_000
    assert ws["heard"] == "hello"
    assert ws["pool"] == list(range(20))
    assert ws["borrowed"] == 1
    assert ws["password"]["code"] == "28P01"
