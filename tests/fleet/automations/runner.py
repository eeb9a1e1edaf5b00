"""A runner of GitHub Actions as far as our workflows need one: their ``run`` steps, in bash, with what they are given.

Steps that use an action are noted and not run; what they would do is there already. Expressions are those that the
workflows have: a name in a context, comparisons, ``&&``, ``||`` and ``!cancelled()``.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

STEP_SECONDS_MAX = 100
_installed: set[tuple[str, str]] = set()
"""What a step with pip has installed: the machine is the same for all jobs here, and pip takes its time to see that."""


@dataclass
class Step:
    name: str
    status: str
    """``done``, ``failed``, ``skipped`` or ``action``."""
    output: str = ""


@dataclass
class Job:
    steps: list[Step] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return any(step.status == "failed" for step in self.steps)

    def ran(self) -> list[str]:
        return [step.name for step in self.steps if step.status == "done"]

    def of(self, name: str) -> Step:
        return next(step for step in self.steps if step.name == name)


class Runner:
    """A machine with the program installed, and a checkout of the repository."""

    def __init__(
        self,
        checkout: Path,
        *,
        programs: Path,
        secrets: Mapping[str, str],
        environment: Mapping[str, str],
        done_already: Collection[str] = (),
    ) -> None:
        self.checkout = checkout
        self.secrets = secrets
        self._done_already = done_already
        self._environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": str(checkout.parent),
            "CI": "true",
            "GITHUB_ACTIONS": "true",
        } | dict(environment)

    def run(
        self, file: str, job_id: str, event: Mapping[str, Any], *, matrix: Mapping[str, str] | None = None
    ) -> Job | None:
        """The job's steps; None when its condition forbids it. A failed step skips those after it."""
        workflow = yaml.safe_load((self.checkout / ".github" / "workflows" / file).read_text())
        said = workflow["jobs"][job_id]
        known: dict[str, Any] = {
            "secrets": self.secrets,
            "matrix": matrix or {},
            "github": {
                "event": event,
                "head_ref": event.get("pull_request", {}).get("head", {}).get("ref"),
                "repository": self._environment["GITHUB_REPOSITORY"],
                "token": self._environment["GITHUB_TOKEN_OF_JOB"],
            },
        }
        if not holds(said.get("if", "true"), known):
            return None
        job = Job()
        for step in said["steps"]:
            name = step["name"]
            if job.failed or not holds(step.get("if", "true"), known):
                job.steps.append(Step(name, "skipped"))
            elif "uses" in step or step["run"] in self._done_already:
                job.steps.append(Step(name, "action"))
            else:
                job.steps.append(self._step(name, step, known))
        return job

    def _step(self, name: str, step: Mapping[str, Any], known: Mapping[str, Any]) -> Step:
        given = {key: filled(str(value), known) for key, value in step.get("env", {}).items()}
        environment = {key: value for key, value in self._environment.items() if key != "GITHUB_TOKEN_OF_JOB"}
        what = (step["run"], given.get("PACKAGE", ""))
        if what in _installed:
            return Step(name, "done")
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=self.checkout,
            env=environment | given,
            capture_output=True,
            text=True,
            timeout=STEP_SECONDS_MAX,
            check=False,
        )
        output = done.stdout + done.stderr
        if done.returncode == 0 and "PACKAGE" in given:
            _installed.add(what)
        return Step(name, "done" if done.returncode == 0 else "failed", output)


def filled(text: str, known: Mapping[str, Any]) -> str:
    def value(found: re.Match[str]) -> str:
        looked_up = look_up(found.group(1).strip(), known)
        return "" if looked_up is None else str(looked_up)

    return re.sub(r"\$\{\{(.*?)\}\}", value, text)


def look_up(name: str, known: Mapping[str, Any]) -> Any:
    found: Any = known
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def holds(condition: str, known: Mapping[str, Any]) -> bool:
    text = re.sub(r"^\$\{\{(.*)\}\}$", r"\1", str(condition).strip(), flags=re.DOTALL).strip()
    return any(all(_one(part.strip(), known) for part in either.split("&&")) for either in text.split("||"))


def _one(text: str, known: Mapping[str, Any]) -> bool:
    if text in ("true", "True", "!cancelled()"):
        return True
    compared = re.fullmatch(r"(\S+)\s*(==|!=)\s*(\S+)", text)
    assert compared, f"an expression that this runner does not know: {text!r}"
    left, right = _operand(compared.group(1), known), _operand(compared.group(3), known)
    return (left == right) == (compared.group(2) == "==")


def _operand(text: str, known: Mapping[str, Any]) -> Any:
    return text[1:-1] if text.startswith("'") else look_up(text, known)
