from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tenantry.errors import InvalidInput, OperatorError, Unavailable
from tenantry.fleet.config import ROOT_DATA, Target, data_directory, find_target

READY = {
    "api_url": "http://127.0.0.1:7700/api/v2/",
    "api_key": "key",
    "postgres_host": "127.0.0.1",
    "postgres_port": 7701,
    "catalog_url": "postgresql://u:p@h/d",
    "console_url": None,
    "pid": os.getpid(),
}


def ready(data: Path, **changed: object) -> Path:
    (data / "ready.json").write_text(json.dumps(READY | changed))
    return data


def test_the_running_cell_of_a_data_directory(tmp_path: Path) -> None:
    expected = Target(
        api_url="http://127.0.0.1:7700/api/v2",
        api_key="key",
        catalog_url="postgresql://u:p@h/d",
        postgres_host="127.0.0.1",
        postgres_port=7701,
        pid=os.getpid(),
    )
    ready(tmp_path)
    assert find_target(tmp_path, {}) == expected
    assert find_target(None, {"TENANTRY_DATA": str(tmp_path)}) == expected
    # A flag is meant more than the environment, and the environment's API more than its directory.
    environment = {"TENANTRY_API_URL": "https://api/api/v2", "TENANTRY_API_KEY": "k", "TENANTRY_DATA": str(tmp_path)}
    assert find_target(tmp_path, environment) == expected
    assert find_target(None, environment) == Target(api_url="https://api/api/v2", api_key="k")
    named = find_target(None, environment | {"TENANTRY_CATALOG_URL": "postgresql://c"})
    assert named.catalog_url == "postgresql://c"
    assert "postgresql" not in repr(named)
    assert "key" not in repr(expected).replace("api_key", "")


def test_parts_that_are_off_are_null(tmp_path: Path) -> None:
    target = find_target(ready(tmp_path, catalog_url=None, postgres_host=None, postgres_port=None, pid=None), {})
    assert (target.catalog_url, target.postgres_port, target.pid) == (None, None, None)


def test_what_is_not_running_is_said_with_the_way_to_start_it(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no running cell found in") as raised:
        find_target(tmp_path, {})
    assert raised.value.next_step == f"start one with `tenantry up --data {tmp_path}`"

    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with pytest.raises(Unavailable, match=f"process {ended.pid} is gone"):
        find_target(ready(tmp_path, pid=ended.pid), {})


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"api_url": null, "api_key": "k"}', '{"api_url": "u", "api_key"'])
def test_a_file_that_is_none_of_ours_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "ready.json").write_text(content)
    with pytest.raises(OperatorError, match="is not what `tenantry up` writes"):
        find_target(tmp_path, {})


def test_an_api_without_a_key_is_half_a_wish() -> None:
    with pytest.raises(InvalidInput, match="TENANTRY_API_KEY is not"):
        find_target(None, {"TENANTRY_API_URL": "http://h/api/v2"})


def test_the_platforms_place_is_the_last_resort(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert data_directory(tmp_path, {"TENANTRY_DATA": "/elsewhere"}) == tmp_path
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert data_directory(None, {}) == ROOT_DATA
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert data_directory(None, {}) == tmp_path / "tenantry"
