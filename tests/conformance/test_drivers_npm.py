"""node-postgres and postgres.js from npm, unmodified, through the front door: with TLS and without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

pytestmark = pytest.mark.node

PACKAGES: Final = {"pg": ("pg@8", "pg-copy-streams@6"), "postgres": ("postgres@3",)}


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("driver", PACKAGES)
def test_all_that_a_driver_does(
    driver: str,
    tls: bool,
    tenant: Any,
    real_cell: Any,
    npm_install: Callable[..., Path],
    run_node: Callable[..., Any],
) -> None:
    home = npm_install(*PACKAGES[driver])
    uri, authority = (tenant.tls_uri, [str(real_cell.ca)]) if tls else (tenant.uri, [])
    seen = run_node("drivers.mjs", driver, uri, str(home), *authority)
    assert seen["row"] == {"role": "neondb_owner", "database": "neondb", "n": 7}
    assert seen["twice"] == [2, 4, 6], "prepared once, run three times"
    assert seen["big"], "what does not fit into one message of the relay comes back whole"
    assert seen["error"] == "22012"
    assert seen["copied"] == "1\n2\n3\n", "in and out"
    assert seen["heard"] == "hello"
    assert (seen["cancelled"], seen["after"]) == ("57014", 1), "the query ends, the session lives on"
    if driver == "pg":
        assert (seen["encrypted"], seen["verified"]) == (tls, tls)
        assert ("SCRAM-SHA-256-PLUS" in seen["mechanisms"]) == tls
    else:
        assert seen["rows"] == [1, 2, 3], "by a cursor"
