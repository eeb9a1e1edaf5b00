"""Host names and connection strings of a front door."""

from __future__ import annotations

import pytest

from tenantry.cell.api.addresses import FrontDoor
from tenantry.neon.ids import EndpointId

EP = EndpointId("ep-cool-sun-a1234567")


@pytest.mark.parametrize(
    ("door", "host", "uri"),
    [
        (
            FrontDoor(host="127.0.0.1", port=7701, sslmode="disable"),
            f"{EP}.localhost:7701",
            f"postgresql://a:p%2Fw@127.0.0.1:7701/db?options=endpoint%3D{EP}&sslmode=disable",
        ),
        (
            FrontDoor(host="::1", sslmode=None),
            f"{EP}.localhost",
            f"postgresql://a:p%2Fw@[::1]/db?options=endpoint%3D{EP}",
        ),
        (
            FrontDoor(host="10.0.0.7", port=7701, domain="db.example.com"),
            f"{EP}.db.example.com:7701",
            f"postgresql://a:p%2Fw@{EP}.db.example.com:7701/db?sslmode=require",
        ),
        (
            FrontDoor(host="10.0.0.7", domain="db.example.com"),
            f"{EP}.db.example.com",
            f"postgresql://a:p%2Fw@{EP}.db.example.com/db?sslmode=require",
        ),
    ],
)
def test_where_an_endpoint_answers(door: FrontDoor, host: str, uri: str) -> None:
    assert door.endpoint_host(EP) == host
    assert door.dsn(EP, database="db", role="a", password="p/w").uri() == uri
    assert door.endpoint_host(EP, pooled=True) == host.replace(EP, f"{EP}-pooler")
    assert door.dsn(EP, database="db", role="a", password="p/w", pooled=True).uri() == uri.replace(EP, f"{EP}-pooler")
