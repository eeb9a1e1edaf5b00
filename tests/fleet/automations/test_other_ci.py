"""The handbook's files for other CI systems: GitLab's by its own schema, and every command by our program.

So are those of the workflows for GitHub: a command that is said otherwise one day is found here first.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from tenantry.cli.main import app
from tenantry.fleet.automations.workflows import workflows

from .variants import CUSTOMERS, VARIANTS

PAGE = (Path(__file__).parents[3] / "docs" / "other-ci.md").read_text()
PROGRAMS = Path(sys.executable).parent


def example(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert found, f"the page has no file of {name}"
    return found.group(1)


def test_gitlabs_schema_takes_its_file(tmp_path: Path) -> None:
    file = tmp_path / ".gitlab-ci.yml"
    file.write_text(example("gitlab"))
    assert set(yaml.safe_load(file.read_text())) == {"default", "migrate", "backup", "prove", "branch", "branch-gone"}
    judged = subprocess.run(
        [PROGRAMS / "check-jsonschema", "--builtin-schema", "vendor.gitlab-ci", file],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert judged.returncode == 0, judged.stdout + judged.stderr


def commands() -> list[str]:
    lines = [
        line for job in yaml.safe_load(example("gitlab")).values() for line in job.get("script", [])
    ]  # fmt: skip
    lines += re.findall(r"sh '(.*?)'", example("jenkins"))
    lines += re.findall(r"`(tenantry [a-z].*?)`", PAGE)
    for choices in VARIANTS.values():
        for wanted in workflows(choices, CUSTOMERS[:1]):
            lines += re.findall(r"run: (tenantry [^&\n]*)", wanted.text)
    found = [match for line in lines for match in re.findall(r"tenantry (?:branch|backup|migrate) [^)]*", line)]
    assert len(found) > 30
    return sorted(set(found))


@pytest.mark.parametrize("line", commands())
def test_our_program_knows_every_command_and_option(line: str) -> None:
    words = shlex.split(re.sub(r"\$\w+/\$\w+", "1/4", line))[1:]
    command: Any = get_command(app)
    while hasattr(command, "commands"):
        assert words[0] in command.commands, line
        command, words = command.commands[words[0]], words[1:]
        if not words:
            return  # named, not said in full
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known, line
