"""The house: where things stand, what may know what, and what must not be in the repository."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

_TOP: Final = Path(__file__).parent.parent
_SRC: Final = _TOP / "src" / "tenantry"
_LINES_MAX: Final = 700
"""A module longer than this is two things."""
_ROOMS: Final = {"cli", "demo", "console", "testing", "sdk", "fleet", "cell", "neon", "postgres", "runtime"}
"""The rooms of the house; a new one is a decision, written down in docs/decisions/."""
_DRAWERS: Final = {"utils", "util", "helpers", "helper", "common", "misc"}
# Put together from halves, so that this file does not hold what it looks for.
_FOREIGN: Final = {
    "a path of one machine": re.compile(r"(?<![\w./~-])/(?:wo" r"rk/|ro" r"ot/\.)"),
    "a registry's host": re.compile(
        r"files\.python" r"hosted|py" r"pi\.org/simple|registry\.np" r"mjs|registry\.ya" r"rnpkg|deb\.deb" r"ian\.org"
    ),
}
_AT_HOME: Final = {("a registry's host", "src/tenantry/postgres/npm/configuration.py")}
"""npm's own default registry is a fact about npm, said once."""


def _files() -> list[Path]:
    """What git tracks; in a source archive, where there is no git, what lies there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=_TOP, capture_output=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        paths = [_TOP / name for name in listed.stdout.decode().split("\0") if name]
    else:
        made = {".venv", ".git", "test-logs", "bench-results", "build", "dist", "node_modules"}
        paths = [path for path in _TOP.rglob("*") if not made.intersection(path.relative_to(_TOP).parts)]
    return [path for path in paths if path.is_file()]


def _modules() -> list[Path]:
    return sorted(path for path in _SRC.rglob("*.py") if "__pycache__" not in path.parts)


def _texts() -> Iterator[tuple[Path, str]]:
    for path in _files():
        try:
            yield path, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def test_arrows_point_down() -> None:
    """The contracts of pyproject.toml, as ARCHITECTURE draws them."""
    lint = [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"]
    outcome = subprocess.run(lint, cwd=_TOP, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_every_room_is_a_room_of_the_house() -> None:
    found = {path.parent.name for path in _SRC.glob("*/__init__.py")}
    assert found <= _ROOMS, f"not a room of the house: {sorted(found - _ROOMS)}"
    loose = {path.name for path in _SRC.glob("*.py")} - {"__init__.py", "__main__.py", "errors.py"}
    assert not loose, f"modules that stand in no room: {sorted(loose)}"


def test_every_package_opens_with_its_purpose() -> None:
    silent = [
        str(path.relative_to(_TOP))
        for path in _modules()
        if path.name == "__init__.py" and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not silent, f"packages that do not say what they are for, and what they must never do: {silent}"


def test_every_folder_of_modules_is_a_package() -> None:
    missing = sorted({path.parent for path in _modules() if not (path.parent / "__init__.py").exists()})
    assert not missing


def test_no_drawers() -> None:
    drawers = [str(path.relative_to(_TOP)) for path in _modules() if {path.stem, path.parent.name} & _DRAWERS]
    assert not drawers, f"name the concept instead: {drawers}"


def test_no_module_is_two_things() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in _modules()}
    long = {str(path.relative_to(_TOP)): lines for path, lines in lengths.items() if lines > _LINES_MAX}
    assert not long, f"more than {_LINES_MAX} lines: {long}"


@pytest.mark.parametrize("what", _FOREIGN)
def test_the_repository_knows_no_machine(what: str) -> None:
    found = [
        f"{path.relative_to(_TOP)}:{number}: {line.strip()[:120]}"
        for path, text in _texts()
        for number, line in enumerate(text.splitlines(), 1)
        if _FOREIGN[what].search(line) and (what, str(path.relative_to(_TOP))) not in _AT_HOME
    ]
    assert not found, f"{what}:\n" + "\n".join(found)


def test_constraints_are_names_and_versions_only() -> None:
    lines = (_TOP / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    assert [line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []


def test_the_changelog_has_a_place_for_what_comes() -> None:
    text = (_TOP / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[?Unreleased\]?$", text, re.MULTILINE)


def test_decisions_are_numbered_without_a_gap_and_listed() -> None:
    folder = _TOP / "docs" / "decisions"
    names = sorted(path.name for path in folder.glob("*.md"))
    numbers = [int(name[:4]) for name in names]
    assert numbers == list(range(len(numbers))), f"0000 is the template, then one number each: {names}"
    index = (_TOP / "docs" / "index.md").read_text(encoding="utf-8")
    assert [name for name in names if name not in index] == [], "docs/index.md lists every decision"


def test_links_between_documents_lead_somewhere() -> None:
    documents = [_TOP / "README.md", _TOP / "CHANGELOG.md", *(_TOP / "docs").rglob("*.md")]
    dead = [
        f"{document.relative_to(_TOP)}: {target}"
        for document in documents
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
        if "://" not in target and not (document.parent / target).exists()
    ]
    assert not dead


def test_every_uid_can_run_the_tests_engine(engine_directory: Path) -> None:
    somebody = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    command = [engine_directory / "bin" / "postgres", "--version"]
    outcome = subprocess.run(command, cwd="/", capture_output=True, text=True, check=True, **somebody)
    assert outcome.stdout.startswith("postgres (PostgreSQL) 18.")
