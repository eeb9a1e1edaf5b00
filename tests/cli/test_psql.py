from __future__ import annotations

from pathlib import Path

import pytest

from tenantry.cli.psql import Psql, plan_session
from tenantry.errors import OperatorError

URI = "postgresql://neondb_owner:p%3Aw%5Cd@127.0.0.1:7701/neondb?options=endpoint%3Dep-cool-sun-a1&sslmode=require"
WITH_TLS = Psql(Path("/usr/bin/psql"), tls=True)
WITHOUT_TLS = Psql(Path("/engine/bin/psql"), tls=False)


def test_the_uri_is_spread_over_libpqs_own_variables() -> None:
    session = plan_session(URI, WITH_TLS, {"PATH": "/bin", "TERM": "xterm"})
    assert session.environment == {
        "PATH": "/bin",
        "TERM": "xterm",
        "PGHOST": "127.0.0.1",
        "PGPORT": "7701",
        "PGUSER": "neondb_owner",
        "PGDATABASE": "neondb",
        "PGOPTIONS": "endpoint=ep-cool-sun-a1",
        "PGSSLMODE": "require",
        "PGAPPNAME": "tenantry psql",
    }


def test_the_password_is_in_its_file_alone_and_escaped() -> None:
    session = plan_session(URI, WITH_TLS, {})
    assert session.password_line == "127.0.0.1:7701:*:neondb_owner:p\\:w\\\\d\n"
    assert not any("p:w" in value for value in session.environment.values())
    assert "p:w" not in repr(session)


def test_what_the_caller_set_cannot_lead_psql_elsewhere() -> None:
    session = plan_session(
        URI, WITH_TLS, {"PGPASSWORD": "other", "PGSERVICE": "other", "PGHOST": "other", "PGOPTIONS": "-c jit=off"}
    )
    assert "PGPASSWORD" not in session.environment
    assert "PGSERVICE" not in session.environment
    assert session.environment["PGHOST"] == "127.0.0.1"
    assert session.environment["PGOPTIONS"] == "endpoint=ep-cool-sun-a1 -c jit=off"


def test_a_psql_without_tls_serves_this_machine_only() -> None:
    uri = URI + "&channel_binding=require"
    session = plan_session(uri, WITHOUT_TLS, {})
    assert session.environment["PGSSLMODE"] == "disable"
    assert "PGCHANNELBINDING" not in session.environment
    with pytest.raises(OperatorError, match=r"has no TLS, and db\.example\.com is not this machine"):
        plan_session(uri.replace("127.0.0.1", "db.example.com"), WITHOUT_TLS, {})
