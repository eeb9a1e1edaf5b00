"""``neon-api`` from PyPI, unmodified, with nothing but ``base_url`` set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def home(pip_install: Callable[..., Path]) -> Path:
    return pip_install("neon-api==0.3.0")


def test_the_story(home: Path, address: Any) -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("neon_api_script.py")), address.api_url, address.api_key],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env={**os.environ, "PYTHONPATH": str(home / "site-packages")},
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["name"] == "ACME Corp"
    assert "ACME Corp" in seen["listed"]
    assert "-pooler" in seen["pooled"]
    assert seen["password"] in seen["uri"]
    assert seen["databases"] == ["crm", "neondb"]
    assert (seen["dropped"], seen["role"], seen["role_deleted"]) == ("crm", "alice", "alice")
    assert (seen["renamed"], seen["key"], seen["refused"]) == ("ACME Ltd", "ci", "NOT_IMPLEMENTED")
    assert seen["reset"] and seen["revoked"] and seen["deleted"]
    assert (seen["shared"], seen["permissions"]) == (0, [])
