"""``tenantry migrate lint``: it needs no cell and no catalog."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tenantry.fleet.migrations.lint import squawk

Within = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    directory = tmp_path / "sql"
    directory.mkdir()
    (directory / "0001_a.sql").write_text("alter table users drop column name;\n")
    (directory / "0002_b.sql").write_text("reset lock_timeout;\n")
    (tmp_path / ".git").mkdir()
    return directory


def test_findings_say_where_and_what_instead(within: Within, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    done = within("migrate", "lint", "--dir", str(folder))
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0].startswith("0001_a.sql:1: warn: ban-drop-column: ")
    assert lines[1] == "    alter table users drop column name"
    assert lines[3].startswith("0002_b.sql:1: block: lock-timeout-disabled: ")
    assert lines[-1].startswith("1 blocking, 1 warnings: 2 migrations judged by our rules and squawk 2.")
    assert done.stderr == ""


def test_settings_and_flags(within: Within, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / "tenantry.toml").write_text(
        '[migrations]\ndir = "sql"\n[migrations.lint]\nban-drop-column = "block"\nlock-timeout-disabled = "off"\n'
    )
    monkeypatch.chdir(folder.parent)
    document = json.loads(within("migrate", "lint", "--json").stdout)
    assert [(each["rule"], each["level"]) for each in document["findings"]] == [("ban-drop-column", "block")]
    assert within("migrate", "lint", "--after", "0001").returncode == 0
    done = within("migrate", "lint", "--allow", "ban-drop-column=nobody reads it")
    assert done.returncode == 0
    assert "allowed (nobody reads it): ban-drop-column" in done.stdout
    assert "0 blocking, 0 warnings, 1 allowed" in done.stdout
    (folder.parent / "tenantry.toml").write_text('[migrations.lint]\nban-drop-column = "stop"\n')
    done = within("migrate", "lint", "--dir", str(folder))
    assert done.returncode == 2
    assert "line 2: migrations.lint.ban-drop-column" in done.stderr


def test_without_squawk_it_says_how_to_install_it(
    within: Within, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(squawk, "find_squawk", lambda: None)
    monkeypatch.chdir(folder)
    done = within("migrate", "lint", "--dir", str(folder))
    assert done.returncode == 1
    assert 'pip install "tenantry[lint]"' in done.stderr
    assert "ban-drop-column" in done.stdout


def test_the_rules_are_listed(within: Within, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    rules = json.loads(within("migrate", "lint", "--rules", "--json").stdout)["rules"]
    assert {"rule": "lock-timeout-disabled", "level": "block"} in rules
    assert {"rule": "prefer-text-field", "level": "off"} in rules
