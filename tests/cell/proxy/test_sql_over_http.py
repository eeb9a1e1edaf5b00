"""``POST /sql`` on a real port, before a real Postgres."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx
import pytest

from .conftest import DATABASE, ENDPOINT, PASSWORD, ROLE, OpenWeb, WebMaker, wait_for


def connection_string(**changes: str) -> str:
    words = {"role": ROLE, "password": PASSWORD, "database": DATABASE, "host": f"{ENDPOINT}.localhost", **changes}
    quoted = {name: quote(word, safe="") for name, word in words.items() if name != "host"}
    return f"postgresql://{quoted['role']}:{quoted['password']}@{words['host']}/{quoted['database']}"


def ask(web: OpenWeb, body: Any, headers: dict[str, str] | None = None, **changes: str) -> httpx.Response:
    given = {"Neon-Connection-String": connection_string(**changes), **(headers or {})}
    if isinstance(body, bytes):
        return httpx.post(web.url, content=body, headers=given, timeout=20)
    return httpx.post(web.url, json=body, headers=given, timeout=20)


def test_a_query_is_answered(open_web: WebMaker):
    web = open_web()
    answer = ask(web, {"query": "select $1::int + 1 as two, 'x' as x, null as n", "params": [1]})
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "fields": [
            {
                "name": name,
                "dataTypeID": type_,
                "tableID": 0,
                "columnID": 0,
                "dataTypeSize": size,
                "dataTypeModifier": -1,
                "format": "text",
            }
            for name, type_, size in (("two", 23, 4), ("x", 25, -1), ("n", 25, -1))
        ],
        "rows": [{"two": 2, "x": "x", "n": None}],
        "command": "SELECT",
        "rowCount": 1,
        "rowAsArray": False,
    }
    assert answer.headers["access-control-allow-origin"] == "*"
    wait_for(lambda: not web.cell.leases)
