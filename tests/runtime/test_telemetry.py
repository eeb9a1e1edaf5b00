from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest
import stamina
import stamina.instrumentation
import structlog

from tenantry.runtime.telemetry import configure_logs, tell_of_retries


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def logged(**fields: object) -> dict[str, object]:
    stream = io.StringIO()
    configure_logs(stream, form="json")
    structlog.get_logger().info("said", **fields)
    return json.loads(stream.getvalue())


@pytest.mark.parametrize(
    ("fields", "secret"),
    [
        ({"password": "hunter2hunter2"}, "hunter2"),
        ({"error": "cannot connect to postgresql://owner:hunter2@host:5432/db?x=1"}, "hunter2"),
        ({"error": "cannot connect to postgresql://h/db?scram_client_key=hunter2%3D&x=1"}, "hunter2"),
        ({"scram_client_key": "hunter2"}, "hunter2"),
        ({"error": "ALTER ROLE a PASSWORD 'hunter2''s'"}, "hunter2"),
        ({"fields": {"api_key": "hunter2", "n": [{"token": "hunter2"}]}}, "hunter2"),
        ({"error": "row SCRAM-SHA-256$4096:c2FsdA==$aGFzaA==:aGFzaA== is odd"}, "c2FsdA"),
        ({"error": "key tenantry_0123456789abcdefghijklmnop was refused"}, "0123456789"),
        ({"header": "authorization: Bearer hunter2"}, "hunter2"),
    ],
)
def test_what_looks_like_a_secret_is_left_out(fields: dict[str, object], secret: str) -> None:
    assert secret not in json.dumps(logged(**fields))


def test_the_rest_is_left_alone() -> None:
    assert logged(path="/projects/x", count=3, names=["a"])["names"] == ["a"]
    assert logged(error="role tenantry_owner has no password set")["error"] == "role tenantry_owner has no password set"


def test_levels_below_the_chosen_one_are_not_written() -> None:
    stream = io.StringIO()
    configure_logs(stream, level="warning")
    structlog.get_logger().info("said")
    structlog.get_logger().warning("warned")
    assert "said" not in stream.getvalue()
    assert "warned" in stream.getvalue()


def test_what_is_asked_again_goes_to_stderr_also_where_structlog_was_looked_into(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by ``capture_logs``: it counts as configured after that, and writes to stdout."""
    monkeypatch.setenv("TENANTRY_LOG_LEVEL", "info")
    structlog.reset_defaults()
    structlog.configure(processors=structlog.get_config()["processors"])
    before = stamina.instrumentation.get_on_retry_hooks()
    try:
        tell_of_retries()
        for attempt in stamina.retry_context(on=ValueError, attempts=2, wait_initial=0.001):
            with attempt:
                if attempt.num == 1:
                    raise ValueError("postgresql://role:hunter2@host/db")
    finally:
        stamina.instrumentation.set_on_retry_hooks(before)
    seen = capsys.readouterr()
    assert seen.out == ""
    assert "asked again" in seen.err
    assert "hunter2" not in seen.err
